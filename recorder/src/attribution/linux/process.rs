//! What is looked up of a process when it is told of, because the kernel side does not tell it: its cgroups of version 1.

use procfs::ProcessCGroup;
use procfs::process::Process as ProcEntry;

use super::clock_ns;
use crate::attribution::event::{OlderCgroup, ProcessNews};
use crate::attribution::identities::TICK_NS;
use crate::attribution::process::is_unplaced;
use crate::model::RealTime;

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
    fn version_1_tells_container_and_unit_of_a_process_that_is_the_one_that_was_meant() {
        let pid = std::process::id();
        let start = procfs::process::Process::myself().and_then(|process| process.stat()).unwrap().starttime;
        let start_ns = start * TICK_NS;
        let cgroups = version_1(pid, start_ns).expect("this process is there");
        assert!(cgroups.iter().all(|cgroup| cgroup.pathname.starts_with('/')), "{cgroups:?}");
        assert!(version_1(pid, start_ns + 1_000_000_000).is_none(), "another process with this pid");
    }
}
