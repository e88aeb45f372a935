//! Gives a packet other addresses, and makes its checksums right again.
//!
//! The rules:
//! - **Networks.** IPv4 and IPv6 source and destination, and the protocol addresses of ARP for IPv4, behind any tags. What a packet
//!   holds beyond its headers stays: a quoted packet in an ICMP error, an address in a DNS answer, FTP's PORT.
//! - **Checksums** are computed anew: the IPv4 header's, TCP, UDP, ICMPv6; those that the sender had left to its network card come
//!   right by that. UDP's 0 over IPv4 ("none") stays.
//! - **Fragments and cut packets** do not hold what a checksum is made of. It is changed by the difference of the addresses
//!   (RFC 1624), and is as right as it was. So is that of UDP-Lite and DCCP.
//! - An IPv6 routing header that is not at its end names another last destination. Then the destination does not count.

use std::net::IpAddr;

use etherparse::IpNumber;
use etherparse::checksum::Sum16BitWords;

use super::{network, u16_at};
use crate::model::LinkType;

const ETHER_TYPE_IPV4: u16 = 0x0800;
const ETHER_TYPE_ARP: u16 = 0x0806;
const ETHER_TYPE_IPV6: u16 = 0x86dd;

const UDP_LITE: IpNumber = IpNumber(136);

/// An IP network: all addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// The network that `address` is in; none if the prefix is longer than an address.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        (prefix <= bits(address)).then_some(Self { address, prefix })
    }

    /// This address alone.
    pub const fn host(address: IpAddr) -> Self {
        Self { address, prefix: bits(address) }
    }

    /// Whether its addresses are of IPv4.
    pub const fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    fn contains(&self, address: &[u8]) -> bool {
        let mut own = [0; 16];
        let own = octets(self.address, &mut own);
        own.len() == address.len()
            && own.iter().zip(address).enumerate().all(|(at, (one, other))| {
                let mask = mask(self.prefix, at);
                one & mask == other & mask
            })
    }

    /// Replaces the first bits of an address of the same family.
    fn put_into(&self, address: &mut [u8]) {
        let mut own = [0; 16];
        for (at, (byte, own)) in address.iter_mut().zip(octets(self.address, &mut own)).enumerate() {
            let mask = mask(self.prefix, at);
            *byte = own & mask | *byte & !mask;
        }
    }
}

const fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn octets(address: IpAddr, buffer: &mut [u8; 16]) -> &[u8] {
    match address {
        IpAddr::V4(v4) => {
            buffer[..4].copy_from_slice(&v4.octets());
            &buffer[..4]
        }
        IpAddr::V6(v6) => {
            *buffer = v6.octets();
            &buffer[..]
        }
    }
}

/// The bits of byte `at` that belong to a prefix.
fn mask(prefix: u8, at: usize) -> u8 {
    let bits = usize::from(prefix).saturating_sub(at * 8).min(8);
    !(0xff_u16 >> bits) as u8
}

/// What is to be changed. Nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The Ethernet address of the sender.
    pub source_mac: Option<[u8; 6]>,
    /// The Ethernet address of the receiver, groups included.
    pub destination_mac: Option<[u8; 6]>,
    /// An address in the first network gets the first bits of the second; the first pair that fits counts. Both are of the same
    /// family.
    pub networks: Vec<(Network, Network)>,
    /// Whether to make all checksums right, also ICMP's, and where no address was changed.
    pub fix_checksums: bool,
}

impl Rewrite {
    /// Changes a packet, of which all bytes from the link header on that were captured are there.
    pub fn apply(&self, link_type: LinkType, data: &mut [u8]) {
        if link_type == LinkType::ETHERNET {
            for (at, mac) in [(0, self.destination_mac), (6, self.source_mac)] {
                if let (Some(mac), Some(place)) = (mac, data.get_mut(at..at + 6)) {
                    place.copy_from_slice(&mac);
                }
            }
        }
        if self.networks.is_empty() && !self.fix_checksums {
            return;
        }
        let Some((ether_type, offset)) = network(link_type, data) else { return };
        let Some(data) = data.get_mut(offset..) else { return };
        // What is damaged or cut too soon stays as it is.
        let _ = match ether_type {
            ETHER_TYPE_IPV4 => self.ipv4(data),
            ETHER_TYPE_IPV6 => self.ipv6(data),
            ETHER_TYPE_ARP => self.arp(data),
            _ => None,
        };
    }

