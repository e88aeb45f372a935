//! Frames made by hand: packets that no socket of an IP stack sent.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use crate::options::Options;
use crate::sys;
use crate::truth::{Truth, write_line};

const PAYLOAD: &[u8] = b"from nobody here";
const IP_LENGTH: u16 = 20;
const UDP_LENGTH: u16 = 8;
const TCP_LENGTH: u16 = 20;
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];
/// A tag of IEEE 802.1Q with VLAN 0: only a priority, so that a kernel without VLANs takes the packet too.
const PRIORITY_TAG: [u8; 4] = [0x81, 0x00, 0x60, 0x00];

/// Sends UDP datagrams with the given addresses through an AF_PACKET socket.
pub(crate) fn raw_udp(options: &Options) {
    let (interface, to_mac) = (interface(options), mac(options.required("--mac")));
    let from = options.address("--from").expect("--from is missing");
    let to = options.address("--to").expect("--to is missing");
    let frame = frame(to_mac, &[&IPV4], &udp_packet(from, to));
    let socket = sys::packet_socket();
    for _ in 0..options.number("--count").unwrap_or(1) {
        sys::send_frame(&socket, interface, &frame);
    }
}

/// Asks by hand who has an address (ARP), as DHCP clients and duplicate address detection do.
pub(crate) fn raw_arp(options: &Options) {
    let (from, to) = (v4(options.required("--from")), v4(options.required("--to")));
    let own_mac = mac(options.required("--own-mac"));
    let mut request = vec![0, 1, 8, 0, 6, 4, 0, 1];
    request.extend_from_slice(&own_mac);
    request.extend_from_slice(&from.octets());
    request.extend_from_slice(&[0; 6]);
    request.extend_from_slice(&to.octets());
    let frame = frame([0xff; 6], &[&ARP], &request);
    let socket = sys::packet_socket();
    for _ in 0..options.number("--count").unwrap_or(1) {
        sys::send_frame(&socket, interface(options), &frame);
    }
}

/// A UDP client whose datagrams leave in tagged frames, and whose answers come to its UDP socket.
pub(crate) fn tagged_client(options: &Options) {
    let truth = Truth::begin("client", "udp");
    let socket = std::net::UdpSocket::bind(options.address("--bind").expect("--bind is missing"));
    let socket = socket.expect("cannot bind");
    socket.connect(options.peer()).expect("cannot connect");
    let local = socket.local_addr().expect("a bound socket has an address");
    let tagged = [&PRIORITY_TAG[..], &IPV4[..]];
    let frame = frame(mac(options.required("--mac")), &tagged, &udp_packet(local, options.peer()));
    let packet_socket = sys::packet_socket();
    for _ in 0..options.number("--datagrams").unwrap_or(1) {
        sys::send_frame(&packet_socket, interface(options), &frame);
        socket.recv(&mut [0; 64]).expect("cannot receive");
    }
    drop(socket);
    truth.end(options.log(), local, Some(options.peer()));
}

/// `--flows` packets, each of a flow of its own from 10.99.0.0/16, `--rate` a second: every other one a SYN to
/// `--tcp-to`, and a datagram to `--udp-to`. Prints how fast it was.
pub(crate) fn flow_storm(options: &Options) {
    const BATCHES_PER_SECOND: u64 = 200;
    let (interface, to_mac) = (interface(options), mac(options.required("--mac")));
    let tcp_to = options.address("--tcp-to").expect("--tcp-to is missing");
    let udp_to = options.address("--udp-to").expect("--udp-to is missing");
    let (flows, rate) =
        (options.number("--flows").unwrap_or(1000), options.number("--rate").unwrap_or(50_000));
    let socket = sys::packet_socket();
    let begin = Instant::now();
    for flow in 0..flows {
        if flow % (rate / BATCHES_PER_SECOND).max(1) == 0 {
            let due = begin + Duration::from_nanos(flow * 1_000_000_000 / rate);
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let [_, _, high, low] = ((flow / 30_000) as u32).to_be_bytes();
        let from = SocketAddr::from((Ipv4Addr::new(10, 99, high, low), 30_000 + (flow % 30_000) as u16));
        let packet = if flow % 2 == 0 { syn_packet(from, tcp_to) } else { udp_packet(from, udp_to) };
        sys::send_frame(&socket, interface, &frame(to_mac, &[&IPV4], &packet));
    }
    let rate = flows as f64 / begin.elapsed().as_secs_f64();
    write_line(None, &format!("{{\"flows\":{flows},\"flows_per_second\":{rate:.0}}}\n"));
}

fn interface(options: &Options) -> i32 {
    sys::interface_index(options.required("--interface"))
}

fn frame(to_mac: [u8; 6], types: &[&[u8]], content: &[u8]) -> Vec<u8> {
    [&to_mac[..], &OWN_MAC[..], &types.concat(), content].concat()
}

fn udp_packet(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend_from_slice(&ip_header(ip(from), ip(to), 17, UDP_LENGTH + PAYLOAD.len() as u16));
    packet.extend_from_slice(&from.port().to_be_bytes());
    packet.extend_from_slice(&to.port().to_be_bytes());
    packet.extend_from_slice(&(UDP_LENGTH + PAYLOAD.len() as u16).to_be_bytes());
    // RFC 768: "An all zero transmitted checksum value means that the transmitter generated no checksum".
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(PAYLOAD);
    packet
}

fn syn_packet(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    const SYN: u8 = 2;
    let mut header = Vec::new();
    header.extend_from_slice(&from.port().to_be_bytes());
    header.extend_from_slice(&to.port().to_be_bytes());
    // Sequence and acknowledgement number, length in words, flags, window, checksum, urgent pointer.
    header.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0x50, SYN, 0xff, 0xff, 0, 0, 0, 0]);
    let addresses = [ip(from).octets(), ip(to).octets()].concat();
    let pseudo = [&addresses[..], &[0, 6], &TCP_LENGTH.to_be_bytes(), &header].concat();
    header[16..18].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    [&ip_header(ip(from), ip(to), 6, TCP_LENGTH)[..], &header].concat()
}

fn ip_header(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, content: u16) -> [u8; IP_LENGTH as usize] {
    let mut header = [0; IP_LENGTH as usize];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&(IP_LENGTH + content).to_be_bytes());
    header[8] = 64;
    header[9] = protocol;
    header[12..16].copy_from_slice(&from.octets());
    header[16..20].copy_from_slice(&to.octets());
    let checksum = checksum(&header);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header
}

/// RFC 1071: the one's complement of the one's complement sum of all 16-bit words.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn ip(address: SocketAddr) -> Ipv4Addr {
    match address.ip() {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address}: only IPv4 is made by hand"),
    }
}

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap_or_else(|_| panic!("{text}: not an IPv4 address"))
}

fn mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("a MAC has six hex bytes")).collect();
    bytes.try_into().expect("a MAC has six bytes")
}
