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

/// All processes of one recording. Only grows, so that an index stays good.
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
