//! What is recorded in the guest. Each story is one recording, on all interfaces of a namespace, of what is played over
//! loopback and over veth to another namespace, over IPv4 and IPv6.

use std::path::{Path, PathBuf};

use recorder_tests::lab::{Lab, Server};
use recorder_tests::namespace::{Namespace, connect};
use recorder_tests::process::{Output, Running, must};
use recorder_tests::recorder::{Recording, record};

/// A story.
pub(crate) struct Story {
    pub(crate) name: &'static str,
    /// The least number of packets: what was not recorded cannot be wrong.
    pub(crate) at_least: usize,
    pub(crate) play: fn(&Stage),
    /// Whether owners may be missing; wrong ones may not.
    pub(crate) loses: bool,
}

impl Story {
    /// The name of a file of this story.
    pub(crate) fn file(&self, ending: &str) -> String {
        format!("{}.{ending}", self.name.replace(' ', "-"))
    }
}

/// Clients of each kind on each way. Every one is a process of its own.
const LIVES: usize = 15;
const CHILDREN: usize = 3;
/// How many connections each child takes before it ends.
const ACCEPTS: usize = 4;
const DATAGRAMS: usize = 5;
/// How often parent and child take turns.
const TURNS: usize = 3;
pub(crate) const WAYS: usize = 4;
/// SYN, SYN+ACK, ACK, request, reply, two FINs and their ACKs, of which one may ride on another packet.
pub(crate) const TCP_PACKETS: usize = 8;

pub(crate) const STORIES: [Story; 6] = [
    Story {
        name: "short-lived clients",
        at_least: WAYS * LIVES * (TCP_PACKETS + 2 + 2),
        play: short_lives,
        loses: false,
    },
    Story {
        name: "pre-fork servers that accept in the child",
        at_least: WAYS * CHILDREN * ACCEPTS * TCP_PACKETS,
        play: prefork,
        loses: false,
    },
    Story {
        name: "UDP servers on any address",
        at_least: WAYS * DATAGRAMS * (2 + 2 + 1),
        play: udp_on_any,
        loses: false,
    },
    Story {
        name: "servers restarted on the same port",
        at_least: WAYS * 2 * 2 * (TCP_PACKETS + 2),
        play: restarted,
        loses: false,
    },
    Story {
        name: "sockets that change hands",
        at_least: WAYS * ((7 + 2 * 2 * TURNS) + 2 * (2 * 2 * TURNS) + 3 * 7 + 3 * 4),
        play: hands,
        loses: false,
    },
    Story {
        name: "processes that wait in a call since before the start",
        at_least: WAYS * CHILDREN * (TCP_PACKETS + 2),
        play: waiting,
        loses: false,
    },
];

