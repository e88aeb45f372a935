//! The format before pcapng, as libpcap writes and reads it (its `sf-pcap.c`).
//!
//! ```text
//! file    magic u32, version u16 u16, time zone i32, accuracy u32, snap length u32, link type u32
//! record  seconds u32, micro- or nanoseconds u32, bytes captured u32, bytes on the wire u32; the packet
//! ```
//! All numbers are in the byte order of the magic number. Each record is made an Enhanced Packet Block, and the file header an
//! Interface Description Block, in the bytes that they stand in: so the rest of this room knows one format. What they
//! are made is little-endian.

use super::encode::high_low;
use super::process::number;
use crate::model::LinkType;

/// Bytes of the file header.
pub(super) const HEADER_LENGTH: usize = 24;
/// Bytes of an Enhanced Packet Block between its length and its packet.
pub(super) const PACKET_HEADER: usize = 20;
/// By how much a packet block's header is longer than the shortest header of a record.
pub(super) const GROWTH: usize = PACKET_HEADER - RECORD_HEADER;

const RECORD_HEADER: usize = 16;
/// Of the variant with interface, protocol and kind of packet behind the lengths.
const LONG_RECORD_HEADER: usize = 24;
/// libpcap's MAXIMUM_SNAPLEN: no packet has more captured bytes, whatever the header says.
const LONGEST_PACKET: usize = 262_144;

/// Body of a section header: little-endian, version 1.0, of unknown length.
pub(super) const SECTION_HEADER: [u8; 16] =
    [0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
/// A patched libpcap of Linux 2.0 days.
const LONG_RECORDS: u32 = 0xa1b2_cd34;

/// What the file header says.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileHeader {
    is_big_endian: bool,
    is_nanoseconds: bool,
    has_long_records: bool,
    lengths: Lengths,
    snap_length: u32,
    link_type: LinkType,
}

/// In which order the two lengths of a record stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lengths {
    CapturedFirst,
    CapturedLast,
    /// Version 2.3 had both: the captured one is the smaller.
    Either,
}

/// What the header of a record says.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordHeader {
    ticks: u64,
    /// In bytes.
    pub(super) captured: usize,
    on_the_wire: u32,
}

/// Whether a file that begins so is a legacy pcap file.
pub(super) fn is_magic(first: [u8; 4]) -> bool {
    let known = |magic| matches!(magic, MICROSECONDS | NANOSECONDS | LONG_RECORDS);
    known(u32::from_be_bytes(first)) || known(u32::from_le_bytes(first))
}

impl FileHeader {
    /// From the first 24 bytes of a file with a known magic number.
    ///
    /// # Errors
    /// What it is instead.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let Some(bytes) = bytes.first_chunk::<HEADER_LENGTH>() else {
            return Err("its header is cut".to_owned());
        };
        let big = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let is_big_endian = big >> 16 == 0xa1b2;
        let magic = if is_big_endian { big } else { big.swap_bytes() };
        let word =
            |at: usize| number([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]], is_big_endian);
        let version = match is_big_endian {
            true => (word(4) >> 16, word(4) & 0xffff),
            false => (word(4) & 0xffff, word(4) >> 16),
        };
        let lengths = match version {
            // DG/UX called it 543.0.
            (2, 0..=2) | (543, 0) => Lengths::CapturedLast,
            (2, 3) => Lengths::Either,
            (2, 4) => Lengths::CapturedFirst,
            (major, minor) => {
                return Err(format!("it is pcap version {major}.{minor}, which nobody has described"));
            }
        };
        // Above are the length of the frame check sequence, and whether there is one.
        let link_type = word(20) & 0x03ff_ffff;
        let Ok(link_type) = u16::try_from(link_type) else {
            return Err(format!("it is a pcap file of link type {link_type}, which does not exist"));
        };
        Ok(Self {
            is_big_endian,
            is_nanoseconds: magic == NANOSECONDS,
            has_long_records: magic == LONG_RECORDS,
            lengths,
            snap_length: word(16),
            link_type: LinkType(link_type),
        })
    }

    /// Writes the body of an Interface Description Block into the 24 bytes of the header. How long it is.
    pub(super) fn describe(self, into: &mut [u8]) -> usize {
        const TIME_RESOLUTION: u16 = 9;
        let mut body = Vec::with_capacity(HEADER_LENGTH);
        body.extend(self.link_type.0.to_le_bytes());
        body.extend([0, 0]);
        body.extend(self.snap_length.to_le_bytes());
        body.extend(TIME_RESOLUTION.to_le_bytes());
        body.extend(1_u16.to_le_bytes());
        body.extend([if self.is_nanoseconds { 9 } else { 6 }, 0, 0, 0]);
        body.extend([0; 4]);
        into[..body.len()].copy_from_slice(&body);
        body.len()
    }

    /// How long the header of a record is, in bytes.
    pub(super) const fn record_header(self) -> usize {
        if self.has_long_records { LONG_RECORD_HEADER } else { RECORD_HEADER }
    }

    /// The most bytes of a packet.
    pub(super) fn longest_packet(self) -> usize {
        LONGEST_PACKET.max(self.snap_length as usize)
    }

    /// The header of a record; `bytes` has at least as many as that.
    #[inline]
    pub(super) fn record(self, bytes: &[u8]) -> RecordHeader {
        let word =
            |at: usize| number([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]], self.is_big_endian);
        let per_second = if self.is_nanoseconds { 1_000_000_000 } else { 1_000_000 };
        let (mut captured, mut on_the_wire) = (word(8), word(12));
        if self.lengths == Lengths::CapturedLast || self.lengths == Lengths::Either && captured > on_the_wire
        {
            (captured, on_the_wire) = (on_the_wire, captured);
        }
        RecordHeader {
            ticks: u64::from(word(0)) * per_second + u64::from(word(4)),
            captured: captured as usize,
            on_the_wire,
        }
    }
}

impl RecordHeader {
    /// Writes what stands in an Enhanced Packet Block before the packet into its 20 bytes.
    #[inline]
    pub(super) fn write(self, into: &mut [u8]) {
        into[..4].fill(0);
        into[4..12].copy_from_slice(&high_low(self.ticks));
        into[12..16].copy_from_slice(&(self.captured as u32).to_le_bytes());
        into[16..20].copy_from_slice(&self.on_the_wire.to_le_bytes());
    }
}
