//! Who a packet of a file belongs to: puts together what its options and the process records say.
//!
//! The order of trust: the process block that option 0x8001 names; the process id of option 8, with the
//! records of Wireshark's custom blocks; our comment; the comments of other programs. Our comment alone tells which end
//! is which.

use std::collections::HashMap;

use super::annotation::{Line, NamedProcess};
use super::claims::{self, Claim, Memory, Told};
use crate::model::{
    Attribution, Direction, Found, Owner, Process, ProcessIndex, ProcessKey, ProcessTable, RealTime, Reason,
};

/// The processes of a file, and the ways to find one.
#[derive(Debug, Default)]
pub(super) struct Owners {
    processes: ProcessTable,
    /// The process of each Darwin block of the section, in their order.
    darwin: Vec<Option<ProcessIndex>>,
    /// The processes of custom blocks that stood before the packets, by process id.
    custom: HashMap<u32, Vec<ProcessIndex>>,
    /// Those with a record, by process id and start time.
    recorded: HashMap<(u32, Option<RealTime>), ProcessIndex>,
    /// Those with a record, by process id and name; the last one met.
    named: HashMap<NamedProcess, ProcessIndex>,
    /// Those without a record so far: only options of packets tell of them, and the name may be empty.
    provisional: HashMap<NamedProcess, Provisional>,
    /// What options were found to say.
    memory: Memory,
    /// About how many bytes all this takes.
    size: usize,
}

/// What a process takes besides its texts, in bytes: itself, and its places in the tables.
const PROCESS_SIZE: usize = 600;

/// A process that was met in a packet before its record.
#[derive(Debug)]
struct Provisional {
    index: ProcessIndex,
    key: ProcessKey,
    /// Whether a custom block at the end of the file has told the rest.
    is_filled: bool,
}

impl Owners {
    pub(super) fn processes(&self) -> &ProcessTable {
        &self.processes
    }

    pub(super) fn into_processes(self) -> ProcessTable {
        self.processes
    }

    /// About how many bytes of memory are taken.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// The indexes of process blocks begin anew in each section.
    pub(super) fn next_section(&mut self) {
        self.memory.forget();
        self.darwin.clear();
    }

    /// What the options of a packet say, captured at `time`.
    #[inline]
    pub(super) fn told(&mut self, options: &[u8], is_big_endian: bool, time: RealTime) -> Told {
        if options.is_empty() {
            return Told::NOTHING;
        }
        match self.memory.get(options) {
            Some(told) => told,
            None => self.read(options, is_big_endian, time),
        }
    }

    fn read(&mut self, options: &[u8], is_big_endian: bool, time: RealTime) -> Told {
        let (direction, reception, claim) = claims::read(options, is_big_endian);
        let attribution = self.resolve(&claim, time, direction);
        let told = Told { direction, reception, attribution };
        // Of a process id that has custom blocks it depends on the time.
        if claim.ids.is_none_or(|(pid, _)| !self.custom.contains_key(&pid)) {
            self.memory.put(options, told);
        }
        told
    }

    /// A Darwin block; `None` for one that is damaged, which has a number all the same.
    pub(super) fn darwin_block(&mut self, process: Option<Process>) -> Option<ProcessIndex> {
        self.memory.forget();
        self.size += size_of::<Option<ProcessIndex>>();
        let index = process.map(|process| self.add(process));
        self.darwin.push(index);
        index
    }

    /// The process of Darwin block number `number` of this section.
    pub(super) fn darwin_process(&self, number: u32) -> Option<ProcessIndex> {
        self.darwin.get(number as usize).copied().flatten()
    }

    /// A custom block that describes a process.
    pub(super) fn custom_block(&mut self, process: Process) -> ProcessIndex {
        self.memory.forget();
        self.size += size_of::<ProcessIndex>();
        let pid = process.pid;
        let known = self.recorded.get(&(pid, process.start)).copied();
        let is_known =
            |index: &ProcessIndex| self.processes.get(*index).is_some_and(|known| known.name == process.name);
        let index = match known.filter(is_known) {
            Some(index) => index,
            None => self.fill(&process).unwrap_or_else(|| self.add(process)),
        };
        self.custom.entry(pid).or_default().push(index);
        index
    }

    /// Gives a process that packets told of the rest of what is known. `None` if there is none, or if there
    /// are several records that could be meant: the process id was reused, and it stays at what the packets
    /// said.
    fn fill(&mut self, process: &Process) -> Option<ProcessIndex> {
        let with_name = NamedProcess { name: process.name.clone(), pid: process.pid };
        let without_name = NamedProcess { name: Vec::new(), pid: process.pid };
        let named = if self.provisional.contains_key(&with_name) { with_name } else { without_name };
        let provisional = self.provisional.get_mut(&named)?;
        if provisional.is_filled {
            self.processes.put(provisional.key, Process::new(named.pid, named.name));
            return None;
        }
        provisional.is_filled = true;
        self.size += texts(process);
        Some(self.processes.put(provisional.key, process.clone()))
    }

