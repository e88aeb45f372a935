//! Writes the file: one section, little-endian, packets in the order in which they come.
//!
//! [`Writer::packet`] is the hot path. What it adds to a packet depends only on who owns it and which way it
//! went, so that part is encoded once and kept ([`Suffixes`]); a packet costs its header, a copy of its bytes
//! and a copy of those options. Nothing is allocated per packet.

use std::io::{self, Write};

use super::annotation;
use super::cut::{self, Cut};
use super::encode::{begin_block, end_block, end_of_options, option, padding, text_option};
use super::suffixes::{Key, Suffixes};
use super::{Annotate, SectionInfo, block, kept, option as code, process, statistics};
use crate::model::{
    Attribution, Direction, Interface, InterfaceId, Owner, Packet, Process, ProcessIndex, ProcessTable,
    Reception, Statistics,
};

/// How many encoded bytes gather before they are written: enough for few, large writes, and little enough to be in the
/// cache still when the kernel copies them.
const WRITE_THRESHOLD: usize = 256 << 10;
/// The bytes of an Enhanced Packet Block before the packet's own.
const PACKET_HEADER: usize = 28;

/// Writes one pcapng file into a `W`.
///
/// Packets gather in a buffer; they reach `W` when 256 KiB have gathered, at [`flush`](Self::flush) and at
/// [`finish`](Self::finish). A writer that is dropped without `finish` loses what has gathered.
/// After an error of `W` what has not reached it stays in the buffer: [`flush`](Self::flush) goes on with it, [`cut`](Self::cut)
/// gives it up.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    annotate: Annotate,
    /// Begins with a block.
    buffer: Vec<u8>,
    /// How many bytes of the buffer have reached `out`: some only after an error.
    arrived: usize,
    /// Bytes that have left the buffer.
    written: u64,
    /// Whether each interface has a filter, by number.
    interfaces: Vec<bool>,
    suffixes: Suffixes,
    /// The options of a packet that is written anew, put together.
    options: Vec<u8>,
    records: Records,
}

/// A packet of another file, with what stays of its block.
pub(super) struct Anew<'a> {
    pub(super) interface: InterfaceId,
    /// In the resolution of the interface.
    pub(super) stamp: u64,
    pub(super) original_length: u32,
    pub(super) data: &'a [u8],
    pub(super) direction: Direction,
    /// `epb_flags`: all of it.
    pub(super) flags: u32,
    /// The process on whose behalf the one with the socket acts.
    pub(super) effective: Option<ProcessIndex>,
    /// Options that tell no process, without an end.
    pub(super) others: &'a [u8],
}

/// Which processes this file has used.
#[derive(Debug, Default)]
struct Records {
    /// In order of first use; the position is the index of the process's Darwin block.
    used: Vec<ProcessIndex>,
    /// The position in `used`, by process.
    position: Vec<Option<u32>>,
}

impl<W: Write> Writer<W> {
    /// Begins a file: encodes the section header.
    pub fn new(out: W, annotate: Annotate, section: &SectionInfo) -> Self {
        let mut buffer = Vec::with_capacity(WRITE_THRESHOLD + (1 << 18));
        section_header(&mut buffer, section);
        Self::with_buffer(out, annotate, buffer)
    }

    /// Begins a file with the body of a section header.
    pub(super) fn with_header(out: W, annotate: Annotate, header: &[u8]) -> Self {
        let mut writer = Self::with_buffer(out, annotate, Vec::with_capacity(WRITE_THRESHOLD + (1 << 18)));
        push_block(&mut writer.buffer, block::SECTION_HEADER, header);
        writer
    }

    fn with_buffer(out: W, annotate: Annotate, buffer: Vec<u8>) -> Self {
        Self {
            out,
            annotate,
            buffer,
            arrived: 0,
            written: 0,
            interfaces: Vec::new(),
            suffixes: Suffixes::default(),
            options: Vec::new(),
            records: Records::default(),
        }
    }

