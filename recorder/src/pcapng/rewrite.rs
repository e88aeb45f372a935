//! Writes a file anew, with its processes in other forms or with processes that it did not have.
//!
//! Blocks and options stay as they are, byte for byte, but for those that tell processes: these are left out, and written as
//! [`Writer`] does. What else changes:
//! - PKTAP packets become what is in them, on interfaces of their own, one for each name and inner link type;
//! - it is one section, little-endian: Wireshark counts process blocks over the whole file, and reads their indexes in this order
//!   only. Interfaces are counted anew; later section headers, and blocks of a big-endian section that only their owner could
//!   turn, are left out and counted;
//! - simple and obsolete packet blocks become Enhanced Packet Blocks;
//! - custom blocks that forbid to be copied are left out, and counted.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::ops::Range;

use super::annotation::{self, NamedProcess};
use super::copy::{SECTION_OPTIONS, add_comment};
use super::encode::{end_of_options, option, text_option};
use super::little_endian::little_endian;
use super::parse::Header;
use super::process::{Options, number};
use super::reader::Content;
use super::writer::{Anew, flags};
use super::{Annotate, CopyError, Reader, Record, Writer, block, option as code, statistics};
use crate::decode::{self, Decoded, pktap};
use crate::model::{
    Attribution, AttributionCounts, Direction, Found, Interface, InterfaceId, LinkType, Owner, Packet,
    Process, ProcessIndex, ProcessTable, RealTime, Reason, Reception,
};

/// Statistics blocks wait for the end of the file while they are no more bytes than this.
const MOST_WAITING: usize = 1 << 20;
/// So many interfaces can be in PKTAP headers; a packet beyond them stays as it is. A Mac has some tens.
const MOST_INNER: usize = 4096;

/// What one reading of a file tells that stands behind the packets it is about.
#[derive(Debug, Default)]
pub struct Known {
    processes: ProcessTable,
    /// Whether there is an interface with PKTAP packets.
    pub has_pktap: bool,
}

impl Known {
    /// Reads a file to its end, or to where it is damaged.
    pub fn read<R: Read>(mut reader: Reader<R>) -> Self {
        // What is wrong with it is told when it is written anew.
        while let Ok(Some(_)) = reader.next_packet() {}
        let has_pktap = reader.interfaces().iter().any(|interface| is_pktap(interface.link_type));
        Self { processes: reader.into_processes(), has_pktap }
    }
}

/// What was written, and what was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Packets in the new file.
    pub packets: u64,
    /// How many of them have a process and why the others have none.
    pub attribution: AttributionCounts,
    /// Packets that were taken out of a PKTAP header.
    pub from_pktap: u64,
    /// Packets of a PKTAP link type without such a header; they are as they were.
    pub not_pktap: u64,
    /// Custom blocks that say that they must not be copied.
    pub not_to_be_copied: u64,
    /// Blocks of events kept for replay.
    pub events_left_out: u64,
    /// Blocks of other programs whose byte order cannot be changed.
    pub not_turned: u64,
    /// Section headers behind the first one.
    pub sections_joined: u64,
    /// Statistics of an interface that is not in the new file, because its packets were PKTAP.
    pub statistics_left_out: u64,
}

/// Reads from an `R` and writes into a `W`, packet by packet. `W` needs no buffering.
#[derive(Debug)]
pub struct Rewriter<R: Read, W: Write> {
    reader: Reader<R>,
    out: Writer<W>,
    /// What an earlier reading told.
    known: ProcessTable,
    processes: Processes,
    interfaces: Interfaces,
    /// The packet that was read last.
    pending: Option<Pending>,
    /// Bodies of statistics blocks: those of the end stand behind the processes.
    statistics: Vec<Vec<u8>>,
    has_new_owners: bool,
    rewritten: Rewritten,
    /// The current block, little-endian.
    body: Vec<u8>,
}

/// The processes of the new file.
#[derive(Debug, Default)]
struct Processes {
    table: ProcessTable,
    of_file: HashMap<ProcessIndex, ProcessIndex>,
    of_pktap: HashMap<(NamedProcess, Option<[u8; 16]>), ProcessIndex>,
    of_line: HashMap<NamedProcess, ProcessIndex>,
}

