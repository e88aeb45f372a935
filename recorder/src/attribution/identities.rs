//! One process, told by two witnesses: /proc knows the start of a process to a clock tick and nothing of exec, the kernel
//! side knows both exactly. Here they are recognised as one, so that it has one record and one word.

use foldhash::HashMap;

use super::event::{ProcessId, ProcessNews};

/// The tick of start times in /proc/PID/stat: USER_HZ is 100 on every architecture that has eBPF.
pub(super) const TICK_NS: u64 = 10_000_000;

/// Who is who.
#[derive(Debug, Default)]
pub(super) struct Identities {
    by_pid: HashMap<u32, Vec<Known>>,
    /// The other words of a process, with the one that stands for it.
    words: HashMap<ProcessId, ProcessId>,
}

#[derive(Debug)]
struct Known {
    id: ProcessId,
    start_tick: u64,
    comm: Vec<u8>,
    path: Vec<u8>,
    /// Whether the kernel side has announced it; and whether it was seen in /proc.
    is_announced: bool,
    is_seen: bool,
}

impl Identities {
    /// The word that stands for this process.
    pub(super) fn of(&self, id: ProcessId) -> ProcessId {
        self.words.get(&id).copied().unwrap_or(id)
    }

    /// The kernel side announces a process. Whether it is a new one, to be described.
    pub(super) fn announced(&mut self, news: &ProcessNews) -> bool {
        self.is_new(news, true)
    }

    /// A process was seen in /proc; its start is that of the tick. Whether it is a new one.
    pub(super) fn seen(&mut self, news: &ProcessNews) -> bool {
        self.is_new(news, false)
    }

    /// Forgets all processes but those for which these words stand.
    pub(super) fn retain(&mut self, keep: impl Fn(ProcessId) -> bool) {
        self.by_pid.retain(|_, here| {
            here.retain(|known| keep(known.id));
            !here.is_empty()
        });
        self.words.retain(|_, id| keep(*id));
        self.by_pid.shrink_to_fit();
        self.words.shrink_to_fit();
    }

    fn is_new(&mut self, news: &ProcessNews, is_announced: bool) -> bool {
        if self.words.contains_key(&news.id) {
            return false;
        }
        let here = self.by_pid.entry(news.pid).or_default();
        if here.iter().any(|known| known.id == news.id) {
            // Announced again: described again, since more of it may be known.
            return true;
        }
        let witness = |known: &&mut Known| {
            let is_from_the_other = if is_announced { !known.is_announced } else { !known.is_seen };
            is_from_the_other && known.is_same(news)
        };
        // Of several programs with one name that it ran one after the other, the last one.
        if let Some(same) = here.iter_mut().rev().find(witness) {
            same.is_announced |= is_announced;
            same.is_seen |= !is_announced;
            self.words.insert(news.id, same.id);
            return false;
        }
        here.push(Known {
            id: news.id,
            start_tick: news.start_boottime_ns / TICK_NS,
            comm: news.comm.clone(),
            path: news.path.clone(),
            is_announced,
            is_seen: !is_announced,
        });
        true
    }
}

impl Known {
    /// The same start, and the same program by name and path: after an exec of another one it is another process. The path
    /// that the kernel side tells lacks its beginning where it is very long or below another root.
    fn is_same(&self, news: &ProcessNews) -> bool {
        self.start_tick == news.start_boottime_ns / TICK_NS
            && self.comm == news.comm
            && (self.path.ends_with(&news.path) || news.path.ends_with(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(id: u64, start_boottime_ns: u64, comm: &str, path: &str) -> ProcessNews {
        ProcessNews {
            id: ProcessId(id),
            pid: 7,
            start_boottime_ns,
            exec_id: 0,
            parent_pid: 1,
            uid: 0,
            cgroup: Vec::new(),
            older_cgroups: Vec::new(),
            comm: comm.into(),
            path: path.into(),
            arguments: None,
            tracked: false,
        }
    }

    const START: u64 = 55_551_234_567;
    const TICK: u64 = START / TICK_NS * TICK_NS;

    #[test]
    fn a_process_seen_in_proc_and_announced_later_is_one() {
        let mut identities = Identities::default();
        assert!(identities.seen(&process(1, TICK, "nc", "/usr/bin/nc")));
        assert!(!identities.announced(&process(2, START, "nc", "/usr/bin/nc")));
        assert_eq!(identities.of(ProcessId(2)), ProcessId(1));
    }

    #[test]
    fn a_process_announced_and_seen_in_proc_later_is_one() {
        let mut identities = Identities::default();
        assert!(identities.announced(&process(2, START, "nc", "/usr/bin/nc")));
        assert!(!identities.seen(&process(1, TICK, "nc", "/usr/bin/nc")));
        assert_eq!(identities.of(ProcessId(1)), ProcessId(2));
    }

    #[test]
    fn another_program_in_the_same_process_is_another_process() {
        let mut identities = Identities::default();
        assert!(identities.seen(&process(1, TICK, "sh", "/bin/busybox")));
        assert!(identities.announced(&process(2, START, "nc", "/bin/busybox")));
        assert!(identities.announced(&process(3, START, "sh", "/bin/dash")));
    }

    #[test]
    fn another_process_with_the_same_pid_is_another_process() {
        let mut identities = Identities::default();
        assert!(identities.seen(&process(1, TICK, "nc", "/usr/bin/nc")));
        assert!(identities.announced(&process(2, START + TICK_NS, "nc", "/usr/bin/nc")));
    }

    #[test]
    fn two_announced_processes_are_never_one() {
        let mut identities = Identities::default();
        assert!(identities.announced(&process(1, START, "sh", "/bin/sh")));
        assert!(identities.announced(&process(2, START, "sh", "/bin/sh")), "it called exec");
        assert!(!identities.seen(&process(3, TICK, "sh", "/bin/sh")));
        assert_eq!(identities.of(ProcessId(3)), ProcessId(2), "the last one");
    }

    #[test]
    fn the_path_below_another_root_is_the_same() {
        let mut identities = Identities::default();
        assert!(identities.seen(&process(1, TICK, "nc", "/srv/root/usr/bin/nc")));
        assert!(!identities.announced(&process(2, START, "nc", "/usr/bin/nc")));
    }
}
