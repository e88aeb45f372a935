//! Reads the headers of one packet, as far as attribution and the reports need them: who talks to whom.
//!
//! Works on the bytes it is given and touches nothing else; never allocates, never panics. It runs once per
//! packet, so it reads exactly the headers it needs. Nothing in a packet is trusted: what is damaged or cut
//! is told as such, and no byte after the end that the IP header states is read (Ethernet pads short frames).
//!
//! The rules:
//! - **Link.** Ethernet with any stack of 802.1Q, 802.1ad and 0x9100 tags; raw IP; the cooked Linux headers
//!   (v1 and v2); BSD NULL and LOOP. Any other link type is [`Decoded::NotIp`], without an EtherType.
//! - **Tunnels are not opened.** IP in IP, GRE, ESP, PPPoE, MPLS, VXLAN: the outer headers tell whose socket
//!   it is.
//! - **IPv4** with options. A total length of 0 (the kernel's own over-long segments) means "all that was
//!   captured". A header that contradicts itself is `NotIp(Some(0x0800))`.
//! - **IPv6** with hop-by-hop, routing, destination, authentication, mobility, HIP, shim6 and fragment
//!   headers. A payload length of 0 (jumbograms) means "all that was captured". The destination is that of
//!   the fixed header.
//! - **Fragments.** The first one has ports, a later one has none: port 0 at both ends, [`Transport::Other`].
//!   `flow.protocol` tells the transport in both.
//! - **Ports.** TCP, UDP, UDP-Lite, SCTP; for an ICMP or ICMPv6 echo request or reply the identifier stands
//!   as the port of both ends; everything else has port 0.
//! - **Cut packets.** What was cut away is not guessed: no ports is port 0, no flags is [`Transport::Other`].

mod dns;
mod ip;
mod link;
pub mod pktap;
mod plain;
mod rewrite;
mod tcp;

use etherparse::{EtherType, Ethernet2HeaderSlice, SingleVlanHeaderSlice};

use crate::model::{Flow, LinkType};

pub use dns::{Named, answers};
pub use link::{ETHERNET_LENGTH, network};
pub use plain::{Plain, plain};
pub use rewrite::{Network, Rewrite};
pub use tcp::{Segment, segment};

/// What the headers of a packet tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// No IP packet, or one too damaged to tell who talks to whom. With the EtherType, where there is one.
    NotIp(Option<u16>),
    /// An IPv4 or IPv6 packet.
    Ip(IpPacket),
}

/// What the headers of an IP packet tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPacket {
    /// Who talks to whom, as the sender sees it: local is the source, remote the destination.
    pub flow: Flow,
    /// The transport header, as far as it is needed.
    pub transport: Transport,
    /// If this is a fragment, which one.
    pub fragment: Option<FragmentInfo>,
    /// The length of the IP packet in bytes, its own header included, as that header states it; what was
    /// captured of it where the header states 0.
    pub ip_length: u32,
    /// Whether the capture ends before the IP packet does.
    pub truncated: bool,
    /// Where in the packet the transport header and what follows it stand.
    pub span: Span,
}

/// Where the transport header and its payload stand in a packet, as far as they were captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Where they begin, in bytes before the end of the packet.
    from_end: u32,
    /// How many bytes they have, without the padding behind the IP packet.
    length: u32,
}

impl Span {
    /// Those bytes of `data`, which is the packet that was decoded.
    pub fn of(self, data: &[u8]) -> &[u8] {
        let begin = data.len().saturating_sub(self.from_end as usize);
        let bytes = data.get(begin..).unwrap_or_default();
        bytes.get(..self.length as usize).unwrap_or(bytes)
    }
}

/// What the transport header tells besides the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Transmission Control Protocol.
    Tcp {
        /// The flags of byte 13.
        flags: TcpFlags,
        /// Bytes of payload on the wire, not only those captured.
        payload_length: u32,
    },
    /// User Datagram Protocol.
    Udp,
    /// ICMP or ICMPv6; `flow.protocol` tells which.
    Icmp {
        /// The type, numbered per protocol.
        kind: u8,
        /// The code.
        code: u8,
        /// Whether it is an echo request or reply whose identifier stands as the port of both ends.
        echo: bool,
    },
    /// Any other protocol, a later fragment, or a header cut before what is told here.
    Other,
}

/// The flags of a TCP header, as byte 13 holds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const fn fin(self) -> bool {
        self.0 & 0x01 != 0
    }

    /// Opens the connection.
    pub const fn syn(self) -> bool {
        self.0 & 0x02 != 0
    }

    /// Resets the connection.
    pub const fn rst(self) -> bool {
        self.0 & 0x04 != 0
    }

    /// Hand the data over at once.
    pub const fn psh(self) -> bool {
        self.0 & 0x08 != 0
    }

    /// Acknowledges.
    pub const fn ack(self) -> bool {
        self.0 & 0x10 != 0
    }

    /// Urgent data.
    pub const fn urg(self) -> bool {
        self.0 & 0x20 != 0
    }
}

/// Which part of an IP packet a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentInfo {
    /// The number that all fragments of a packet share; 16 bits for IPv4.
    pub identification: u32,
    /// Where in the packet's payload it begins, in bytes.
    pub offset: u32,
    /// Whether more follow it.
    pub more: bool,
}

