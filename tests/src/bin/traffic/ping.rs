//! Echo requests, through ping sockets (SOCK_DGRAM) and raw sockets; the kernel at the other end answers.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::options::Options;
use crate::raw;
use crate::truth::Truth;

const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY: u8 = 0;
const ECHO_REPLY_V6: u8 = 129;
const PAYLOAD: &[u8] = b"is anybody there";

/// `ping ADDR [--raw --id N] [--count N]`. In the line of truth both ends have the identifier as port: that is what an echo
/// has instead.
pub(crate) fn ping(options: &Options) {
    let peer: IpAddr = options.argument(0).parse().expect("ADDR is not an IP address");
    let truth = Truth::begin("client", protocol_name(peer));
    let socket = open(peer, options.has("--raw"));
    socket.connect(&SockAddr::from(SocketAddr::new(peer, 0))).expect("cannot connect");
    let local = socket.local_addr().ok().and_then(|address| address.as_socket());
    let local = local.expect("a socket has an address");
    // A ping socket is bound to its identifier; a raw socket's program chooses one.
    let id = options.number("--id").map_or(local.port(), |id| id as u16);
    for sequence in 0..options.number("--count").unwrap_or(1) {
        socket.send(&request(peer, id, sequence as u16)).expect("cannot send");
        wait_for_reply(&socket, peer, options.has("--raw"), id, sequence as u16);
    }
    drop(socket);
    truth.end(options.log(), SocketAddr::new(local.ip(), id), Some(SocketAddr::new(peer, id)));
}

fn open(peer: IpAddr, raw: bool) -> Socket {
    let (domain, protocol) = match peer {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let kind = if raw { Type::RAW } else { Type::DGRAM };
    Socket::new(domain, kind, Some(protocol)).expect("cannot make a socket for ICMP")
}

const fn protocol_name(peer: IpAddr) -> &'static str {
    match peer {
        IpAddr::V4(_) => "icmp",
        IpAddr::V6(_) => "icmpv6",
    }
}

fn request(peer: IpAddr, id: u16, sequence: u16) -> Vec<u8> {
    let kind = if peer.is_ipv4() { ECHO_REQUEST } else { ECHO_REQUEST_V6 };
    let mut message = vec![kind, 0, 0, 0];
    message.extend_from_slice(&id.to_be_bytes());
    message.extend_from_slice(&sequence.to_be_bytes());
    message.extend_from_slice(PAYLOAD);
    // ICMPv6 has the kernel's checksum, as RFC 3542 wants it; ICMP over a raw socket has ours.
    let checksum = raw::checksum(&message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

/// A raw socket sees every ICMP packet of its peer, requests on loopback included.
fn wait_for_reply(mut socket: &Socket, peer: IpAddr, raw: bool, id: u16, sequence: u16) {
    let kind = if peer.is_ipv4() { ECHO_REPLY } else { ECHO_REPLY_V6 };
    // Only a raw socket for IPv4 gives the IP header too.
    let skip = if raw && peer.is_ipv4() { 20 } else { 0 };
    let mut buffer = [0; 256];
    loop {
        let length = socket.read(&mut buffer).expect("cannot receive");
        let Some(message) = buffer.get(skip..length) else { continue };
        let [got, _, _, _, id_high, id_low, high, low, ..] = message else { continue };
        let same_id = u16::from_be_bytes([*id_high, *id_low]) == id;
        if *got == kind && same_id && u16::from_be_bytes([*high, *low]) == sequence {
            return;
        }
    }
}

/// A UDP datagram through a raw socket: the port belongs to no UDP socket.
pub(crate) fn raw_socket_udp(options: &Options) {
    let truth = Truth::begin("client", "udp");
    let peer = options.peer();
    let domain = Domain::for_address(peer);
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::UDP)).expect("cannot make a raw socket");
    let local = options.address("--bind").expect("--bind is missing");
    socket.bind(&SockAddr::from(SocketAddr::new(local.ip(), 0))).expect("cannot bind");
    let to = SockAddr::from(SocketAddr::new(peer.ip(), 0));
    for _ in 0..options.number("--datagrams").unwrap_or(1) {
        let mut datagram = Vec::new();
        datagram.extend_from_slice(&local.port().to_be_bytes());
        datagram.extend_from_slice(&peer.port().to_be_bytes());
        datagram.extend_from_slice(&(8 + PAYLOAD.len() as u16).to_be_bytes());
        datagram.extend_from_slice(&udp_checksum(local, peer).to_be_bytes());
        datagram.extend_from_slice(PAYLOAD);
        socket.send_to(&datagram, &to).expect("cannot send");
    }
    truth.end(options.log(), local, Some(peer));
}

/// RFC 768: none over IPv4. Over IPv6 there must be one (RFC 8200, 8.1).
fn udp_checksum(local: SocketAddr, peer: SocketAddr) -> u16 {
    let (IpAddr::V6(from), IpAddr::V6(to)) = (local.ip(), peer.ip()) else { return 0 };
    let length = 8 + PAYLOAD.len() as u16;
    let mut pseudo: Vec<u8> = Vec::new();
    pseudo.extend_from_slice(&from.octets());
    pseudo.extend_from_slice(&to.octets());
    for word in [0, length, 0, 17, local.port(), peer.port(), length, 0] {
        pseudo.extend_from_slice(&u16::to_be_bytes(word));
    }
    pseudo.extend_from_slice(PAYLOAD);
    raw::checksum(&pseudo)
}
