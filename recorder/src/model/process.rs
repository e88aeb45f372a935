//! A process as the file remembers it.

use std::collections::HashMap;

use super::RealTime;

/// What makes a process that process: its pid is reused, and `exec` replaces its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessKey {
    /// The process id as the host's first pid namespace numbers it (the kernel's tgid).
    pub pid: u32,
    /// When it started: nanoseconds since boot, suspend included (`task_struct.start_boottime`).
    pub start_boottime_ns: u64,
    /// How many times the process and those it was forked from had called exec (`task_struct.self_exec_id`).
    pub exec_id: u32,
}

/// Everything known about one process. Texts are bytes: the kernel promises no encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// The process id on the host.
    pub pid: u32,
    /// The name of the process (not of a thread); longer than 15 bytes where the executable's is.
    pub name: Vec<u8>,
    /// The path of the executable, as its mount namespace names it.
    pub path: Option<Vec<u8>>,
    /// The process id of the parent.
    pub parent_pid: Option<u32>,
    /// The real user id.
    pub uid: Option<u32>,
    /// When it started.
    pub start: Option<RealTime>,
    /// Its cgroup of version 2, as cgroups(7) writes it: from the root of the host's tree.
    pub cgroup: Option<String>,
    /// The container that it is in, by id or name, where its cgroup tells one.
    pub container: Option<String>,
    /// The systemd unit that it is in, where its cgroup tells one; spelled as systemd does.
    pub unit: Option<String>,
    /// The arguments, where the user asked for them.
    pub command_line: Option<CommandLine>,
    /// The UUID that others gave its record, such as macOS that of the executable; ours is made from the values above.
    pub uuid: Option<[u8; 16]>,
}

/// The arguments of a process, as it held them when they were read: a process can change its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// The arguments, each with a NUL behind it; the last may lack it.
    pub bytes: Vec<u8>,
    /// Whether the end is missing. Then the last argument may be a part of one.
    pub is_cut: bool,
}

impl CommandLine {
    /// The arguments one by one.
    pub fn arguments(&self) -> impl Iterator<Item = &[u8]> {
        let bytes = self.bytes.strip_suffix(b"\0").unwrap_or(&self.bytes);
        bytes.split(|byte| *byte == 0)
    }
}

impl Process {
    /// A process of which only the id and the name are known.
    pub fn new(pid: u32, name: impl Into<Vec<u8>>) -> Self {
        Self {
            pid,
            name: name.into(),
            path: None,
            parent_pid: None,
            uid: None,
            start: None,
            cgroup: None,
            container: None,
            unit: None,
            command_line: None,
            uuid: None,
        }
    }
}

/// A position in a [`ProcessTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessIndex(pub u32);

/// The processes of one recording. An index stays good until [`retain`](ProcessTable::retain) is called.
#[derive(Debug, Default)]
pub struct ProcessTable {
    processes: Vec<Process>,
    by_key: HashMap<ProcessKey, ProcessIndex>,
}

impl ProcessTable {
    /// The index of the process with this key, if it is known.
    pub fn find(&self, key: &ProcessKey) -> Option<ProcessIndex> {
        self.by_key.get(key).copied()
    }

    /// Adds a process, or replaces what was known of the one with this key.
    pub fn put(&mut self, key: ProcessKey, process: Process) -> ProcessIndex {
        if let Some(index) = self.find(&key) {
            self.processes[index.0 as usize] = process;
            return index;
        }
        let index = self.push(process);
        self.by_key.insert(key, index);
        index
    }

    /// Adds a process that has no key, as read from a file.
    pub fn push(&mut self, process: Process) -> ProcessIndex {
        let index = ProcessIndex(self.processes.len() as u32);
        self.processes.push(process);
        index
    }

    /// The process at `index`; none if the index is from another table.
    pub fn get(&self, index: ProcessIndex) -> Option<&Process> {
        self.processes.get(index.0 as usize)
    }

    /// Keeps only these, and numbers them anew from 0, in the order in which they were.
    pub fn retain(&mut self, mut keep: impl FnMut(ProcessIndex) -> bool) -> Renumbering {
        let mut renumbering = Renumbering(Vec::with_capacity(self.processes.len()));
        let mut kept = 0;
        self.processes.retain(|_| {
            let keeps = keep(ProcessIndex(renumbering.0.len() as u32));
            renumbering.0.push(keeps.then_some(ProcessIndex(kept)));
            kept += u32::from(keeps);
            keeps
        });
        self.processes.shrink_to_fit();
        self.by_key.retain(|_, index| renumbering.renumber(index));
        self.by_key.shrink_to_fit();
        renumbering
    }

    /// How many processes there are.
    pub fn len(&self) -> usize {
        self.processes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// All processes, in the order of their indexes.
    pub fn iter(&self) -> impl Iterator<Item = (ProcessIndex, &Process)> {
        self.processes.iter().enumerate().map(|(index, process)| (ProcessIndex(index as u32), process))
    }
}

/// What became of the indexes of a [`ProcessTable`].
#[derive(Debug)]
pub struct Renumbering(Vec<Option<ProcessIndex>>);

impl Renumbering {
    /// The new index of a process, if it was kept.
    pub fn of(&self, old: ProcessIndex) -> Option<ProcessIndex> {
        *self.0.get(old.0 as usize)?
    }

    /// Puts the new index in the place of the old one; whether the process was kept.
    pub fn renumber(&self, index: &mut ProcessIndex) -> bool {
        let new = self.of(*index);
        *index = new.unwrap_or(*index);
        new.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(pid: u32) -> ProcessKey {
        ProcessKey { pid, start_boottime_ns: 0, exec_id: 0 }
    }

    #[test]
    fn those_that_are_kept_are_found_by_their_keys_under_new_numbers() {
        let mut table = ProcessTable::default();
        for pid in 0..6 {
            table.put(key(pid), Process::new(pid, b"a".as_slice()));
        }
        let renumbering = table.retain(|index| index.0 % 2 == 1);
        let pids: Vec<_> = table.iter().map(|(index, process)| (index.0, process.pid)).collect();
        assert_eq!(pids, [(0, 1), (1, 3), (2, 5)]);
        for pid in 0..6 {
            let new = renumbering.of(ProcessIndex(pid));
            assert_eq!(table.find(&key(pid)), new);
            assert_eq!(new, (pid % 2 == 1).then_some(ProcessIndex(pid / 2)));
        }
        assert_eq!(table.put(key(7), Process::new(7, b"b".as_slice())), ProcessIndex(3));
    }
}
