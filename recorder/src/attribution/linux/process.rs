//! What is known of a process besides what the kernel side tells: its full name, its container, its unit.

use std::fmt::Write;

use procfs::ProcessCGroup;
use procfs::process::Process as ProcEntry;

use super::{cgroup_path, clock_ns};
use crate::attribution::event::ProcessNews;
use crate::model::{Process, RealTime};

/// `TASK_COMM_LEN` of include/linux/sched.h less the NUL: longer names are cut to this.
const COMM_BYTES: usize = 15;

/// Fills in what the kernel side does not tell.
#[derive(Debug)]
pub struct ProcessDetails {
    /// CLOCK_REALTIME less CLOCK_BOOTTIME at the start, in nanoseconds.
    boot: RealTime,
    /// Whether there are cgroups of version 1, which may be the only ones that a container has.
    has_version_1: bool,
}

impl ProcessDetails {
    /// Reads the clocks once, so that start times of one recording agree with each other.
    pub fn new() -> Self {
        let boot_ns = clock_ns(libc::CLOCK_REALTIME).saturating_sub(clock_ns(libc::CLOCK_BOOTTIME));
        let own = ProcEntry::myself().and_then(|myself| myself.cgroups());
        let has_version_1 = own.is_ok_and(|own| own.0.iter().any(|cgroup| cgroup.hierarchy != 0));
        Self { boot: RealTime::from_ns(boot_ns), has_version_1 }
    }

    /// Everything known of the process.
    pub fn process(&self, news: &ProcessNews) -> Process {
        let cgroup = text(&news.cgroup);
        let (mut container, mut unit) = (cgroup_path::container(&cgroup), cgroup_path::unit(&cgroup));
        if self.has_version_1 && (container.is_none() || unit.is_none()) {
            for cgroup in version_1(news.pid, news.start_boottime_ns).unwrap_or_default() {
                container = container.or_else(|| cgroup_path::container(&cgroup.pathname));
                // systemd's own hierarchy, which has no controllers.
                if cgroup.controllers.iter().any(|name| name == "name=systemd") {
                    unit = unit.or_else(|| cgroup_path::unit(&cgroup.pathname));
                }
            }
        }
        Process {
            pid: news.pid,
            name: full_name(&news.comm, &news.path),
            path: (!news.path.is_empty()).then(|| news.path.clone()),
            parent_pid: Some(news.parent_pid),
            uid: Some(news.uid),
            start: Some(RealTime::from_ns(self.boot.as_ns() + news.start_boottime_ns)),
            cgroup: (!cgroup.is_empty()).then_some(cgroup),
            container,
            unit,
            command_line: news.arguments.clone(),
            uuid: None,
        }
    }
}

impl Default for ProcessDetails {
    fn default() -> Self {
        Self::new()
    }
}

/// A process's cgroups of version 1; none if it is gone, or its pid another one's by now.
fn version_1(pid: u32, start_boottime_ns: u64) -> Option<Vec<ProcessCGroup>> {
    // The open directory stays that of one process; its start tells which.
    let entry = ProcEntry::new(i32::try_from(pid).ok()?).ok()?;
    let tick_ns = 1_000_000_000 / procfs::ticks_per_second();
    if entry.stat().ok()?.starttime != start_boottime_ns / tick_ns {
        return None;
    }
    let cgroups = entry.cgroups().ok()?;
    Some(cgroups.0.into_iter().filter(|cgroup| cgroup.hierarchy != 0).collect())
}

/// A name of the kernel as text: what is not UTF-8 as `\xNN`. A backslash stands for itself, because systemd's names
/// have some.
fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// The kernel cuts names to 15 bytes; if the executable's name continues what is left, it is the whole.
fn full_name(comm: &[u8], path: &[u8]) -> Vec<u8> {
    let file_name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    if comm.len() == COMM_BYTES && file_name.starts_with(comm) { file_name.to_vec() } else { comm.to_vec() }
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
    fn a_cgroups_name_may_be_any_bytes() {
        assert_eq!(text(b"/a/\xc3\xa4"), "/a/\u{e4}");
        assert_eq!(text(b"/a\xff\\x2d"), r"/a\xff\x2d");
    }

    #[test]
    fn version_1_tells_container_and_unit_of_a_process_that_is_the_one_that_was_meant() {
        let pid = std::process::id();
        let start = procfs::process::Process::myself().and_then(|process| process.stat()).unwrap().starttime;
        let start_ns = start * (1_000_000_000 / procfs::ticks_per_second());
        let cgroups = version_1(pid, start_ns).expect("this process is there");
        assert!(cgroups.iter().all(|cgroup| cgroup.pathname.starts_with('/')), "{cgroups:?}");
        assert!(version_1(pid, start_ns + 1_000_000_000).is_none(), "another process with this pid");
    }
}
