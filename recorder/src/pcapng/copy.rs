//! Copies a file without some of its packets.
//!
//! Blocks are copied as they are, so that nothing is lost that this program does not know: options and comments of others,
//! times in the resolution of their interface, the byte order, several sections. What changes:
//! - the record of a process is copied only if a packet of it is, and before the first one; so the indexes in the options
//!   0x8001 and 0x8003 are counted anew;
//! - section headers get a comment that says what was done, and no length; statistics blocks one that says how many
//!   packets are missing;
//! - custom blocks that forbid to be copied are left out, and counted.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};

use super::encode::padding;
use super::parse::Header;
use super::process::Options;
use super::reader::Content;
use super::{ReadError, Reader, Record, block, option as code, statistics};
use crate::model::{Attribution, ProcessIndex, ProcessTable};

/// Where the options of a section header begin: behind magic number, version and length.
pub(super) const SECTION_OPTIONS: usize = 16;
/// Where those of a statistics block begin: behind interface and time.
const STATISTICS_OPTIONS: usize = 12;
/// What is repeated in each of several copies is no more bytes than this.
const MOST_PRELUDE: usize = 64 << 20;
/// The index of a packet whose process has no record.
const NO_RECORD: u32 = u32::MAX;

/// Why copying ended early.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The rest cannot be read; what was read before can be ended as a whole file.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The copy cannot be written.
    #[error(transparent)]
    Write(#[from] io::Error),
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Packets in the copy; in at least one of them, if there are several.
    pub kept: u64,
    /// Packets that are not.
    pub left_out: u64,
    /// Blocks that say that they must not be copied.
    pub not_to_be_copied: u64,
    /// Whether there were events kept for replay, which are not copied.
    pub events_left_out: bool,
}

/// Copies from an `R` to a `W`, or to several, packet by packet.
///
/// Small writes, one for each block: `W` needs buffering.
#[derive(Debug)]
pub struct Copier<R: Read, W: Write> {
    reader: Reader<R>,
    parts: Vec<Part<W>>,
    /// Whether more parts can be added.
    is_split: bool,
    /// What a part needs that is added later: type and body of each block of the section so far, but for packets, processes
    /// and statistics. The first is the section header.
    prelude: Vec<(u32, Vec<u8>)>,
    /// How many bytes that is.
    prelude_bytes: usize,
    /// What is said in the section header.
    comment: String,
    /// The packet that was read last.
    pending: Option<Pending>,
    records: Records,
    copied: Copied,
    /// One block, put together.
    buffer: Vec<u8>,
}

/// One copy.
#[derive(Debug)]
struct Part<W> {
    out: W,
    kept: u64,
    used: Used,
}

/// A packet whose block is still in the reader.
#[derive(Debug)]
struct Pending {
    kind: u32,
    options_at: usize,
    processes: [Option<ProcessIndex>; 2],
    is_kept: bool,
}

/// The records of processes in the section.
#[derive(Debug, Default)]
struct Records {
    /// Darwin blocks: their index, their bytes.
    darwin: HashMap<ProcessIndex, (u32, Vec<u8>)>,
    darwin_count: u32,
    /// Custom blocks. By process id, because that is all they are joined by: after a re-save that lost the rest a reused one
    /// leaves open whose record it is, and a copy must leave it as open.
    custom: HashMap<u32, Vec<Vec<u8>>>,
}

/// Which records a copy has.
#[derive(Debug, Default)]
struct Used {
    /// The processes of packets in the copy, and their ids.
    processes: HashSet<ProcessIndex>,
    pids: HashSet<u32>,
    /// The index in the copy of each Darwin block of the section that is there.
    indexes: HashMap<u32, u32>,
}

impl<R: Read, W: Write> Copier<R, W> {
    /// Begins a copy, with a comment on what is done here.
    ///
    /// # Errors
    /// Those of `W`.
    pub fn new(reader: Reader<R>, out: W, comment: String) -> io::Result<Self> {
        let mut copier = Self::begin(reader, comment, false);
        copier.add_part(out)?;
        Ok(copier)
    }

