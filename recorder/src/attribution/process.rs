//! What is known of a process, put together from what was told of it: its full name, its container, its unit.

use std::fmt::Write;

use super::cgroup_path;
use super::event::ProcessNews;
use crate::model::{Process, RealTime};

/// `TASK_COMM_LEN` of include/linux/sched.h less the NUL: longer names are cut to this.
const COMM_BYTES: usize = 15;

/// Everything known of the process. `boot` is when the machine was started, on the packets' clock.
pub(super) fn describe(news: &ProcessNews, boot: RealTime) -> Process {
    let cgroup = text(&news.cgroup);
    let (container, unit) = placed(news, &cgroup);
    Process {
        pid: news.pid,
        name: full_name(&news.comm, &news.path),
        path: (!news.path.is_empty()).then(|| news.path.clone()),
        parent_pid: Some(news.parent_pid),
        uid: Some(news.uid),
        start: Some(RealTime::from_ns(boot.as_ns().saturating_add(news.start_boottime_ns))),
        cgroup: (!cgroup.is_empty()).then_some(cgroup),
        container,
        unit,
        command_line: news.arguments.clone(),
        uuid: None,
    }
}

/// Whether its cgroup of version 2 leaves open in which container or unit it is.
#[cfg(any(target_os = "linux", test))]
pub(super) fn is_unplaced(news: &ProcessNews) -> bool {
    let cgroup = text(&news.cgroup);
    cgroup_path::container(&cgroup).is_none() || cgroup_path::unit(&cgroup).is_none()
}

/// Its container and its unit.
fn placed(news: &ProcessNews, cgroup: &str) -> (Option<String>, Option<String>) {
    let (mut container, mut unit) = (cgroup_path::container(cgroup), cgroup_path::unit(cgroup));
    for older in &news.older_cgroups {
        container = container.or_else(|| cgroup_path::container(&older.path));
        if older.is_systemd {
            unit = unit.or_else(|| cgroup_path::unit(&older.path));
        }
    }
    (container, unit)
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
    use crate::attribution::event::{OlderCgroup, ProcessId};

    fn process(cgroup: &str, older_cgroups: Vec<OlderCgroup>) -> ProcessNews {
        ProcessNews {
            id: ProcessId(1),
            pid: 7,
            start_boottime_ns: 5,
            exec_id: 0,
            parent_pid: 1,
            uid: 0,
            cgroup: cgroup.into(),
            older_cgroups,
            comm: b"nc".to_vec(),
            path: b"/usr/bin/nc".to_vec(),
            arguments: None,
            tracked: false,
        }
    }

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
    fn cgroups_of_version_1_tell_what_that_of_version_2_leaves_open() {
        let older = |is_systemd, path: &str| OlderCgroup { is_systemd, path: path.into() };
        let bare = process("/", vec![older(false, "/a.service"), older(true, "/system.slice/b.service")]);
        assert!(is_unplaced(&bare));
        assert_eq!(
            describe(&bare, RealTime::default()).unit.as_deref(),
            Some("b.service"),
            "only systemd's own"
        );
        let told = process("/system.slice/c.service", vec![older(true, "/b.service")]);
        assert_eq!(describe(&told, RealTime::default()).unit.as_deref(), Some("c.service"));
    }
}
