use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;
use crate::model::{Endpoint, Protocol};

const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const A6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const B6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// From 40000 to 443, SYN and ACK set, 20 bytes of header.
const TCP: [u8; 20] = [0x9c, 0x40, 0x01, 0xbb, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x12, 0xff, 0xff, 0, 0, 0, 0];
/// From 5353 to 53, 4 bytes of payload.
const UDP: [u8; 12] = [0x14, 0xe9, 0x00, 0x35, 0x00, 0x0c, 0x00, 0x00, 1, 2, 3, 4];
/// An echo request with identifier 0x1234.
const ECHO: [u8; 8] = [8, 0, 0, 0, 0x12, 0x34, 0, 1];

fn ethernet_frame(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    frame
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0xab, 0xcd, 0x40, 0x00, 64, protocol, 0, 0]);
    packet.extend(A.octets());
    packet.extend(B.octets());
    packet.extend(payload);
    packet
}

fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next_header, 64]);
    packet.extend(A6.octets());
    packet.extend(B6.octets());
    packet.extend(payload);
    packet
}

fn flow(protocol: Protocol, local: (impl Into<IpAddr>, u16), remote: (impl Into<IpAddr>, u16)) -> Flow {
    Flow {
        protocol,
        local: Endpoint::new(local.0.into(), local.1),
        remote: Endpoint::new(remote.0.into(), remote.1),
    }
}

fn ip(decoded: Decoded) -> IpPacket {
    match decoded {
        Decoded::Ip(packet) => packet,
        Decoded::NotIp(ether_type) => panic!("not IP: {ether_type:x?}"),
    }
}

#[test]
fn tcp_over_ipv4_over_ethernet_gives_the_senders_flow_and_the_flags() {
    let packet = ip(packet(LinkType::ETHERNET, &ethernet_frame(0x0800, &ipv4(6, &TCP))));

    assert_eq!(packet.flow, flow(Protocol::TCP, (A, 40000), (B, 443)));
    assert_eq!(packet.transport, Transport::Tcp { flags: TcpFlags(0x12), payload_length: 0 });
    assert_eq!(packet.fragment, None);
    assert_eq!(packet.ip_length, 40);
    assert!(!packet.truncated);
}

#[test]
fn each_tcp_flag_has_its_bit() {
    let set = |flags: TcpFlags| {
        [flags.fin(), flags.syn(), flags.rst(), flags.psh(), flags.ack(), flags.urg()].map(u8::from)
    };
    for bit in 0..6 {
        let mut expected = [0; 6];
        expected[bit] = 1;
        assert_eq!(set(TcpFlags(1 << bit)), expected);
    }
}

#[test]
fn ethernet_padding_is_no_payload() {
    let mut frame = ethernet_frame(0x0800, &ipv4(17, &UDP[..8]));
    frame.resize(60, 0xee);
    let tcp = ip(packet(LinkType::ETHERNET, &frame));
    assert_eq!((tcp.ip_length, tcp.truncated), (28, false));

    // An IP packet without any payload: the padding must not be read as ports.
    let mut frame = ethernet_frame(0x0800, &ipv4(17, &[]));
    frame.resize(60, 0xee);
    let udp = ip(packet(LinkType::ETHERNET, &frame));
    assert_eq!(udp.flow, flow(Protocol::UDP, (A, 0), (B, 0)));
    assert_eq!(udp.transport, Transport::Other);
}

#[test]
fn a_stack_of_vlan_tags_is_walked() {
    let mut tagged = vec![0x00, 0x05, 0x81, 0x00, 0x00, 0x07, 0x08, 0x00];
    tagged.extend(ipv4(17, &UDP));
    let packet = ip(packet(LinkType::ETHERNET, &ethernet_frame(0x88a8, &tagged)));
    assert_eq!(packet.flow, flow(Protocol::UDP, (A, 5353), (B, 53)));
    assert_eq!(packet.transport, Transport::Udp);
}

#[test]
fn a_cut_vlan_tag_is_not_ip() {
    assert_eq!(packet(LinkType::ETHERNET, &ethernet_frame(0x8100, &[0, 5])), Decoded::NotIp(Some(0x8100)));
}