    /// Adds an interface; packets name it by the id that comes back. Ids count from 0 in each file.
    ///
    /// # Errors
    /// Those of `W`.
    pub fn add_interface(&mut self, interface: &Interface) -> io::Result<InterfaceId> {
        let id = InterfaceId(self.interfaces.len() as u32);
        interface_description(&mut self.buffer, interface);
        self.interfaces.push(interface.filter.is_some());
        self.write_if_full()?;
        Ok(id)
    }

    /// Adds a packet, and before it the records of processes that the file does not hold yet.
    ///
    /// Processes are looked up in `processes`, which must be the same table for the whole file. An owner that
    /// it does not hold counts as unknown; a packet without a known owner gets no annotation at all.
    ///
    /// # Errors
    /// `InvalidInput` for an interface that was not added to this file, or a packet of 2 GiB; else those of
    /// `W`.
    #[inline]
    pub fn packet(
        &mut self,
        packet: &Packet<'_>,
        attribution: &Attribution,
        processes: &ProcessTable,
    ) -> io::Result<()> {
        if packet.interface.0 as usize >= self.interfaces.len()
            || packet.data.len() > (u32::MAX >> 1) as usize
        {
            return Err(unwritable(packet));
        }
        let key = Key::new(attribution, packet.direction, packet.reception);
        let slot = match self.suffixes.find(&key) {
            Some(slot) => slot,
            None => self.new_suffix(key, packet, attribution, processes),
        };
        let Packet { interface, time, original_length, data, .. } = *packet;
        let suffix = self.suffixes.get(slot);
        encode_packet(&mut self.buffer, interface, time.as_ns(), original_length, data, suffix);
        self.write_if_full()
    }

    /// Adds the interface that the body of an Interface Description Block describes.
    pub(super) fn interface_block(&mut self, body: &[u8]) -> io::Result<InterfaceId> {
        let id = InterfaceId(self.interfaces.len() as u32);
        self.interfaces.push(false);
        self.block(block::INTERFACE_DESCRIPTION, body)?;
        Ok(id)
    }