// Link types that only files of others hold. https://www.tcpdump.org/linktypes.html
const NULL: LinkType = LinkType(0);
/// BSD's number for bare IP, which some programs write into files.
const DLT_RAW: LinkType = LinkType(12);
const LOOP: LinkType = LinkType(108);
const LINUX_SLL: LinkType = LinkType(113);
const IPV4: LinkType = LinkType(228);
const IPV6: LinkType = LinkType(229);

const LINUX_SLL_LENGTH: usize = 16;
const LINUX_SLL2_LENGTH: usize = 20;

/// Reads the headers of one packet; `data` begins with the link header. The rules stand at the top of this
/// file.
#[inline]
pub fn packet(link_type: LinkType, data: &[u8]) -> Decoded {
    match link_type {
        LinkType::ETHERNET => ethernet(data),
        LinkType::RAW_IP | DLT_RAW | IPV4 | IPV6 => raw_ip(data),
        LinkType::LINUX_SLL2 => linux_sll2(data),
        LINUX_SLL => linux_sll(data),
        // NULL has the address family in the byte order of the machine that captured, LOOP in network order.
        NULL | LOOP => bsd_loopback(data),
        _ => Decoded::NotIp(None),
    }
}

#[inline]
fn ethernet(data: &[u8]) -> Decoded {
    let Ok(header) = Ethernet2HeaderSlice::from_slice(data) else {
        return Decoded::NotIp(None);
    };
    by_ether_type(header.ether_type(), &data[header.slice().len()..])
}

/// `data` is what follows the EtherType.
#[inline]
fn by_ether_type(ether_type: EtherType, data: &[u8]) -> Decoded {
    match ether_type {
        EtherType::IPV4 => ip::v4(data),
        EtherType::IPV6 => ip::v6(data),
        EtherType::VLAN_TAGGED_FRAME | EtherType::PROVIDER_BRIDGING | EtherType::VLAN_DOUBLE_TAGGED_FRAME => {
            tagged(ether_type, data)
        }
        // IEEE 802.3: below 0x0600 the field is the length of an LLC frame.
        EtherType(length) if length < 0x0600 => Decoded::NotIp(None),
        EtherType(other) => Decoded::NotIp(Some(other)),
    }
}

/// Walks a stack of VLAN tags; ends because each costs four bytes.
fn tagged(mut ether_type: EtherType, mut data: &[u8]) -> Decoded {
    while matches!(
        ether_type,
        EtherType::VLAN_TAGGED_FRAME | EtherType::PROVIDER_BRIDGING | EtherType::VLAN_DOUBLE_TAGGED_FRAME
    ) {
        let Ok(tag) = SingleVlanHeaderSlice::from_slice(data) else {
            return Decoded::NotIp(Some(ether_type.0));
        };
        ether_type = tag.ether_type();
        data = &data[tag.slice().len()..];
    }
    by_ether_type(ether_type, data)
}

fn raw_ip(data: &[u8]) -> Decoded {
    match data.first().map(|byte| byte >> 4) {
        Some(4) => ip::v4(data),
        Some(6) => ip::v6(data),
        _ => Decoded::NotIp(None),
    }
}

/// Bytes 0-1 hold the EtherType, 8-9 the kind of device. https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL2.html
fn linux_sll2(data: &[u8]) -> Decoded {
    let (Some(protocol), Some(device)) = (u16_at(data, 0), u16_at(data, 8)) else {
        return Decoded::NotIp(None);
    };
    cooked(device, protocol, data.get(LINUX_SLL2_LENGTH..))
}

/// Bytes 2-3 hold the kind of device, 14-15 the EtherType. https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL.html
fn linux_sll(data: &[u8]) -> Decoded {
    let (Some(device), Some(protocol)) = (u16_at(data, 2), u16_at(data, 14)) else {
        return Decoded::NotIp(None);
    };
    cooked(device, protocol, data.get(LINUX_SLL_LENGTH..))
}

fn cooked(device: u16, protocol: u16, payload: Option<&[u8]>) -> Decoded {
    // On these devices the field is no EtherType: a netlink family, nothing, and DLCI frames.
    const ARPHRD_FRAD: u16 = 770;
    const ARPHRD_IEEE80211_RADIOTAP: u16 = 803;
    const ARPHRD_NETLINK: u16 = 824;
    if matches!(device, ARPHRD_FRAD | ARPHRD_IEEE80211_RADIOTAP | ARPHRD_NETLINK) {
        return Decoded::NotIp(None);
    }
    by_ether_type(EtherType(protocol), payload.unwrap_or(&[]))
}

fn bsd_loopback(data: &[u8]) -> Decoded {
    let Some((family, payload)) = data.split_first_chunk::<4>() else {
        return Decoded::NotIp(None);
    };
    // Families are small numbers, so only one of the two byte orders gives a known one.
    let known = |family: u32| match family {
        2 => Some(4),
        // NetBSD and OpenBSD, FreeBSD, Darwin.
        24 | 28 | 30 => Some(6),
        _ => None,
    };
    match known(u32::from_le_bytes(*family)).or(known(u32::from_be_bytes(*family))) {
        Some(4) => ip::v4(payload),
        Some(6) => ip::v6(payload),
        _ => Decoded::NotIp(None),
    }
}

/// The big-endian number at `offset`, if it was captured.
#[inline]
fn u16_at(data: &[u8], offset: usize) -> Option<u16> {
    let bytes = data.get(offset..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests;
