//! The blocks of a file as values. Pure: each function works on the body of one block, and trusts nothing in
//! it.

use std::ops::Range;

use pcap_file::pcapng::PcapNgState;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption as IfOption,
};
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption as ShbOption};

use super::encode::padding;
use super::owners::Claim;
use super::process::{self, Options, number};
use super::{SectionInfo, annotation, option as code, statistics};
use crate::model::{Direction, Interface, InterfaceCounts, LinkType, RealTime, Reception, Statistics};

/// What a packet block says, its bytes aside.
pub(super) struct Header {
    pub(super) interface: usize,
    /// Where in the block its bytes are.
    pub(super) data: Range<usize>,
    pub(super) time: RealTime,
    pub(super) original_length: u32,
    pub(super) direction: Direction,
    pub(super) reception: Reception,
    pub(super) claim: Claim,
}

/// Where the options of a packet block begin whose packet stands at `data`.
pub(super) fn options_at(body: &[u8], data: &Range<usize>) -> usize {
    (data.end + padding(data.len())).min(body.len())
}

/// An Enhanced Packet Block, or the obsolete Packet Block, whose interface has 16 bits.
pub(super) fn full_packet(
    body: &[u8],
    is_big_endian: bool,
    state: &PcapNgState,
    is_obsolete: bool,
) -> Result<Header, &'static str> {
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
    if captured > rest.len() {
        return Err("its packet is longer than the block");
    }
    let mut header = Header {
        interface: interface as usize,
        data: 20..20 + captured,
        time: time(state, interface, word(1), word(2)).ok_or("its time is out of range")?,
        original_length: word(4).max(captured as u32),
        direction: Direction::Unknown,
        reception: Reception::Unknown,
        claim: Claim::default(),
    };
    let options = &body[options_at(body, &header.data)..];
    read_options(Options::new(options, is_big_endian), is_big_endian, &mut header);
    Ok(header)
}

/// A Simple Packet Block: the section's first interface, no time, no options.
pub(super) fn simple_packet(
    body: &[u8],
    is_big_endian: bool,
    state: &PcapNgState,
) -> Result<Header, &'static str> {
    let (length, rest) = body.split_first_chunk::<4>().ok_or("it is too short for a packet")?;
    let interface = state.interfaces().first().ok_or("its packet comes before any interface")?;
    let original_length = number(*length, is_big_endian);
    let captured = match interface.snaplen {
        0 => original_length,
        limit => original_length.min(limit),
    };
    if captured as usize > rest.len() {
        return Err("its packet is longer than the block");
    }
    Ok(Header {
        interface: 0,
        data: 4..4 + captured as usize,
        time: RealTime::default(),
        original_length,
        direction: Direction::Unknown,
        reception: Reception::Unknown,
        claim: Claim::default(),
    })
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

pub(super) fn read_statistics(
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

pub(super) fn interface(described: &InterfaceDescriptionBlock<'_>) -> Interface {
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

pub(super) fn section_info(section: &SectionHeaderBlock<'_>) -> SectionInfo {
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