#[derive(Debug, Default)]
struct Interfaces {
    originals: Vec<Original>,
    /// The number of the section's first one among them.
    first_of_section: usize,
    new: Vec<New>,
    /// Those of PKTAP headers: original, link type, name.
    inner: HashMap<(usize, LinkType, String), InterfaceId>,
}

/// An interface of the file that is read.
#[derive(Debug)]
struct Original {
    /// The body of its block, little-endian.
    body: Vec<u8>,
    /// What it is in the new file, once it is there.
    id: Option<InterfaceId>,
}

/// An interface of the new file.
#[derive(Debug)]
struct New {
    interface: Interface,
    written: u64,
    /// Time stamps of its first and last packet.
    first: u64,
    last: u64,
}

/// What will be written of a packet, besides its owners.
#[derive(Debug)]
struct Pending {
    interface: InterfaceId,
    time: RealTime,
    stamp: u64,
    direction: Direction,
    reception: Reception,
    flags: u32,
    original_length: u32,
    /// Where its bytes are in the body.
    data: Range<usize>,
    attribution: Attribution,
    effective: Option<ProcessIndex>,
    others: Vec<u8>,
}

impl<R: Read, W: Write> Rewriter<R, W> {
    /// Begins a new file. Its section header has `comment` too, if there is one: what is done here that the file did not tell
    /// before. `known` is what an earlier reading of the same file told, or nothing.
    pub fn new(reader: Reader<R>, out: W, annotate: Annotate, known: Known, comment: Option<&str>) -> Self {
        let header = section_header(&reader, comment);
        Self {
            out: Writer::with_header(out, annotate, &header),
            reader,
            known: known.processes,
            processes: Processes::default(),
            interfaces: Interfaces::default(),
            pending: None,
            statistics: Vec::new(),
            has_new_owners: false,
            rewritten: Rewritten::default(),
            body: Vec::new(),
        }
    }

