//! The header that macOS puts before each packet of a PKTAP capture: interface, inner link type, direction, process.
//!
//! Works on the bytes it is given and touches nothing else; never allocates, never panics. Captures through `pktap` and
//! saved PKTAP captures have the same bytes. From Apple's xnu (`bsd/net/pktap.h`, `pktap.c`, `droptap.h`, `droptap.c`); numbers
//! are little-endian, as on every Mac that has PKTAP.
//!
//! - **Version 1** has 156 bytes, or 108 in OS X 10.9; what a shorter one lacks is not known. A longer one is skipped whole.
//! - **Version 2** has 40 bytes and, behind them, what its offsets point at.
//! - **Droptap** (packets that the kernel dropped): version 1, and behind the 156 bytes that its length states another 5, or 9
//!   and the name of a function.
//! - A process id of 0 or -1 is none. The effective process is the one on whose behalf the other one acts
//!   (`nsurlsessiond` for `Safari`); the kernel tells it where it differs.
//!
//! Nothing is trusted: a header that contradicts itself is an error, because link type 149 (which Apple's tools use for PKTAP)
//! is free for anybody's own use, and a wrong name is worse than none.

use crate::model::{Direction, LinkType};

/// Link types whose packets begin with this header: the registered one, and the one that Apple's tools write (`DLT_USER2`).
pub const LINK_TYPES: [LinkType; 2] = [LinkType(258), LinkType(149)];

/// What stands before a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// How many bytes it has: the packet begins behind them.
    pub length: usize,
    /// Where the packet was captured, such as `en0`; printable ASCII. Empty for a packet that was dropped before it had one.
    pub interface: &'a str,
    /// How the packet itself begins.
    pub link_type: LinkType,
    /// Which way it went.
    pub direction: Direction,
    /// The process that has the socket.
    pub process: Option<ProcessName<'a>>,
    /// The process on whose behalf that one acts, where it is another one.
    pub effective: Option<ProcessName<'a>>,
    /// The service class; as the socket option `SO_TRAFFIC_CLASS` counts them.
    pub service_class: u32,
    /// The flags of the packet, as Apple numbers them in a file (`PCAPNG_EPB_PMDF_*`).
    pub metadata_flags: u32,
    /// The number of the flow; 0 for none.
    pub flow_id: u32,
    /// The trace tag; 0 for none.
    pub trace_tag: u16,
    /// Why the kernel dropped the packet, if it did.
    pub dropped: Option<Dropped<'a>>,
}

/// A process as the header names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessName<'a> {
    /// The process id.
    pub pid: u32,
    /// The name, at most 16 bytes; empty where the kernel did not know it any more.
    pub name: &'a [u8],
    /// The UUID of the executable, where it is known.
    pub uuid: Option<[u8; 16]>,
}

/// Why and where the kernel dropped a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped<'a> {
    /// The reason, in Apple's encoding.
    pub reason: u32,
    /// The function, and the line in its file; where the kernel told it.
    pub place: Option<(&'a [u8], u16)>,
}

/// Why bytes are no PKTAP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    /// Fewer bytes were captured than it states to have.
    #[error("it ends inside its PKTAP header")]
    Cut,
    /// A length or an offset is impossible.
    #[error("its PKTAP header has an impossible length")]
    Length,
    /// It announces neither a packet, nor a dropped one, nor nothing.
    #[error("its PKTAP header announces something unknown")]
    Kind,
    /// A text is not what the kernel writes.
    #[error("its PKTAP header has a damaged text")]
    Text,
    /// The inner link type is none, or PKTAP again.
    #[error("its PKTAP header has an impossible link type")]
    LinkType,
}

