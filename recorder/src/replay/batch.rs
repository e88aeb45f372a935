//! Packets on their way from the file to the interface: as they are to be sent, many at a time.

use std::collections::BTreeMap;

use crate::decode::{ETHERNET_LENGTH, Rewrite, network};
use crate::model::{LinkType, Packet, RealTime};

// Bare IP of one version. https://www.tcpdump.org/linktypes.html
const IPV4: LinkType = LinkType(228);
const IPV6: LinkType = LinkType(229);
const NULL: LinkType = LinkType(0);
const LOOP: LinkType = LinkType(108);

/// What gathers before it is handed on.
const BYTES: usize = 256 << 10;
/// Room for the packet that is one too many, as long as most are.
const ROOM: usize = BYTES + (64 << 10);

/// Packets one behind the other.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    packets: Vec<Place>,
    /// Packets that cannot be brought into the form that the interface takes, by link type.
    unfit: BTreeMap<u16, u64>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    time: RealTime,
    end: usize,
    /// Whether the recording has only a part of it.
    is_cut: bool,
}

/// One packet as it is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared<'a> {
    /// When it was recorded.
    pub time: RealTime,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Whether the recording has only a part of it.
    pub is_cut: bool,
}

impl Batch {
    /// An empty one in the memory of this one: to take memory from the system costs more than to copy packets.
    pub fn emptied(mut self) -> Self {
        self.bytes.clear();
        self.packets.clear();
        self.unfit.clear();
        self
    }

    /// Whether it should be handed on.
    pub const fn is_full(&self) -> bool {
        self.bytes.len() >= BYTES
    }

    /// How much memory it takes, in bytes.
    pub const fn size(&self) -> usize {
        self.bytes.capacity() + self.packets.capacity() * size_of::<Place>()
    }

    /// How many packets the interface cannot take, by link type.
    pub const fn unfit(&self) -> &BTreeMap<u16, u64> {
        &self.unfit
    }

    /// The packets, in order.
    pub fn packets(&self) -> impl Iterator<Item = Prepared<'_>> {
        let mut begin = 0;
        self.packets.iter().map(move |place| {
            let bytes = self.bytes.get(begin..place.end).unwrap_or_default();
            begin = place.end;
            Prepared { time: place.time, bytes, is_cut: place.is_cut }
        })
    }

    fn push(&mut self, packet: &Packet<'_>, parts: [&[u8]; 2]) -> &mut [u8] {
        let begin = self.bytes.len();
        if self.bytes.capacity() == 0 {
            self.bytes.reserve(ROOM);
        }
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        let is_cut = (packet.original_length as usize) > packet.data.len();
        self.packets.push(Place { time: packet.time, end: self.bytes.len(), is_cut });
        &mut self.bytes[begin..]
    }
}

/// What makes packets fit an interface.
#[derive(Clone, Debug)]
pub struct Shaper {
    /// What the interface takes: Ethernet or bare IP.
    link_type: LinkType,
    /// Its own address, which a new Ethernet header gets unless another one was asked for.
    own_mac: Option<[u8; 6]>,
    rewrite: Rewrite,
}

impl Shaper {
    /// For an interface that takes `link_type` (Ethernet or bare IP) and has this Ethernet address.
    pub const fn new(link_type: LinkType, own_mac: Option<[u8; 6]>, rewrite: Rewrite) -> Self {
        Self { link_type, own_mac, rewrite }
    }

    /// Adds a packet of this link type to a batch. What cannot be brought into the form that the interface takes is counted there.
    pub fn add(&self, packet: &Packet<'_>, link_type: LinkType, batch: &mut Batch) {
        if self.shape(packet, link_type, batch).is_none() {
            *batch.unfit.entry(link_type.0).or_default() += 1;
        }
    }

    fn shape(&self, packet: &Packet<'_>, link_type: LinkType, batch: &mut Batch) -> Option<()> {
        let bytes = match (self.link_type, link_type) {
            (LinkType::ETHERNET, LinkType::ETHERNET) => batch.push(packet, [packet.data, &[]]),
            (LinkType::ETHERNET, _) => {
                let (header, payload) = self.framed(packet.data, link_type)?;
                batch.push(packet, [&header, payload])
            }
            (_, LinkType::RAW_IP | IPV4 | IPV6 | NULL | LOOP) => {
                let (_, offset) = network(link_type, packet.data)?;
                batch.push(packet, [&packet.data[offset..], &[]])
            }
            _ => return None,
        };
        self.rewrite.apply(self.link_type, bytes);
        Some(())
    }

