//! The blocks of a file as values. Pure: each function works on the body of one block, and trusts nothing in
//! it.

use std::ops::Range;

use super::encode::padding;
use super::process::{self, Options, number};
use super::{SectionInfo, option as code, statistics};
use crate::model::{Interface, InterfaceCounts, LinkType, RealTime, Statistics};

/// Options of the Section Header Block.
mod shb {
    pub(super) const HARDWARE: u16 = 2;
    pub(super) const OS: u16 = 3;
    pub(super) const APPLICATION: u16 = 4;
}

/// Options of the Interface Description Block.
mod idb {
    pub(super) const NAME: u16 = 2;
    pub(super) const DESCRIPTION: u16 = 3;
    pub(super) const MAC: u16 = 6;
    pub(super) const TIME_RESOLUTION: u16 = 9;
    pub(super) const FILTER: u16 = 11;
    pub(super) const TIME_OFFSET: u16 = 14;
    /// Those whose length is fixed: code, bytes, name.
    pub(super) const FIXED: [(u16, usize, &str); 10] = [
        (4, 8, "if_IPv4addr"),
        (5, 17, "if_IPv6addr"),
        (MAC, 6, "if_MACaddr"),
        (7, 8, "if_EUIaddr"),
        (8, 8, "if_speed"),
        (TIME_RESOLUTION, 1, "if_tsresol"),
        (13, 1, "if_fcslen"),
        (TIME_OFFSET, 8, "if_tsoffset"),
        (16, 8, "if_txspeed"),
        (17, 8, "if_rxspeed"),
    ];
}

/// What a packet block says, its bytes and options aside.
pub(super) struct Header {
    pub(super) interface: usize,
    /// Where in the block its bytes are.
    pub(super) data: Range<usize>,
    pub(super) time: RealTime,
    pub(super) original_length: u32,
    /// Where in the block its options begin.
    pub(super) options_at: usize,
}

/// How the time stamps of an interface count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    /// `if_tsresol`: a power of ten, with the highest bit set of two; its negative exponent.
    resolution: u8,
    /// `if_tsoffset`, in seconds.
    offset: i64,
}

impl Default for Clock {
    /// Microseconds since 1970.
    fn default() -> Self {
        Self { resolution: 6, offset: 0 }
    }
}

impl Clock {
    /// The time of a time stamp, rounded down to nanoseconds; `None` before 1970 and after 2554.
    #[inline]
    pub(super) fn time(self, stamp: u64) -> Option<RealTime> {
        match self {
            Self { resolution: 9, offset: 0 } => Some(RealTime::from_ns(stamp)),
            Self { resolution: 6, offset: 0 } => stamp.checked_mul(1000).map(RealTime::from_ns),
            other => other.scaled(stamp),
        }
    }

    fn scaled(self, stamp: u64) -> Option<RealTime> {
        const NS_PER_SECOND: u128 = 1_000_000_000;
        let exponent = u32::from(self.resolution & 0x7f);
        // No product has more than 94 bits.
        let ns = match (self.resolution & 0x80 != 0, exponent) {
            (true, _) => (u128::from(stamp) * NS_PER_SECOND) >> exponent,
            (false, 0..=9) => u128::from(stamp) * 10_u128.pow(9 - exponent),
            (false, _) => 10_u128.checked_pow(exponent - 9).map_or(0, |divisor| u128::from(stamp) / divisor),
        };
        let ns = i128::try_from(ns).ok()? + i128::from(self.offset) * NS_PER_SECOND as i128;
        u64::try_from(ns).ok().map(RealTime::from_ns)
    }
}

/// An Enhanced Packet Block, or the obsolete Packet Block, whose interface has 16 bits. `clocks` are those of the section's
/// interfaces.
#[inline]
pub(super) fn full_packet(
    body: &[u8],
    is_big_endian: bool,
    clocks: &[Clock],
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
    } as usize;
    let captured = word(3) as usize;
    let clock =
        clocks.get(interface).ok_or("its packet is of an interface that the file does not describe")?;
    if captured > rest.len() {
        return Err("its packet is longer than the block");
    }
    let stamp = u64::from(word(1)) << 32 | u64::from(word(2));
    Ok(Header {
        interface,
        data: 20..20 + captured,
        time: clock.time(stamp).ok_or("its time is before 1970 or after 2554")?,
        original_length: word(4).max(captured as u32),
        options_at: (20 + captured + padding(captured)).min(body.len()),
    })
}

/// A Simple Packet Block: the section's first interface, no time, no options. `snap_length` is that interface's.
pub(super) fn simple_packet(
    body: &[u8],
    is_big_endian: bool,
    snap_length: Option<u32>,
) -> Result<Header, &'static str> {
    let (length, rest) = body.split_first_chunk::<4>().ok_or("it is too short for a packet")?;
    let snap_length = snap_length.ok_or("its packet comes before any interface")?;
    let original_length = number(*length, is_big_endian);
    let captured = match snap_length {
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
        options_at: body.len(),
    })
}

/// Adds an Interface Statistics Block to the statistics. `clocks` are those of the section's interfaces, of which the
/// first has number `first_of_section` in the file.
pub(super) fn read_statistics(
    body: &[u8],
    is_big_endian: bool,
    clocks: &[Clock],
    first_of_section: usize,
    counts: &mut Vec<Option<InterfaceCounts>>,
    statistics: &mut Option<Statistics>,
) {
    let Some((header, options)) = body.split_first_chunk::<12>() else { return };
    let [a, b, c, d, ..] = *header;
    let interface = number([a, b, c, d], is_big_endian) as usize;
    let Some(clock) = clocks.get(interface) else { return };
    let index = first_of_section + interface;
    if counts.len() <= index {
        counts.resize(index + 1, None);
    }
    let to_time = |stamp: u64| clock.time(stamp).unwrap_or_default();
    let options = Options::new(options, is_big_endian);
    // The last block of an interface counts: each counts from the beginning of the recording.
    counts[index] =
        Some(statistics::read(options, is_big_endian, to_time, statistics.get_or_insert_default()));
}