/// The least and the usual length of version 1, and the least of version 2.
const LENGTH_10_9: usize = 108;
const LENGTH_1: usize = 156;
const LENGTH_2: usize = 40;
/// Room for the name of an interface, and for that of a process, with the zero byte.
const INTERFACE: usize = 24;
const COMMAND: usize = 17;
/// Where the flags stand in both versions.
const FLAGS: usize = 36;
/// `PTH_TYPE_DROP`.
const KIND_DROP: u32 = 2;
/// The longest name of a function: `DROPTAP_DROPFUNC_MAXLEN` without the zero byte.
const LONGEST_FUNCTION: usize = 63;

/// `PTH_FLAG_*`.
mod flag {
    pub(super) const INBOUND: u32 = 0x1;
    pub(super) const OUTBOUND: u32 = 0x2;
    pub(super) const VERSION_2: u32 = 0x8_0000;
    /// New flow, keep-alive, retransmission, socket, nexus channel, wake packet: and what they are in a file.
    pub(super) const IN_FILE: [(u32, u32); 6] =
        [(0x4000, 1), (0x1_0000, 2), (0x8000, 4), (0x2_0000, 8), (0x4_0000, 0x10), (0x10_0000, 0x20)];
}

/// Reads the header that `data` begins with.
///
/// # Errors
/// If these bytes are no PKTAP header, or were cut inside it.
pub fn header(data: &[u8]) -> Result<Header<'_>, BadHeader> {
    let flags = u32_at(data, FLAGS)?;
    if flags & flag::VERSION_2 != 0 { version_2(data, flags) } else { version_1(data, flags) }
}

fn version_1(data: &[u8], flags: u32) -> Result<Header<'_>, BadHeader> {
    let length = u32_at(data, 0)? as usize;
    if length < LENGTH_10_9 {
        return Err(BadHeader::Length);
    }
    let all = data;
    let data = all.get(..length).ok_or(BadHeader::Cut)?;
    let kind = u32_at(data, 4)?;
    if kind > KIND_DROP {
        return Err(BadHeader::Kind);
    }
    let dropped = (kind == KIND_DROP).then(|| droptap(all, length)).transpose()?;
    let uuid = |at: usize| data.get(at..).and_then(|rest| rest.first_chunk::<16>()).copied();
    let pid = u32_at(data, 52)?;
    let other = process(u32_at(data, 84)?, text(data, 88, COMMAND)?, uuid(140));
    Ok(Header {
        length: dropped.map_or(length, |(_, end)| end),
        interface: interface(text(data, 12, INTERFACE)?)?,
        link_type: link_type(u32_at(data, 8)?)?,
        direction: direction(flags),
        process: process(pid, text(data, 56, COMMAND)?, uuid(124)),
        effective: effective(pid, other),
        service_class: u32_at(data, 76)?,
        metadata_flags: in_file(flags),
        // The header of 10.9 ends before it.
        flow_id: u32_at(data, LENGTH_10_9).unwrap_or(0),
        trace_tag: u16_at(data, 74)?,
        dropped: dropped.map(|(dropped, _)| dropped),
    })
}

/// What droptap adds, and where the packet begins then. `droptap_bpf_tap_mbuf` states the length of the plain header.
fn droptap(all: &[u8], length: usize) -> Result<(Dropped<'_>, usize), BadHeader> {
    if length < LENGTH_1 {
        return Err(BadHeader::Length);
    }
    let reason = u32_at(all, LENGTH_1)?;
    let size = usize::from(*all.get(LENGTH_1 + 4).ok_or(BadHeader::Cut)?);
    if size > LONGEST_FUNCTION {
        return Err(BadHeader::Text);
    }
    if size == 0 {
        return Ok((Dropped { reason, place: None }, length.max(LENGTH_1 + 5)));
    }
    let function = LENGTH_1 + 8;
    let end = function + size + 1;
    let name = all.get(function..end - 1).ok_or(BadHeader::Cut)?;
    // The zero byte behind the name belongs to the header.
    if all.get(end - 1) != Some(&0) || name.contains(&0) {
        return Err(BadHeader::Text);
    }
    Ok((Dropped { reason, place: Some((name, u16_at(all, LENGTH_1 + 6)?)) }, length.max(end)))
}