#[test]
fn what_is_not_ip_tells_its_ethertype() {
    assert_eq!(packet(LinkType::ETHERNET, &ethernet_frame(0x0806, &[0; 28])), Decoded::NotIp(Some(0x0806)));
    assert_eq!(
        packet(LinkType::ETHERNET, &ethernet_frame(0x0026, &[0; 38])),
        Decoded::NotIp(None),
        "LLC has a length there"
    );
    assert_eq!(packet(LinkType::ETHERNET, &[0; 13]), Decoded::NotIp(None));
    assert_eq!(packet(LinkType(195), &[0; 60]), Decoded::NotIp(None));
}

#[test]
fn raw_ip_is_told_apart_by_its_version() {
    assert_eq!(ip(packet(LinkType::RAW_IP, &ipv4(17, &UDP))).flow, flow(Protocol::UDP, (A, 5353), (B, 53)));
    assert_eq!(ip(packet(LinkType::RAW_IP, &ipv6(17, &UDP))).flow, flow(Protocol::UDP, (A6, 5353), (B6, 53)));
    assert_eq!(ip(packet(DLT_RAW, &ipv4(17, &UDP))).flow, flow(Protocol::UDP, (A, 5353), (B, 53)));
    assert_eq!(packet(LinkType::RAW_IP, &[0x55; 40]), Decoded::NotIp(None));
    assert_eq!(packet(LinkType::RAW_IP, &[]), Decoded::NotIp(None));
}

#[test]
fn both_cooked_headers_are_read() {
    let mut sll2 = vec![0x08, 0x00, 0, 0, 0, 0, 0, 2, 0, 1, 0, 6, 2, 0, 0, 0, 0, 2, 0, 0];
    sll2.extend(ipv4(17, &UDP));
    let mut sll = vec![0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 2, 0, 0, 0x08, 0x00];
    sll.extend(ipv4(17, &UDP));

    let expected = flow(Protocol::UDP, (A, 5353), (B, 53));
    assert_eq!(ip(packet(LinkType::LINUX_SLL2, &sll2)).flow, expected);
    assert_eq!(ip(packet(LinkType(113), &sll)).flow, expected);

    // Netlink: the protocol field is a netlink family, and 0x0800 would be no EtherType.
    sll2[8..10].copy_from_slice(&824_u16.to_be_bytes());
    assert_eq!(packet(LinkType::LINUX_SLL2, &sll2), Decoded::NotIp(None));
    assert_eq!(packet(LinkType::LINUX_SLL2, &sll2[..9]), Decoded::NotIp(None));
}

#[test]
fn bsd_loopback_is_read_in_both_byte_orders() {
    for (link, family) in
        [(0, [2, 0, 0, 0]), (0, [0, 0, 0, 2]), (108, [0, 0, 0, 2]), (0, [30, 0, 0, 0]), (0, [0, 0, 0, 28])]
    {
        let is_v4 = family.contains(&2);
        let mut data = family.to_vec();
        data.extend(if is_v4 { ipv4(17, &UDP) } else { ipv6(17, &UDP) });
        assert_eq!(ip(packet(LinkType(link), &data)).flow.local.port, 5353, "{link} {family:?}");
    }
    assert_eq!(packet(LinkType(0), &[9, 0, 0, 0, 0x45]), Decoded::NotIp(None));
}

#[test]
fn ipv4_options_are_stepped_over() {
    let mut data = ipv4(17, &[]);
    data[0] = 0x46;
    data[2..4].copy_from_slice(&(24 + 12_u16).to_be_bytes());
    data.extend([0x94, 0x04, 0, 0]);
    data.extend(UDP);
    assert_eq!(ip(packet(LinkType::RAW_IP, &data)).flow, flow(Protocol::UDP, (A, 5353), (B, 53)));
}

