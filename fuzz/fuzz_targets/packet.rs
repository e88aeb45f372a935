//! The bytes of a packet, behind a byte that chooses the link type and one that chooses what is changed: decoded, filtered, its
//! names read, its addresses changed. Or the packets of a capture, so that there is something to begin with.
#![no_main]

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use recorder::decode::{self, Decoded, Network, Rewrite, pktap};
use recorder::model::{Direction, InterfaceId, LinkType, Packet, RealTime, Reception};
use recorder::pcapng::Reader;
use recorder::source::PacketFilter;
use recorder::source::pktap::Queue;

/// All that are understood, and one that is not.
const LINK_TYPES: [u16; 12] = [1, 101, 276, 113, 0, 108, 12, 228, 229, 258, 149, 147];
/// Looks at every header.
const FILTER: &str =
    "tcp port 80 or udp[8:2] = 1 or ip6 proto 17 or vlan 5 or icmp6 or (ip[0] & 15 > 5 and greater 100)";

thread_local! {
    static FILTERS: RefCell<PacketFilter> = RefCell::new(PacketFilter::new(FILTER).expect("it is one"));
}

/// Of a capture.
const MOST_PACKETS: usize = 30;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(mut reader) = Reader::new(bytes) {
        for change in 0..MOST_PACKETS {
            let Ok(Some(record)) = reader.next_packet() else { break };
            check(record.interface.link_type, record.packet.data, change as u8);
        }
    } else if let Some((&[link_type, change], data)) = bytes.split_first_chunk() {
        check(LinkType(LINK_TYPES[usize::from(link_type) % LINK_TYPES.len()]), data, change);
    }
});

fn check(link_type: LinkType, data: &[u8], change: u8) {
    let decoded = decode::packet(link_type, data);
    let plain = decode::plain(link_type, data);
    if let Decoded::Ip(packet) = decoded {
        decode::answers(&packet, data);
        decode::segment(&packet, data);
        assert!(packet.span.of(data).len() <= data.len());
    }
    assert!(plain.is_none() || matches!(decoded, Decoded::Ip(_)), "a plain packet is an IP packet");
    FILTERS.with_borrow_mut(|filter| filter.passes(&packet(data), link_type));
    rewrite(link_type, data, change);
    queue(data);
}

fn packet(data: &[u8]) -> Packet<'_> {
    Packet {
        interface: InterfaceId(0),
        time: RealTime::from_ns(1),
        direction: Direction::Unknown,
        reception: Reception::Unknown,
        original_length: data.len() as u32,
        data,
    }
}

/// Other addresses make no other packet; and where nothing is to be changed, nothing is.
fn rewrite(link_type: LinkType, data: &[u8], change: u8) {
    let v4 = |last, prefix| Network::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), prefix);
    let v6 =
        |last, prefix| Network::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)), prefix);
    let pairs = [(v4(0, 0), v4(7, 32)), (v6(0, 0), v6(7, 128))];
    let networks = pairs.into_iter().filter_map(|(from, to)| Some((from?, to?))).collect();
    let rewrite = Rewrite {
        source_mac: (change & 1 != 0).then_some([2; 6]),
        destination_mac: (change & 2 != 0).then_some([4; 6]),
        networks: if change & 4 != 0 { networks } else { Vec::new() },
        fix_checksums: change & 8 != 0,
    };
    let mut changed = data.to_vec();
    rewrite.apply(link_type, &mut changed);
    assert!(change & 15 != 0 || changed == data);
    if let (Decoded::Ip(before), Decoded::Ip(after)) =
        (decode::packet(link_type, data), decode::packet(link_type, &changed))
    {
        assert_eq!((before.flow.protocol, before.ip_length), (after.flow.protocol, after.ip_length));
        assert_eq!(
            (before.flow.local.port, before.flow.remote.port),
            (after.flow.local.port, after.flow.remote.port)
        );
    } else {
        assert_eq!(decode::packet(link_type, data), decode::packet(link_type, &changed));
    }
    // What is right stays.
    let once = changed.clone();
    rewrite.apply(link_type, &mut changed);
    assert!(changed == once, "the same change twice is the change");
}

/// As a Mac hands it over.
fn queue(data: &[u8]) {
    if let Ok(header) = pktap::header(data) {
        assert!(header.length <= data.len());
    }
    let mut queue = Queue::new(None, 96);
    queue.push(RealTime::from_ns(1), data, data.len() as u32);
    if let Some(told) = queue.next(RealTime::from_ns(2)) {
        assert!(told.arrival.packet.data.len() <= 96);
    }
}