    /// Begins copies that are added when they are needed, with [`add_part`](Self::add_part).
    pub fn split(reader: Reader<R>, comment: String) -> Self {
        Self::begin(reader, comment, true)
    }

    fn begin(reader: Reader<R>, comment: String, is_split: bool) -> Self {
        let header = reader.first_header().to_vec();
        Self {
            parts: Vec::new(),
            is_split,
            prelude_bytes: header.len(),
            prelude: vec![(block::SECTION_HEADER, header)],
            comment,
            pending: None,
            records: Records::default(),
            copied: Copied::default(),
            buffer: Vec::new(),
            reader,
        }
    }

    /// Adds a copy, which begins with what the section told so far. Its number, from 0.
    ///
    /// # Errors
    /// Those of `W`.
    pub fn add_part(&mut self, out: W) -> io::Result<usize> {
        let is_big_endian = self.reader.is_big_endian();
        let mut part = Part { out, kept: 0, used: Used::default() };
        for (kind, body) in &self.prelude {
            match *kind {
                block::SECTION_HEADER => {
                    section_header(&mut self.buffer, body, &self.comment, is_big_endian);
                    write_block(&mut part.out, *kind, is_big_endian, &self.buffer)?;
                }
                kind => write_block(&mut part.out, kind, is_big_endian, body)?,
            }
        }
        self.parts.push(part);
        Ok(self.parts.len() - 1)
    }

