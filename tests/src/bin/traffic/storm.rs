//! Very many: short lives, sockets, processes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::options::Options;
use crate::sys::{self, Fork};
use crate::truth::{Truth, now_ns, write_line};

const SHORT_NS: u128 = 5_000_000;

/// Forks and executes clients, one after the other; each writes its line to the log. Prints how long they lived.
/// What stands behind `--` are further arguments of the client.
pub(crate) fn storm(options: &Options) {
    let own = std::env::current_exe().expect("this program has a path");
    let client = options.value("--client").map_or(own, Into::into);
    let to = options.address("--to").expect("--to is missing");
    let (address, port) = (to.ip().to_string(), to.port().to_string());
    let command_name = match options.required("--protocol") {
        "tcp" => "tcp-client",
        "udp" => "udp-client",
        other => panic!("--protocol {other}: not tcp or udp"),
    };
    let mut command = Command::new(client);
    command.args([command_name, &address, &port, "--log", options.required("--log")]);
    command.args(options.rest()).stdin(Stdio::null());

    let count = options.number("--count").unwrap_or(1000);
    let mut lives: Vec<u128> = (0..count).map(|_| one_life(&mut command)).collect();
    lives.sort_unstable();
    write_line(None, &report(&lives));
}

fn one_life(command: &mut Command) -> u128 {
    let start = Instant::now();
    let status = command.status().expect("cannot start the client");
    assert!(status.success(), "the client failed: {status}");
    start.elapsed().as_nanos()
}

fn report(sorted: &[u128]) -> String {
    let count = sorted.len();
    let median = sorted.get(count / 2).copied().unwrap_or(0);
    let longest = sorted.last().copied().unwrap_or(0);
    let short = sorted.partition_point(|life| *life < SHORT_NS);
    format!(
        "{{\"clients\":{count},\"under_5_ms\":{short},\"median_ns\":{median},\"longest_ns\":{longest}}}\n"
    )
}

/// Clients that all have the same process id, one after the other: forked with the id that the first one had.
pub(crate) fn same_pid_storm(options: &Options) {
    let count = options.number("--count").unwrap_or(100);
    let wanted = options.number("--pid").map(|pid| pid as i32);
    let clients: Vec<&str> = options.required("--clients").split(',').collect();
    let mut pid = wanted.unwrap_or_else(free_pid);
    let mut reused = 0;
    for number in 0..count {
        let client = clients[number as usize % clients.len()];
        let fork = sys::fork_as(pid).unwrap_or_else(|| {
            // Somebody else has it now.
            pid = free_pid();
            sys::fork_as(pid).expect("two process ids in a row were taken by others")
        });
        match fork {
            Fork::Parent(child) => {
                sys::wait_for(child);
                reused += u64::from(child == pid);
            }
            Fork::Child => become_client(client, options),
        }
    }
    write_line(None, &format!("{{\"clients\":{count},\"with_that_pid\":{reused},\"pid\":{pid}}}\n"));
}

fn free_pid() -> i32 {
    match sys::fork() {
        Fork::Child => std::process::exit(0),
        Fork::Parent(pid) => {
            sys::wait_for(pid);
            pid
        }
    }
}

/// Executes the client's program in this process.
fn become_client(client: &str, options: &Options) -> ! {
    let to = options.address("--to").expect("--to is missing");
    let mut command = Command::new(client);
    command.args(["tcp-client", &to.ip().to_string(), &to.port().to_string()]);
    command.args(["--log", options.required("--log")]);
    let error = std::os::unix::process::CommandExt::exec(&mut command);
    panic!("cannot execute {client}: {error}");
}

/// Sockets as fast as they go, each one flow: for `--seconds`, over TCP or UDP by turns. What it did is written at the
/// end, so that writing does not slow it.
pub(crate) fn socket_storm(options: &Options) {
    let tcp_to = options.address("--tcp-to").expect("--tcp-to is missing");
    let udp_to = options.address("--udp-to").expect("--udp-to is missing");
    let end = Instant::now() + Duration::from_secs(options.number("--seconds").unwrap_or(1));
    let mut lines = Vec::new();
    while Instant::now() < end {
        // Most are UDP, which is faster: that is where flows are many.
        lines.push(if lines.len() % 16 == 0 { one_connection(tcp_to) } else { one_datagram(udp_to) });
    }
    let count = lines.len();
    // In pieces, each in one write.
    for piece in lines.chunks(64) {
        write_line(options.log(), &piece.concat());
    }
    write_line(None, &format!("{{\"flows\":{count}}}\n"));
}