/// The namespaces, programs and files of one story.
pub(crate) struct Stage {
    pub(crate) lab: Lab,
    /// The one that is recorded.
    here: Namespace,
    there: Namespace,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::of(Lab::new)
    }

    /// Where the time of day will be set.
    pub(crate) fn by_boot_time() -> Self {
        Self::of(Lab::by_boot_time)
    }

    fn of(lab: impl Fn(PathBuf) -> Lab) -> Self {
        let own = std::env::current_exe().expect("this program has a path");
        let (here, there) = (Namespace::new("here"), Namespace::new("there"));
        connect(&here, &there, 1);
        Self { lab: lab(own.with_file_name("traffic")), here, there }
    }

    /// The recording.
    pub(crate) fn recording(&self) -> PathBuf {
        self.lab.path("recording.pcapng")
    }

    /// Records while something is played on each way.
    fn record(&self, play: impl FnMut(&Way<'_>)) {
        self.record_with(&[], play);
    }

    /// The same with further arguments.
    pub(crate) fn record_with(&self, arguments: &[&str], play: impl FnMut(&Way<'_>)) {
        self.played(arguments, play).assert_code(0);
    }

    /// The same, where events may be lost.
    pub(crate) fn record_lossy(&self, arguments: &[&str], play: impl FnMut(&Way<'_>)) {
        let output = self.played(arguments, play);
        assert!(matches!(output.status.code(), Some(0 | 1)), "{output}");
    }

    fn played(&self, arguments: &[&str], mut play: impl FnMut(&Way<'_>)) -> Output {
        let recording = self.start(&self.recording(), &[&["-i", "any"], arguments].concat());
        self.ways().iter().for_each(&mut play);
        recording.stop()
    }

    /// Starts a recording.
    pub(crate) fn start(&self, file: &Path, arguments: &[&str]) -> Recording {
        let mut command = record(&self.here, arguments);
        Recording::start(command.arg("-w").arg(file))
    }

    /// From here to here and from here to there.
    pub(crate) fn ways(&self) -> [Way<'_>; WAYS] {
        let way = |servers, server| Way { stage: self, servers, server };
        let (here, there) = (&self.here, &self.there);
        [way(here, "127.0.0.1"), way(here, "::1"), way(there, "10.77.1.2"), way(there, "fd77:1::2")]
    }
}

/// A way from clients here to a server.
pub(crate) struct Way<'a> {
    stage: &'a Stage,
    servers: &'a Namespace,
    /// The server's address.
    server: &'static str,
}

impl Way<'_> {
    /// Starts a server on an address, or on the server's own.
    pub(crate) fn serve(&self, name: &str, address: Option<&str>, port: &str, arguments: &[&str]) -> Server {
        let listen = socket_address(address.unwrap_or(self.server), port);
        let all: Vec<&str> = arguments.iter().copied().chain(["--listen", &listen]).collect();
        self.stage.lab.server(self.servers, name, &all)
    }

    /// Runs a client of this server to its end.
    pub(crate) fn client(&self, job: &str, port: &str, arguments: &[&str]) {
        let all: Vec<&str> = [job, self.server, port].into_iter().chain(arguments.iter().copied()).collect();
        must(&mut self.stage.lab.command(&self.stage.here, "client", &all));
    }

    /// Starts a client that tells its port before it talks.
    pub(crate) fn waiting_client(&self, job: &str, port: &str, arguments: &[&str]) -> Running {
        let all: Vec<&str> = [job, self.server, port].into_iter().chain(arguments.iter().copied()).collect();
        let client = Running::start(&mut self.stage.lab.command(&self.stage.here, "client", &all));
        client.wait_for_stdout("a port", |line| line.parse::<u16>().is_ok());
        client
    }

    /// The client's address on this way, with a port.
    pub(crate) fn own_address(&self, port: &str) -> String {
        let address = match self.server {
            "10.77.1.2" => "10.77.1.1",
            "fd77:1::2" => "fd77:1::1",
            server => server,
        };
        socket_address(address, port)
    }

    /// An echo request, and its answer.
    pub(crate) fn ping(&self) {
        self.stage.here.set("net/ipv4/ping_group_range", "0 2147483647");
        must(&mut self.stage.lab.command(&self.stage.here, "ping", &["ping", self.server, "--count", "1"]));
    }

    /// Runs so many clients, one after the other.
    pub(crate) fn clients(&self, count: usize, protocol: &str, port: &str) {
        self.start_clients(count, protocol, port).finish().assert_code(0);
    }

    /// Starts a program that does so.
    pub(crate) fn start_clients(&self, count: usize, protocol: &str, port: &str) -> Running {
        let (lab, to, count) = (&self.stage.lab, socket_address(self.server, port), count.to_string());
        let client = lab.program("client");
        let arguments =
            ["storm", "--count", &count, "--protocol", protocol, "--to", &to, "--client", &client];
        Running::start(&mut lab.command(&self.stage.here, "storm", &arguments))
    }

    fn unspecified(&self) -> &'static str {
        if self.server.contains(':') { "::" } else { "0.0.0.0" }
    }
}

fn socket_address(address: &str, port: &str) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// Waits for a server that ends by itself.
pub(crate) fn finish(server: Server) {
    server.running.finish().assert_code(0);
}

fn short_lives(stage: &Stage) {
    let (lives, both) = (LIVES.to_string(), (LIVES + LIVES).to_string());
    stage.record(|way| {
        let tcp = way.serve("server-tcp", None, "0", &["tcp-server", "--connections", &lives]);
        way.clients(LIVES, "tcp", &tcp.port);
        finish(tcp);
        let udp = way.serve("server-udp", None, "0", &["udp-server", "--datagrams", &both]);
        way.clients(LIVES, "udp", &udp.port);
        for _ in 0..LIVES {
            way.client("udp-client", &udp.port, &["--connected"]);
        }
        finish(udp);
    });
}

