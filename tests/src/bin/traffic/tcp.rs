//! TCP servers and clients. They speak enough HTTP for curl.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::options::Options;
use crate::sys::{self, Fork};
use crate::truth::Truth;

const BODY: &str = "hello from the server\n";
const END_OF_HEAD: &[u8] = b"\r\n\r\n";
const BACKLOG: i32 = 4096;

/// Prints its port, then serves until it is killed, or has served `--connections` connections.
pub(crate) fn server(options: &Options) {
    let truth = Truth::begin("listener", "tcp");
    let listener = listen(options, options.address("--listen"));
    let local = listener.local_addr().expect("a listener has an address");
    truth.open(options.log(), local, None);
    println!("{}", local.port());
    serve_in_some_way(&listener, options);
    drop(listener);
    truth.end(options.log(), local, None);
}

fn serve_in_some_way(listener: &TcpListener, options: &Options) {
    options.wait_for_gate("--accept-gate");
    if let Some(children) = options.number("--prefork") {
        let pids: Vec<i32> = (0..children).map(|_| in_child(|| serve(listener, options))).collect();
        pids.into_iter().for_each(sys::wait_for);
    } else if options.has("--threads") {
        serve_in_threads(listener, options);
    } else {
        serve(listener, options);
    }
}

/// As many processes as `--processes` says, each with a listening socket of its own on one port (SO_REUSEPORT).
pub(crate) fn reuseport_server(options: &Options) {
    let wanted = options.address("--listen").expect("--listen is missing");
    // Only to choose a port: closed before there are members.
    let local = listen(options, Some(wanted)).local_addr().expect("a listener has an address");
    let (mut ready, ready_to_write) = std::io::pipe().expect("cannot make a pipe");
    let count = options.number("--processes").unwrap_or(4);
    let member = |mut ready: std::io::PipeWriter| {
        let truth = Truth::begin("listener", "tcp");
        let listener = listen(options, Some(local));
        truth.open(options.log(), local, None);
        ready.write_all(b".").expect("cannot write to the pipe");
        drop(ready);
        serve(&listener, options);
    };
    let mut pids = Vec::new();
    for _ in 0..count {
        let ready = ready_to_write.try_clone().expect("cannot copy a pipe");
        pids.push(in_child(|| member(ready)));
    }
    drop(ready_to_write);
    let mut all = vec![0; count as usize];
    ready.read_exact(&mut all).expect("a member of the group has failed");
    println!("{}", local.port());
    pids.into_iter().for_each(sys::wait_for);
}

/// A listening socket; with `--mptcp`, `--reuseport` of these kinds.
fn listen(options: &Options, wanted: Option<SocketAddr>) -> TcpListener {
    let address = wanted.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    let socket = stream_socket(options, address);
    // As std does: a server that is started again does not wait for TIME_WAIT.
    socket.set_reuse_address(true).expect("cannot set SO_REUSEADDR");
    if options.has("--reuseport") {
        socket.set_reuse_port(true).expect("cannot set SO_REUSEPORT");
    }
    if options.has("--dual-stack") {
        socket.set_only_v6(false).expect("cannot allow IPv4");
    }
    socket.bind(&SockAddr::from(address)).expect("cannot bind");
    socket.listen(BACKLOG).expect("cannot listen");
    socket.into()
}

fn stream_socket(options: &Options, address: SocketAddr) -> Socket {
    let protocol = if options.has("--mptcp") { Protocol::MPTCP } else { Protocol::TCP };
    Socket::new(Domain::for_address(address), Type::STREAM, Some(protocol)).expect("cannot make a socket")
}

fn in_child(work: impl FnOnce()) -> i32 {
    match sys::fork() {
        Fork::Parent(pid) => pid,
        Fork::Child => {
            sys::die_with_parent();
            work();
            std::process::exit(0);
        }
    }
}

/// One thread accepts, another one serves.
fn serve_in_threads(listener: &TcpListener, options: &Options) {
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        let acceptor = std::thread::Builder::new().name("acceptor".into());
        let accept_all = move || {
            // That this thread is one of the process; it says nothing of the connections.
            let address = listener.local_addr().expect("a listener has an address");
            Truth::begin("thread", "none").end(options.log(), address, None);
            for _ in 0..options.number("--connections").unwrap_or(u64::MAX) {
                let (stream, peer) = accept(listener, options);
                let accepted = (Truth::begin("server", "tcp"), stream, peer);
                sender.send(accepted).expect("the serving thread has ended");
            }
        };
        acceptor.spawn_scoped(scope, accept_all).expect("cannot start a thread");
        let worker = std::thread::Builder::new().name("Socket Thread".into());
        let serve_all = move || {
            for (truth, stream, peer) in receiver {
                talk(truth, stream, peer, options);
            }
        };
        worker.spawn_scoped(scope, serve_all).expect("cannot start a thread");
    });
}

fn serve(listener: &TcpListener, options: &Options) {
    let connections = options.number("--connections").unwrap_or(u64::MAX);
    for _ in 0..connections {
        let (stream, peer) = accept(listener, options);
        let truth = Truth::begin("server", "tcp");
        match options.value("--inetd") {
            Some(program) => pass_to_program(truth, stream, peer, program, options),
            None if options.has("--forking") => pass_to_child(truth, stream, peer, options),
            None => talk(truth, stream, peer, options),
        }
    }
}

