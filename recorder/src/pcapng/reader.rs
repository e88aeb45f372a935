//! Reads a file back, packet by packet, with owners, processes, interfaces and statistics.
//!
//! Ours come back as they were written. Files of others are read too: either byte order, several sections,
//! any time resolution, unknown blocks and options skipped, the obsolete packet blocks. pcap-file finds the
//! blocks and keeps what their meaning depends on; the options are read here, because pcap-file refuses a
//! whole packet over one bad comment. Memory is bounded by the read buffer, the list of interfaces and the
//! table of processes.
//!
//! What a file does not hold is not invented: how an owner was found and why a packet has none are not stored
//! per packet, so [`Found::Socket`](crate::model::Found::Socket) and
//! [`Reason::Off`](crate::model::Reason::Off) stand there. The counts in [`Reader::statistics`] tell them.

use std::io::{self, Read};

use pcap_file::Endianness;
use pcap_file::pcapng::{PcapNgReadError, PcapNgReader};

use super::owners::Owners;
use super::parse::{Header, full_packet, interface, read_statistics, section_info, simple_packet};
use super::source::Source;
use super::{SectionInfo, block, process};
use crate::model::{
    Attribution, Interface, InterfaceCounts, InterfaceId, Packet, ProcessIndex, ProcessTable, Statistics,
};

/// The longest block that can be read. The longest packet of `recorder` has 256 KiB.
const LONGEST_BLOCK: usize = 16 << 20;

/// Why a file cannot be read, or not to its end. Offsets are bytes from the beginning of the file, as it is
/// without compression.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is something else.
    #[error("not a pcapng file: {what}")]
    NotPcapng {
        /// What it is, and what to do about it.
        what: &'static str,
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

/// Reads one pcapng file from an `R`; needs no buffering around it.
#[derive(Debug)]
pub struct Reader<R: Read> {
    blocks: PcapNgReader<Source<R>>,
    section: SectionInfo,
    interfaces: Vec<Interface>,
    /// The number of the section's first interface in `interfaces`.
    first_of_section: usize,
    owners: Owners,
    /// By interface.
    counts: Vec<Option<InterfaceCounts>>,
    statistics: Option<Statistics>,
    /// The current block, without its type and lengths.
    body: Vec<u8>,
    is_at_end: bool,
    /// The longest block that there is room for, in bytes.
    longest: usize,
}

impl<R: Read> Reader<R> {
    /// Begins to read: the section header.
    ///
    /// # Errors
    /// If this is no pcapng file, or cannot be read.
    pub fn new(from: R) -> Result<Self, ReadError> {
        Self::with_buffer(from, LONGEST_BLOCK)
    }

    /// As `new`, for blocks of at most `longest` bytes.
    pub(super) fn with_buffer(from: R, longest: usize) -> Result<Self, ReadError> {
        let mut source = Source::new(from);
        source.peek(longest).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => ReadError::Truncated { offset: 0 },
            _ => ReadError::Io { offset: 0, source },
        })?;
        if let Some(what) = source.other_format() {
            return Err(ReadError::NotPcapng { what });
        }
        let blocks = PcapNgReader::with_capacity(source, longest).map_err(|error| match error {
            PcapNgReadError::Io(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
                ReadError::Truncated { offset: 0 }
            }
            PcapNgReadError::Io(source) => ReadError::Io { offset: 0, source },
            error => ReadError::Damaged { offset: 0, why: chain(&error) },
        })?;
        Ok(Self {
            section: section_info(blocks.section()),
            blocks,
            interfaces: Vec::new(),
            first_of_section: 0,
            owners: Owners::default(),
            counts: Vec::new(),
            statistics: None,
            body: Vec::new(),
            is_at_end: false,
            longest,
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

    /// The packet whose block was read last.
    pub(super) fn record(&mut self, header: &Header) -> Record<'_> {
        let attribution = self.owners.resolve(&header.claim, header.time, header.direction);
        Record {
            packet: Packet {
                interface: InterfaceId(header.interface as u32),
                time: header.time,
                direction: header.direction,
                reception: header.reception,
                original_length: header.original_length,
                data: &self.body[header.data.clone()],
            },
            attribution,
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

    /// Gives the processes met away, at the end.
    pub(super) fn into_processes(self) -> ProcessTable {
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
        self.blocks.bytes_parsed()
    }

    /// The first section header, as [`Self::body`] gives those of later blocks.
    pub(super) fn first_header(&self) -> &[u8] {
        self.blocks.get_ref().first_header()
    }

    /// The bytes of the current block between its two lengths.
    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }

    /// The byte order of the section.
    pub(super) fn is_big_endian(&self) -> bool {
        self.blocks.section().endianness == Endianness::Big
    }

    /// The next block; `None` after the last one, and after an error.
    pub(super) fn next_block(&mut self) -> Result<Option<Block>, ReadError> {
        if self.is_at_end {
            return Ok(None);
        }
        let block = self.read_block();
        self.is_at_end = !matches!(block, Ok(Some(_)));
        block
    }

    fn read_block(&mut self) -> Result<Option<Block>, ReadError> {
        let offset = self.blocks.bytes_parsed();
        let (raw, state) = match self.blocks.next_raw_block() {
            None => return Ok(None),
            Some(Ok(block)) => block,
            Some(Err(error)) => return Err(self.explain(error, offset)),
        };
        let is_big_endian = state.section().endianness == Endianness::Big;
        self.body.clear();
        self.body.extend_from_slice(&raw.body);
        let (kind, body) = (raw.type_, self.body.as_slice());
        let content = match kind {
            block::ENHANCED_PACKET | block::PACKET | block::SIMPLE_PACKET => {
                let packet = match kind {
                    block::SIMPLE_PACKET => simple_packet(body, is_big_endian, state),
                    kind => full_packet(body, is_big_endian, state, kind == block::PACKET),
                };
                let mut header = packet.map_err(|why| ReadError::Damaged { offset, why: why.to_owned() })?;
                header.interface += self.first_of_section;
                Content::Packet(header)
            }
            block::SECTION_HEADER => {
                self.section = section_info(state.section());
                self.first_of_section = self.interfaces.len();
                self.owners.next_section();
                Content::Other
            }
            block::INTERFACE_DESCRIPTION => {
                self.interfaces.extend(state.interfaces().last().map(interface));
                Content::Other
            }
            block::INTERFACE_STATISTICS => {
                let first = self.first_of_section;
                read_statistics(body, is_big_endian, state, first, &mut self.counts, &mut self.statistics);
                Content::Other
            }
            block::DARWIN_PROCESS => {
                Content::Process(self.owners.darwin_block(process::read_darwin(body, is_big_endian)))
            }
            block::CUSTOM => match process::read_custom(body, is_big_endian) {
                Some(process) => Content::Process(Some(self.owners.custom_block(process))),
                None => Content::Other,
            },
            _ => Content::Other,
        };
        Ok(Some(Block { kind, content }))
    }

    fn explain(&self, error: PcapNgReadError, offset: u64) -> ReadError {
        match error {
            PcapNgReadError::Io(source) if source.kind() != io::ErrorKind::UnexpectedEof => {
                ReadError::Io { offset, source }
            }
            PcapNgReadError::Io(_) if self.blocks.get_ref().is_at_end => ReadError::Truncated { offset },
            PcapNgReadError::Io(_) => {
                let why = format!("it is longer than {} bytes, or its length is wrong", self.longest);
                ReadError::Damaged { offset, why }
            }
            error => ReadError::Damaged { offset, why: chain(&error) },
        }
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
