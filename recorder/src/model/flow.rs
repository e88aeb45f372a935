//! Who talks to whom: the key by which packets and sockets meet.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// An IP protocol number, as IANA assigns them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// Internet Control Message Protocol.
    pub const ICMP: Self = Self(1);
    /// Transmission Control Protocol.
    pub const TCP: Self = Self(6);
    /// User Datagram Protocol.
    pub const UDP: Self = Self(17);
    /// Internet Control Message Protocol for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// Stream Control Transmission Protocol.
    pub const SCTP: Self = Self(132);
    /// Lightweight User Datagram Protocol.
    pub const UDP_LITE: Self = Self(136);
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ICMP => f.write_str("ICMP"),
            Self::TCP => f.write_str("TCP"),
            Self::UDP => f.write_str("UDP"),
            Self::ICMPV6 => f.write_str("ICMPv6"),
            Self::SCTP => f.write_str("SCTP"),
            Self::UDP_LITE => f.write_str("UDP-Lite"),
            Self(number) => write!(f, "IP protocol {number}"),
        }
    }
}

/// One end of a flow. IPv4 addresses stand in their mapped form (::ffff:a.b.c.d), so that a dual-stack
/// socket and the IPv4 packet it sends have the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// The address, in network byte order.
    pub address: [u8; 16],
    /// The port, in host order; the identifier for ICMP echo; 0 for protocols without ports.
    pub port: u16,
}

impl Endpoint {
    /// An endpoint from an address of either family.
    pub fn new(address: IpAddr, port: u16) -> Self {
        let address = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        Self { address: address.octets(), port }
    }

    /// The address, IPv4 where it is one.
    pub fn ip(self) -> IpAddr {
        Ipv6Addr::from(self.address).to_canonical()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.ip(), self.port).fmt(f)
    }
}

/// A flow as one of its ends sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// The transport.
    pub protocol: Protocol,
    /// This end.
    pub local: Endpoint,
    /// The other end.
    pub remote: Endpoint,
}

impl Flow {
    /// The same flow as the other end sees it.
    pub const fn reversed(self) -> Self {
        Self { protocol: self.protocol, local: self.remote, remote: self.local }
    }
}

/// Once per packet and end, so in one piece: derived, it would feed the hasher seven.
impl Hash for Flow {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut bytes = [0; 40];
        bytes[..16].copy_from_slice(&self.local.address);
        bytes[16..32].copy_from_slice(&self.remote.address);
        bytes[32..34].copy_from_slice(&self.local.port.to_ne_bytes());
        bytes[34..36].copy_from_slice(&self.remote.port.to_ne_bytes());
        bytes[36] = self.protocol.0;
        state.write(&bytes);
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.protocol, self.local, self.remote)
    }
}