    /// The next packet, which [`keep`](Self::keep) copies and the next call leaves out; `None` after the last one.
    ///
    /// # Errors
    /// If the file cannot be read on, or the copy not be written.
    pub fn next_packet(&mut self) -> Result<Option<Record<'_>>, CopyError> {
        self.count();
        loop {
            let Some(found) = self.reader.next_block()? else { return Ok(None) };
            match found.content {
                Content::Packet(header) => return Ok(Some(self.packet(found.kind, &header))),
                Content::Process(process) => self.process(found.kind, process)?,
                Content::Other => self.other(found.kind)?,
            }
        }
    }

    /// Copies the packet that came last into the first copy, and the records that it is the first to need.
    ///
    /// # Errors
    /// Those of `W`.
    pub fn keep(&mut self) -> io::Result<()> {
        self.keep_in(0)
    }

    /// Copies the packet that came last into one of the copies; into several, if called so often.
    ///
    /// # Errors
    /// Those of `W`.
    pub fn keep_in(&mut self, part: usize) -> io::Result<()> {
        let (Some(pending), Some(part)) = (&mut self.pending, self.parts.get_mut(part)) else {
            return Ok(());
        };
        pending.is_kept = true;
        part.kept += 1;
        let is_big_endian = self.reader.is_big_endian();
        self.buffer.clear();
        self.buffer.extend_from_slice(self.reader.body());
        let effective = effective(&self.buffer[pending.options_at..], is_big_endian);
        let effective = effective.into_iter().filter_map(|number| self.reader.darwin_process(number));
        for index in pending.processes.into_iter().flatten().chain(effective) {
            let pid = self.reader.processes().get(index).map(|process| process.pid);
            part.use_process(index, pid, &self.records, is_big_endian)?;
        }
        let used = &part.used;
        count_anew(&mut self.buffer[pending.options_at..], is_big_endian, |index| used.index(index));
        // The packet of a legacy file ends where it ends.
        self.buffer.extend_from_slice(&[0; 3][..padding(self.buffer.len())]);
        write_block(&mut part.out, pending.kind, is_big_endian, &self.buffer)
    }

    /// Ends the copies; tells what is in them, and all processes that the file told of. Each `W` is flushed.
    ///
    /// # Errors
    /// Those of `W`.
    pub fn finish(mut self) -> io::Result<(Copied, ProcessTable, Vec<W>)> {
        self.count();
        for part in &mut self.parts {
            part.out.flush()?;
        }
        let outs = self.parts.into_iter().map(|part| part.out).collect();
        Ok((self.copied, self.reader.into_processes(), outs))
    }

    /// Counts the packet that came last.
    fn count(&mut self) {
        match self.pending.take() {
            Some(Pending { is_kept: true, .. }) => self.copied.kept += 1,
            Some(_) => self.copied.left_out += 1,
            None => {}
        }
    }

    fn packet(&mut self, kind: u32, header: &Header) -> Record<'_> {
        let options_at = header.options_at;
        let record = self.reader.record(header);
        let processes = match record.attribution {
            Attribution::Known { sender, receiver, .. } => {
                [sender, receiver].map(|owner| owner.map(|owner| owner.process))
            }
            Attribution::Unknown(_) => [None, None],
        };
        self.pending = Some(Pending { kind, options_at, processes, is_kept: false });
        record
    }

    /// Copies the record of a process now where it is used already, or when it is.
    fn process(&mut self, kind: u32, process: Option<ProcessIndex>) -> io::Result<()> {
        let is_big_endian = self.reader.is_big_endian();
        let body = self.reader.body();
        if kind == block::DARWIN_PROCESS {
            // One that is damaged has an index, and is nobody's.
            let position = self.records.darwin_count;
            self.records.darwin_count += 1;
            self.records.darwin.extend(process.map(|index| (index, (position, body.to_vec()))));
            return Ok(());
        }
        let pid = process.and_then(|index| self.reader.processes().get(index)).map(|process| process.pid);
        let Some(pid) = pid else { return Ok(()) };
        self.records.custom.entry(pid).or_default().push(body.to_vec());
        for part in self.parts.iter_mut().filter(|part| part.used.pids.contains(&pid)) {
            write_block(&mut part.out, kind, is_big_endian, body)?;
        }
        Ok(())
    }

    fn other(&mut self, kind: u32) -> io::Result<()> {
        let is_big_endian = self.reader.is_big_endian();
        let body = self.reader.body();
        match kind {
            block::CUSTOM_NOT_COPIED => {
                self.copied.not_to_be_copied += 1;
                return Ok(());
            }
            // They are those of all processes, and of no use without all packets.
            block::KEPT_EVENTS => {
                self.copied.events_left_out = true;
                return Ok(());
            }
            block::SECTION_HEADER => {
                self.records = Records::default();
                self.prelude.clear();
                self.prelude_bytes = 0;
                section_header(&mut self.buffer, body, &self.comment, is_big_endian);
            }
            _ => {
                self.buffer.clear();
                self.buffer.extend_from_slice(body);
            }
        }
        let packets = self.copied.kept + self.copied.left_out;
        for part in &mut self.parts {
            match kind {
                block::SECTION_HEADER => part.used.indexes.clear(),
                block::INTERFACE_STATISTICS => {
                    let comment = statistics::filtered(part.kept, packets - part.kept);
                    self.buffer.clear();
                    add_comment(&mut self.buffer, body, STATISTICS_OPTIONS, &comment, is_big_endian);
                }
                _ => {}
            }
            write_block(&mut part.out, kind, is_big_endian, &self.buffer)?;
        }
        self.remember(kind)
    }

    /// Remembers the current block for parts that are added later.
    fn remember(&mut self, kind: u32) -> io::Result<()> {
        if !self.is_split || kind == block::INTERFACE_STATISTICS {
            return Ok(());
        }
        let body = self.reader.body().to_vec();
        self.prelude_bytes += body.len();
        self.prelude.push((kind, body));
        if self.prelude_bytes <= MOST_PRELUDE { Ok(()) } else { Err(too_much_to_repeat()) }
    }
}

impl<W: Write> Part<W> {
    /// Copies what the file told of a process, before its first packet.
    fn use_process(
        &mut self,
        index: ProcessIndex,
        pid: Option<u32>,
        records: &Records,
        is_big_endian: bool,
    ) -> io::Result<()> {
        if !self.used.processes.insert(index) {
            return Ok(());
        }
        if let Some((position, body)) = records.darwin.get(&index) {
            let number = self.used.indexes.len() as u32;
            self.used.indexes.insert(*position, number);
            write_block(&mut self.out, block::DARWIN_PROCESS, is_big_endian, body)?;
        }
        let Some(pid) = pid.filter(|pid| self.used.pids.insert(*pid)) else { return Ok(()) };
        for body in records.custom.get(&pid).into_iter().flatten() {
            write_block(&mut self.out, block::CUSTOM, is_big_endian, body)?;
        }
        Ok(())
    }
}