    fn arp(&self, data: &mut [u8]) -> Option<()> {
        // Ethernet addresses for IPv4 ones: RFC 826.
        const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
        if data.get(..6)? == ETHERNET_IPV4 {
            self.map(data.get_mut(14..18)?);
            self.map(data.get_mut(24..28)?);
        }
        Some(())
    }

    fn ipv4(&self, data: &mut [u8]) -> Option<()> {
        let header_length = usize::from(data.first()? & 0x0f) * 4;
        if header_length < 20 || data.len() < header_length {
            return None;
        }
        let change = self.addresses(data.get_mut(12..20)?, 4);
        if !change.is_any && !self.fix_checksums {
            return None;
        }
        data[10..12].fill(0);
        let sum = Sum16BitWords::new().add_slice(&data[..header_length]).ones_complement();
        data[10..12].copy_from_slice(&sum.to_ne_bytes());

        // 0: a segment that the network card was to cut.
        let total = match usize::from(u16_at(data, 2)?) {
            0 => data.len(),
            total => total,
        };
        let fragment = u16_at(data, 6)? & 0x3fff;
        let (is_first, is_whole) = (fragment & 0x1fff == 0, fragment == 0 && total <= data.len());
        let mut transport = Transport {
            protocol: IpNumber(data[9]),
            start: header_length,
            length: total.checked_sub(header_length)?,
        };
        if is_first && transport.protocol == IpNumber::AUTHENTICATION_HEADER {
            transport.step_over(data, |length| (usize::from(length) + 2) * 4)?;
        }
        if is_first { self.transport(data, transport, is_whole, &change) } else { None }
    }

    fn ipv6(&self, data: &mut [u8]) -> Option<()> {
        let mut change = self.addresses(data.get_mut(8..40)?, 16);
        if !change.is_any && !self.fix_checksums {
            return None;
        }
        // 0: a jumbogram, or a segment that was to be cut.
        let length = match usize::from(u16_at(data, 4)?) {
            0 => data.len() - 40,
            length => length,
        };
        let mut is_whole = 40 + length <= data.len();
        let mut transport = Transport { protocol: IpNumber(data[6]), start: 40, length };
        // Ends because each header costs eight bytes at least.
        loop {
            match transport.protocol {
                IpNumber::IPV6_FRAGMENTATION_HEADER => {
                    let fragment = u16_at(data, transport.start + 2)?;
                    if fragment & 0xfff8 != 0 {
                        return None;
                    }
                    is_whole &= fragment & 1 == 0;
                    transport.step_over(data, |_| 8)?;
                }
                IpNumber::AUTHENTICATION_HEADER => {
                    transport.step_over(data, |length| (usize::from(length) + 2) * 4)?;
                }
                // Hop-by-hop, routing, destination, mobility, HIP, shim6.
                IpNumber(0 | 43 | 60 | 135 | 139 | 140) => {
                    let segments_left = *data.get(transport.start + 3)?;
                    if transport.protocol == IpNumber(43) && segments_left > 0 {
                        change.without_destination();
                        is_whole = false;
                    }
                    transport.step_over(data, |length| (usize::from(length) + 1) * 8)?;
                }
                _ => return self.transport(data, transport, is_whole, &change),
            }
        }
    }

    /// Maps source and destination, which stand one behind the other.
    fn addresses(&self, both: &mut [u8], length: usize) -> Change {
        let mut before = [0; 32];
        let before = &mut before[..2 * length];
        before.copy_from_slice(both);
        let (source, destination) = both.split_at_mut(length);
        self.map(source);
        self.map(destination);
        Change::new(before, both)
    }

    fn map(&self, address: &mut [u8]) {
        if let Some((_, to)) = self.networks.iter().find(|(from, _)| from.contains(address)) {
            to.put_into(address);
        }
    }

