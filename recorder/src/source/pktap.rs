//! Packets as macOS hands them over, each behind a PKTAP header: taken apart, filtered, and kept until they are asked for.
//!
//! Nothing here touches a device: bytes go in and packets come out, so that on any system it is tested with what a Mac would give.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use super::{Arrival, InterfaceOrigin, PacketFilter};
use crate::decode::pktap;
use crate::model::{
    Direction, Interface, InterfaceCounts, InterfaceId, LinkType, Packet, RealTime, Reception,
};

/// More than a PKTAP header has, so that the snap length is one of the packet behind it.
pub const HEADER_ROOM: u32 = 1024;

/// The process that macOS names for a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Named {
    /// The process id.
    pub pid: u32,
    /// The name, at most 16 bytes; empty where the kernel did not know it any more.
    pub name: Vec<u8>,
    /// The UUID of the executable, where it is known.
    pub uuid: Option<[u8; 16]>,
}

impl Named {
    /// The same as the header has it.
    pub fn borrowed(&self) -> pktap::ProcessName<'_> {
        pktap::ProcessName { pid: self.pid, name: &self.name, uuid: self.uuid }
    }
}

/// A packet, with its interfaces, and the process whose socket it is, if macOS knows one.
#[derive(Clone, Debug)]
pub struct Told<'a> {
    /// The packet without its PKTAP header.
    pub arrival: Arrival<'a>,
    /// The process.
    pub process: Option<Named>,
}

/// What came in and was not taken yet.
#[derive(Debug)]
pub struct Queue {
    filter: Option<PacketFilter>,
    expression: Option<String>,
    snap_length: u32,
    interfaces: Vec<Interface>,
    origins: Vec<InterfaceOrigin>,
    /// One interface for each name and inner link type.
    known: HashMap<(String, LinkType), InterfaceId>,
    counts: Vec<InterfaceCounts>,
    waiting: VecDeque<Waiting>,
    /// The bytes of those that wait, one behind the other.
    bytes: Vec<u8>,
    damaged: u64,
}

#[derive(Debug)]
struct Waiting {
    interface: InterfaceId,
    time: RealTime,
    direction: Direction,
    original_length: u32,
    bytes: Range<usize>,
    process: Option<Named>,
}

impl Queue {
    /// For packets that pass this filter (a libpcap expression that is compiled already, and its text), kept up to this length.
    pub fn new(filter: Option<(PacketFilter, String)>, snap_length: u32) -> Self {
        let (filter, expression) = filter.unzip();
        Self {
            filter,
            expression,
            snap_length,
            interfaces: Vec::new(),
            origins: Vec::new(),
            known: HashMap::new(),
            counts: Vec::new(),
            waiting: VecDeque::new(),
            bytes: Vec::new(),
            damaged: 0,
        }
    }

    /// Takes in what was captured: a PKTAP header and a packet. `original_length` is that of both.
    ///
    /// What does not pass the filter is left out; what has no header that makes sense is counted as damaged.
    pub fn push(&mut self, time: RealTime, captured: &[u8], original_length: u32) {
        let Ok(header) = pktap::header(captured) else {
            self.damaged += 1;
            return;
        };
        let data = captured.get(header.length..).unwrap_or_default();
        let on_the_wire = original_length.saturating_sub(header.length as u32).max(data.len() as u32);
        let whole = Packet {
            interface: InterfaceId(0),
            time,
            direction: header.direction,
            reception: Reception::Unknown,
            original_length: on_the_wire,
            data,
        };
        if self.filter.as_mut().is_some_and(|filter| !filter.passes(&whole, header.link_type)) {
            return;
        }
        let interface = self.interface(header.interface, header.link_type);
        if let Some(counts) = self.counts.get_mut(interface.0 as usize) {
            counts.received += 1;
        }
        let data = data.get(..self.snap_length as usize).unwrap_or(data);
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(data);
        self.waiting.push_back(Waiting {
            interface,
            time,
            direction: header.direction,
            original_length: on_the_wire,
            bytes: begin..self.bytes.len(),
            process: header.process.map(|process| Named {
                pid: process.pid,
                name: process.name.to_vec(),
                uuid: process.uuid,
            }),
        });
    }