    /// The next packet, as it will be in the new file, with the owners that are known so far; `None` after the last one. Their
    /// table is that of the new file. [`keep`](Self::keep) writes it; without, the next call leaves it out.
    ///
    /// # Errors
    /// If the file cannot be read on, or the new one not be written.
    pub fn next_packet(&mut self) -> Result<Option<Record<'_>>, CopyError> {
        loop {
            let Some(found) = self.reader.next_block()? else { return Ok(None) };
            match found.content {
                Content::Packet(header) => {
                    let pending = self.packet(found.kind, &header)?;
                    return Ok(Some(self.record(pending)));
                }
                // They are written anew.
                Content::Process(_) => {}
                Content::Other => self.other(found.kind)?,
            }
        }
    }

    /// Adds a process that the file does not tell of, for [`keep`](Self::keep).
    pub fn add_process(&mut self, process: Process) -> ProcessIndex {
        self.processes.table.push(process)
    }

    /// Writes the packet that came last: with these owners, or with those that were known already.
    ///
    /// # Errors
    /// Those of `W`.
    pub fn keep(&mut self, owners: Option<&Attribution>) -> io::Result<()> {
        let Some(pending) = self.pending.take() else { return Ok(()) };
        self.has_new_owners |= owners.is_some();
        let attribution = owners.unwrap_or(&pending.attribution);
        self.write_statistics()?;
        self.interfaces.new[pending.interface.0 as usize].count(pending.stamp);
        self.rewritten.packets += 1;
        self.rewritten.attribution.count(attribution);
        let Pending { interface, stamp, direction, flags, original_length, effective, .. } = pending;
        let (data, others) = (&self.body[pending.data], pending.others.as_slice());
        let anew = Anew { interface, stamp, original_length, data, direction, flags, effective, others };
        self.out.packet_anew(&anew, attribution, &self.processes.table)
    }

    /// Ends the new file, and flushes `W`.
    ///
    /// # Errors
    /// Those of `W`.
    pub fn finish(mut self) -> io::Result<(Rewritten, W)> {
        if self.has_new_owners {
            self.add_new_statistics();
        }
        let out = self.out.finish_with(&self.statistics, &self.processes.table)?;
        Ok((self.rewritten, out))
    }

    fn record(&mut self, pending: Pending) -> Record<'_> {
        let pending = self.pending.insert(pending);
        let Pending { interface, time, direction, reception, original_length, .. } = *pending;
        let data = &self.body[pending.data.clone()];
        Record {
            packet: Packet { interface, time, direction, reception, original_length, data },
            attribution: pending.attribution,
            interface: &self.interfaces.new[interface.0 as usize].interface,
            processes: &self.processes.table,
        }
    }

    fn packet(&mut self, kind: u32, header: &Header) -> Result<Pending, CopyError> {
        let record = self.reader.record(header);
        let Packet { time, direction, reception, original_length, .. } = record.packet;
        let (attribution, link_type) = (record.attribution, record.interface.link_type);
        // The order of every packet block can be changed.
        self.take_body(kind);
        let (stamp, told) = match kind {
            block::SIMPLE_PACKET => (0, Told::default()),
            _ => (stamp(&self.body), Told::read(&self.body, header, kind == block::PACKET)),
        };
        let attribution = self.of_file(&attribution);
        let effective = told.effective_number.and_then(|number| self.reader.darwin_process(number));
        let effective = effective.map(|index| self.process_of_file(index));
        let effective = effective.or_else(|| told.effective_line.map(|named| self.processes.of_line(named)));
        let mut pending = Pending {
            interface: InterfaceId(0),
            time,
            stamp,
            direction,
            reception,
            flags: told.flags,
            original_length,
            data: header.data.clone(),
            attribution,
            effective,
            others: told.others,
        };
        if !(is_pktap(link_type) && self.strip(header.interface, &mut pending)?) {
            pending.interface = self.interface(header.interface)?;
        }
        Ok(pending)
    }

    /// Takes a packet out of its PKTAP header; `false` if it has none.
    fn strip(&mut self, original: usize, pending: &mut Pending) -> io::Result<bool> {
        let data = &self.body[pending.data.clone()];
        let outer = &self.reader.interfaces()[original];
        let inner = pktap::header(data).ok().and_then(|header| {
            let (interface, block) = self.interfaces.inner(original, &header, outer)?;
            Some((header, interface, block))
        });
        let Some((header, interface, block)) = inner else {
            self.rewritten.not_pktap += 1;
            return Ok(false);
        };
        if let Some(body) = block {
            self.out.interface_block(&body)?;
        }
        let packet = &data[header.length..];
        pending.interface = interface;
        pending.data.start += header.length;
        pending.original_length =
            pending.original_length.saturating_sub(header.length as u32).max(packet.len() as u32);
        if header.direction != Direction::Unknown {
            pending.direction = header.direction;
            pending.flags = pending.flags & !3 | flags(header.direction, Reception::Unknown);
        }
        pending.effective = header.effective.map(|named| self.processes.of_pktap(&named));
        pending.attribution = self.processes.attribution(&header, pending.direction, packet);
        add_metadata(&mut pending.others, &header);
        self.has_new_owners = true;
        self.rewritten.from_pktap += 1;
        Ok(true)
    }

    fn other(&mut self, kind: u32) -> io::Result<()> {
        match kind {
            block::SECTION_HEADER => {
                self.interfaces.first_of_section = self.interfaces.originals.len();
                self.rewritten.sections_joined += 1;
            }
            block::CUSTOM_NOT_COPIED => self.rewritten.not_to_be_copied += 1,
            // Of use only in the recording as it was.
            block::KEPT_EVENTS => self.rewritten.events_left_out += 1,
            _ if !self.take_body(kind) => self.rewritten.not_turned += 1,
            block::INTERFACE_DESCRIPTION => {
                let number = self.interfaces.originals.len();
                self.interfaces.originals.push(Original { body: self.body.clone(), id: None });
                let link_type = self.reader.interfaces().get(number).map(|interface| interface.link_type);
                if !link_type.is_some_and(is_pktap) {
                    self.interface(number)?;
                }
            }
            block::INTERFACE_STATISTICS => self.hold_statistics()?,
            _ => self.out.block(kind, &self.body)?,
        }
        Ok(())
    }

    /// Copies the current block; `false` if its byte order cannot be changed.
    fn take_body(&mut self, kind: u32) -> bool {
        let body = self.reader.body();
        if !self.reader.is_big_endian() {
            self.body.clear();
            self.body.extend_from_slice(body);
            return true;
        }
        let turned = little_endian(kind, body);
        let is_turned = turned.is_some();
        self.body = turned.unwrap_or_default();
        is_turned
    }

    /// What an interface of the file is in the new one; it is written if it is not there yet.
    fn interface(&mut self, number: usize) -> io::Result<InterfaceId> {
        let Some(original) = self.interfaces.originals.get_mut(number) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet before its interface"));
        };
        if let Some(id) = original.id {
            return Ok(id);
        }
        let id = self.out.interface_block(&original.body)?;
        original.id = Some(id);
        self.interfaces.new.push(New::of(self.reader.interfaces()[number].clone()));
        Ok(id)
    }

    fn of_file(&mut self, attribution: &Attribution) -> Attribution {
        let Attribution::Known { sender, receiver, both_local, found } = *attribution else {
            return *attribution;
        };
        let mut owner = |owner: Option<Owner>| {
            owner.map(|Owner { process, tid }| Owner { process: self.process_of_file(process), tid })
        };
        Attribution::Known { sender: owner(sender), receiver: owner(receiver), both_local, found }
    }

    fn process_of_file(&mut self, index: ProcessIndex) -> ProcessIndex {
        let Processes { table, of_file, .. } = &mut self.processes;
        *of_file.entry(index).or_insert_with(|| {
            let process = self.known.get(index).or_else(|| self.reader.processes().get(index));
            // The reader gives no index that it does not hold.
            table.push(process.cloned().unwrap_or_else(|| Process::new(0, Vec::new())))
        })
    }

    /// Keeps the current block for the end, with the number that its interface has now.
    fn hold_statistics(&mut self) -> io::Result<()> {
        let Some(id) = self.body.first_chunk::<4>().map(|id| number(*id, false) as usize) else {
            return Ok(());
        };
        let originals = &self.interfaces.originals;
        let Some(id) = originals.get(self.interfaces.first_of_section + id).and_then(|original| original.id)
        else {
            self.rewritten.statistics_left_out += 1;
            return Ok(());
        };
        self.body[..4].copy_from_slice(&id.0.to_le_bytes());
        self.statistics.push(self.body.clone());
        if self.statistics.iter().map(Vec::len).sum::<usize>() > MOST_WAITING {
            self.write_statistics()?;
        }
        Ok(())
    }

    /// Writes the statistics that turned out not to stand at the end.
    fn write_statistics(&mut self) -> io::Result<()> {
        for body in self.statistics.drain(..) {
            self.out.block(block::INTERFACE_STATISTICS, &body)?;
        }
        Ok(())
    }

    /// Makes the statistics say how owners were found here.
    fn add_new_statistics(&mut self) {
        let counts = &self.rewritten.attribution;
        for body in &mut self.statistics {
            *body = statistics::with_attribution(body, counts);
        }
        for (number, new) in self.interfaces.new.iter().enumerate() {
            let id = (number as u32).to_le_bytes();
            if !self.statistics.iter().any(|body| body.starts_with(&id)) {
                let New { written, first, last, .. } = *new;
                let plain = statistics::of_copy(id, written, (first, last));
                self.statistics.push(statistics::with_attribution(&plain, counts));
            }
        }
    }
}