#[test]
fn an_ipv4_header_that_contradicts_itself_is_not_ip() {
    let good = ipv4(6, &TCP);
    let mut short_header = good.clone();
    short_header[0] = 0x44;
    let mut short_total = good.clone();
    short_total[2..4].copy_from_slice(&19_u16.to_be_bytes());
    let mut wrong_version = ethernet_frame(0x0800, &good);
    wrong_version[14] = 0x65;

    assert_eq!(packet(LinkType::RAW_IP, &short_header), Decoded::NotIp(Some(0x0800)));
    assert_eq!(packet(LinkType::RAW_IP, &short_total), Decoded::NotIp(Some(0x0800)));
    assert_eq!(packet(LinkType::ETHERNET, &wrong_version), Decoded::NotIp(Some(0x0800)));
}

#[test]
fn a_length_of_zero_means_all_that_was_captured() {
    let mut v4 = ipv4(6, &[&TCP[..], &[0; 100]].concat());
    v4[2..4].fill(0);
    let mut v6 = ipv6(6, &[&TCP[..], &[0; 100]].concat());
    v6[4..6].fill(0);
    for data in [v4, v6] {
        let packet = ip(packet(LinkType::RAW_IP, &data));
        assert_eq!(packet.transport, Transport::Tcp { flags: TcpFlags(0x12), payload_length: 100 });
        assert_eq!((packet.ip_length as usize, packet.truncated), (data.len(), false));
    }
}

#[test]
fn the_echo_identifier_stands_as_port_of_both_ends() {
    let v4 = ip(packet(LinkType::RAW_IP, &ipv4(1, &ECHO)));
    assert_eq!(v4.flow, flow(Protocol::ICMP, (A, 0x1234), (B, 0x1234)));
    assert_eq!(v4.transport, Transport::Icmp { kind: 8, code: 0, echo: true });

    for kind in [128, 129] {
        let v6 = ip(packet(LinkType::RAW_IP, &ipv6(58, &[kind, 0, 0, 0, 0x12, 0x34, 0, 1])));
        assert_eq!(v6.flow, flow(Protocol::ICMPV6, (A6, 0x1234), (B6, 0x1234)));
        assert_eq!(v6.transport, Transport::Icmp { kind, code: 0, echo: true });
    }
}

#[test]
fn icmp_that_is_no_echo_has_no_port() {
    let unreachable = ip(packet(LinkType::RAW_IP, &ipv4(1, &[3, 3, 0, 0, 0x12, 0x34, 0, 1])));
    assert_eq!(unreachable.flow, flow(Protocol::ICMP, (A, 0), (B, 0)));
    assert_eq!(unreachable.transport, Transport::Icmp { kind: 3, code: 3, echo: false });

    // Type 8 is an echo in ICMP only, type 128 in ICMPv6 only.
    assert_eq!(ip(packet(LinkType::RAW_IP, &ipv6(58, &ECHO))).flow.local.port, 0);
    assert_eq!(ip(packet(LinkType::RAW_IP, &ipv4(1, &[128, 0, 0, 0, 1, 2, 0, 1]))).flow.local.port, 0);
}

#[test]
fn sctp_and_udp_lite_have_ports() {
    for number in [132, 136] {
        let packet = ip(packet(LinkType::RAW_IP, &ipv4(number, &UDP)));
        assert_eq!(packet.flow, flow(Protocol(number), (A, 5353), (B, 53)));
        assert_eq!(packet.transport, Transport::Other);
    }
}

#[test]
fn an_unknown_protocol_has_its_number_and_no_ports() {
    let packet = ip(packet(LinkType::RAW_IP, &ipv4(47, &[0x14, 0xe9, 0, 0x35])));
    assert_eq!(packet.flow, flow(Protocol(47), (A, 0), (B, 0)));
    assert_eq!(packet.transport, Transport::Other);
}

#[test]
fn the_first_ipv4_fragment_has_ports_and_a_later_one_has_none() {
    let mut first = ipv4(17, &UDP);
    first[6..8].copy_from_slice(&0x2000_u16.to_be_bytes());
    let mut later = ipv4(17, &UDP);
    later[6..8].copy_from_slice(&185_u16.to_be_bytes());

    let first = ip(packet(LinkType::RAW_IP, &first));
    assert_eq!(first.flow, flow(Protocol::UDP, (A, 5353), (B, 53)));
    assert_eq!(first.fragment, Some(FragmentInfo { identification: 0xabcd, offset: 0, more: true }));
    let later = ip(packet(LinkType::RAW_IP, &later));
    assert_eq!(later.flow, flow(Protocol::UDP, (A, 0), (B, 0)));
    assert_eq!(later.transport, Transport::Other);
    assert_eq!(later.fragment, Some(FragmentInfo { identification: 0xabcd, offset: 1480, more: false }));
}