    /// Makes the checksum of the transport header right, or as right as it was.
    fn transport(&self, data: &mut [u8], of: Transport, is_whole: bool, change: &Change) -> Option<()> {
        let Transport { protocol, start, length } = of;
        let (ip_header, payload) = data.split_at_mut_checked(start)?;
        let (place, is_whole) = match protocol {
            IpNumber::TCP => (16, is_whole),
            IpNumber::UDP => (6, is_whole),
            IpNumber::IPV6_ICMP => (2, is_whole),
            UDP_LITE | IpNumber::DCCP => (6, false),
            // Knows nothing of addresses.
            IpNumber::ICMP if self.fix_checksums && is_whole => (2, true),
            _ => return None,
        };
        let old: [u8; 2] = *payload.get(place..)?.first_chunk()?;
        if protocol == IpNumber::UDP && old == [0, 0] {
            return None;
        }
        let sum = if is_whole {
            // What UDP calls its length may be less than what IP has room for.
            let udp_length = || u16_at(payload, 4).map(usize::from).filter(|udp| (8..=length).contains(udp));
            let length = if protocol == IpNumber::UDP { udp_length()? } else { length };
            let payload = payload.get_mut(..length)?;
            // IP may say that there is less than the header that has it.
            payload.get_mut(place..place + 2)?.fill(0);
            pseudo_header(ip_header, protocol, length).add_slice(payload)
        } else {
            Sum16BitWords::new().add_2bytes(old.map(|byte| !byte)).add_slice(&change.difference)
        };
        let checksum = match protocol {
            IpNumber::UDP | UDP_LITE => sum.to_ones_complement_with_no_zero(),
            _ => sum.ones_complement(),
        };
        payload[place..place + 2].copy_from_slice(&checksum.to_ne_bytes());
        Some(())
    }
}

/// What is summed besides the transport packet itself; nothing for ICMP.
fn pseudo_header(ip_header: &[u8], protocol: IpNumber, length: usize) -> Sum16BitWords {
    let addresses = match ip_header.first().map(|byte| byte >> 4) {
        _ if protocol == IpNumber::ICMP => return Sum16BitWords::new(),
        Some(4) => ip_header.get(12..20),
        _ => ip_header.get(8..40),
    };
    Sum16BitWords::new()
        .add_slice(addresses.unwrap_or_default())
        .add_4bytes((length as u32).to_be_bytes())
        .add_2bytes([0, protocol.0])
}

/// Where the transport header is, and how much IP says that there is from there on.
struct Transport {
    protocol: IpNumber,
    start: usize,
    length: usize,
}

impl Transport {
    /// Steps over a header that begins with the number of the next one and a length of its own.
    fn step_over(&mut self, data: &[u8], bytes: impl Fn(u8) -> usize) -> Option<()> {
        let bytes = bytes(*data.get(self.start + 1)?);
        self.protocol = IpNumber(*data.get(self.start)?);
        self.start += bytes;
        self.length = self.length.checked_sub(bytes)?;
        Some(())
    }
}

/// How the addresses of a packet were changed.
struct Change {
    is_any: bool,
    /// The old ones inverted, then the new ones: what a checksum is changed by. Zeros change nothing.
    difference: [u8; 64],
    length: usize,
}

impl Change {
    /// From source and destination before and after; each pair is 8 or 32 bytes.
    fn new(before: &[u8], after: &[u8]) -> Self {
        let (is_any, length) = (before != after, after.len());
        let mut change = Self { is_any, difference: [0; 64], length };
        if is_any {
            for (to, byte) in
                change.difference.iter_mut().zip(before.iter().map(|byte| !byte).chain(after.iter().copied()))
            {
                *to = byte;
            }
        }
        change
    }

    fn without_destination(&mut self) {
        let Self { difference, length, .. } = self;
        let half = *length / 2;
        difference[half..*length].fill(0);
        difference[*length + half..2 * *length].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use etherparse::{PacketBuilder, SlicedPacket};

    use super::*;

    const A: [u8; 4] = [10, 0, 0, 1];
    const B: [u8; 4] = [10, 0, 7, 2];

    fn network_of(text: &str, prefix: u8) -> Network {
        Network::new(text.parse().unwrap(), prefix).unwrap()
    }

    fn nat(from: (&str, u8), to: (&str, u8)) -> Rewrite {
        let networks = vec![(network_of(from.0, from.1), network_of(to.0, to.1))];
        Rewrite { networks, ..Rewrite::default() }
    }

    fn udp(payload: &[u8]) -> Vec<u8> {
        udp_between(A, B, payload)
    }

    /// As its author would make it.
    fn udp_between(source: [u8; 4], destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let builder = builder.ipv4(source, destination, 64).udp(1000, 53);
        let mut packet = vec![0; builder.size(payload.len())];
        builder.write_to_slice(&mut packet, payload).unwrap();
        packet
    }

    fn tcp6(payload: &[u8]) -> Vec<u8> {
        let [one, other] = [1, 2].map(|host| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host).octets());
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let builder = builder.ipv6(one, other, 64).tcp(1000, 80, 7, 100);
        let mut packet = vec![0; builder.size(payload.len())];
        builder.write_to_slice(&mut packet, payload).unwrap();
        packet
    }

