//! Reads a file back, packet by packet, with owners, processes, interfaces and statistics.
//!
//! Ours come back as they were written. Files of others are read too: either byte order, several sections, any time
//! resolution, unknown blocks and options skipped, the obsolete packet blocks. pcap-file finds the blocks and keeps
//! what their meaning depends on; the options are read here, because pcap-file refuses a whole packet over one bad
//! comment. Memory is bounded by the read buffer, the list of interfaces and the table of processes.
//!
//! What a file does not hold is not invented: how an owner was found and why a packet has none are not stored per
//! packet, so [`Found::Socket`] and [`Reason::Off`] stand there. The counts in [`Reader::statistics`] tell them.

use std::borrow::Cow;
use std::io::{self, Read};

use pcap_file::Endianness;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption as IfOption,
};
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption as ShbOption};
use pcap_file::pcapng::{PcapNgReadError, PcapNgReader, PcapNgState};

use super::annotation;
use super::encode::padding;
use super::owners::{Claim, Owners};
use super::process::{self, Options, number};
use super::{SectionInfo, block, option as code, statistics};
use crate::model::{
    Attribution, Direction, Interface, InterfaceCounts, InterfaceId, LinkType, Packet, ProcessTable,
    RealTime, Reception, Statistics,
};

/// The longest block that can be read. The longest packet of `recorder` has 256 KiB.
const LONGEST_BLOCK: usize = 16 << 20;

/// Why a file cannot be read, or not to its end. Offsets are bytes from the beginning of the file.
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
    /// The bytes of the current packet.
    data: Vec<u8>,
    is_at_end: bool,
    /// The longest block that there is room for, in bytes.
    longest: usize,
}

/// What a packet block says, its bytes aside.
struct Header {
    interface: usize,
    time: RealTime,
    original_length: u32,
    direction: Direction,
    reception: Reception,
    claim: Claim,
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
        source.peek().map_err(|source| ReadError::Io { offset: 0, source })?;
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
            data: Vec::new(),
            is_at_end: false,
            longest,
        })
    }

    /// The next packet; `None` after the last one. After an error there is nothing more to read.
    ///
    /// # Errors
    /// If the file is cut short, damaged, or cannot be read. Every packet before that place has been given.
    pub fn next_packet(&mut self) -> Result<Option<Record<'_>>, ReadError> {
        if self.is_at_end {
            return Ok(None);
        }
        let found = self.find_packet();
        self.is_at_end = !matches!(found, Ok(Some(_)));
        let Some(header) = found? else {
            return Ok(None);
        };
        let attribution = self.owners.resolve(&header.claim, header.time, header.direction);
        Ok(Some(Record {
            packet: Packet {
                interface: InterfaceId(header.interface as u32),
                time: header.time,
                direction: header.direction,
                reception: header.reception,
                original_length: header.original_length,
                data: &self.data,
            },
            attribution,
            interface: &self.interfaces[header.interface],
            processes: self.owners.processes(),
        }))
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

    /// The statistics, after the last packet; `None` if the file has none. Interfaces without a statistics block
    /// of their own have zeros.
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

    fn find_packet(&mut self) -> Result<Option<Header>, ReadError> {
        loop {
            let offset = self.blocks.bytes_parsed();
            let (raw, state) = match self.blocks.next_raw_block() {
                None => return Ok(None),
                Some(Ok(block)) => block,
                Some(Err(error)) => return Err(self.explain(error, offset)),
            };
            let is_big_endian = state.section().endianness == Endianness::Big;
            let body: &[u8] = match &raw.body {
                Cow::Borrowed(body) => body,
                Cow::Owned(body) => body,
            };
            match raw.type_ {
                block::ENHANCED_PACKET | block::PACKET | block::SIMPLE_PACKET => {
                    let packet = match raw.type_ {
                        block::SIMPLE_PACKET => simple_packet(body, is_big_endian, state),
                        kind => full_packet(body, is_big_endian, state, kind == block::PACKET),
                    };
                    let (mut header, data) =
                        packet.map_err(|why| ReadError::Damaged { offset, why: why.to_owned() })?;
                    header.interface += self.first_of_section;
                    self.data.clear();
                    self.data.extend_from_slice(data);
                    return Ok(Some(header));
                }
                block::SECTION_HEADER => {
                    self.section = section_info(state.section());
                    self.first_of_section = self.interfaces.len();
                    self.owners.next_section();
                }
                block::INTERFACE_DESCRIPTION => {
                    self.interfaces.extend(state.interfaces().last().map(interface))
                }
                block::INTERFACE_STATISTICS => {
                    let first = self.first_of_section;
                    read_statistics(
                        body,
                        is_big_endian,
                        state,
                        first,
                        &mut self.counts,
                        &mut self.statistics,
                    );
                }
                block::DARWIN_PROCESS => self.owners.darwin_block(process::read_darwin(body, is_big_endian)),
                block::CUSTOM => self.owners.custom_block(process::read_custom(body, is_big_endian)),
                _ => {}
            }
        }
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

type PacketParts<'a> = Result<(Header, &'a [u8]), &'static str>;

