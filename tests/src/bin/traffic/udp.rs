//! UDP (and UDP-Lite) echo servers and their clients.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::options::Options;
use crate::sys::{self, Fork};
use crate::truth::Truth;

/// Prints its port, then echoes until it is killed, or has answered (with `--silent`: taken) `--datagrams` datagrams.
pub(crate) fn server(options: &Options) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let truth = Truth::begin("server", protocol(options));
    let socket = bind(options, options.address("--listen").unwrap_or(any));
    let local = socket.local_addr().expect("a bound socket has an address");
    truth.open(options.log(), local, None);
    println!("{}", local.port());
    let mut buffer = vec![0; 1 << 16];
    for _ in 0..options.number("--datagrams").unwrap_or(u64::MAX) {
        let (length, peer) = socket.recv_from(&mut buffer).expect("cannot receive");
        if !options.has("--silent") {
            // The client may have gone, and its host may have said so.
            let _ = socket.send_to(&buffer[..length], peer);
        }
    }
    drop(socket);
    truth.end(options.log(), local, None);
}

/// One socket, and as many children that wait for datagrams on it as `--processes` says. The parent only opens it.
pub(crate) fn prefork_server(options: &Options) {
    let truth = Truth::begin("listener", protocol(options));
    let socket = bind(options, options.address("--listen").expect("--listen is missing"));
    let local = socket.local_addr().expect("a bound socket has an address");
    let mut pids = Vec::new();
    for _ in 0..options.number("--processes").unwrap_or(4) {
        match sys::fork() {
            Fork::Parent(pid) => pids.push(pid),
            Fork::Child => {
                sys::die_with_parent();
                serve_as_member(&socket, local, options);
            }
        }
    }
    drop(socket);
    truth.end(options.log(), local, None);
    println!("{}", local.port());
    pids.into_iter().for_each(sys::wait_for);
}

/// Opens a socket, and starts a program with it as standard input, as systemd does (systemd.socket(5)). The program
/// answers `--datagrams` datagrams.
pub(crate) fn activator(options: &Options) {
    let truth = Truth::begin("listener", protocol(options));
    let socket = bind(options, options.address("--listen").expect("--listen is missing"));
    let local = socket.local_addr().expect("a bound socket has an address");
    let mut command = std::process::Command::new(options.required("--heir"));
    command.args(["activated", "--local", &local.to_string(), "--log", options.required("--log")]);
    command.args(["--datagrams", options.required("--datagrams")]);
    let mut heir =
        command.stdin(std::os::fd::OwnedFd::from(socket)).spawn().expect("cannot start the program");
    // The command holds the socket until it is dropped.
    drop(command);
    truth.end(options.log(), local, None);
    println!("{}", local.port());
    assert!(heir.wait().expect("cannot wait for the program").success(), "the program failed");
}

/// The program that is started when a socket is there: serves its standard input.
pub(crate) fn activated(options: &Options) {
    let truth = Truth::begin("server", "udp");
    let socket = UdpSocket::from(sys::standard_input());
    let local = options.address("--local").expect("--local is missing");
    let mut buffer = [0; 2048];
    for _ in 0..options.number("--datagrams").unwrap_or(1) {
        let (length, peer) = socket.recv_from(&mut buffer).expect("cannot receive");
        // The client may have gone, and its host may have said so.
        let _ = socket.send_to(&buffer[..length], peer);
    }
    drop(socket);
    truth.end(options.log(), local, None);
}

