//! Where the network header of a packet begins, and what it is.

use super::{IPV4, IPV6, LINUX_SLL, LINUX_SLL_LENGTH, LINUX_SLL2_LENGTH, LOOP, NULL, u16_at};
use crate::model::LinkType;

/// The length of an Ethernet header without tags.
pub const ETHERNET_LENGTH: usize = 14;

const ETHER_TYPE_IPV4: u16 = 0x0800;
const ETHER_TYPE_IPV6: u16 = 0x86dd;
/// 802.1Q, 802.1ad, and what came before it.
const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const TAG_LENGTH: usize = 4;
/// Below it the field is the length of an LLC frame (IEEE 802.3).
const LOWEST_ETHER_TYPE: u16 = 0x0600;

/// The EtherType behind all tags, and the offset of what it tells of; none where there is no EtherType, or it was cut away.
///
/// ```
/// use recorder::decode::network;
/// use recorder::model::LinkType;
///
/// let tagged = [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 2, 0x81, 0x00, 0, 5, 0x08, 0x00, 0x45];
/// assert_eq!(network(LinkType::ETHERNET, &tagged), Some((0x0800, 18)));
/// assert_eq!(network(LinkType::RAW_IP, &[0x60]), Some((0x86dd, 0)));
/// ```
pub fn network(link_type: LinkType, data: &[u8]) -> Option<(u16, usize)> {
    let (ether_type, offset) = match link_type {
        LinkType::ETHERNET => behind_tags(data, ETHERNET_LENGTH)?,
        LinkType::RAW_IP | IPV4 | IPV6 => (by_version(data, 0)?, 0),
        LinkType::LINUX_SLL2 => (u16_at(data, 0)?, LINUX_SLL2_LENGTH),
        LINUX_SLL => (u16_at(data, LINUX_SLL_LENGTH - 2)?, LINUX_SLL_LENGTH),
        // Behind the address family, whose numbers differ from system to system; the version says the same.
        NULL | LOOP => (by_version(data, 4)?, 4),
        _ => return None,
    };
    (ether_type >= LOWEST_ETHER_TYPE && data.len() >= offset).then_some((ether_type, offset))
}

/// Ends because each tag costs four bytes.
fn behind_tags(data: &[u8], mut offset: usize) -> Option<(u16, usize)> {
    loop {
        let ether_type = u16_at(data, offset - 2)?;
        if !TAGS.contains(&ether_type) {
            return Some((ether_type, offset));
        }
        offset += TAG_LENGTH;
    }
}

fn by_version(data: &[u8], offset: usize) -> Option<u16> {
    match data.get(offset)? >> 4 {
        4 => Some(ETHER_TYPE_IPV4),
        6 => Some(ETHER_TYPE_IPV6),
        _ => None,
    }
}
