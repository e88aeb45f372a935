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
    /// Packets in the copy.
    pub kept: u64,
    /// Packets that are not.
    pub left_out: u64,
    /// Blocks that say that they must not be copied.
    pub not_to_be_copied: u64,
}

/// Copies from an `R` to a `W`, packet by packet.
///
/// Small writes, one for each block: `W` needs buffering.
#[derive(Debug)]
pub struct Copier<R: Read, W: Write> {
    reader: Reader<R>,
    out: W,
    /// What is said in the section header.
    comment: String,
    /// The packet that was read last and is not in the copy.
    pending: Option<Pending>,
    records: Records,
    copied: Copied,
    /// One block, put together.
    buffer: Vec<u8>,
}

/// A packet whose block is still in the reader.
#[derive(Debug)]
struct Pending {
    kind: u32,
    options_at: usize,
    processes: [Option<ProcessIndex>; 2],
}

/// The records of processes.
#[derive(Debug, Default)]
struct Records {
    /// The processes of packets in the copy, and their ids.
    used: HashSet<ProcessIndex>,
    used_pids: HashSet<u32>,
    /// Darwin blocks without a packet so far: their index, their bytes.
    darwin: HashMap<ProcessIndex, (usize, Vec<u8>)>,
    /// Custom blocks without a packet so far. By process id, because that is all they are joined by: after a re-save that
    /// lost the rest a reused one leaves open whose record it is, and a copy must leave it as open.
    custom: HashMap<u32, Vec<Vec<u8>>>,
    /// The index in the copy of each Darwin block of the section.
    indexes: Vec<Option<u32>>,
    next_index: u32,
}

impl<R: Read, W: Write> Copier<R, W> {
    /// Begins a copy, with a comment on what is done here.
    ///
    /// # Errors
    /// Those of `W`.
    pub fn new(reader: Reader<R>, out: W, comment: String) -> io::Result<Self> {
        let mut copy = Self {
            comment,
            out,
            pending: None,
            records: Records::default(),
            copied: Copied::default(),
            buffer: Vec::new(),
            reader,
        };
        let header = copy.reader.first_header().to_vec();
        copy.section_header(&header)?;
        Ok(copy)
    }

