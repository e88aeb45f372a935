//! Reads a file back, packet by packet, with owners, processes, interfaces and statistics.
//!
//! Ours come back as they were written. Files of others are read too: either byte order, several sections,
//! any time resolution, unknown blocks and options skipped, the obsolete packet blocks, and legacy pcap. Memory is bounded:
//! see [`LONGEST_BLOCK`] and [`MOST_RECORDS`].
//!
//! What a file does not hold is not invented: how an owner was found and why a packet has none are not stored
//! per packet, so [`Found::Socket`](crate::model::Found::Socket) and
//! [`Reason::Off`](crate::model::Reason::Off) stand there. The counts in [`Reader::statistics`] tell them.

use std::io::{self, Read};

use super::blocks::{Blocks, Place, damaged};
use super::owners::Owners;
use super::parse::{Clock, Header, full_packet, interface, read_statistics, section_info, simple_packet};
use super::{Kept, SectionInfo, block, kept, process};
use crate::model::{
    Attribution, Interface, InterfaceCounts, InterfaceId, Packet, ProcessIndex, ProcessTable, Statistics,
};

/// The longest block that can be read, in bytes: what Wireshark and libpcap read. The longest packet of `recorder` has 256 KiB.
pub const LONGEST_BLOCK: usize = 16 << 20;

/// How much memory interfaces and processes may take, about, in bytes: some 800 000 processes. A file that tells of more is
/// read up to there.
pub const MOST_RECORDS: usize = 512 << 20;

/// Why a file cannot be read, or not to its end. Offsets are bytes from the beginning of the file, as it is
/// without compression.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is something else.
    #[error("not a capture file: {what}")]
    NotCapture {
        /// What it is instead.
        what: String,
    },
    /// The file ends inside a block. All packets before it have been given.
    #[error(
        "the file ends inside the block at byte {offset}; everything before it is good\n  the recording was \
         killed, the disk was full, or the file is still being written"
    )]
    Truncated {
        /// Where the block begins.
        offset: u64,
    },
    /// A block contradicts itself, so nothing after it can be found. All packets before it have been given.
    #[error("the block at byte {offset} is damaged: {why}; everything before it is good")]
    Damaged {
        /// Where the block begins.
        offset: u64,
        /// What is wrong with it.
        why: String,
    },
    /// Reading failed.
    #[error("cannot read on after byte {offset}: {source}")]
    Io {
        /// Where the block begins that was being read.
        offset: u64,
        /// Why.
        source: io::Error,
    },
}

/// One packet of a file.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The packet.
    pub packet: Packet<'a>,
    /// Its owners, as far as the file tells.
    pub attribution: Attribution,
    /// Where it was captured.
    pub interface: &'a Interface,
    /// The processes known so far.
    pub processes: &'a ProcessTable,
}