fn talk(truth: Truth, mut stream: TcpStream, peer: Option<SocketAddr>, options: &Options) {
    let local = stream.local_addr().expect("a connection has an address");
    let mut told = None;
    for _ in 0..options.number("--requests").unwrap_or(1) {
        let Some(request) = read_request(&mut stream) else { break };
        told = told.or_else(|| sender_of(&request));
        // The client may have gone; that is its right.
        let _ = stream.write_all(reply().as_bytes());
    }
    if options.has("--wait-close") {
        // To the end, or the close would be a reset.
        let _ = stream.read_to_end(&mut Vec::new());
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

/// As servers did before there were threads: a child, forked without exec, serves the connection.
fn pass_to_child(truth: Truth, stream: TcpStream, peer: Option<SocketAddr>, options: &Options) {
    let local = stream.local_addr().expect("a connection has an address");
    // From here on the child may use it.
    let accepted = truth.ended(local, peer);
    let child = in_child(|| {
        let stream = stream.try_clone().expect("cannot copy the connection");
        talk(Truth::begin("heir", "tcp"), stream, peer, options);
    });
    drop(stream);
    crate::truth::write_line(options.log(), &accepted);
    sys::wait_for(child);
}

/// As inetd does: the connection becomes the standard input of another program, and is closed here.
fn pass_to_program(
    truth: Truth,
    stream: TcpStream,
    peer: Option<SocketAddr>,
    program: &str,
    options: &Options,
) {
    let peer = peer.expect("inetd asks who it is");
    let local = stream.local_addr().expect("a connection has an address");
    let (local_text, peer_text) = (local.to_string(), peer.to_string());
    let mut command = Command::new(program);
    command.args(["inetd-program", "--local", &local_text, "--peer", &peer_text]);
    command.args(options.log().map(|log| ["--log", log]).into_iter().flatten());
    let mut child =
        command.stdin(std::os::fd::OwnedFd::from(stream)).spawn().expect("cannot start the program");
    // The command holds the connection until it is dropped.
    drop(command);
    truth.end(options.log(), local, Some(peer));
    child.wait().expect("cannot wait for the program");
}

/// What inetd starts: serves the connection that is its standard input.
pub(crate) fn inetd_program(options: &Options) {
    let truth = Truth::begin("heir", "tcp");
    let mut stream = TcpStream::from(sys::standard_input());
    if read_request(&mut stream).is_some() {
        let _ = stream.write_all(reply().as_bytes());
    }
    truth.end(
        options.log(),
        options.address("--local").expect("--local is missing"),
        options.address("--peer"),
    );
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

/// Connects, asks, reads the answer, closes, tells; several times with `--connections`, one after the other.
pub(crate) fn client(options: &Options) {
    match options.has("--in-thread") {
        true => std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("Socket Thread".into());
            thread.spawn_scoped(scope, || talk_repeatedly(options)).expect("cannot start a thread");
        }),
        false => talk_repeatedly(options),
    }
}

fn talk_repeatedly(options: &Options) {
    let times =
        if options.has("--forever") { u64::MAX } else { options.number("--connections").unwrap_or(1) };
    (0..times).for_each(|_| talk_once(options));
}

fn talk_once(options: &Options) {
    let truth = Truth::begin("client", "tcp");
    let (mut stream, local) = connect(options);
    options.wait(local);
    options.pause("--pause-ms");
    if options.has("--mute") {
        // Says something, and waits for no answer: nobody accepts.
        stream.write_all(b"is anybody there?").expect("cannot send");
        options.wait_for_gate("--close-gate");
    } else {
        for number in 0..options.number("--requests").unwrap_or(1) {
            if number > 0 {
                options.wait_for_gate("--gate");
            }
            ask(&mut stream, local);
            if number == 0 && options.has("--tell-ready") {
                truth.open(options.log(), local, Some(options.peer()));
                println!("ready");
            }
        }
    }
    if options.has("--until-eof") {
        stream.read_to_end(&mut Vec::new()).expect("cannot read to the end");
    }
    options.linger();
    drop(stream);
    truth.end(options.log(), local, Some(options.peer()));
}

fn connect(options: &Options) -> (TcpStream, SocketAddr) {
    let socket = stream_socket(options, options.peer());
    if let Some(address) = options.address("--bind") {
        socket.set_reuse_address(true).expect("cannot set SO_REUSEADDR");
        socket.bind(&SockAddr::from(address)).expect("cannot bind");
    }
    if options.has("--reset") {
        // Closing sends a reset, and leaves no TIME_WAIT behind.
        socket.set_linger(Some(Duration::ZERO)).expect("cannot set SO_LINGER");
    }
    socket.connect(&SockAddr::from(options.peer())).expect("cannot connect");
    let stream = TcpStream::from(socket);
    let local = stream.local_addr().expect("a connection has an address");
    (stream, local)
}

/// Sends one request in one segment, and reads one reply.
pub(crate) fn ask(stream: &mut TcpStream, local: SocketAddr) {
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

/// Connects and sends `--bytes` bytes, as fast as the other end takes them.
pub(crate) fn bulk_client(options: &Options) {
    let truth = Truth::begin("client", "tcp");
    let (mut stream, local) = connect(options);
    let block = vec![7; 1 << 18];
    let mut left = options.number("--bytes").unwrap_or(1 << 20) as usize;
    while left > 0 {
        let length = left.min(block.len());
        stream.write_all(&block[..length]).expect("cannot send");
        left -= length;
    }
    stream.shutdown(Shutdown::Write).expect("cannot shut down");
    stream.read_to_end(&mut Vec::new()).expect("cannot read to the end");
    drop(stream);
    truth.end(options.log(), local, Some(options.peer()));
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
    let (mut stream, local) = connect(options);
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
