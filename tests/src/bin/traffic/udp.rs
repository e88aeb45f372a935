//! A UDP echo server and its clients.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::options::Options;
use crate::truth::Truth;

/// Prints its port, then echoes until it is killed, or has answered `--datagrams` datagrams.
pub(crate) fn server(options: &Options) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let truth = Truth::begin("server", "udp");
    let socket = UdpSocket::bind(options.address("--listen").unwrap_or(any)).expect("cannot bind");
    let local = socket.local_addr().expect("a bound socket has an address");
    truth.end(options.log(), local, None);
    println!("{}", local.port());

    let mut buffer = [0; 2048];
    for _ in 0..options.number("--datagrams").unwrap_or(u64::MAX) {
        let (length, peer) = socket.recv_from(&mut buffer).expect("cannot receive");
        // The client may have gone, and its host may have said so.
        let _ = socket.send_to(&buffer[..length], peer);
    }
}

/// Sends datagrams one by one, each after the echo of the last.
pub(crate) fn client(options: &Options) {
    let truth = Truth::begin("client", "udp");
    let peer = options.peer();
    let socket = UdpSocket::bind(unspecified(peer)).expect("cannot bind");
    if options.has("--connected") {
        socket.connect(peer).expect("cannot connect");
    }
    options.wait(socket.local_addr().expect("a bound socket has an address"));
    let mut buffer = [0; 2048];
    for _ in 0..options.number("--datagrams").unwrap_or(1) {
        send(&socket, options);
        socket.recv(&mut buffer).expect("cannot receive");
    }
    let local = socket.local_addr().expect("a bound socket has an address");
    options.linger();
    drop(socket);
    truth.end(options.log(), local, Some(peer));
}

fn send(socket: &UdpSocket, options: &Options) {
    let sent = match options.has("--connected") {
        true => socket.send(b"hello"),
        false => socket.send_to(b"hello", options.peer()),
    };
    sent.expect("cannot send");
}

fn unspecified(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    }
}