impl Processes {
    /// The owner of the packet behind a PKTAP header.
    fn attribution(
        &mut self,
        header: &pktap::Header<'_>,
        direction: Direction,
        packet: &[u8],
    ) -> Attribution {
        let Some(named) = header.process else {
            return Attribution::Unknown(match decode::packet(header.link_type, packet) {
                Decoded::Ip(_) => Reason::NotTold,
                Decoded::NotIp(_) => Reason::NotIp,
            });
        };
        let owner = Some(Owner { process: self.of_pktap(&named), tid: 0 });
        let (sender, receiver) = match direction {
            Direction::Inbound => (None, owner),
            Direction::Outbound | Direction::Unknown => (owner, None),
        };
        Attribution::Known { sender, receiver, both_local: false, found: Found::Pktap }
    }

    fn of_pktap(&mut self, named: &pktap::ProcessName<'_>) -> ProcessIndex {
        let process = NamedProcess { name: named.name.to_vec(), pid: named.pid };
        *self.of_pktap.entry((process, named.uuid)).or_insert_with(|| {
            self.table.push(Process { uuid: named.uuid, ..Process::new(named.pid, named.name) })
        })
    }

    fn of_line(&mut self, named: NamedProcess) -> ProcessIndex {
        let Self { table, of_line, .. } = self;
        if let Some(index) = of_line.get(&named) {
            return *index;
        }
        let index = table.push(Process::new(named.pid, named.name.clone()));
        of_line.insert(named, index);
        index
    }
}

