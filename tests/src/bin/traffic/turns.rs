//! One socket, several processes that take turns: by fork without exec, by SCM_RIGHTS, by exec with the socket as standard
//! input. Each turn is one line of truth, and the next one begins when the one before has ended.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use crate::options::Options;
use crate::sys::{self, Fork};
use crate::truth::Truth;
use crate::{tcp, udp};

/// The socket that changes hands.
enum Shared {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Shared {
    fn open(options: &Options) -> Self {
        if is_udp(options) {
            return Self::Udp(udp::client_socket(options));
        }
        Self::Tcp(TcpStream::connect(options.peer()).expect("cannot connect"))
    }

    fn inherit(descriptor: OwnedFd, options: &Options) -> Self {
        if is_udp(options) { Self::Udp(descriptor.into()) } else { Self::Tcp(descriptor.into()) }
    }

    fn local(&self) -> SocketAddr {
        match self {
            Self::Tcp(stream) => stream.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        }
        .expect("a socket has an address")
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }

    /// Asks, and reads the answer.
    fn ask(&mut self, local: SocketAddr, options: &Options) {
        match self {
            Self::Tcp(stream) => tcp::ask(stream, local),
            Self::Udp(socket) => udp::ask(socket, options),
        }
    }
}

fn is_udp(options: &Options) -> bool {
    options.required("--protocol") == "udp"
}

fn protocol(options: &Options) -> &'static str {
    if is_udp(options) { "udp" } else { "tcp" }
}

/// Opens a socket, uses it, and lets others use it.
pub(crate) fn turns_client(options: &Options) {
    match options.required("--how") {
        "fork" => by_fork(options),
        "pass" => by_passing(options),
        "exec" => by_exec(options),
        other => panic!("--how {other}: not fork, pass or exec"),
    }
}

/// Parent and child have the same socket, and use it in turns; the last turn is the child's, and closes.
fn by_fork(options: &Options) {
    let truth = Truth::begin("client", protocol(options));
    let mut shared = Shared::open(options);
    shared.ask(shared.local(), options);
    let local = shared.local();
    truth.end(options.log(), local, Some(options.peer()));

    let (to_child, to_parent) = (std::io::pipe(), std::io::pipe());
    let (mut child_waits, mut wake_child) = to_child.expect("cannot make a pipe");
    let (mut parent_waits, mut wake_parent) = to_parent.expect("cannot make a pipe");
    let rounds = options.number("--turns").unwrap_or(1);
    let Fork::Parent(child) = sys::fork() else {
        for round in 1..=rounds {
            wait(&mut child_waits);
            turn(&mut shared, local, options, round == rounds);
            wake(&mut wake_parent);
        }
        std::process::exit(0);
    };
    for round in 1..=rounds {
        if round == rounds {
            drop(shared);
            wake(&mut wake_child);
            break;
        }
        wake(&mut wake_child);
        wait(&mut parent_waits);
        turn(&mut shared, local, options, false);
    }
    sys::wait_for(child);
}

/// One turn of a process that inherited the socket.
fn turn(shared: &mut Shared, local: SocketAddr, options: &Options, is_last: bool) {
    let truth = Truth::begin("heir", protocol(options));
    shared.ask(local, options);
    if is_last {
        // Closed here and not at exit, so that the line of truth comes after it.
        close(shared);
    }
    truth.end(options.log(), local, Some(options.peer()));
}

fn close(shared: &mut Shared) {
    if let Shared::Tcp(stream) = shared {
        stream.shutdown(std::net::Shutdown::Write).expect("cannot shut down");
        stream.read_to_end(&mut Vec::new()).expect("cannot read to the end");
    }
}

fn wake(pipe: &mut impl Write) {
    pipe.write_all(b".").expect("cannot write to the pipe");
}

fn wait(pipe: &mut impl Read) {
    pipe.read_exact(&mut [0]).expect("cannot read the pipe");
}

/// Another program, which runs already, gets the socket through a Unix socket (SCM_RIGHTS).
fn by_passing(options: &Options) {
    let (ours, theirs) = UnixStream::pair().expect("cannot make a pair of sockets");
    let mut heir = start_heir("heir-of-passed", theirs.into(), options);
    let (shared, local) = first_turn(options);
    sys::send_descriptor(&ours, shared.descriptor());
    drop(shared);
    // The heir waits for this before it begins.
    (&ours).write_all(local.to_string().as_bytes()).expect("cannot tell the address");
    drop(ours);
    assert!(heir.wait().expect("cannot wait for the heir").success(), "the heir failed");
}

/// A program is started with the socket as its standard input.
fn by_exec(options: &Options) {
    let (shared, local) = first_turn(options);
    let (gate, mut open_gate) = std::io::pipe().expect("cannot make a pipe");
    let descriptor = shared.descriptor().try_clone_to_owned().expect("cannot copy a descriptor");
    let mut command = heir("heir-of-stdin", options);
    command.args(["--local", &local.to_string()]).stdin(descriptor).stdout(Stdio::inherit());
    // Standard error is the gate: the heir reads from it until we have closed our copy of the socket.
    let mut heir = command.stderr(gate).spawn().expect("cannot start the heir");
    drop(command);
    drop(shared);
    wake(&mut open_gate);
    assert!(heir.wait().expect("cannot wait for the heir").success(), "the heir failed");
}

fn first_turn(options: &Options) -> (Shared, SocketAddr) {
    let truth = Truth::begin("client", protocol(options));
    let mut shared = Shared::open(options);
    let local = shared.local();
    shared.ask(local, options);
    let local = shared.local();
    truth.end(options.log(), local, Some(options.peer()));
    (shared, local)
}

fn start_heir(kind: &str, stdin: OwnedFd, options: &Options) -> Child {
    heir(kind, options).stdin(stdin).spawn().expect("cannot start the heir")
}

/// The heir's program, told what it needs to go on.
fn heir(kind: &str, options: &Options) -> Command {
    let mut command = Command::new(options.required("--heir"));
    let peer = options.peer();
    command.args([kind, &peer.ip().to_string(), &peer.port().to_string()]);
    command.args(["--protocol", options.required("--protocol")]);
    command.args(options.log().map(|log| ["--log", log]).into_iter().flatten());
    if options.has("--connected") {
        command.arg("--connected");
    }
    command
}

/// Receives the socket through standard input, and goes on.
pub(crate) fn heir_of_passed(options: &Options) {
    let mut through = UnixStream::from(sys::standard_input());
    let descriptor = sys::receive_descriptor(&through);
    let mut local = String::new();
    through.read_to_string(&mut local).expect("cannot read the address");
    let mut shared = Shared::inherit(descriptor, options);
    turn(&mut shared, local.parse().expect("not an address"), options, true);
}

/// Goes on with the socket that is standard input.
pub(crate) fn heir_of_stdin(options: &Options) {
    sys::wait_on_standard_error();
    let mut shared = Shared::inherit(sys::standard_input(), options);
    turn(&mut shared, options.address("--local").expect("--local is missing"), options, true);
}