    #[test]
    fn a_packet_between_other_addresses_is_as_if_it_had_been_made_so() {
        let rewrite = nat(("10.0.0.0", 16), ("192.168.0.0", 16));
        for payload in [&b"an odd count"[..11], b"even"] {
            let mut packet = udp(payload);
            rewrite.apply(LinkType::ETHERNET, &mut packet);
            assert_eq!(packet, udp_between([192, 168, 0, 1], [192, 168, 7, 2], payload));
        }
    }

    /// Found by the fuzz target `packet`.
    #[test]
    fn an_ip_header_that_states_any_length_does_not_make_it_panic() {
        let rewrite = Rewrite { fix_checksums: true, ..nat(("0.0.0.0", 0), ("1.2.3.4", 32)) };
        for (whole, place) in [(udp(b"payload"), 16), (tcp6(b"payload"), 18)] {
            for stated in 0..=whole.len() as u16 {
                let mut packet = whole.clone();
                packet[place..place + 2].copy_from_slice(&stated.to_be_bytes());
                rewrite.apply(LinkType::ETHERNET, &mut packet);
                assert_eq!(packet.len(), whole.len());
            }
        }
    }

    #[test]
    fn a_network_of_one_address_takes_all_and_others_stay() {
        let mut packet = udp(b"");
        nat(("10.0.0.0", 24), ("1.2.3.4", 32)).apply(LinkType::ETHERNET, &mut packet);
        assert_eq!(packet, udp_between([1, 2, 3, 4], B, b""));
        let before = packet.clone();
        nat(("172.16.0.0", 12), ("1.1.1.1", 32)).apply(LinkType::ETHERNET, &mut packet);
        nat(("fd00::", 8), ("fd01::", 16)).apply(LinkType::ETHERNET, &mut packet);
        assert_eq!(packet, before);
    }