impl Interfaces {
    /// The interface that a PKTAP header names, and the body of its block if that has to be written. `None` if there are too
    /// many.
    fn inner(
        &mut self,
        original: usize,
        header: &pktap::Header<'_>,
        outer: &Interface,
    ) -> Option<(InterfaceId, Option<Vec<u8>>)> {
        let key = (original, header.link_type, header.interface.to_owned());
        if let Some(id) = self.inner.get(&key) {
            return Some((*id, None));
        }
        if self.inner.len() == MOST_INNER {
            return None;
        }
        let id = InterfaceId(self.new.len() as u32);
        let body = inner_block(&self.originals.get(original)?.body, header);
        let (name, link_type) = (header.interface.to_owned(), header.link_type);
        let described = Interface { name, link_type, description: None, mac: None, ..outer.clone() };
        self.new.push(New::of(described));
        self.inner.insert(key, id);
        Some((id, Some(body)))
    }
}

impl New {
    const fn of(interface: Interface) -> Self {
        Self { interface, written: 0, first: 0, last: 0 }
    }

    fn count(&mut self, stamp: u64) {
        self.first = if self.written == 0 { stamp } else { self.first.min(stamp) };
        self.last = self.last.max(stamp);
        self.written += 1;
    }
}

/// What the options of a packet tell besides its owner.
#[derive(Default)]
struct Told {
    flags: u32,
    effective_number: Option<u32>,
    effective_line: Option<NamedProcess>,
    /// Options that tell no process, without an end.
    others: Vec<u8>,
}

impl Told {
    /// `body` is little-endian.
    fn read(body: &[u8], header: &Header, is_obsolete: bool) -> Self {
        /// `epb_dropcount`; the obsolete block has it in its header, and this for "not known".
        const DROP_COUNT: u16 = 4;
        const NOT_KNOWN: u16 = 0xffff;
        let mut told = Self::default();
        if is_obsolete && let Some(dropped) = body.get(2..4) {
            let dropped = u16::from_le_bytes([dropped[0], dropped[1]]);
            if !matches!(dropped, 0 | NOT_KNOWN) {
                option(&mut told.others, DROP_COUNT, &u64::from(dropped).to_le_bytes());
            }
        }
        let mut has_line = false;
        for (option, value) in Options::new(&body[header.options_at..], false) {
            told.add(option, value, &mut has_line);
        }
        told
    }

    fn add(&mut self, option_code: u16, value: &[u8], has_line: &mut bool) {
        match (option_code, value) {
            (code::COMMENT, _) => {
                let text = std::str::from_utf8(value).unwrap_or_default();
                // The first that is one of ours tells the owner; others that look like it are somebody's words.
                if !*has_line && annotation::parse(text).is_some() {
                    *has_line = true;
                } else if let Some(named) = annotation::parse_effective(text) {
                    self.effective_line = Some(named);
                } else {
                    option(&mut self.others, option_code, value);
                }
            }
            (code::EPB_FLAGS, &[a, b, c, d]) => self.flags = number([a, b, c, d], false),
            (code::EPB_PROCESSID_THREADID | code::EPB_DARWIN_PROCESS, _) => {}
            (code::EPB_DARWIN_EFFECTIVE, &[a, b, c, d]) => {
                self.effective_number = Some(number([a, b, c, d], false));
            }
            _ => option(&mut self.others, option_code, value),
        }
    }
}