/// What is read where more matters than packets.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// Another section begins.
    Section,
    /// The description of an interface.
    Interface(&'a Interface),
    /// A packet.
    Packet(Record<'a>),
    /// Events that were kept for replay.
    Kept(Kept<'a>),
}

/// What a block turned out to be; its bytes are in [`Reader::body`].
pub(super) struct Block {
    pub(super) kind: u32,
    pub(super) content: Content,
}

pub(super) enum Content {
    Packet(Header),
    /// The record of a process: a Darwin block or a Process Information block; nobody's if it is damaged.
    Process(Option<ProcessIndex>),
    /// Anything else.
    Other,
}

/// Reads one capture file from an `R`; needs no buffering around it.
#[derive(Debug)]
pub struct Reader<R: Read> {
    blocks: Blocks<R>,
    /// The first section header, as [`Self::body`] gives those of later blocks.
    first_header: Vec<u8>,
    section: SectionInfo,
    interfaces: Vec<Interface>,
    /// Of each interface.
    clocks: Vec<Clock>,
    /// The number of the section's first interface in `interfaces`.
    first_of_section: usize,
    owners: Owners,
    /// By interface.
    counts: Vec<Option<InterfaceCounts>>,
    statistics: Option<Statistics>,
    is_at_end: bool,
    /// About how many bytes the interfaces take.
    size: usize,
    most_records: usize,
}

impl<R: Read> Reader<R> {
    /// Begins to read: the section header.
    ///
    /// # Errors
    /// If this is no capture file, or cannot be read.
    pub fn new(from: R) -> Result<Self, ReadError> {
        Self::with_limits(from, LONGEST_BLOCK, MOST_RECORDS)
    }

    /// As `new`, for blocks of at most `longest` bytes.
    #[cfg(test)]
    pub(super) fn with_buffer(from: R, longest: usize) -> Result<Self, ReadError> {
        Self::with_limits(from, longest, MOST_RECORDS)
    }

    /// As `new`, for blocks of at most `longest` bytes, and with so much memory for records.
    pub(super) fn with_limits(from: R, longest: usize, most_records: usize) -> Result<Self, ReadError> {
        let mut blocks = Blocks::new(from, longest)?;
        let first_header = match blocks.header_of_legacy() {
            Some(header) => header.to_vec(),
            None => {
                blocks.next()?;
                blocks.body().to_vec()
            }
        };
        let section = section_info(&first_header, blocks.is_big_endian()).map_err(|why| damaged(0, &why))?;
        Ok(Self {
            section,
            first_header,
            blocks,
            interfaces: Vec::new(),
            clocks: Vec::new(),
            first_of_section: 0,
            owners: Owners::default(),
            counts: Vec::new(),
            statistics: None,
            is_at_end: false,
            size: 0,
            most_records,
        })
    }

    /// The next packet; `None` after the last one. After an error there is nothing more to read.
    ///
    /// # Errors
    /// If the file is cut short, damaged, or cannot be read. Every packet before that place has been given.
    pub fn next_packet(&mut self) -> Result<Option<Record<'_>>, ReadError> {
        loop {
            match self.next_block()?.map(|block| block.content) {
                Some(Content::Packet(header)) => return Ok(Some(self.record(&header))),
                Some(Content::Process(_) | Content::Other) => {}
                None => return Ok(None),
            }
        }
    }

    /// The next packet, or what stands before it of interest to whoever writes it again; `None` after the last one. All else
    /// as [`next_packet`](Self::next_packet).
    ///
    /// # Errors
    /// The same.
    pub fn next_item(&mut self) -> Result<Option<Item<'_>>, ReadError> {
        loop {
            match self.next_block()? {
                Some(Block { content: Content::Packet(header), .. }) => {
                    return Ok(Some(Item::Packet(self.record(&header))));
                }
                Some(Block { kind: block::KEPT_EVENTS, .. }) if kept::read(self.body()).is_some() => {
                    return Ok(kept::read(self.body()).map(Item::Kept));
                }
                Some(Block { kind: block::INTERFACE_DESCRIPTION, .. }) => {
                    return Ok(self.interfaces.last().map(Item::Interface));
                }
                Some(Block { kind: block::SECTION_HEADER, .. }) => return Ok(Some(Item::Section)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// The packet whose block was read last.
    #[inline]
    pub(super) fn record(&mut self, header: &Header) -> Record<'_> {
        let body = self.blocks.body();
        let is_big_endian = self.blocks.is_big_endian();
        let told = self.owners.told(&body[header.options_at..], is_big_endian, header.time);
        Record {
            packet: Packet {
                interface: InterfaceId(header.interface as u32),
                time: header.time,
                direction: told.direction,
                reception: told.reception,
                original_length: header.original_length,
                data: &body[header.data.clone()],
            },
            attribution: told.attribution,
            interface: &self.interfaces[header.interface],
            processes: self.owners.processes(),
        }
    }

    /// What the (last) section header says.
    pub fn section(&self) -> &SectionInfo {
        &self.section
    }

    /// The interfaces met so far; all sections have one numbering here.
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// The processes met so far. Complete after the last packet: custom blocks stand at the end.
    pub fn processes(&self) -> &ProcessTable {
        self.owners.processes()
    }

    /// The process of Darwin block number `number` of this section.
    pub(super) fn darwin_process(&self, number: u32) -> Option<ProcessIndex> {
        self.owners.darwin_process(number)
    }

    /// Gives the processes met away, at the end.
    pub fn into_processes(self) -> ProcessTable {
        self.owners.into_processes()
    }

    /// The statistics, after the last packet; `None` if the file has none. Interfaces without a statistics
    /// block of their own have zeros.
    pub fn statistics(&self) -> Option<Statistics> {
        let mut statistics = self.statistics.clone()?;
        statistics.interfaces = (0..self.interfaces.len())
            .map(|index| self.counts.get(index).copied().flatten().unwrap_or_default())
            .collect();
        let dropped = statistics.interfaces.iter().filter_map(|counts| counts.dropped_by_kernel);
        let by_interface = dropped.fold(0, u64::saturating_add);
        statistics.dropped_by_kernel = statistics.dropped_by_kernel.max(by_interface);
        Some(statistics)
    }

    /// Bytes of the file understood so far.
    pub fn offset(&self) -> u64 {
        self.blocks.offset()
    }

    /// The first section header, as [`Self::body`] gives those of later blocks.
    pub(super) fn first_header(&self) -> &[u8] {
        &self.first_header
    }

    /// The bytes of the current block between its two lengths.
    pub(super) fn body(&self) -> &[u8] {
        self.blocks.body()
    }

    /// The byte order of the section.
    pub(super) fn is_big_endian(&self) -> bool {
        self.blocks.is_big_endian()
    }

    /// The next block; `None` after the last one, and after an error.
    #[inline]
    pub(super) fn next_block(&mut self) -> Result<Option<Block>, ReadError> {
        if self.is_at_end {
            return Ok(None);
        }
        let block = self.read_block();
        self.is_at_end = !matches!(block, Ok(Some(_)));
        block
    }

    #[inline]
    fn read_block(&mut self) -> Result<Option<Block>, ReadError> {
        let Some(Place { kind, offset }) = self.blocks.next()? else { return Ok(None) };
        let is_packet = matches!(kind, block::ENHANCED_PACKET | block::PACKET | block::SIMPLE_PACKET);
        let content = match is_packet {
            true => self.packet(kind).map(Content::Packet).map_err(|why| damaged(offset, why))?,
            false => self.other(kind).map_err(|why| damaged(offset, &why))?,
        };
        if self.size + self.owners.size() > self.most_records {
            let most = self.most_records >> 20;
            let why = format!("the processes and interfaces up to it take more than {most} MiB of memory");
            return Err(damaged(offset, &why));
        }
        Ok(Some(Block { kind, content }))
    }

    #[inline]
    fn packet(&self, kind: u32) -> Result<Header, &'static str> {
        let (body, is_big_endian) = (self.blocks.body(), self.blocks.is_big_endian());
        let mut header = match kind {
            block::SIMPLE_PACKET => {
                let first = self.interfaces.get(self.first_of_section);
                simple_packet(body, is_big_endian, first.map(|interface| interface.snap_length))?
            }
            _ => {
                let clocks = &self.clocks[self.first_of_section..];
                full_packet(body, is_big_endian, clocks, kind == block::PACKET)?
            }
        };
        header.interface += self.first_of_section;
        Ok(header)
    }

    /// A block that is no packet. The error says what is wrong with it.
    #[cold]
    fn other(&mut self, kind: u32) -> Result<Content, String> {
        let (body, is_big_endian) = (self.blocks.body(), self.blocks.is_big_endian());
        match kind {
            block::SECTION_HEADER => {
                self.section = section_info(body, is_big_endian)?;
                self.first_of_section = self.interfaces.len();
                self.owners.next_section();
            }
            block::INTERFACE_DESCRIPTION => {
                let (interface, clock) = interface(body, is_big_endian)?;
                // What of its texts is no UTF-8 becomes three times as long.
                self.size += 3 * body.len() + size_of::<(Interface, Clock, InterfaceCounts)>();
                self.interfaces.push(interface);
                self.clocks.push(clock);
            }
            block::INTERFACE_STATISTICS => {
                let first = self.first_of_section;
                let clocks = &self.clocks[first..];
                read_statistics(body, is_big_endian, clocks, first, &mut self.counts, &mut self.statistics);
            }
            block::DARWIN_PROCESS => {
                let process = process::read_darwin(body, is_big_endian);
                return Ok(Content::Process(self.owners.darwin_block(process)));
            }
            block::CUSTOM => {
                if let Some(process) = process::read_custom(body, is_big_endian) {
                    return Ok(Content::Process(Some(self.owners.custom_block(process))));
                }
            }
            _ => {}
        }
        Ok(Content::Other)
    }
}