impl Used {
    /// The index in the copy of what is record number `index` in the original.
    fn index(&self, index: u32) -> u32 {
        self.indexes.get(&index).copied().unwrap_or(NO_RECORD)
    }
}

#[cold]
fn too_much_to_repeat() -> io::Error {
    let most = MOST_PRELUDE >> 20;
    io::Error::other(format!(
        "interfaces, names and blocks of others in this file take more than {most} MiB, too much to repeat in each part"
    ))
}

/// Puts the body of a section header together, of unknown length and with a comment.
fn section_header(buffer: &mut Vec<u8>, body: &[u8], comment: &str, is_big_endian: bool) {
    buffer.clear();
    add_comment(buffer, body, SECTION_OPTIONS, comment, is_big_endian);
    // The length of the section is another one, and not known yet.
    if let Some(length) = buffer.get_mut(8..SECTION_OPTIONS) {
        length.fill(0xff);
    }
}

/// The indexes of the processes on whose behalf the process of a packet acts.
fn effective(options: &[u8], is_big_endian: bool) -> Vec<u32> {
    let of = |(option, value): (u16, &[u8])| {
        let value = <[u8; 4]>::try_from(value).ok().filter(|_| option == code::EPB_DARWIN_EFFECTIVE)?;
        Some(super::process::number(value, is_big_endian))
    };
    Options::new(options, is_big_endian).filter_map(of).collect()
}

/// Replaces the index in each option 0x8001 and 0x8003 of a list.
fn count_anew(options: &mut [u8], is_big_endian: bool, index: impl Fn(u32) -> u32) {
    const INDEXES: [u16; 2] = [code::EPB_DARWIN_PROCESS, code::EPB_DARWIN_EFFECTIVE];
    let begins = options.as_ptr() as usize;
    let is_index = |(option, value): &(u16, &[u8])| INDEXES.contains(option) && value.len() == 4;
    let found = Options::new(options, is_big_endian).filter(is_index);
    let places: Vec<usize> = found.map(|(_, value)| value.as_ptr() as usize - begins).collect();
    for at in places {
        let Some(value) = options.get_mut(at..at + 4) else { continue };
        let Ok(old) = <[u8; 4]>::try_from(&*value) else { continue };
        value.copy_from_slice(&bytes(index(super::process::number(old, is_big_endian)), is_big_endian));
    }
}

/// Adds to `buffer` the block `body`, whose options begin at `options_at`, with a comment behind its last option.
pub(super) fn add_comment(
    buffer: &mut Vec<u8>,
    body: &[u8],
    options_at: usize,
    comment: &str,
    is_big_endian: bool,
) {
    let (head, options) = body.split_at(options_at.min(body.len()));
    buffer.extend_from_slice(head);
    let mut add = |option: u16, value: &[u8]| {
        let length = value.len() as u16;
        let [option, length] = [option, length].map(|number| match is_big_endian {
            true => number.to_be_bytes(),
            false => number.to_le_bytes(),
        });
        buffer.extend_from_slice(&option);
        buffer.extend_from_slice(&length);
        buffer.extend_from_slice(value);
        buffer.extend_from_slice(&[0; 3][..padding(value.len())]);
    };
    Options::new(options, is_big_endian).for_each(|(option, value)| add(option, value));
    let comment = &comment.as_bytes()[..comment.floor_char_boundary(usize::from(u16::MAX))];
    add(code::COMMENT, comment);
    add(0, &[]);
}

fn write_block(out: &mut impl Write, kind: u32, is_big_endian: bool, body: &[u8]) -> io::Result<()> {
    let length = bytes((body.len() + 12) as u32, is_big_endian);
    out.write_all(&bytes(kind, is_big_endian))?;
    out.write_all(&length)?;
    out.write_all(body)?;
    out.write_all(&length)
}

const fn bytes(number: u32, is_big_endian: bool) -> [u8; 4] {
    if is_big_endian { number.to_be_bytes() } else { number.to_le_bytes() }
}