/// An Enhanced Packet Block, or the obsolete Packet Block, whose interface has 16 bits.
fn full_packet<'a>(
    body: &'a [u8],
    is_big_endian: bool,
    state: &PcapNgState,
    is_obsolete: bool,
) -> PacketParts<'a> {
    let (header, rest) = body.split_first_chunk::<20>().ok_or("it is too short for a packet")?;
    let word = |index: usize| {
        let at = index * 4;
        number([header[at], header[at + 1], header[at + 2], header[at + 3]], is_big_endian)
    };
    let interface = match (is_obsolete, is_big_endian) {
        (false, _) => word(0),
        (true, true) => word(0) >> 16,
        (true, false) => word(0) & 0xffff,
    };
    let captured = word(3) as usize;
    if interface as usize >= state.interfaces().len() {
        return Err("its packet is of an interface that the file does not describe");
    }
    let data = rest.get(..captured).ok_or("its packet is longer than the block")?;
    let mut header = Header {
        interface: interface as usize,
        time: time(state, interface, word(1), word(2)).ok_or("its time is out of range")?,
        original_length: word(4).max(captured as u32),
        direction: Direction::Unknown,
        reception: Reception::Unknown,
        claim: Claim::default(),
    };
    let options = rest.get(captured + padding(captured)..).unwrap_or(&[]);
    read_options(Options::new(options, is_big_endian), is_big_endian, &mut header);
    Ok((header, data))
}

/// A Simple Packet Block: the section's first interface, no time, no options.
fn simple_packet<'a>(body: &'a [u8], is_big_endian: bool, state: &PcapNgState) -> PacketParts<'a> {
    let (length, rest) = body.split_first_chunk::<4>().ok_or("it is too short for a packet")?;
    let interface = state.interfaces().first().ok_or("its packet comes before any interface")?;
    let original_length = number(*length, is_big_endian);
    let captured = match interface.snaplen {
        0 => original_length,
        limit => original_length.min(limit),
    };
    let data = rest.get(..captured as usize).ok_or("its packet is longer than the block")?;
    let header = Header {
        interface: 0,
        time: RealTime::default(),
        original_length,
        direction: Direction::Unknown,
        reception: Reception::Unknown,
        claim: Claim::default(),
    };
    Ok((header, data))
}

fn read_options(options: Options<'_>, is_big_endian: bool, header: &mut Header) {
    for (option, value) in options {
        match (option, value) {
            // Others comment too, before or after ours; the first that is one of ours counts.
            (code::COMMENT, _) if header.claim.line.is_none() => {
                header.claim.line = std::str::from_utf8(value).ok().and_then(annotation::parse);
            }
            (code::EPB_FLAGS, &[a, b, c, d]) => {
                (header.direction, header.reception) = flags(number([a, b, c, d], is_big_endian));
            }
            (code::EPB_PROCESSID_THREADID, &[a, b, c, d, e, f, g, h]) => {
                let pid = number([a, b, c, d], is_big_endian);
                let tid = number([e, f, g, h], is_big_endian);
                // The draft: 0 stands for "not known".
                header.claim.ids = (pid != 0).then_some((pid, tid));
            }
            (code::EPB_DARWIN_PROCESS, &[a, b, c, d]) => {
                header.claim.darwin = Some(number([a, b, c, d], is_big_endian));
            }
            _ => {}
        }
    }
}

fn flags(flags: u32) -> (Direction, Reception) {
    let direction = match flags & 3 {
        1 => Direction::Inbound,
        2 => Direction::Outbound,
        _ => Direction::Unknown,
    };
    let reception = match flags >> 2 & 7 {
        1 => Reception::Unicast,
        2 => Reception::Multicast,
        3 => Reception::Broadcast,
        4 => Reception::Promiscuous,
        _ => Reception::Unknown,
    };
    (direction, reception)
}