    /// The next packet, which [`keep`](Self::keep) copies and the next call leaves out; `None` after the last one.
    ///
    /// # Errors
    /// If the file cannot be read on, or the copy not be written.
    pub fn next_packet(&mut self) -> Result<Option<Record<'_>>, CopyError> {
        self.leave_out();
        loop {
            let Some(found) = self.reader.next_block()? else { return Ok(None) };
            match found.content {
                Content::Packet(header) => return Ok(Some(self.packet(found.kind, &header))),
                Content::Process(process) => self.process(found.kind, process)?,
                Content::Other => self.other(found.kind)?,
            }
        }
    }

    /// Copies the packet that came last, and the records that it is the first to need.
    ///
    /// # Errors
    /// Those of `W`.
    pub fn keep(&mut self) -> io::Result<()> {
        let Some(pending) = self.pending.take() else { return Ok(()) };
        for index in pending.processes.into_iter().flatten() {
            self.use_process(index)?;
        }
        self.buffer.clear();
        self.buffer.extend_from_slice(self.reader.body());
        let is_big_endian = self.reader.is_big_endian();
        for number in effective(&self.buffer[pending.options_at..], is_big_endian) {
            if let Some(index) = self.reader.darwin_process(number) {
                self.use_process(index)?;
            }
        }
        let records = &self.records;
        count_anew(&mut self.buffer[pending.options_at..], is_big_endian, |index| records.index(index));
        // The packet of a legacy file ends where it ends.
        self.buffer.extend_from_slice(&[0; 3][..padding(self.buffer.len())]);
        write_block(&mut self.out, pending.kind, is_big_endian, &self.buffer)?;
        self.copied.kept += 1;
        Ok(())
    }

    /// Ends the copy; tells what is in it, and all processes that the file told of. `W` is flushed.
    ///
    /// # Errors
    /// Those of `W`.
    pub fn finish(mut self) -> io::Result<(Copied, ProcessTable, W)> {
        self.leave_out();
        self.out.flush()?;
        Ok((self.copied, self.reader.into_processes(), self.out))
    }

    fn leave_out(&mut self) {
        self.copied.left_out += u64::from(self.pending.take().is_some());
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
        self.pending = Some(Pending { kind, options_at, processes });
        record
    }

    /// Copies the record of a process now if it is used already, or when it is.
    fn process(&mut self, kind: u32, process: Option<ProcessIndex>) -> io::Result<()> {
        let body = self.reader.body();
        let pid = process.and_then(|index| self.reader.processes().get(index)).map(|process| process.pid);
        if kind == block::DARWIN_PROCESS {
            // One that is damaged has an index, and is nobody's.
            let position = self.records.indexes.len();
            self.records.indexes.push(None);
            self.records.darwin.extend(process.map(|index| (index, (position, body.to_vec()))));
            return Ok(());
        }
        match pid {
            Some(pid) if !self.records.used_pids.contains(&pid) => {
                self.records.custom.entry(pid).or_default().push(body.to_vec());
                Ok(())
            }
            _ => write_block(&mut self.out, kind, self.reader.is_big_endian(), body),
        }
    }

    /// Copies what the file told of a process, before its first packet.
    fn use_process(&mut self, index: ProcessIndex) -> io::Result<()> {
        let (records, is_big_endian) = (&mut self.records, self.reader.is_big_endian());
        if !records.used.insert(index) {
            return Ok(());
        }
        if let Some((position, body)) = records.darwin.remove(&index) {
            records.indexes[position] = Some(records.next_index);
            records.next_index += 1;
            write_block(&mut self.out, block::DARWIN_PROCESS, is_big_endian, &body)?;
        }
        let pid = self.reader.processes().get(index).map(|process| process.pid);
        records.used_pids.extend(pid);
        for body in pid.and_then(|pid| records.custom.remove(&pid)).into_iter().flatten() {
            write_block(&mut self.out, block::CUSTOM, is_big_endian, &body)?;
        }
        Ok(())
    }

    fn other(&mut self, kind: u32) -> io::Result<()> {
        let is_big_endian = self.reader.is_big_endian();
        match kind {
            block::SECTION_HEADER => {
                self.records.next_section();
                let header = self.reader.body().to_vec();
                self.section_header(&header)
            }
            block::INTERFACE_STATISTICS => {
                let comment = statistics::filtered(self.copied.kept, self.copied.left_out);
                let body = self.reader.body();
                self.buffer.clear();
                add_comment(&mut self.buffer, body, STATISTICS_OPTIONS, &comment, is_big_endian);
                write_block(&mut self.out, kind, is_big_endian, &self.buffer)
            }
            block::CUSTOM_NOT_COPIED => {
                self.copied.not_to_be_copied += 1;
                Ok(())
            }
            _ => write_block(&mut self.out, kind, is_big_endian, self.reader.body()),
        }
    }

    fn section_header(&mut self, body: &[u8]) -> io::Result<()> {
        let is_big_endian = self.reader.is_big_endian();
        self.buffer.clear();
        add_comment(&mut self.buffer, body, SECTION_OPTIONS, &self.comment, is_big_endian);
        // The length of the section is another one, and not known yet.
        if let Some(length) = self.buffer.get_mut(8..SECTION_OPTIONS) {
            length.fill(0xff);
        }
        write_block(&mut self.out, block::SECTION_HEADER, is_big_endian, &self.buffer)
    }
}

impl Records {
    /// The index in the copy of what is record number `index` in the original.
    fn index(&self, index: u32) -> u32 {
        self.indexes.get(index as usize).copied().flatten().unwrap_or(NO_RECORD)
    }

    /// Indexes begin anew in each section, and a record counts in its own.
    fn next_section(&mut self) {
        self.darwin.clear();
        self.custom.clear();
        self.indexes.clear();
        self.next_index = 0;
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