fn prefork(stage: &Stage) {
    let (children, accepts) = (CHILDREN.to_string(), ACCEPTS.to_string());
    let arguments =
        ["tcp-server", "--prefork", &children, "--connections", &accepts, "--null-address", "--wait-close"];
    stage.record(|way| {
        let server = way.serve("server", None, "0", &arguments);
        way.clients(CHILDREN * ACCEPTS, "tcp", &server.port);
        finish(server);
    });
}

fn udp_on_any(stage: &Stage) {
    let (some, twice) = (DATAGRAMS.to_string(), (DATAGRAMS + DATAGRAMS).to_string());
    stage.record(|way| {
        let any = Some(way.unspecified());
        let replying = way.serve("replying", any, "0", &["udp-server", "--datagrams", &twice]);
        way.client("udp-client", &replying.port, &["--datagrams", &some]);
        way.client("udp-client", &replying.port, &["--datagrams", &some, "--connected"]);
        finish(replying);
        let taking = way.serve("taking", any, "0", &["udp-server", "--datagrams", &some, "--silent"]);
        way.client("udp-client", &taking.port, &["--datagrams", &some, "--silent"]);
        finish(taking);
    });
}

/// With arguments, for the verifier has more to look at then.
fn restarted(stage: &Stage) {
    stage.record_with(&["--with-cmdline"], |way| {
        for (protocol, arguments) in
            [("tcp", ["tcp-server", "--connections", "2"]), ("udp", ["udp-server", "--datagrams", "2"])]
        {
            let first = way.serve("first", None, "0", &arguments);
            let port = first.port.clone();
            way.clients(2, protocol, &port);
            finish(first);
            let second = way.serve("second", None, &port, &arguments);
            way.clients(2, protocol, &port);
            finish(second);
        }
    });
}

/// By fork without exec, by SCM_RIGHTS, as standard input by exec.
fn hands(stage: &Stage) {
    let (heir, turns) = (stage.lab.program("heir"), TURNS.to_string());
    let tcp_server = ["tcp-server", "--connections", "3", "--requests", "1000", "--wait-close"];
    stage.record(|way| {
        let tcp = way.serve("server-tcp", None, "0", &tcp_server);
        let udp = way.serve("server-udp", None, "0", &["udp-server"]);
        for how in ["fork", "pass", "exec"] {
            let common = ["--how", how, "--turns", &turns, "--heir", &heir, "--protocol"];
            way.client("turns-client", &tcp.port, &[&common[..], &["tcp"]].concat());
            way.client("turns-client", &udp.port, &[&common[..], &["udp"]].concat());
            way.client("turns-client", &udp.port, &[&common[..], &["udp", "--connected"]].concat());
        }
        finish(tcp);
    });
}

/// Programs that wait in accept(2) or recvfrom(2) when the recorder comes, and others when it goes, are served as if it had
/// not been there.
fn waiting(stage: &Stage) {
    let children = CHILDREN.to_string();
    let tcp = ["tcp-server", "--prefork", &children, "--null-address", "--wait-close"];
    let servers: Vec<(Server, Server)> = stage
        .ways()
        .iter()
        .map(|way| (way.serve("server", None, "0", &tcp), way.serve("udp", None, "0", &["udp-server"])))
        .collect();
    let mut ports = servers.iter().map(|(tcp, udp)| (tcp.port.as_str(), udp.port.as_str()));
    stage.record(|way| {
        let (tcp, udp) = ports.next().expect("a pair of servers for each way");
        way.clients(CHILDREN, "tcp", tcp);
        way.clients(CHILDREN, "udp", udp);
    });
    for (way, (tcp, udp)) in stage.ways().iter().zip(&servers) {
        way.clients(2 * CHILDREN, "tcp", &tcp.port);
        way.clients(2 * CHILDREN, "udp", &udp.port);
    }
}