    fn interface(&mut self, name: &str, link_type: LinkType) -> InterfaceId {
        if let Some(known) = self.known.get(&(name.to_owned(), link_type)) {
            return *known;
        }
        let id = InterfaceId(self.interfaces.len() as u32);
        self.interfaces.push(Interface {
            name: name.to_owned(),
            description: None,
            link_type,
            mac: None,
            snap_length: self.snap_length,
            filter: self.expression.clone(),
        });
        self.origins.push(InterfaceOrigin { ifindex: 0, is_loopback: name.starts_with("lo") });
        self.counts.push(InterfaceCounts::default());
        self.known.insert((name.to_owned(), link_type), id);
        id
    }

    /// The oldest packet, if it is not later than `deadline`.
    pub fn next(&mut self, deadline: RealTime) -> Option<Told<'_>> {
        let Some(oldest) = self.waiting.front() else {
            // Nothing borrows the bytes of those that were taken any more.
            self.bytes.clear();
            return None;
        };
        if oldest.time > deadline {
            return None;
        }
        let Waiting { interface, time, direction, original_length, bytes, process } =
            self.waiting.pop_front()?;
        let data = self.bytes.get(bytes).unwrap_or_default();
        let packet =
            Packet { interface, time, direction, reception: Reception::Unknown, original_length, data };
        let arrival = Arrival { packet, interfaces: &self.interfaces, origins: &self.origins };
        Some(Told { arrival, process })
    }

    /// The time of the oldest packet.
    pub fn next_time(&self) -> Option<RealTime> {
        self.waiting.front().map(|oldest| oldest.time)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The interfaces of the packets that came in so far.
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// What came in and passed the filter, by interface.
    pub fn counts(&self) -> &[InterfaceCounts] {
        &self.counts
    }

    /// Packets without a PKTAP header that makes sense.
    pub const fn damaged(&self) -> u64 {
        self.damaged
    }

    /// What the user should know of the filter.
    pub fn notes(&self) -> &[String] {
        self.filter.as_ref().map(PacketFilter::notes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETHERNET: u32 = 1;
    const NULL: u32 = 0;
    const ALWAYS: RealTime = RealTime::from_ns(u64::MAX);

    /// A header of version 1 (156 bytes), and a packet.
    fn captured(interface: &str, dlt: u32, flags: u32, pid: i32, name: &str, packet: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 156];
        bytes[0..4].copy_from_slice(&156_u32.to_le_bytes());
        bytes[4..8].copy_from_slice(&1_u32.to_le_bytes());
        bytes[8..12].copy_from_slice(&dlt.to_le_bytes());
        bytes[12..12 + interface.len()].copy_from_slice(interface.as_bytes());
        bytes[36..40].copy_from_slice(&flags.to_le_bytes());
        bytes[52..56].copy_from_slice(&pid.to_le_bytes());
        bytes[56..56 + name.len()].copy_from_slice(name.as_bytes());
        bytes[84..88].copy_from_slice(&(-1_i32).to_le_bytes());
        bytes.extend_from_slice(packet);
        bytes
    }

    /// UDP from 10.0.0.1:40000 to 10.0.0.2:53, without and with an Ethernet header, and as it is on lo0.
    fn packets() -> [Vec<u8>; 2] {
        let ip = [
            0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x9c, 0x40, 0, 53, 0, 8, 0, 0,
        ];
        [[&[2; 12][..], &[8, 0], &ip].concat(), [&[2, 0, 0, 0][..], &ip].concat()]
    }

    #[test]
    fn one_stream_becomes_interfaces_by_name_and_link_type() {
        let [ethernet, null] = packets();
        let mut queue = Queue::new(None, 262_144);
        for (second, bytes) in [
            captured("en0", ETHERNET, 2, 512, "curl", &ethernet),
            captured("lo0", NULL, 1, -1, "", &null),
            captured("en0", ETHERNET, 1, 513, "nginx", &ethernet),
            captured("en0", NULL, 1, 0, "", &null),
        ]
        .iter()
        .enumerate()
        {
            queue.push(RealTime::from_ns(second as u64), bytes, bytes.len() as u32);
        }
        let mut seen = Vec::new();
        while let Some(Told { arrival, process }) = queue.next(ALWAYS) {
            let Packet { interface, direction, data, original_length, .. } = arrival.packet;
            assert_eq!(original_length as usize, data.len());
            let Interface { name, link_type, .. } = &arrival.interfaces[interface.0 as usize];
            let process = process.map(|process| (process.pid, String::from_utf8(process.name).unwrap()));
            seen.push((name.clone(), link_type.0, direction, data.to_vec(), process));
        }
        let [curl, nginx] = [(512, "curl"), (513, "nginx")].map(|(pid, name)| Some((pid, name.to_owned())));
        assert_eq!(
            seen,
            [
                ("en0".to_owned(), 1, Direction::Outbound, ethernet.clone(), curl),
                ("lo0".to_owned(), 0, Direction::Inbound, null.clone(), None),
                ("en0".to_owned(), 1, Direction::Inbound, ethernet, nginx),
                ("en0".to_owned(), 0, Direction::Inbound, null, None),
            ]
        );
        assert_eq!(queue.counts().iter().map(|counts| counts.received).collect::<Vec<_>>(), [2, 1, 1]);
        assert!(queue.is_empty());
    }

    #[test]
    fn the_filter_is_that_of_the_packet_and_not_of_the_header() {
        let [ethernet, null] = packets();
        for (expression, passes) in [("udp port 53", 2), ("tcp", 0), ("ether src 02:02:02:02:02:02", 1)] {
            let filter = PacketFilter::new(expression).unwrap();
            let mut queue = Queue::new(Some((filter, expression.to_owned())), 262_144);
            for bytes in
                [captured("en0", ETHERNET, 2, 1, "a", &ethernet), captured("lo0", NULL, 2, 1, "a", &null)]
            {
                queue.push(RealTime::default(), &bytes, bytes.len() as u32);
            }
            let mut passed = 0;
            while let Some(told) = queue.next(ALWAYS) {
                passed += 1;
                assert_eq!(told.arrival.interfaces[0].filter.as_deref(), Some(expression));
            }
            assert_eq!(passed, passes, "{expression}");
        }
    }

    #[test]
    fn the_snap_length_is_that_of_the_packet() {
        let [ethernet, _] = packets();
        let mut queue = Queue::new(None, 20);
        let bytes = captured("en0", ETHERNET, 2, 1, "a", &ethernet);
        queue.push(RealTime::from_ns(5), &bytes, bytes.len() as u32 + 100);
        assert!(queue.next(RealTime::from_ns(4)).is_none(), "it is later");
        let packet = queue.next(RealTime::from_ns(5)).unwrap().arrival.packet;
        assert_eq!((packet.data, packet.original_length), (&ethernet[..20], 142));
    }

    #[test]
    fn what_is_no_header_is_counted_and_no_cut_makes_it_fall() {
        let [ethernet, _] = packets();
        let whole = captured("en0", ETHERNET, 2, 1, "a", &ethernet);
        let mut queue = Queue::new(None, 262_144);
        for length in 0..whole.len() {
            queue.push(RealTime::default(), &whole[..length], length as u32);
        }
        assert_eq!(queue.damaged(), 156);
        let mut taken = 0;
        while queue.next(ALWAYS).is_some() {
            taken += 1;
        }
        assert_eq!(taken, ethernet.len());
    }
}