/// As many processes as `--processes` says, each with a socket of its own on one port (SO_REUSEPORT). Each tells of each
/// of its peers: the kernel chose it among the group.
pub(crate) fn reuseport_server(options: &Options) {
    let wanted = options.address("--listen").expect("--listen is missing");
    // Only to choose a port: closed before there are members.
    let local = bind(options, wanted).local_addr().expect("a bound socket has an address");
    let (mut ready, ready_to_write) = std::io::pipe().expect("cannot make a pipe");
    let count = options.number("--processes").unwrap_or(4);
    let mut pids = Vec::new();
    for _ in 0..count {
        match sys::fork() {
            Fork::Parent(pid) => pids.push(pid),
            Fork::Child => {
                sys::die_with_parent();
                let socket = bind(options, local);
                (&ready_to_write).write_all(b".").expect("cannot write to the pipe");
                serve_as_member(&socket, local, options);
            }
        }
    }
    drop(ready_to_write);
    ready.read_exact(&mut vec![0; count as usize]).expect("a member of the group has failed");
    println!("{}", local.port());
    pids.into_iter().for_each(sys::wait_for);
}

fn serve_as_member(socket: &UdpSocket, local: SocketAddr, options: &Options) -> ! {
    let mut buffer = [0; 2048];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).expect("cannot receive");
        let truth = Truth::begin("server", protocol(options));
        // The client may have gone, and its host may have said so.
        let _ = socket.send_to(&buffer[..length], peer);
        truth.end(options.log(), local, Some(peer));
    }
}

/// Sends datagrams one by one, each after the echo of the last (with `--silent`: without waiting).
pub(crate) fn client(options: &Options) {
    let truth = Truth::begin("client", protocol(options));
    let socket = client_socket(options);
    options.wait(socket.local_addr().expect("a bound socket has an address"));
    let datagrams = options.number("--datagrams").unwrap_or(1);
    for number in 0..datagrams {
        if number > 0 {
            options.wait_for_gate("--gate");
        }
        ask(&socket, options);
        if number == 0 && options.has("--tell-ready") {
            let local = socket.local_addr().expect("a bound socket has an address");
            truth.open(options.log(), local, Some(options.peer()));
            println!("ready");
        }
    }
    let local = socket.local_addr().expect("a bound socket has an address");
    options.linger();
    let truth = truth.closing();
    drop(socket);
    truth.end(options.log(), local, Some(options.peer()));
}

/// A socket to talk to the peer with; connected with `--connected`.
pub(crate) fn client_socket(options: &Options) -> UdpSocket {
    let peer = options.peer();
    let socket = bind(options, options.address("--bind").unwrap_or_else(|| unspecified(peer)));
    if options.has("--connected") {
        socket.connect(peer).expect("cannot connect");
    }
    socket
}

/// Sends a datagram of `--size` bytes, and waits for its echo.
pub(crate) fn ask(socket: &UdpSocket, options: &Options) {
    let data = vec![b'x'; options.number("--size").unwrap_or(5) as usize];
    let sent = match options.has("--connected") {
        true => socket.send(&data),
        false => socket.send_to(&data, options.peer()),
    };
    sent.expect("cannot send");
    if !options.has("--silent") {
        socket.recv(&mut vec![0; data.len()]).expect("cannot receive");
    }
}

/// A bound socket, of UDP-Lite with `--udplite`, sharing its port with `--reuseport`.
fn bind(options: &Options, address: SocketAddr) -> UdpSocket {
    const UDPLITE: i32 = 136;
    let protocol = if options.has("--udplite") { Protocol::from(UDPLITE) } else { Protocol::UDP };
    let socket =
        Socket::new(Domain::for_address(address), Type::DGRAM, Some(protocol)).expect("cannot make a socket");
    if options.has("--reuseport") {
        socket.set_reuse_port(true).expect("cannot set SO_REUSEPORT");
    }
    if options.has("--dual-stack") {
        socket.set_only_v6(false).expect("cannot allow IPv4");
    }
    socket.bind(&SockAddr::from(address)).expect("cannot bind");
    UdpSocket::from(socket)
}

/// How truth names the protocol.
pub(crate) fn protocol(options: &Options) -> &'static str {
    if options.has("--udplite") { "udplite" } else { "udp" }
}

fn unspecified(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    }
}
