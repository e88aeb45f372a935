//! The loops whose slowdown the benchmark measures. They print nanoseconds per iteration.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Instant;

use crate::options::Options;
use crate::truth::write_line;

/// How many loopback addresses the connect loop goes round, so that TIME_WAIT does not eat all ports.
const ADDRESSES: u64 = 250;

/// Connect, accept, close.
pub(crate) fn connect_loop(options: &Options) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("cannot listen");
    let port = listener.local_addr().expect("a listener has an address").port();
    run(options.number("--iterations").unwrap_or(20_000), |iteration| {
        let address = Ipv4Addr::new(127, 0, 0, 1 + (iteration % ADDRESSES) as u8);
        let client = TcpStream::connect(SocketAddr::from((address, port))).expect("cannot connect");
        let (server, _) = listener.accept().expect("cannot accept");
        drop(client);
        drop(server);
    });
}

/// Send 64 bytes, receive them.
pub(crate) fn udp_loop(options: &Options) {
    let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("cannot bind");
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("cannot bind");
    sender.connect(receiver.local_addr().expect("a bound socket has an address")).expect("cannot connect");
    let mut buffer = [0; 64];
    run(options.number("--iterations").unwrap_or(200_000), |_| {
        sender.send(&[7; 64]).expect("cannot send");
        receiver.recv(&mut buffer).expect("cannot receive");
    });
}

/// Send 64 bytes; nobody receives them, so that most find the receiver's queue full.
pub(crate) fn udp_send_loop(options: &Options) {
    let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("cannot bind");
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("cannot bind");
    let to = receiver.local_addr().expect("a bound socket has an address");
    run(options.number("--iterations").unwrap_or(200_000), |_| {
        sender.send_to(&[7; 64], to).expect("cannot send");
    });
}

fn run(iterations: u64, mut body: impl FnMut(u64)) {
    let start = Instant::now();
    (0..iterations).for_each(&mut body);
    let ns = start.elapsed().as_nanos() as f64 / iterations as f64;
    write_line(None, &format!("{{\"iterations\":{iterations},\"ns_per_iteration\":{ns:.1}}}\n"));
}
