//! TCP servers and clients. They speak enough HTTP for curl.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use crate::options::Options;
use crate::sys::{self, Fork};
use crate::truth::Truth;

const BODY: &str = "hello from the server\n";
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// Prints its port, then serves until it is killed, or has served `--connections` connections.
pub(crate) fn server(options: &Options) {
    let any: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 0));
    let truth = Truth::begin("listener", "tcp");
    let listener = TcpListener::bind(options.address("--listen").unwrap_or(any)).expect("cannot listen");
    let local = listener.local_addr().expect("a listener has an address");
    truth.end(options.log(), local, None);
    println!("{}", local.port());

    let children = options.number("--prefork").unwrap_or(0);
    if children == 0 {
        return serve(&listener, options);
    }
    let pids: Vec<i32> = (0..children).map(|_| serve_in_child(&listener, options)).collect();
    pids.into_iter().for_each(sys::wait_for);
}

fn serve_in_child(listener: &TcpListener, options: &Options) -> i32 {
    match sys::fork() {
        Fork::Parent(pid) => pid,
        Fork::Child => {
            sys::die_with_parent();
            serve(listener, options);
            std::process::exit(0);
        }
    }
}

fn serve(listener: &TcpListener, options: &Options) {
    let connections = options.number("--connections").unwrap_or(u64::MAX);
    for _ in 0..connections {
        serve_one(listener, options);
    }
}

fn serve_one(listener: &TcpListener, options: &Options) {
    let (mut stream, peer) = accept(listener, options);
    let truth = Truth::begin("server", "tcp");
    let local = stream.local_addr().expect("a connection has an address");
    let mut told = None;
    for _ in 0..options.number("--requests").unwrap_or(1) {
        let Some(request) = read_request(&mut stream) else { break };
        told = told.or_else(|| sender_of(&request));
        // The client may have gone; that is its right.
        let _ = stream.write_all(reply().as_bytes());
    }
    if options.has("--wait-close") {
        let _ = stream.read(&mut [0; 16]);
    }
    // Told before the close, so that a client that has seen the end of the connection finds the line in the log.
    // With neither address, the line of the listener speaks for this connection too.
    if let Some(remote) = peer.or(told) {
        truth.end(options.log(), local, Some(remote));
    }
    drop(stream);
}

/// Accepts; without the address of the peer if so told, and then nothing here may ask for it: asking is a hook.
fn accept(listener: &TcpListener, options: &Options) -> (TcpStream, Option<SocketAddr>) {
    if options.has("--null-address") {
        return (sys::accept_without_address(listener), None);
    }
    let (stream, peer) = listener.accept().expect("cannot accept");
    (stream, Some(peer))
}

/// One request, to the end of its head; nothing if the client has closed.
fn read_request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.ends_with(END_OF_HEAD) {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(length) => request.extend_from_slice(&buffer[..length]),
        }
    }
    Some(request)
}

/// The address that our own client states in its request.
fn sender_of(request: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(request).ok()?;
    text.lines().find_map(|line| line.strip_prefix("X-From: ")).and_then(|address| address.parse().ok())
}

fn reply() -> String {
    let length = BODY.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{BODY}")
}

/// Connects, asks, reads the answer, closes, tells.
pub(crate) fn client(options: &Options) {
    loop {
        talk_once(options);
        if !options.has("--forever") {
            return;
        }
    }
}

fn talk_once(options: &Options) {
    let truth = Truth::begin("client", "tcp");
    let (mut stream, local) = connect(options.peer());
    options.wait(local);
    ask(&mut stream, local);
    if options.has("--until-eof") {
        stream.read_to_end(&mut Vec::new()).expect("cannot read to the end");
    }
    options.linger();
    drop(stream);
    truth.end(options.log(), local, Some(options.peer()));
}

fn connect(peer: SocketAddr) -> (TcpStream, SocketAddr) {
    let stream = TcpStream::connect(peer).expect("cannot connect");
    let local = stream.local_addr().expect("a connection has an address");
    (stream, local)
}

/// Sends one request in one segment, and reads one reply.
fn ask(stream: &mut TcpStream, local: SocketAddr) {
    let request = format!("GET / HTTP/1.1\r\nX-From: {local}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("cannot send");
    let mut reply = Vec::new();
    let mut buffer = [0; 1024];
    while !reply.ends_with(BODY.as_bytes()) {
        let length = stream.read(&mut buffer).expect("cannot receive");
        assert!(length > 0, "the server closed before its reply was whole");
        reply.extend_from_slice(&buffer[..length]);
    }
}

/// Connects to a port that nobody listens on. Which port was ours the kernel does not tell any more.
pub(crate) fn refused(options: &Options) {
    let truth = Truth::begin("refused", "tcp");
    let error = TcpStream::connect(options.peer()).expect_err("somebody listens there");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    let local = SocketAddr::new(options.peer().ip(), 0);
    truth.end(options.log(), local, Some(options.peer()));
}

/// Forks twice, as a daemon does; the grandchild is the client. The first process ends when the client has.
pub(crate) fn daemon_client(options: &Options) {
    let (mut ended, witness) = std::io::pipe().expect("cannot make a pipe");
    let Fork::Parent(child) = sys::fork() else {
        sys::new_session();
        if let Fork::Parent(_) = sys::fork() {
            std::process::exit(0);
        }
        talk_once(options);
        std::process::exit(0);
    };
    drop(witness);
    sys::wait_for(child);
    // The pipe ends when its last writer, the grandchild, does.
    ended.read_to_end(&mut Vec::new()).expect("cannot read the pipe");
}

/// The parent opens the connection and talks; its child, forked without exec, goes on with the same socket.
pub(crate) fn handover_client(options: &Options) {
    let truth = Truth::begin("client", "tcp");
    let (mut stream, local) = connect(options.peer());
    ask(&mut stream, local);
    let Fork::Parent(child) = sys::fork() else {
        // The child must close last and alone: it goes on when the parent has closed its copy.
        go_on(stream, local, options);
        std::process::exit(0);
    };
    drop(stream);
    truth.end(options.log(), local, Some(options.peer()));
    sys::wait_for(child);
}

fn go_on(mut stream: TcpStream, local: SocketAddr, options: &Options) {
    let truth = Truth::begin("heir", "tcp");
    ask(&mut stream, local);
    stream.shutdown(Shutdown::Write).expect("cannot shut down");
    stream.read_to_end(&mut Vec::new()).expect("cannot read to the end");
    drop(stream);
    truth.end(options.log(), local, Some(options.peer()));
}