/// Adds what a PKTAP header tells besides processes, as Apple's libpcap does (`pcap-ng.h`: `PCAPNG_EPB_*`).
fn add_metadata(options: &mut Vec<u8>, header: &pktap::Header<'_>) {
    const SERVICE_CLASS: u16 = 0x8002;
    const FLAGS: u16 = 0x8004;
    const FLOW_ID: u16 = 0x8005;
    const TRACE_TAG: u16 = 0x8006;
    const DROP_REASON: u16 = 0x8007;
    const DROP_LINE: u16 = 0x8008;
    const DROP_FUNCTION: u16 = 0x8009;
    let numbers = [
        (SERVICE_CLASS, header.service_class, u32::MAX),
        (FLOW_ID, header.flow_id, 0),
        (FLAGS, header.metadata_flags, 0),
    ];
    for (code, value, unknown) in numbers {
        if value != unknown {
            option(options, code, &value.to_le_bytes());
        }
    }
    if header.trace_tag != 0 {
        option(options, TRACE_TAG, &header.trace_tag.to_le_bytes());
    }
    if let Some(dropped) = header.dropped {
        option(options, DROP_REASON, &dropped.reason.to_le_bytes());
        if let Some((function, line)) = dropped.place {
            option(options, DROP_LINE, &line.to_le_bytes());
            option(options, DROP_FUNCTION, function);
        }
    }
}

/// The block of an interface that PKTAP headers name: link type and name are theirs; times, filter and snap length are those of
/// the interface that they were captured on.
fn inner_block(outer: &[u8], header: &pktap::Header<'_>) -> Vec<u8> {
    const NAME: u16 = 2;
    const DESCRIPTION: u16 = 3;
    /// Addresses and speeds.
    const OF_DEVICE: [u16; 8] = [4, 5, 6, 7, 8, 15, 16, 17];
    let mut body = header.link_type.0.to_le_bytes().to_vec();
    body.extend_from_slice(outer.get(2..8).unwrap_or(&[0; 6]));
    if !header.interface.is_empty() {
        text_option(&mut body, NAME, header.interface);
    }
    for (code, value) in Options::new(outer.get(8..).unwrap_or_default(), false) {
        if !matches!(code, NAME | DESCRIPTION) && !OF_DEVICE.contains(&code) {
            option(&mut body, code, value);
        }
    }
    end_of_options(&mut body);
    body
}

/// The body of the first section header, little-endian and of unknown length, with one more comment.
fn section_header<R: Read>(reader: &Reader<R>, comment: Option<&str>) -> Vec<u8> {
    let original = reader.first_header();
    let turned = if reader.is_big_endian() { little_endian(block::SECTION_HEADER, original) } else { None };
    let mut header = turned.unwrap_or_else(|| original.to_vec());
    if let Some(rest) = header.get_mut(4..SECTION_OPTIONS) {
        // The draft: version 1.0 when writing.
        rest[..4].copy_from_slice(&[1, 0, 0, 0]);
        rest[4..].fill(0xff);
    }
    let Some(comment) = comment else { return header };
    let mut with_comment = Vec::new();
    add_comment(&mut with_comment, &header, SECTION_OPTIONS, comment, false);
    with_comment
}

fn stamp(body: &[u8]) -> u64 {
    let word = |at: usize| body.get(at..).and_then(|rest| rest.first_chunk::<4>()).copied();
    let [high, low] = [4, 8].map(|at| u64::from(number(word(at).unwrap_or_default(), false)));
    high << 32 | low
}

fn is_pktap(link_type: LinkType) -> bool {
    pktap::LINK_TYPES.contains(&link_type)
}
