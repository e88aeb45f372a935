//! What is known of a process besides what the kernel side tells: its cgroup's path and its full name.

use std::path::Path;

use foldhash::HashMap;

use super::clock_ns;
use crate::attribution::event::ProcessNews;
use crate::model::{Process, RealTime};

/// `TASK_COMM_LEN` of include/linux/sched.h less the NUL: longer names are cut to this.
const COMM_BYTES: usize = 15;

/// Fills in what the kernel side does not tell.
#[derive(Debug)]
pub struct ProcessDetails {
    /// CLOCK_REALTIME less CLOCK_BOOTTIME at the start, in nanoseconds.
    boot: RealTime,
    /// Paths of cgroups by id. One process that is still there names its cgroup for all others.
    cgroups: HashMap<u64, String>,
}

impl ProcessDetails {
    /// Reads the clocks once, so that start times of one recording agree with each other.
    pub fn new() -> Self {
        let boot_ns = clock_ns(libc::CLOCK_REALTIME).saturating_sub(clock_ns(libc::CLOCK_BOOTTIME));
        Self { boot: RealTime::from_ns(boot_ns), cgroups: HashMap::default() }
    }

    /// Everything known of the process.
    pub fn process(&mut self, news: &ProcessNews) -> Process {
        let cgroup = self.cgroup(news);
        Process {
            pid: news.pid,
            name: full_name(&news.comm, &news.path),
            path: (!news.path.is_empty()).then(|| news.path.clone()),
            parent_pid: Some(news.parent_pid),
            uid: Some(news.uid),
            start: Some(RealTime::from_ns(self.boot.as_ns() + news.start_boottime_ns)),
            container: cgroup.as_deref().and_then(container_id),
            cgroup,
            command_line: None,
        }
    }

    fn cgroup(&mut self, news: &ProcessNews) -> Option<String> {
        // 0: not known.
        if let Some(path) = self.cgroups.get(&news.cgroup_id).filter(|_| news.cgroup_id != 0) {
            return Some(path.clone());
        }
        let text =
            std::fs::read_to_string(Path::new("/proc").join(news.pid.to_string()).join("cgroup")).ok()?;
        // cgroups(7): the line of version 2 begins with "0::".
        let path = text.lines().find_map(|line| line.strip_prefix("0::"))?.to_owned();
        self.cgroups.insert(news.cgroup_id, path.clone());
        Some(path)
    }
}

impl Default for ProcessDetails {
    fn default() -> Self {
        Self::new()
    }
}

/// The kernel cuts names to 15 bytes; if the executable's name continues what is left, it is the whole.
fn full_name(comm: &[u8], path: &[u8]) -> Vec<u8> {
    let file_name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    if comm.len() == COMM_BYTES && file_name.starts_with(comm) { file_name.to_vec() } else { comm.to_vec() }
}

/// The container's id: 64 hexadecimal digits at the end of the path of its cgroup, with the decoration that Docker,
/// containerd, CRI-O and Podman put around them (`docker-ID.scope`, `/docker/ID`, `cri-containerd-ID.scope`, ...).
fn container_id(cgroup: &str) -> Option<String> {
    cgroup.rsplit('/').find_map(|part| {
        let part = part.strip_suffix(".scope").unwrap_or(part);
        let id = part.rsplit(['-', ':']).next().unwrap_or(part);
        (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_name_is_completed_by_the_executable() {
        let path = b"/opt/x/a-name-that-is-longer-than-fifteen";
        assert_eq!(full_name(b"a-name-that-is-", path), b"a-name-that-is-longer-than-fifteen");
    }

    #[test]
    fn a_name_that_the_process_gave_itself_stays() {
        assert_eq!(full_name(b"worker: idle 12", b"/usr/sbin/nginx"), b"worker: idle 12");
        assert_eq!(full_name(b"sh", b"/bin/shfmt"), b"sh");
    }

    #[test]
    fn a_containers_id_is_found_in_its_cgroup() {
        let id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        for path in [
            format!("/docker/{id}"),
            format!("/system.slice/docker-{id}.scope"),
            format!("/k/cri-containerd-{id}.scope/init"),
        ] {
            assert_eq!(container_id(&path).as_deref(), Some(id), "{path}");
        }
        assert_eq!(container_id("/user.slice/user-0.slice"), None);
    }
}