fn version_2(data: &[u8], flags: u32) -> Result<Header<'_>, BadHeader> {
    let [length, offsets @ ..] = *data.first_chunk::<6>().ok_or(BadHeader::Cut)?;
    if usize::from(length) < LENGTH_2 {
        return Err(BadHeader::Length);
    }
    let data = data.get(..usize::from(length)).ok_or(BadHeader::Cut)?;
    // An offset of 0: it is not there.
    let place = |offset: u8| match usize::from(offset) {
        0 => Ok(None),
        at if (LENGTH_2..data.len()).contains(&at) => Ok(Some(at)),
        _ => Err(BadHeader::Length),
    };
    let uuid = |offset: u8| match place(offset)? {
        Some(at) => data[at..].first_chunk::<16>().copied().map(Some).ok_or(BadHeader::Length),
        None => Ok(None),
    };
    let name = |offset: u8, longest: usize| match place(offset)? {
        Some(at) => text(data, at, longest.min(data.len() - at)),
        None => Ok(&[][..]),
    };
    let [own_uuid, effective_uuid, interface_name, own_name, effective_name] = offsets;
    let pid = u32_at(data, 28)?;
    let other = process(u32_at(data, 32)?, name(effective_name, COMMAND)?, uuid(effective_uuid)?);
    Ok(Header {
        length: data.len(),
        interface: interface(name(interface_name, INTERFACE)?)?,
        link_type: link_type(u32::from(u16_at(data, 6)?))?,
        direction: direction(flags),
        process: process(pid, name(own_name, COMMAND)?, uuid(own_uuid)?),
        effective: effective(pid, other),
        service_class: u32_at(data, 20)?,
        metadata_flags: in_file(flags),
        flow_id: u32_at(data, 24)?,
        trace_tag: 0,
        dropped: None,
    })
}

/// 0 and -1 are no process.
fn process(pid: u32, name: &[u8], uuid: Option<[u8; 16]>) -> Option<ProcessName<'_>> {
    let uuid = uuid.filter(|uuid| *uuid != [0; 16]);
    (pid != 0 && pid <= i32::MAX as u32).then_some(ProcessName { pid, name, uuid })
}