    /// Adds a block as it is.
    pub(super) fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        push_block(&mut self.buffer, kind, body);
        self.write_if_full()
    }

    /// Adds a packet of another file, as [`packet`](Self::packet) does.
    pub(super) fn packet_anew(
        &mut self,
        anew: &Anew<'_>,
        attribution: &Attribution,
        processes: &ProcessTable,
    ) -> io::Result<()> {
        let mut owners = Owners::of(attribution, processes);
        let effective = anew.effective.map(|process| Owner { process, tid: 0 });
        owners.effective = effective.and_then(|owner| Some((owner, processes.get(owner.process)?)));
        self.add_records(&owners);
        self.options.clear();
        let Anew { interface, stamp, original_length, data, .. } = *anew;
        encode_suffix(&mut self.options, self.annotate, anew.direction, anew.flags, &owners, &self.records);
        self.options.extend_from_slice(anew.others);
        if !self.options.is_empty() {
            end_of_options(&mut self.options);
        }
        encode_packet(&mut self.buffer, interface, stamp, original_length, data, &self.options);
        self.write_if_full()
    }

    /// Ends the file: the custom blocks of the processes used, then statistics blocks by their bodies, flush.
    pub(super) fn finish_with(mut self, statistics: &[Vec<u8>], processes: &ProcessTable) -> io::Result<W> {
        self.add_custom_blocks(processes);
        for body in statistics {
            push_block(&mut self.buffer, block::INTERFACE_STATISTICS, body);
        }
        self.flush()?;
        Ok(self.out)
    }

    /// Adds events that are kept for replay: what was learnt before the next packet. What they are, only `version` tells.
    ///
    /// # Errors
    /// Those of `W`.
    pub fn kept_events(&mut self, version: u16, events: &[u8]) -> io::Result<()> {
        kept::blocks(&mut self.buffer, version, self.annotate, events);
        self.write_if_full()
    }

    /// Hands everything encoded so far to `W`, and flushes `W`.
    ///
    /// # Errors
    /// Those of `W`.
    pub fn flush(&mut self) -> io::Result<()> {
        self.write_buffer()?;
        self.out.flush()
    }

    /// Ends the file: [`add_ending`](Self::add_ending), flush.
    ///
    /// # Errors
    /// Those of `W`.
    pub fn finish(mut self, statistics: &Statistics, processes: &ProcessTable) -> io::Result<W> {
        self.add_ending(statistics, processes);
        self.flush()?;
        Ok(self.out)
    }

    /// Adds what stands at the end: the custom blocks of the processes used, statistics for each interface.
    ///
    /// `statistics.interfaces` is in the order of [`add_interface`](Self::add_interface); an interface
    /// without counts there gets no statistics block.
    pub fn add_ending(&mut self, statistics: &Statistics, processes: &ProcessTable) {
        self.add_custom_blocks(processes);
        for (index, (has_filter, counts)) in self.interfaces.iter().zip(&statistics.interfaces).enumerate() {
            statistics::block(&mut self.buffer, index as u32, *has_filter, counts, statistics);
        }
    }

    /// How many bytes [`add_ending`](Self::add_ending) would add.
    pub fn ending_bytes(&mut self, statistics: &Statistics, processes: &ProcessTable) -> u64 {
        let start = self.buffer.len();
        self.add_ending(statistics, processes);
        let bytes = self.buffer.len() - start;
        self.buffer.truncate(start);
        bytes as u64
    }

    /// How many interfaces the file has.
    pub const fn interfaces(&self) -> usize {
        self.interfaces.len()
    }

    /// Where in the file a block begins, with which the buffer begins too.
    pub const fn boundary(&self) -> u64 {
        self.written
    }

    /// After an error: where the file can end behind a whole block, with `room` bytes between there and the last byte that reached
    /// `W`: who could write no more can write these. `before` is what stands in the file before [`boundary`](Self::boundary), as
    /// much of it as may be given up for that.
    pub fn find_cut(&self, before: &[u8], room: u64) -> Cut {
        let arrived = self.written + self.arrived as u64;
        cut::find(before, &self.buffer, self.written, arrived, room)
    }

    /// Goes on where `W` ends now, as [`find_cut`](Self::find_cut) found.
    pub fn cut(&mut self, cut: &Cut) {
        self.interfaces.truncate(self.interfaces.len().saturating_sub(cut.interfaces));
        self.buffer.clear();
        self.arrived = 0;
        self.written = cut.at;
    }

    /// The size of the file so far in bytes, what is still in the buffer included.
    pub fn bytes(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Bytes that have not been handed to `W` yet.
    pub fn buffered(&self) -> u64 {
        self.buffer.len() as u64
    }

    /// What the file is written into.
    pub const fn get_ref(&self) -> &W {
        &self.out
    }

    /// The same, to end it.
    pub const fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    #[inline]
    fn write_if_full(&mut self) -> io::Result<()> {
        if self.buffer.len() < WRITE_THRESHOLD { Ok(()) } else { self.write_buffer() }
    }

    #[cold]
    fn write_buffer(&mut self) -> io::Result<()> {
        while self.arrived < self.buffer.len() {
            match self.out.write(&self.buffer[self.arrived..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.arrived += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        self.arrived = 0;
        Ok(())
    }

    /// Encodes the options of a packet, and before them the process records that they need.
    #[cold]
    fn new_suffix(
        &mut self,
        key: Key,
        packet: &Packet<'_>,
        attribution: &Attribution,
        processes: &ProcessTable,
    ) -> usize {
        let owners = Owners::of(attribution, processes);
        self.add_records(&owners);
        let (slot, suffix) = self.suffixes.replace(key);
        let flags = flags(packet.direction, packet.reception);
        encode_suffix(suffix, self.annotate, packet.direction, flags, &owners, &self.records);
        if !suffix.is_empty() {
            end_of_options(suffix);
        }
        slot
    }

    /// Adds the records that the file does not hold yet.
    fn add_records(&mut self, owners: &Owners<'_>) {
        for (owner, process) in [owners.sender, owners.receiver, owners.effective].into_iter().flatten() {
            if self.records.use_process(owner.process) && self.annotate.darwin {
                process::darwin_block(&mut self.buffer, process);
            }
        }
    }

    fn add_custom_blocks(&mut self, processes: &ProcessTable) {
        if !self.annotate.custom {
            return;
        }
        // After the last packet: a Wireshark before 4.7 shows each of them as a row, and no frame number
        // moves.
        for process in self.records.used.iter().filter_map(|index| processes.get(*index)) {
            process::custom_block(&mut self.buffer, process);
        }
    }
}

impl Records {
    /// Notes that the file uses this process; whether it is the first time.
    fn use_process(&mut self, index: ProcessIndex) -> bool {
        let at = index.0 as usize;
        if self.position.len() <= at {
            self.position.resize(at + 1, None);
        }
        if self.position[at].is_some() {
            return false;
        }
        self.position[at] = Some(self.used.len() as u32);
        self.used.push(index);
        true
    }

    fn position(&self, index: ProcessIndex) -> Option<u32> {
        self.position.get(index.0 as usize).copied().flatten()
    }
}

/// The known owners of a packet, with their processes.
struct Owners<'a> {
    sender: Option<(Owner, &'a Process)>,
    receiver: Option<(Owner, &'a Process)>,
    /// On whose behalf the process acts; only PKTAP tells it.
    effective: Option<(Owner, &'a Process)>,
    both_local: bool,
}

impl<'a> Owners<'a> {
    fn of(attribution: &Attribution, processes: &'a ProcessTable) -> Self {
        let Attribution::Known { sender, receiver, both_local, found: _ } = *attribution else {
            return Self { sender: None, receiver: None, effective: None, both_local: false };
        };
        let known =
            |owner: Option<Owner>| owner.and_then(|owner| Some((owner, processes.get(owner.process)?)));
        let (sender_known, receiver_known) = (known(sender), known(receiver));
        let mut owners = Self { sender: sender_known, receiver: receiver_known, effective: None, both_local };
        if let (Some(_), None, Some((owner, _))) = (sender, owners.sender, &mut owners.receiver) {
            // The key of the cached options holds the thread of a sender that the table does not hold.
            owner.tid = 0;
        }
        owners
    }

    /// The line for people; `None` without a known owner.
    ///
    /// One name alone means "the process at this host's end", and the direction tells which end that is.
    /// Where the direction does not tell it (a container's packet comes in on the host's side of its veth
    /// pair, but its sender is local) both ends are written.
    fn line(&self, direction: Direction) -> Option<String> {
        let end = |end: Option<(Owner, &'a Process)>| {
            end.map(|(_, process)| (process.name.as_slice(), process.pid))
        };
        match (end(self.sender), end(self.receiver)) {
            (None, None) => None,
            (Some((name, pid)), None) if !self.both_local && direction != Direction::Inbound => {
                Some(annotation::one(name, pid))
            }
            (None, Some((name, pid))) if !self.both_local && direction == Direction::Inbound => {
                Some(annotation::one(name, pid))
            }
            (sender, receiver) => Some(annotation::two(sender, receiver)),
        }
    }
}

/// All options of a packet that this room knows, without an end.
fn encode_suffix(
    suffix: &mut Vec<u8>,
    annotate: Annotate,
    direction: Direction,
    flags: u32,
    owners: &Owners<'_>,
    records: &Records,
) {
    if annotate.comment {
        if let Some(line) = owners.line(direction) {
            text_option(suffix, code::COMMENT, &line);
        }
        if let Some((_, process)) = owners.effective {
            text_option(suffix, code::COMMENT, &annotation::effective(&process.name, process.pid));
        }
    }
    if flags != 0 {
        option(suffix, code::EPB_FLAGS, &flags.to_le_bytes());
    }
    let main = owners.sender.or(owners.receiver);
    if annotate.ids
        && let Some((owner, process)) = main
    {
        let ids = u64::from(process.pid) | u64::from(owner.tid) << 32;
        option(suffix, code::EPB_PROCESSID_THREADID, &ids.to_le_bytes());
    }
    if annotate.darwin {
        for (code, owner) in
            [(code::EPB_DARWIN_PROCESS, main), (code::EPB_DARWIN_EFFECTIVE, owners.effective)]
        {
            if let Some(position) = owner.and_then(|(owner, _)| records.position(owner.process)) {
                option(suffix, code, &position.to_le_bytes());
            }
        }
    }
}

/// The draft, epb_flags: bits 0-1 direction, 2-4 reception; 0 in each for "not available".
pub(super) const fn flags(direction: Direction, reception: Reception) -> u32 {
    let direction = match direction {
        Direction::Unknown => 0,
        Direction::Inbound => 1,
        Direction::Outbound => 2,
    };
    let reception = match reception {
        Reception::Unknown => 0,
        Reception::Unicast => 1,
        Reception::Multicast => 2,
        Reception::Broadcast => 3,
        Reception::Promiscuous => 4,
    };
    direction | reception << 2
}

#[inline]
fn encode_packet(
    buffer: &mut Vec<u8>,
    interface: InterfaceId,
    stamp: u64,
    original_length: u32,
    data: &[u8],
    suffix: &[u8],
) {
    let captured = data.len();
    let zeros = padding(captured);
    let length = PACKET_HEADER + captured + zeros + suffix.len() + 4;
    // The draft: the length on the wire is not less than the captured one.
    let original_length = original_length.max(captured as u32);

    let mut header = [0; PACKET_HEADER];
    let words = [
        block::ENHANCED_PACKET,
        length as u32,
        interface.0,
        (stamp >> 32) as u32,
        stamp as u32,
        captured as u32,
        original_length,
    ];
    for (bytes, word) in header.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    buffer.reserve(length);
    buffer.extend_from_slice(&header);
    buffer.extend_from_slice(data);
    buffer.extend_from_slice(&[0; 3][..zeros]);
    buffer.extend_from_slice(suffix);
    buffer.extend_from_slice(&(length as u32).to_le_bytes());
}

fn push_block(buffer: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let start = begin_block(buffer, kind);
    buffer.extend_from_slice(body);
    end_block(buffer, start);
}

#[cold]
fn unwritable(packet: &Packet<'_>) -> io::Error {
    let (interface, length) = (packet.interface.0, packet.data.len());
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!(
            "cannot write a packet of {length} bytes on interface {interface}: this file has no such interface, \
             or the packet is too long"
        ),
    )
}

fn section_header(buffer: &mut Vec<u8>, section: &SectionInfo) {
    let SectionInfo { hardware, os, application, comments } = section;
    let start = begin_block(buffer, block::SECTION_HEADER);
    buffer.extend_from_slice(&0x1a2b_3c4d_u32.to_le_bytes());
    // Version 1.0. The draft: the minor version MUST be 0 when writing.
    buffer.extend_from_slice(&[1, 0, 0, 0]);
    // The length of the section is not known before its end.
    buffer.extend_from_slice(&(-1_i64).to_le_bytes());
    let options_at = buffer.len();
    for comment in comments {
        text_option(buffer, code::COMMENT, comment);
    }
    for (code, text) in [(2, hardware), (3, os), (4, application)] {
        if let Some(text) = text {
            text_option(buffer, code, text);
        }
    }
    if buffer.len() > options_at {
        end_of_options(buffer);
    }
    end_block(buffer, start);
}

fn interface_description(buffer: &mut Vec<u8>, interface: &Interface) {
    /// if_tsresol: 10^-9 seconds.
    const NANOSECONDS: u8 = 9;
    let Interface { name, description, link_type, mac, snap_length, filter } = interface;
    let start = begin_block(buffer, block::INTERFACE_DESCRIPTION);
    buffer.extend_from_slice(&link_type.0.to_le_bytes());
    buffer.extend_from_slice(&[0; 2]);
    buffer.extend_from_slice(&snap_length.to_le_bytes());
    text_option(buffer, 2, name);
    if let Some(description) = description {
        text_option(buffer, 3, description);
    }
    if let Some(mac) = mac {
        option(buffer, 6, mac);
    }
    option(buffer, 9, &[NANOSECONDS]);
    if let Some(filter) = filter {
        // A first byte of 0: what follows is the text of a libpcap filter.
        text_option(buffer, 11, &format!("\0{filter}"));
    }
    end_of_options(buffer);
    end_block(buffer, start);
}
