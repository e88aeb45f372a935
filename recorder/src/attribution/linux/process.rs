//! What is looked up of a process because the kernel side does not tell it: its cgroups of version 1 when it is told of; and whether
//! it is still there.

use std::os::unix::fs::MetadataExt;

use procfs::ProcessCGroup;
use procfs::process::Process as ProcEntry;
use rustix::io::Errno;
use rustix::process::{Pid, getpgid};

use super::clock_ns;
use crate::attribution::event::{OlderCgroup, ProcessNews};
use crate::attribution::identities::TICK_NS;
use crate::attribution::process::is_unplaced;
use crate::model::RealTime;

/// The inode of the first pid namespace: `PROC_PID_INIT_INO` of include/linux/proc_ns.h.
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Tells which processes have ended.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    is_in_first_namespace: bool,
}

impl Lifetimes {
    /// Looks how processes are numbered here. To be made while /proc is within reach.
    pub fn new() -> Self {
        let own = std::fs::metadata("/proc/self/ns/pid");
        Self { is_in_first_namespace: own.is_ok_and(|own| own.ino() == FIRST_PID_NAMESPACE) }
    }

    /// Whether the process with this id, as the host's first pid namespace numbers it, is not there any more. In another pid
    /// namespace nobody can tell, and no.
    pub fn has_ended(self, pid: u32) -> bool {
        // A call that needs no right and tells nothing else; /proc may be out of reach by now, or hide the processes of others.
        let is_gone = |pid| getpgid(Some(pid)) == Err(Errno::SRCH);
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        self.is_in_first_namespace && pid.is_some_and(is_gone)
    }
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self::new()
    }
}

/// When the machine was started, on the packets' clock. Read once, so that start times of one recording agree with each
/// other.
pub fn boot_time() -> RealTime {
    RealTime::from_ns(clock_ns(libc::CLOCK_REALTIME).saturating_sub(clock_ns(libc::CLOCK_BOOTTIME)))
}

/// Looks up cgroups of version 1, which may be the only ones that a container has.
#[derive(Clone, Copy, Debug)]
pub struct OlderCgroups {
    are_there: bool,
}

impl OlderCgroups {
    /// Looks whether there are any here.
    pub fn new() -> Self {
        let own = ProcEntry::myself().and_then(|myself| myself.cgroups());
        Self { are_there: own.is_ok_and(|own| own.0.iter().any(|cgroup| cgroup.hierarchy != 0)) }
    }

    /// Whether there are any here.
    pub const fn are_there(self) -> bool {
        self.are_there
    }

    /// Adds those of the process, where that of version 2 leaves something open and the process is still there.
    pub fn complete(self, news: &mut ProcessNews) {
        if !self.are_there || !is_unplaced(news) {
            return;
        }
        let cgroups = version_1(news.pid, news.start_boottime_ns).unwrap_or_default();
        news.older_cgroups = cgroups
            .into_iter()
            .map(|cgroup| OlderCgroup {
                // systemd's own hierarchy, which has no controllers.
                is_systemd: cgroup.controllers.iter().any(|name| name == "name=systemd"),
                path: cgroup.pathname,
            })
            .collect();
    }
}

impl Default for OlderCgroups {
    fn default() -> Self {
        Self::new()
    }
}

/// A process's cgroups of version 1; none if it is gone, or its pid another one's by now.
fn version_1(pid: u32, start_boottime_ns: u64) -> Option<Vec<ProcessCGroup>> {
    // The open directory stays that of one process; its start tells which.
    let entry = ProcEntry::new(i32::try_from(pid).ok()?).ok()?;
    if entry.stat().ok()?.starttime != start_boottime_ns / TICK_NS {
        return None;
    }
    let cgroups = entry.cgroups().ok()?;
    Some(cgroups.0.into_iter().filter(|cgroup| cgroup.hierarchy != 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_ended_when_it_was_waited_for_and_not_before() {
        let lifetimes = Lifetimes { is_in_first_namespace: true };
        let mut process = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        assert!(!lifetimes.has_ended(process.id()));
        process.kill().unwrap();
        process.wait().unwrap();
        assert!(lifetimes.has_ended(process.id()));
        assert!(
            !Lifetimes { is_in_first_namespace: false }.has_ended(process.id()),
            "it is another one's number"
        );
        assert!(!lifetimes.has_ended(0) && !lifetimes.has_ended(u32::MAX), "no numbers of processes");
    }

    #[test]
    fn version_1_tells_container_and_unit_of_a_process_that_is_the_one_that_was_meant() {
        let pid = std::process::id();
        let start = procfs::process::Process::myself().and_then(|process| process.stat()).unwrap().starttime;
        let start_ns = start * TICK_NS;
        let cgroups = version_1(pid, start_ns).expect("this process is there");
        assert!(cgroups.iter().all(|cgroup| cgroup.pathname.starts_with('/')), "{cgroups:?}");
        assert!(version_1(pid, start_ns + 1_000_000_000).is_none(), "another process with this pid");
    }
}