fn effective(pid: u32, other: Option<ProcessName<'_>>) -> Option<ProcessName<'_>> {
    other.filter(|other| other.pid != pid)
}

/// Both bits are never set together; of a packet that the kernel did not say it of, neither is.
const fn direction(flags: u32) -> Direction {
    match (flags & flag::INBOUND != 0, flags & flag::OUTBOUND != 0) {
        (true, false) => Direction::Inbound,
        (false, true) => Direction::Outbound,
        _ => Direction::Unknown,
    }
}

fn in_file(flags: u32) -> u32 {
    flag::IN_FILE.iter().filter(|(bit, _)| flags & bit != 0).fold(0, |all, (_, bit)| all | bit)
}

/// The header has Darwin's own number (`DLT_`), which differs from that of files (`LINKTYPE_`) for a few old types.
fn link_type(dlt: u32) -> Result<LinkType, BadHeader> {
    let number = match dlt {
        11 => 100, // ATM_RFC1483
        12 => 101, // RAW
        15 => 102, // SLIP_BSDOS
        16 => 103, // PPP_BSDOS
        18 => 246, // PFSYNC
        other => u16::try_from(other).map_err(|_| BadHeader::LinkType)?,
    };
    let inner = LinkType(number);
    if LINK_TYPES.contains(&inner) { Err(BadHeader::LinkType) } else { Ok(inner) }
}

fn interface(name: &[u8]) -> Result<&str, BadHeader> {
    let is_name = name.iter().all(u8::is_ascii_graphic);
    std::str::from_utf8(name).ok().filter(|_| is_name).ok_or(BadHeader::Text)
}

/// The text in the `room` bytes at `at`, which a zero byte ends.
fn text(data: &[u8], at: usize, room: usize) -> Result<&[u8], BadHeader> {
    let room = data.get(at..at + room).ok_or(BadHeader::Cut)?;
    let end = room.iter().position(|byte| *byte == 0).ok_or(BadHeader::Text)?;
    Ok(&room[..end])
}

fn u16_at(data: &[u8], at: usize) -> Result<u16, BadHeader> {
    let bytes = data.get(at..).and_then(|rest| rest.first_chunk::<2>());
    bytes.map(|bytes| u16::from_le_bytes(*bytes)).ok_or(BadHeader::Cut)
}

fn u32_at(data: &[u8], at: usize) -> Result<u32, BadHeader> {
    let bytes = data.get(at..).and_then(|rest| rest.first_chunk::<4>());
    bytes.map(|bytes| u32::from_le_bytes(*bytes)).ok_or(BadHeader::Cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETHERNET: u32 = 1;

    /// A header of version 1 with `length` bytes: en0, outbound, process 4242 `curl`.
    fn version_1(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        for (at, number) in [(0, length as u32), (4, 1), (8, ETHERNET), (36, 2), (52, 4242), (84, u32::MAX)] {
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        bytes[12..15].copy_from_slice(b"en0");
        bytes[56..60].copy_from_slice(b"curl");
        bytes
    }

    /// A header of version 2: the fields, and behind them what the offsets (uuid, effective uuid, interface, name, effective
    /// name) point at.
    fn version_2() -> Vec<u8> {
        let mut bytes = vec![0; 40];
        for (at, number) in [(24, 77_u32), (28, 88), (32, 510), (36, 0x8_0000 | 0x4000 | 1)] {
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        bytes[6] = 12;
        for (offset, value) in
            [(1, &[7; 16][..]), (3, b"utun3\0"), (4, b"nsurlsessiond\0"), (5, b"Safari\0"), (2, &[8; 16])]
        {
            bytes[offset] = bytes.len() as u8;
            bytes.extend_from_slice(value);
        }
        bytes[0] = bytes.len() as u8;
        bytes
    }

    fn set(bytes: &mut [u8], at: usize, number: u32) {
        bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
    }

    #[test]
    fn both_lengths_of_version_1_tell_interface_direction_and_process() {
        for length in [108, 156, 200] {
            let mut bytes = version_1(length);
            if length >= 156 {
                bytes[124..140].copy_from_slice(&[5; 16]);
                set(&mut bytes, 108, 9);
            }
            bytes.extend_from_slice(b"the packet");
            let header = header(&bytes).unwrap();
            assert_eq!(&bytes[header.length..], b"the packet");
            assert_eq!((header.interface, header.link_type), ("en0", LinkType::ETHERNET));
            assert_eq!(header.direction, Direction::Outbound);
            let process = header.process.unwrap();
            assert_eq!((process.pid, process.name), (4242, &b"curl"[..]));
            assert_eq!(process.uuid, (length >= 156).then_some([5; 16]));
            assert_eq!((header.effective, header.dropped), (None, None));
            assert_eq!(header.flow_id, if length >= 156 { 9 } else { 0 });
        }
    }

    #[test]
    fn version_2_tells_the_process_and_on_whose_behalf_it_acts() {
        let mut bytes = version_2();
        bytes.extend_from_slice(b"the packet");
        let header = header(&bytes).unwrap();
        assert_eq!(&bytes[header.length..], b"the packet");
        // Darwin's DLT_RAW is LINKTYPE_RAW in a file.
        assert_eq!((header.interface, header.link_type), ("utun3", LinkType::RAW_IP));
        assert_eq!((header.direction, header.flow_id, header.metadata_flags), (Direction::Inbound, 77, 1));
        let process = ProcessName { pid: 88, name: b"nsurlsessiond", uuid: Some([7; 16]) };
        let effective = ProcessName { pid: 510, name: b"Safari", uuid: Some([8; 16]) };
        assert_eq!((header.process, header.effective), (Some(process), Some(effective)));
    }

    #[test]
    fn a_dropped_packet_begins_behind_what_droptap_adds() {
        for (name, length) in [(&b""[..], 161), (b"tcp_input", 174), (&[b'f'; 63], 228)] {
            let mut bytes = version_1(156);
            set(&mut bytes, 4, 2);
            bytes.extend_from_slice(&0x0102_0001_u32.to_le_bytes());
            bytes.push(name.len() as u8);
            if !name.is_empty() {
                bytes.extend_from_slice(&[0, 0x39, 0x05]);
                bytes.extend_from_slice(name);
                bytes.push(0);
            }
            assert_eq!(bytes.len(), length);
            bytes.extend_from_slice(b"the packet");
            let header = header(&bytes).unwrap();
            assert_eq!(&bytes[header.length..], b"the packet");
            let place = (!name.is_empty()).then_some((name, 1337));
            assert_eq!(header.dropped, Some(Dropped { reason: 0x0102_0001, place }));
        }
    }

    #[test]
    fn nobody_is_named_by_a_process_id_of_0_or_minus_1_and_nobody_twice() {
        for pid in [0, u32::MAX, i32::MIN as u32] {
            let mut bytes = version_1(156);
            set(&mut bytes, 52, pid);
            assert_eq!(header(&bytes).unwrap().process, None);
        }
        let mut bytes = version_1(156);
        set(&mut bytes, 84, 4242);
        assert_eq!(header(&bytes).unwrap().effective, None, "it acts on its own behalf");
    }

    #[test]
    fn what_contradicts_itself_is_no_header() {
        let spoilt = |at: usize, number: u32| {
            let mut bytes = version_1(156);
            set(&mut bytes, at, number);
            header(&bytes).unwrap_err()
        };
        assert_eq!(spoilt(0, 107), BadHeader::Length);
        assert_eq!(spoilt(0, 0), BadHeader::Length);
        assert_eq!(spoilt(0, 157), BadHeader::Cut);
        assert_eq!(spoilt(0, u32::MAX), BadHeader::Cut);
        assert_eq!(spoilt(4, 3), BadHeader::Kind);
        assert_eq!(spoilt(4, 2), BadHeader::Cut, "the reason of the drop is missing");
        assert_eq!(spoilt(8, 149), BadHeader::LinkType);
        assert_eq!(spoilt(8, 258), BadHeader::LinkType);
        assert_eq!(spoilt(8, 0x1_0001), BadHeader::LinkType);
        assert_eq!(spoilt(12, u32::from_le_bytes(*b"e\x1b[2")), BadHeader::Text);
        let mut endless = version_1(156);
        endless[56..73].fill(b'a');
        assert_eq!(header(&endless).unwrap_err(), BadHeader::Text);
        for at in 1..6 {
            let mut bytes = version_2();
            bytes[at] = 39;
            assert_eq!(header(&bytes).unwrap_err(), BadHeader::Length, "offset {at}");
            bytes[at] = bytes[0];
            assert_eq!(header(&bytes).unwrap_err(), BadHeader::Length, "offset {at}");
        }
    }

    #[test]
    fn no_cut_and_no_flipped_byte_makes_it_panic_or_reach_beyond_the_packet() {
        for whole in [version_1(108), version_1(156), version_2()] {
            for end in 0..whole.len() {
                assert!(header(&whole[..end]).is_err(), "cut at {end}");
            }
            for at in 0..whole.len() {
                for value in 0..=255 {
                    let mut bytes = whole.clone();
                    bytes[at] = value;
                    if let Ok(header) = header(&bytes) {
                        assert!(header.length <= bytes.len());
                        assert!(header.interface.is_ascii());
                    }
                }
            }
        }
    }
}
