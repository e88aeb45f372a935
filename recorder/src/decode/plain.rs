//! Tells packets of one flow by a few of their bytes, without decoding them: most packets are of a flow that was decoded
//! just before.

use crate::model::LinkType;

/// Addresses, ports and protocol of a plain packet, as they stand in it. Two packets with equal ones have the same
/// flow, and nothing else in them has a say in who owns them. Words instead of an array, which would be compared by a
/// call and pass through memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plain(u64, u64, u64, u64, u64);

impl Plain {
    /// A number that differs for most flows, in its upper bits too.
    #[inline]
    pub fn hash(&self) -> u64 {
        let Self(a, b, c, d, e) = *self;
        // Each word turned by another amount, so that the same address at both ends does not cancel out; then
        // multiplied by 2^64 divided by the golden ratio, which spreads neighbours.
        let mixed = a ^ b.rotate_left(13) ^ c.rotate_left(27) ^ d.rotate_left(41) ^ e.rotate_left(55);
        mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// What tells the flow of a plain packet: UDP, or TCP with neither SYN nor RST, right behind an IPv4 header without
/// options or an IPv6 header, unfragmented, on Ethernet without tags or raw IP. None for all others: decode them.
#[inline]
pub fn plain(link_type: LinkType, data: &[u8]) -> Option<Plain> {
    const ETHERNET_HEADER: usize = 14;
    match link_type {
        LinkType::ETHERNET => match (data.get(12)?, data.get(13)?) {
            (0x08, 0x00) => v4(data.get(ETHERNET_HEADER..)?),
            (0x86, 0xdd) => v6(data.get(ETHERNET_HEADER..)?),
            _ => None,
        },
        LinkType::RAW_IP if data.first()? >> 4 == 4 => v4(data),
        LinkType::RAW_IP => v6(data),
        _ => None,
    }
}

#[inline]
fn v4(data: &[u8]) -> Option<Plain> {
    const HEADER: usize = 20;
    let header: &[u8; HEADER] = data.first_chunk()?;
    let [first, _, length_high, length_low, _, _, fragment_high, fragment_low, _, protocol, ..] = *header;
    let length = u16::from_be_bytes([length_high, length_low]);
    // RFC 791: neither "more fragments" nor an offset; "don't fragment" says nothing.
    let is_fragment = fragment_high & 0x3f != 0 || fragment_low != 0;
    if first != 0x45 || is_fragment || usize::from(length) > data.len() {
        return None;
    }
    let transport = data.get(HEADER..usize::from(length))?;
    Some(Plain(word(header, 12)?, 0, 0, 0, ends(4, protocol, transport)?))
}

#[inline]
fn v6(data: &[u8]) -> Option<Plain> {
    const HEADER: usize = 40;
    let header: &[u8; HEADER] = data.first_chunk()?;
    let [first, _, _, _, length_high, length_low, protocol, ..] = *header;
    let length = usize::from(u16::from_be_bytes([length_high, length_low]));
    if first >> 4 != 6 {
        return None;
    }
    let transport = data.get(HEADER..HEADER + length)?;
    let ends = ends(6, protocol, transport)?;
    Some(Plain(word(header, 8)?, word(header, 16)?, word(header, 24)?, word(header, 32)?, ends))
}

/// IP version, protocol and both ports in one word.
#[inline]
fn ends(version: u64, protocol: u8, transport: &[u8]) -> Option<u64> {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    const SYN_OR_RST: u8 = 0x06;
    let ports = u32::from_ne_bytes(*transport.first_chunk()?);
    let is_plain = match protocol {
        TCP => transport.get(13)? & SYN_OR_RST == 0,
        UDP => true,
        _ => false,
    };
    is_plain.then_some(u64::from(ports) | u64::from(protocol) << 32 | version << 40)
}

#[inline]
fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}