    /// The owners of a packet.
    fn resolve(&mut self, claim: &Claim, time: RealTime, direction: Direction) -> Attribution {
        let main = self.main_process(claim, time);
        let (sender, receiver, both_local) = match &claim.line {
            Some(Line::Two(sender, receiver)) => {
                let sender = sender.as_ref().map(|named| self.of_name(named, main));
                let receiver = receiver.as_ref().map(|named| self.of_name(named, main));
                (sender, receiver, true)
            }
            line => {
                let named = match (line, &claim.foreign) {
                    (Some(Line::One(named)), _) => Some(self.of_name(named, main)),
                    (_, Some(foreign)) if main.is_none() => Some(self.of_foreign(&foreign.process)),
                    _ => None,
                };
                let Some(process) = main.or(named) else {
                    return Attribution::Unknown(Reason::Off);
                };
                match direction {
                    Direction::Inbound => (None, Some(process), false),
                    // The draft: option 8 is the process that originated the packet.
                    Direction::Outbound | Direction::Unknown => (Some(process), None, false),
                }
            }
        };
        // Option 8 is about the sender if it is known, else the receiver.
        let thread_of = |process: ProcessIndex| {
            let foreign = claim.foreign.as_ref().map(|foreign| (foreign.process.pid, foreign.tid));
            let (pid, tid) = claim.ids.or(foreign)?;
            (self.processes.get(process)?.pid == pid).then_some(tid)
        };
        let receiver_thread = |process| if sender.is_none() { thread_of(process) } else { None };
        Attribution::Known {
            sender: sender.map(|process| Owner { process, tid: thread_of(process).unwrap_or(0) }),
            receiver: receiver.map(|process| Owner { process, tid: receiver_thread(process).unwrap_or(0) }),
            both_local,
            found: Found::Socket,
        }
    }

    /// The process that options 0x8001 and 8 tell.
    fn main_process(&mut self, claim: &Claim, time: RealTime) -> Option<ProcessIndex> {
        // A re-writer that loses process blocks and keeps their indexes (mergecap) leaves them dangling, or
        // pointing at another process; then option 8 disagrees, and counts.
        let by_block = claim.darwin.and_then(|number| self.darwin.get(number as usize).copied().flatten());
        let Some((pid, _)) = claim.ids else {
            return by_block;
        };
        if let Some(index) = by_block
            && self.processes.get(index).is_some_and(|process| process.pid == pid)
        {
            return Some(index);
        }
        if let Some(index) = self.by_pid_and_time(pid, time) {
            return Some(index);
        }
        // The comment has the name; without it there is only the number.
        let named = match &claim.line {
            Some(Line::One(named)) => Some(named),
            Some(Line::Two(sender, receiver)) => {
                [sender, receiver].into_iter().flatten().find(|named| named.pid == pid)
            }
            None => None,
        };
        match (named, &claim.foreign) {
            (Some(named), _) if named.pid == pid => Some(self.of_name(named, None)),
            (None, Some(foreign)) if foreign.process.pid == pid => Some(self.of_foreign(&foreign.process)),
            _ => Some(self.without_record(&Process::new(pid, Vec::new()))),
        }
    }

    /// As Wireshark does it: of the records with this process id, the last that started before the packet.
    fn by_pid_and_time(&self, pid: u32, time: RealTime) -> Option<ProcessIndex> {
        let candidates = self.custom.get(&pid)?;
        let started = |index: &&ProcessIndex| {
            let start = self.processes.get(**index).and_then(|process| process.start);
            start.is_none_or(|start| start <= time)
        };
        candidates.iter().rev().find(started).copied()
    }

    /// The process that a comment names; `main` if that is it.
    fn of_name(&mut self, named: &NamedProcess, main: Option<ProcessIndex>) -> ProcessIndex {
        if let Some(main) = main
            && self.processes.get(main).is_some_and(|process| process.pid == named.pid)
        {
            return main;
        }
        match self.named.get(named) {
            Some(index) => *index,
            None => self.without_record(&Process::new(named.pid, named.name.clone())),
        }
    }

    /// The process that another program's comments describe.
    fn of_foreign(&mut self, process: &Process) -> ProcessIndex {
        let named = NamedProcess { name: process.name.clone(), pid: process.pid };
        match self.named.get(&named) {
            Some(index) => *index,
            None => self.without_record(process),
        }
    }

    fn without_record(&mut self, process: &Process) -> ProcessIndex {
        let named = NamedProcess { name: process.name.clone(), pid: process.pid };
        if let Some(provisional) = self.provisional.get(&named) {
            return provisional.index;
        }
        // A file does not hold keys; all that matters is that no two are the same.
        let exec_id = self.provisional.len() as u32;
        let key = ProcessKey { pid: named.pid, start_boottime_ns: 0, exec_id };
        let index = self.processes.put(key, process.clone());
        self.size += PROCESS_SIZE + texts(process);
        self.provisional.insert(named, Provisional { index, key, is_filled: false });
        index
    }

    fn add(&mut self, process: Process) -> ProcessIndex {
        let named = NamedProcess { name: process.name.clone(), pid: process.pid };
        let started = (process.pid, process.start);
        self.size += PROCESS_SIZE + texts(&process);
        let index = self.processes.push(process);
        self.named.insert(named, index);
        self.recorded.insert(started, index);
        index
    }
}

/// How many bytes the texts of a process have; the name stands in a table too.
fn texts(process: &Process) -> usize {
    let Process { name, path, cgroup, container, unit, command_line, .. } = process;
    let bytes = [path.as_ref(), command_line.as_ref().map(|line| &line.bytes)];
    let texts = [cgroup, container, unit];
    2 * name.len()
        + bytes.into_iter().flatten().map(Vec::len).sum::<usize>()
        + texts.into_iter().flatten().map(String::len).sum::<usize>()
}