/// An Interface Description Block.
///
/// # Errors
/// If it is cut, or an option has a length that it cannot have: a time resolution that is not understood makes all times wrong.
pub(super) fn interface(body: &[u8], is_big_endian: bool) -> Result<(Interface, Clock), String> {
    let Some((&[a, b, _, _, c, d, e, f], options)) = body.split_first_chunk::<8>() else {
        return Err("it is too short for an interface".to_owned());
    };
    let link_type = if is_big_endian { u16::from_be_bytes([a, b]) } else { u16::from_le_bytes([a, b]) };
    let mut interface = Interface {
        name: String::new(),
        description: None,
        link_type: LinkType(link_type),
        mac: None,
        snap_length: number([c, d, e, f], is_big_endian),
        filter: None,
    };
    let mut clock = Clock::default();
    let mut options = Options::new(options, is_big_endian);
    for (option, value) in &mut options {
        check_length(option, value)?;
        match option {
            idb::NAME => interface.name = process::text(value),
            idb::DESCRIPTION => interface.description = Some(process::text(value)),
            idb::MAC => interface.mac = value.try_into().ok(),
            idb::TIME_RESOLUTION => clock.resolution = value.first().copied().unwrap_or(clock.resolution),
            idb::TIME_OFFSET => clock.offset = offset(value, is_big_endian).unwrap_or(clock.offset),
            // A first byte of 0: the text of a libpcap filter.
            idb::FILTER => interface.filter = value.strip_prefix(b"\0").map(process::text),
            _ => {}
        }
    }
    if options.is_damaged() {
        return Err("an option of its interface is longer than the block".to_owned());
    }
    Ok((interface, clock))
}

fn check_length(option: u16, value: &[u8]) -> Result<(), String> {
    match idb::FIXED.iter().find(|(code, ..)| *code == option) {
        Some((_, length, name)) if value.len() != *length => {
            Err(format!("the option {name} of its interface has length {}, not {length}", value.len()))
        }
        _ => Ok(()),
    }
}

fn offset(value: &[u8], is_big_endian: bool) -> Option<i64> {
    let bytes = value.try_into().ok()?;
    Some(if is_big_endian { i64::from_be_bytes(bytes) } else { i64::from_le_bytes(bytes) })
}

/// A Section Header Block.
///
/// # Errors
/// If it is cut, or of a version that nobody has described.
pub(super) fn section_info(body: &[u8], is_big_endian: bool) -> Result<SectionInfo, String> {
    let Some((header, options)) = body.split_first_chunk::<16>() else {
        return Err("it is too short for a section header".to_owned());
    };
    let version = [[header[4], header[5]], [header[6], header[7]]]
        .map(|bytes| if is_big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) });
    // Version 1.2 says nothing that 1.0 does not; the draft has readers accept it.
    if !matches!(version, [1, 0 | 2]) {
        return Err(format!(
            "it is pcapng version {}.{}, which nobody has described",
            version[0], version[1]
        ));
    }
    let mut info = SectionInfo::default();
    for (option, value) in Options::new(options, is_big_endian) {
        match option {
            shb::HARDWARE => info.hardware = Some(process::text(value)),
            shb::OS => info.os = Some(process::text(value)),
            shb::APPLICATION => info.application = Some(process::text(value)),
            code::COMMENT => info.comments.push(process::text(value)),
            _ => {}
        }
    }
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_stamp_counts_in_its_resolution_from_its_offset() {
        for (resolution, offset, stamp, ns) in [
            (6, 0, 1_700_000_000_123_456, Some(1_700_000_000_123_456_000)),
            (9, 0, 1_700_000_000_123_456_789, Some(1_700_000_000_123_456_789)),
            (0, 0, 1_700_000_000, Some(1_700_000_000_000_000_000)),
            (3, 0, 1_700_000_000_123, Some(1_700_000_000_123_000_000)),
            // Finer than a nanosecond: rounded down.
            (12, 0, 1_700_000_000_999, Some(1_700_000_000)),
            (10, 0, u64::MAX, Some(u64::MAX / 10)),
            (28, 0, u64::MAX, Some(1)),
            (29, 0, u64::MAX, Some(0)),
            (127, 0, u64::MAX, Some(0)),
            // Powers of two.
            (0x80, 0, 5, Some(5_000_000_000)),
            (0x8a, 0, 1536, Some(1_500_000_000)),
            (0x80 | 32, 0, 3 << 31, Some(1_500_000_000)),
            (0x80 | 63, 0, u64::MAX, Some(1_999_999_999)),
            (0xff, 0, u64::MAX, Some(0)),
            // Offsets.
            (6, 100, 1, Some(100_000_001_000)),
            (9, -1, 1_500_000_000, Some(500_000_000)),
            (9, -2, 1_500_000_000, None),
            (6, 0, u64::MAX, None),
            (0, i64::MAX, u64::MAX, None),
            (0, i64::MIN, u64::MAX, None),
        ] {
            let time = Clock { resolution, offset }.time(stamp).map(RealTime::as_ns);
            assert_eq!(time, ns, "{resolution:#x} {offset} {stamp}");
        }
    }
}