    #[test]
    fn tcp_over_ipv6_behind_tags_and_extension_headers() {
        let rewrite = nat(("fd00::", 64), ("fd99:1::", 64));
        let mut plain = tcp6(b"hello");
        // An 802.1Q tag, and a destination header of eight bytes.
        let mut extended = plain.clone();
        extended[18..20].copy_from_slice(&33_u16.to_be_bytes());
        extended[20] = 60;
        extended.splice(54..54, [6, 0, 1, 4, 0, 0, 0, 0]);
        extended.splice(12..12, [0x81, 0x00, 0, 5]);
        rewrite.apply(LinkType::ETHERNET, &mut plain);
        rewrite.apply(LinkType::ETHERNET, &mut extended);
        let sliced = SlicedPacket::from_ethernet(&plain).unwrap();
        let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("{sliced:?}") };
        let Some(etherparse::NetSlice::Ipv6(ip)) = sliced.net else { panic!("{:?}", sliced.net) };
        assert_eq!(ip.header().source_addr(), Ipv6Addr::new(0xfd99, 1, 0, 0, 0, 0, 0, 1));
        assert_eq!(
            tcp.checksum(),
            tcp.to_header()
                .calc_checksum_ipv6_raw(ip.header().source(), ip.header().destination(), b"hello")
                .unwrap()
        );
        assert_eq!(extended[extended.len() - 25..], plain[plain.len() - 25..], "the same TCP packet");
    }

    #[test]
    fn what_the_network_card_was_to_sum_is_summed() {
        let whole = udp(b"data");
        let mut partial = whole.clone();
        partial[40..42].copy_from_slice(&[0x12, 0x34]);
        Rewrite { fix_checksums: true, ..Rewrite::default() }.apply(LinkType::ETHERNET, &mut partial);
        assert_eq!(partial, whole);
    }

    #[test]
    fn a_cut_packet_and_a_fragment_are_as_right_as_they_were() {
        let rewrite = nat(("10.0.0.0", 8), ("172.16.5.0", 24));
        let expected = udp_between([172, 16, 5, 1], [172, 16, 5, 2], b"some data");
        let mut cut = udp(b"some data");
        cut.truncate(45);
        rewrite.apply(LinkType::ETHERNET, &mut cut);
        assert_eq!(cut, expected[..45]);

        // The first fragment of more: its checksum is of all of them.
        let mut first = udp(b"some data");
        first[20] |= 0x20;
        rewrite.apply(LinkType::ETHERNET, &mut first);
        assert_eq!(first[34..], expected[34..]);
        // A later one has no header.
        let mut later = udp(b"some data");
        later[21] = 1;
        rewrite.apply(LinkType::ETHERNET, &mut later);
        assert_eq!(later[34..], udp(b"some data")[34..]);
    }

    #[test]
    fn no_checksum_stays_none() {
        let mut packet = udp(b"data");
        packet[40..42].fill(0);
        let mut rewrite = nat(("10.0.0.0", 8), ("11.0.0.0", 8));
        rewrite.fix_checksums = true;
        rewrite.apply(LinkType::ETHERNET, &mut packet);
        assert_eq!(packet[40..42], [0, 0]);
    }

    #[test]
    fn icmp_is_right_again_if_that_is_asked_for() {
        let builder = PacketBuilder::ipv4(A, B, 64).icmpv4_echo_request(1, 2);
        let mut whole = vec![0; builder.size(4)];
        builder.write_to_slice(&mut whole, b"ping").unwrap();
        let mut damaged = whole.clone();
        damaged[22] ^= 0xff;
        let mut left = damaged.clone();
        nat(("1.0.0.0", 8), ("2.0.0.0", 8)).apply(LinkType::RAW_IP, &mut left);
        assert_eq!(left, damaged);
        Rewrite { fix_checksums: true, ..Rewrite::default() }.apply(LinkType::RAW_IP, &mut damaged);
        assert_eq!(damaged, whole);
    }

    #[test]
    fn arp_asks_for_the_new_address() {
        let mut packet = vec![0xff; 6];
        packet.extend([2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1]);
        packet.extend(A);
        packet.extend([0; 6]);
        packet.extend(B);
        let mac = [2, 0, 0, 0, 0, 9];
        let rewrite = Rewrite { destination_mac: Some(mac), ..nat(("10.0.0.0", 16), ("10.9.0.0", 16)) };
        rewrite.apply(LinkType::ETHERNET, &mut packet);
        assert_eq!(packet[..6], mac);
        assert_eq!(packet[28..32], [10, 9, 0, 1]);
        assert_eq!(packet[38..42], [10, 9, 7, 2]);
    }

    #[test]
    fn a_source_routed_packet_counts_its_source_only() {
        let mut packet = tcp6(b"");
        let checksum =
            |packet: &[u8]| u16::from_be_bytes([packet[packet.len() - 4], packet[packet.len() - 3]]);
        // A routing header of eight bytes with one segment left.
        packet[18..20].copy_from_slice(&28_u16.to_be_bytes());
        packet[20] = 43;
        packet.splice(54..54, [6, 0, 0, 1, 0, 0, 0, 0]);
        let before = checksum(&packet);
        nat(("fd00::2", 128), ("fd00::99", 128)).apply(LinkType::ETHERNET, &mut packet);
        assert_eq!(checksum(&packet), before);
        nat(("fd00::1", 128), ("fd00::99", 128)).apply(LinkType::ETHERNET, &mut packet);
        assert_eq!(checksum(&packet), before - 0x98);
    }

    #[test]
    fn no_cut_and_no_garbage_makes_it_fall() {
        let mut rewrite = nat(("0.0.0.0", 0), ("10.0.0.0", 8));
        rewrite.networks.push((network_of("::", 0), network_of("fd00::", 8)));
        rewrite.fix_checksums = true;
        for whole in [udp(b"data"), tcp6(b"data")] {
            for length in 0..whole.len() {
                for at in 0..length {
                    let mut cut = whole[..length].to_vec();
                    cut[at] ^= 0xff;
                    for link_type in [0, 1, 101, 113, 276, 999] {
                        rewrite.apply(LinkType(link_type), &mut cut);
                        assert_eq!(cut.len(), length);
                    }
                }
            }
        }
    }

    #[test]
    fn a_prefix_is_no_longer_than_its_address() {
        assert_eq!(Network::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 33), None);
        assert!(Network::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 128).is_some());
        assert_eq!((mask(12, 0), mask(12, 1), mask(12, 2)), (0xff, 0xf0, 0));
    }
}