    /// A new Ethernet header, and what comes behind it.
    fn framed<'a>(&self, data: &'a [u8], link_type: LinkType) -> Option<([u8; ETHERNET_LENGTH], &'a [u8])> {
        let (ether_type, offset) = network(link_type, data)?;
        let mut header = [0; ETHERNET_LENGTH];
        header[..6].copy_from_slice(&self.rewrite.destination_mac?);
        header[6..12].copy_from_slice(&self.rewrite.source_mac.or(self.own_mac).unwrap_or_default());
        header[12..].copy_from_slice(&ether_type.to_be_bytes());
        Some((header, data.get(offset..)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Direction, InterfaceId, Reception};

    const IP: [u8; 20] = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];

    fn packet(data: &[u8]) -> Packet<'_> {
        Packet {
            interface: InterfaceId(0),
            time: RealTime::from_ns(7),
            direction: Direction::Unknown,
            reception: Reception::Unknown,
            original_length: 100,
            data,
        }
    }

    fn sent(to: LinkType, rewrite: &Rewrite, data: &[u8], link_type: LinkType) -> Option<Vec<u8>> {
        let mut batch = Batch::default();
        let shaper = Shaper::new(to, Some([2, 0, 0, 0, 0, 9]), rewrite.clone());
        shaper.add(&packet(data), link_type, &mut batch);
        let sent = batch.packets().next().map(|packet| packet.bytes.to_vec());
        assert_eq!(batch.unfit().get(&link_type.0).copied(), sent.is_none().then_some(1));
        sent
    }

    fn cooked() -> Vec<u8> {
        [&[0, 0, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0][..], &IP].concat()
    }

    #[test]
    fn what_fits_goes_as_it_is() {
        let none = Rewrite::default();
        let ethernet = [&[0xff; 12][..], &[8, 0], &IP].concat();
        assert_eq!(sent(LinkType::ETHERNET, &none, &ethernet, LinkType::ETHERNET), Some(ethernet.clone()));
        assert_eq!(sent(LinkType::RAW_IP, &none, &IP, LinkType::RAW_IP).as_deref(), Some(&IP[..]));
        let null = [&[2, 0, 0, 0][..], &IP].concat();
        assert_eq!(sent(LinkType::RAW_IP, &none, &null, NULL).as_deref(), Some(&IP[..]));
    }

    #[test]
    fn bare_ip_needs_to_be_told_the_receiver_on_ethernet() {
        let mut rewrite = Rewrite::default();
        for (data, link_type) in [(IP.to_vec(), LinkType::RAW_IP), (cooked(), LinkType(113))] {
            assert_eq!(sent(LinkType::ETHERNET, &Rewrite::default(), &data, link_type), None);
            rewrite.destination_mac = Some([1, 2, 3, 4, 5, 6]);
            let expected = [&[1, 2, 3, 4, 5, 6, 2, 0, 0, 0, 0, 9, 8, 0][..], &IP].concat();
            assert_eq!(sent(LinkType::ETHERNET, &rewrite, &data, link_type), Some(expected));
        }
    }

    #[test]
    fn what_fits_in_no_way_is_refused() {
        let rewrite = Rewrite { destination_mac: Some([0; 6]), ..Rewrite::default() };
        let ethernet = [&[0xff; 12][..], &[8, 0], &IP].concat();
        assert_eq!(sent(LinkType::RAW_IP, &rewrite, &ethernet, LinkType::ETHERNET), None);
        assert_eq!(sent(LinkType::ETHERNET, &rewrite, &IP, LinkType(105)), None);
        assert_eq!(sent(LinkType::RAW_IP, &rewrite, &[], LinkType::RAW_IP), None);
    }

    #[test]
    fn packets_come_out_one_by_one() {
        let mut batch = Batch::default();
        let shaper = Shaper::new(LinkType::RAW_IP, None, Rewrite::default());
        for length in [20, 1, 20] {
            shaper.add(&packet(&IP[..length]), LinkType::RAW_IP, &mut batch);
        }
        let lengths: Vec<_> = batch.packets().map(|packet| (packet.bytes.len(), packet.is_cut)).collect();
        assert_eq!(lengths, [(20, true), (1, true), (20, true)]);
    }
}