/// A time stamp in the resolution of its interface.
fn time(state: &PcapNgState, interface: u32, high: u32, low: u32) -> Option<RealTime> {
    let since_epoch = state.decode_timestamp(interface, high, low).ok()?;
    u64::try_from(since_epoch.as_nanos()).ok().map(RealTime::from_ns)
}

fn read_statistics(
    body: &[u8],
    is_big_endian: bool,
    state: &PcapNgState,
    first_of_section: usize,
    counts: &mut Vec<Option<InterfaceCounts>>,
    statistics: &mut Option<Statistics>,
) {
    let Some((header, options)) = body.split_first_chunk::<12>() else { return };
    let [a, b, c, d, ..] = *header;
    let interface = number([a, b, c, d], is_big_endian);
    if interface as usize >= state.interfaces().len() {
        return;
    }
    let index = first_of_section + interface as usize;
    if counts.len() <= index {
        counts.resize(index + 1, None);
    }
    let to_time = |stamp: u64| time(state, interface, (stamp >> 32) as u32, stamp as u32).unwrap_or_default();
    let options = Options::new(options, is_big_endian);
    // The last block of an interface counts: each counts from the beginning of the recording.
    counts[index] =
        Some(statistics::read(options, is_big_endian, to_time, statistics.get_or_insert_default()));
}

fn interface(described: &InterfaceDescriptionBlock<'_>) -> Interface {
    let mut interface = Interface {
        name: String::new(),
        description: None,
        link_type: LinkType(u32::from(described.linktype) as u16),
        mac: None,
        snap_length: described.snaplen,
        filter: None,
    };
    for option in &described.options {
        match option {
            IfOption::IfName(name) => interface.name = name.to_string(),
            IfOption::IfDescription(text) => interface.description = Some(text.to_string()),
            IfOption::IfMacAddr(address) => interface.mac = address.as_ref().try_into().ok(),
            IfOption::IfFilter(filter) => {
                // A first byte of 0: the text of a libpcap filter.
                interface.filter = filter.strip_prefix(b"\0").map(process::text);
            }
            _ => {}
        }
    }
    interface
}

fn section_info(section: &SectionHeaderBlock<'_>) -> SectionInfo {
    let mut info = SectionInfo::default();
    for option in &section.options {
        match option {
            ShbOption::Hardware(text) => info.hardware = Some(text.to_string()),
            ShbOption::OS(text) => info.os = Some(text.to_string()),
            ShbOption::UserApplication(text) => info.application = Some(text.to_string()),
            ShbOption::Common(CommonOption::Comment(text)) => info.comments.push(text.to_string()),
            ShbOption::Common(_) => {}
        }
    }
    info
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

/// What is read from, with its first bytes, and whether its end has been seen: pcap-file does not tell the end
/// of the file from a block that does not fit into its buffer.
#[derive(Debug)]
struct Source<R> {
    from: R,
    first: Vec<u8>,
    /// How many of `first` have been handed on.
    handed_on: usize,
    is_at_end: bool,
}

impl<R: Read> Source<R> {
    fn new(from: R) -> Self {
        Self { from, first: Vec::new(), handed_on: 0, is_at_end: false }
    }

    /// Reads the first four bytes, or all if there are fewer.
    fn peek(&mut self) -> io::Result<()> {
        (&mut self.from).take(4).read_to_end(&mut self.first)?;
        Ok(())
    }

    fn other_format(&self) -> Option<&'static str> {
        match *self.first.as_slice() {
            [] => Some("it is empty"),
            [0x0a, 0x0d, 0x0d, 0x0a] => None,
            [0xa1, 0xb2, 0xc3, 0xd4 | 0xcd]
            | [0xd4 | 0x4d, 0xc3 | 0x3c, 0xb2, 0xa1]
            | [0xa1, 0xb2, 0x3c, 0x4d] => Some(
                "it is a pcap file, which has no room for processes; `editcap -F pcapng IN OUT` converts it",
            ),
            [0x28, 0xb5, 0x2f, 0xfd] => Some("it is compressed; `zstd -d` opens it"),
            [0x1f, 0x8b, ..] => Some("it is compressed; `gzip -d` opens it"),
            _ => Some("it does not begin with a section header"),
        }
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut rest = &self.first[self.handed_on..];
        if !rest.is_empty() {
            let count = rest.read(into)?;
            self.handed_on += count;
            return Ok(count);
        }
        loop {
            match self.from.read(into) {
                // A signal; pcap-file would take it for a failure.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => {
                    self.is_at_end = true;
                    return Ok(0);
                }
                result => return result,
            }
        }
    }
}