#[test]
fn ipv6_extension_headers_are_stepped_over() {
    // Hop-by-hop, routing, destination options; then authentication; then UDP.
    let mut payload = vec![43, 0, 1, 4, 0, 0, 0, 0];
    payload.extend([60, 0, 4, 0, 0, 0, 0, 0]);
    payload.extend([51, 0, 1, 4, 0, 0, 0, 0]);
    payload.extend([17, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
    payload.extend(UDP);
    let packet = ip(packet(LinkType::RAW_IP, &ipv6(0, &payload)));
    assert_eq!(packet.flow, flow(Protocol::UDP, (A6, 5353), (B6, 53)));
    assert_eq!(packet.ip_length, 40 + 24 + 12 + 12);
}

#[test]
fn ipv6_fragments_follow_the_same_rule() {
    let fragment = |offset_and_more: u16| {
        let mut payload = vec![17, 0];
        payload.extend(offset_and_more.to_be_bytes());
        payload.extend([0xde, 0xad, 0xbe, 0xef]);
        payload.extend(UDP);
        ip(packet(LinkType::RAW_IP, &ipv6(44, &payload)))
    };
    let first = fragment(0x0001);
    assert_eq!(first.flow, flow(Protocol::UDP, (A6, 5353), (B6, 53)));
    assert_eq!(first.fragment, Some(FragmentInfo { identification: 0xdead_beef, offset: 0, more: true }));
    let later = fragment(185 << 3);
    assert_eq!(later.flow, flow(Protocol::UDP, (A6, 0), (B6, 0)));
    assert_eq!(later.fragment, Some(FragmentInfo { identification: 0xdead_beef, offset: 1480, more: false }));
    let atomic = fragment(0);
    assert_eq!(atomic.fragment, None, "RFC 6946: a whole packet");
    assert_eq!(atomic.flow.local.port, 5353);
}

#[test]
fn a_cut_extension_header_leaves_a_flow_without_ports() {
    let data = ipv6(0, &[17, 0, 1, 4, 0, 0, 0, 0, 0x14, 0xe9, 0, 0x35]);
    let packet = ip(packet(LinkType::RAW_IP, &data[..44]));
    assert_eq!(packet.flow, flow(Protocol(0), (A6, 0), (B6, 0)));
    assert!(packet.truncated);
}

#[test]
fn a_packet_cut_anywhere_tells_what_is_left_and_never_panics() {
    let mut extended = vec![17, 0, 1, 4, 0, 0, 0, 0];
    extended.extend(UDP);
    let frames = [
        ethernet_frame(0x0800, &ipv4(6, &TCP)),
        ethernet_frame(0x0800, &ipv4(1, &ECHO)),
        ethernet_frame(0x86dd, &ipv6(0, &extended)),
        ethernet_frame(0x8100, &[&[0, 1, 0x08, 0x00][..], &ipv4(17, &UDP)].concat()),
    ];
    for frame in &frames {
        let whole = ip(packet(LinkType::ETHERNET, frame));
        for length in 0..frame.len() {
            for link in [0, 1, 101, 108, 113, 228, 276] {
                packet(LinkType(link), &frame[..length]);
            }
            if let Decoded::Ip(cut) = packet(LinkType::ETHERNET, &frame[..length]) {
                assert!(cut.truncated);
                assert_eq!(cut.ip_length, whole.ip_length);
                assert!(cut.flow.local.port == 0 || cut.flow == whole.flow);
            }
        }
    }
}

#[test]
fn a_snap_cut_segment_keeps_its_length_on_the_wire() {
    let data = ipv4(6, &[&TCP[..], &[7; 1000]].concat());
    let cut = ip(packet(LinkType::RAW_IP, &data[..60]));
    assert_eq!(cut.transport, Transport::Tcp { flags: TcpFlags(0x12), payload_length: 1000 });
    assert!(cut.truncated);
}

#[test]
fn a_tcp_header_cut_before_its_flags_keeps_the_ports() {
    let data = ipv4(6, &TCP);
    let cut = ip(packet(LinkType::RAW_IP, &data[..33]));
    assert_eq!(cut.flow, flow(Protocol::TCP, (A, 40000), (B, 443)));
    assert_eq!(cut.transport, Transport::Other);
}

// ---- Packets that are told apart without decoding them ----

/// `frame` with its bytes at `at` replaced.
fn with(frame: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

#[test]
fn packets_of_one_flow_are_the_same_whatever_they_carry() {
    let ack = with(&TCP, 13, &[0x10]);
    for (ether_type, [small, large]) in [
        (0x0800, [ipv4(6, &ack), ipv4(6, &[&ack[..], &[9; 50]].concat())]),
        (0x86dd, [ipv6(6, &ack), ipv6(6, &[&ack[..], &[9; 50]].concat())]),
        (0x0800, [ipv4(17, &UDP), ipv4(17, &[&UDP[..], &[9; 50]].concat())]),
    ] {
        let on_ethernet = plain(LinkType::ETHERNET, &ethernet_frame(ether_type, &small));
        assert!(on_ethernet.is_some());
        assert_eq!(on_ethernet, plain(LinkType::ETHERNET, &ethernet_frame(ether_type, &large)));
        assert_eq!(on_ethernet, plain(LinkType::RAW_IP, &small), "the link header says nothing of the flow");
    }
}

#[test]
fn whatever_makes_another_flow_makes_another_packet() {
    let frame = ipv4(17, &UDP);
    let same = plain(LinkType::RAW_IP, &frame).unwrap();
    let lengthened = ipv6(17, &UDP);
    let same_v6 = plain(LinkType::RAW_IP, &lengthened).unwrap();
    for at in 12..24 {
        assert_ne!(plain(LinkType::RAW_IP, &with(&frame, at, &[0x77])), Some(same), "byte {at}");
    }
    for at in 8..44 {
        assert_ne!(plain(LinkType::RAW_IP, &with(&lengthened, at, &[0x77])), Some(same_v6), "byte {at}");
    }
    let tcp = ipv4(6, &with(&with(&TCP, 13, &[0x10]), 0, &UDP[..4]));
    assert_ne!(plain(LinkType::RAW_IP, &tcp), Some(same), "the same ports in TCP");
}

#[test]
fn what_needs_decoding_is_not_plain() {
    let (tcp, udp) = (ipv4(6, &with(&TCP, 13, &[0x10])), ipv4(17, &UDP));
    assert!(plain(LinkType::RAW_IP, &tcp).is_some() && plain(LinkType::RAW_IP, &udp).is_some());
    let decoded_only = [
        ("SYN", with(&tcp, 33, &[0x02])),
        ("RST", with(&tcp, 33, &[0x14])),
        ("first fragment", with(&udp, 6, &[0x20])),
        ("later fragment", with(&udp, 7, &[185])),
        ("options", with(&udp, 0, &[0x46])),
        ("ICMP", ipv4(1, &ECHO)),
        ("extension header", ipv6(0, &[&[17, 0, 1, 4, 0, 0, 0, 0][..], &UDP].concat())),
        ("cut", udp[..23].to_vec()),
        ("a length of 0", with(&udp, 2, &[0, 0])),
        ("a length beyond the end", with(&udp, 2, &[0xff, 0xff])),
    ];
    for (what, data) in &decoded_only {
        assert_eq!(plain(LinkType::RAW_IP, data), None, "{what}");
    }
    assert_eq!(plain(LinkType::ETHERNET, &ethernet_frame(0x8100, &udp)), None, "a VLAN tag");
    for length in 0..20 {
        assert_eq!(plain(LinkType::RAW_IP, &udp[..length]), None);
        assert_eq!(plain(LinkType::ETHERNET, &ethernet_frame(0x0800, &udp)[..length]), None);
    }
    assert_eq!(plain(LinkType::LINUX_SLL2, &udp), None);
}