fn one_connection(to: SocketAddr) -> String {
    let truth = Truth::begin("client", "tcp");
    let stream = TcpStream::connect(to).expect("cannot connect");
    let local = stream.local_addr().expect("a connection has an address");
    // A reset at the end: TIME_WAIT would use up the ports.
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("cannot set SO_LINGER");
    drop(stream);
    truth.ended(local, Some(to))
}

fn one_datagram(to: SocketAddr) -> String {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("cannot bind");
    socket.connect(to).expect("cannot connect");
    let truth = Truth::begin("client", "udp");
    let local = socket.local_addr().expect("a bound socket has an address");
    // The receiver's queue may be full, and on a host that is flooded so may ours.
    let _ = socket.send(b"one of many");
    let truth = truth.closing();
    drop(socket);
    truth.ended(local, Some(to))
}

/// Accepts and closes, and takes datagrams, until it is killed. Prints the port, the same for both.
pub(crate) fn sink(options: &Options) {
    let wanted = options.address("--listen").expect("--listen is missing");
    let truth = Truth::begin("listener", "tcp");
    let listener = std::net::TcpListener::bind(wanted).expect("cannot listen");
    let local = listener.local_addr().expect("a listener has an address");
    truth.open(options.log(), local, None);
    let truth = Truth::begin("server", "udp");
    let socket = UdpSocket::bind(local).expect("cannot bind");
    truth.open(options.log(), local, None);
    println!("{}", local.port());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // That this thread is one of the process; it says nothing of the connections.
            Truth::begin("thread", "none").end(options.log(), local, None);
            listener.incoming().for_each(drop);
        });
        let mut buffer = [0; 64];
        while socket.recv(&mut buffer).is_ok() {}
    });
}

/// Forks `--count` children, each of which forks one that ends at once: nothing but processes.
pub(crate) fn fork_storm(options: &Options) {
    let count = options.number("--count").unwrap_or(1000);
    let begin = now_ns();
    for _ in 0..count {
        match sys::fork() {
            Fork::Parent(pid) => sys::wait_for(pid),
            Fork::Child => {
                if let Fork::Parent(pid) = sys::fork() {
                    sys::wait_for(pid);
                }
                std::process::exit(0);
            }
        }
    }
    let per_second = 2.0 * count as f64 / ((now_ns() - begin) as f64 / 1e9);
    write_line(None, &format!("{{\"forks\":{},\"forks_per_second\":{per_second:.0}}}\n", 2 * count));
}

/// `--processes` processes hold `--sockets` sockets each, every one of which has sent a datagram. Prints `holding` when all
/// do; they end when `--gate` exists.
pub(crate) fn hold(options: &Options) {
    let processes = options.number("--processes").unwrap_or(10);
    let (mut ready, ready_to_write) = std::io::pipe().expect("cannot make a pipe");
    // So many processes must not poll: they all wait for the end of this pipe.
    let (mut until_end, end) = std::io::pipe().expect("cannot make a pipe");
    let mut pids = Vec::new();
    for number in 0..processes {
        match sys::fork() {
            Fork::Parent(pid) => pids.push(pid),
            Fork::Child => {
                sys::die_with_parent();
                drop(end);
                let sockets = open_many(number as u32, options);
                (&ready_to_write).write_all(b".").expect("cannot write to the pipe");
                until_end.read_to_end(&mut Vec::new()).expect("cannot read the pipe");
                drop(sockets);
                std::process::exit(0);
            }
        }
    }
    drop(ready_to_write);
    ready.read_exact(&mut vec![0; processes as usize]).expect("a process has failed");
    println!("holding");
    options.wait_for_gate("--gate");
    drop(end);
    pids.into_iter().for_each(sys::wait_for);
    println!("gone");
}

/// Each process has a loopback address of its own, so that there are ports enough.
fn open_many(number: u32, options: &Options) -> Vec<UdpSocket> {
    let to = options.address("--to").expect("--to is missing");
    let own = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + number);
    let open = |_| {
        let socket = UdpSocket::bind((own, 0)).expect("cannot bind");
        socket.connect(to).expect("cannot connect");
        socket.send(b"here I am").expect("cannot send");
        socket
    };
    (0..options.number("--sockets").unwrap_or(10)).map(open).collect()
}

/// Copies standard input to `--to`, but not before `--gate` exists.
pub(crate) fn slow_copy(options: &Options) {
    options.wait_for_gate("--gate");
    let mut file = std::fs::File::create(options.required("--to")).expect("cannot create the file");
    std::io::copy(&mut std::io::stdin().lock(), &mut file).expect("cannot copy");
}
