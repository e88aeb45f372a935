//! A packet as it was captured, and the interface it was captured on.

use super::RealTime;

/// A link type as pcapng numbers it (the LINKTYPE registry of tcpdump.org).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkType(pub u16);

impl LinkType {
    /// Ethernet; also what Linux gives for the loopback interface.
    pub const ETHERNET: Self = Self(1);
    /// Bare IPv4 or IPv6, told apart by the version nibble: tun, WireGuard.
    pub const RAW_IP: Self = Self(101);
    /// The cooked header (20 bytes) for links whose own header has no link type.
    pub const LINUX_SLL2: Self = Self(276);
}

/// A network interface as the file describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// `eth0`
    pub name: String,
    /// What the user knows it by, if it has such a name (Linux: ifalias).
    pub description: Option<String>,
    /// How its packets begin.
    pub link_type: LinkType,
    /// Its Ethernet address, where it has one.
    pub mac: Option<[u8; 6]>,
    /// The most bytes kept of a packet.
    pub snap_length: u32,
    /// The capture filter, as the user wrote it.
    pub filter: Option<String>,
}

/// The position of an interface in the list of interfaces, in order of first appearance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceId(pub u32);

/// Which way a packet went past the interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// The source did not say.
    #[default]
    Unknown,
    /// Received by this host.
    Inbound,
    /// Sent by this host.
    Outbound,
}

/// To whom the link layer addressed a received packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reception {
    /// The source did not say.
    #[default]
    Unknown,
    /// To this host.
    Unicast,
    /// To a group.
    Multicast,
    /// To all.
    Broadcast,
    /// To another host: seen because the interface is promiscuous or a bridge port.
    Promiscuous,
}

/// One captured packet. The bytes are borrowed from wherever they lie (the mapped ring, a file buffer).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Where it was captured.
    pub interface: InterfaceId,
    /// When it was captured.
    pub time: RealTime,
    /// Which way it went.
    pub direction: Direction,
    /// To whom the link layer addressed it.
    pub reception: Reception,
    /// Its length on the wire in bytes; at least `data.len()`.
    pub original_length: u32,
    /// Its bytes from the link header on, cut to the snap length.
    pub data: &'a [u8],
}
