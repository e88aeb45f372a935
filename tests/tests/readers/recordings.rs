//! The recordings that are read: one piece of traffic, recorded in every way of annotating it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use recorder_tests::blocks::Ending;
use recorder_tests::lab::{Lab, ODD_NAMES, machine_allows};
use recorder_tests::namespace::{Namespace, connect};
use recorder_tests::process::must;
use recorder_tests::recorder::{Recording, record};
use recorder_tests::rooms::root;
use recorder_tests::seen::by_recorder;
use recorder_tests::truth;

/// What the live recordings need.
pub(crate) const TOOLS: [&str; 3] = ["ip", "tshark", "tcpdump"];

/// The ways to annotate: all, each alone, none.
pub(crate) const ANNOTATE: [&str; 6] = ["all", "comment", "ids", "darwin", "custom", "none"];

/// Cuts the large datagrams.
const SNAP_LENGTH: &str = "200";

pub(crate) fn lab() -> Lab {
    Lab::new(env!("CARGO_BIN_EXE_traffic"))
}

/// A namespace whose free ports are not EtherCAT's 34980: tshark 4.0 dissects what it takes for that, whatever it is told.
pub(crate) fn namespace(label: &str) -> Namespace {
    let namespace = Namespace::new(label);
    namespace.set("net/ipv4/ip_local_port_range", "40000 60000");
    namespace
}

/// A recording as it was written, and how.
pub(crate) struct Recorded {
    /// One of [`ANNOTATE`].
    pub(crate) annotate: &'static str,
    pub(crate) bytes: Vec<u8>,
}

impl Recorded {
    pub(crate) fn has_comments(&self) -> bool {
        ["all", "comment"].contains(&self.annotate)
    }

    pub(crate) fn has_process_blocks(&self) -> bool {
        ["all", "darwin"].contains(&self.annotate)
    }

    /// Puts it into the folder of a test.
    pub(crate) fn put(&self, lab: &Lab) -> PathBuf {
        let path = lab.path(format!("{}.pcapng", self.annotate));
        fs::write(&path, &self.bytes).expect("cannot write the recording");
        path
    }
}

/// The sample of the repository, which is annotated in all ways.
pub(crate) fn sample() -> Recorded {
    let bytes = fs::read(root().join("samples/loopback.pcapng")).expect("the sample is in the repository");
    Recorded { annotate: "all", bytes }
}

/// The traffic of [`play`], in each way to annotate; recorded once for all tests. None where the machine does not allow it.
pub(crate) fn live() -> Option<&'static [Recorded]> {
    static RECORDED: OnceLock<Vec<Recorded>> = OnceLock::new();
    machine_allows(&TOOLS).then(|| RECORDED.get_or_init(record_in_all_ways).as_slice())
}

fn record_in_all_ways() -> Vec<Recorded> {
    let (lab, here, there) = (lab(), namespace("here"), namespace("there"));
    connect(&here, &there, 1);
    here.ip(&["link", "set", "dev", "eth1", "alias", "to the other namespace"]);
    let file = |annotate: &str| lab.path(format!("{annotate}.pcapng"));
    let start = |annotate| {
        let mut command = record(&here, &["-i", "any", "-s", SNAP_LENGTH, "--annotate", annotate]);
        // ARP has no process; a filter is written into the file.
        command.args(["-f", "ip or ip6 or arp", "--with-cmdline"]);
        command.args(["--capture-comment", "first comment", "--capture-comment", "second comment"]);
        Recording::start(command.arg("-w").arg(file(annotate)))
    };
    let recordings = ANNOTATE.map(start);
    play(&lab, &here, &there);
    for recording in recordings {
        recording.stop().assert_code(0);
    }
    assert_holds_what_is_hard(&by_recorder(&file("all"), Ending::Whole));
    let read = |annotate| fs::read(file(annotate)).expect("the recording can be read");
    ANNOTATE.into_iter().map(|annotate| Recorded { annotate, bytes: read(annotate) }).collect()
}

/// TCP, UDP, ICMP, ICMPv6 and ARP over loopback and a veth pair; names that are hard to spell; a process id that is used again.
fn play(lab: &Lab, here: &Namespace, there: &Namespace) {
    let client = |namespace: &Namespace, name: &str, arguments: &[&str]| {
        must(&mut lab.command(namespace, name, arguments));
    };
    let count = ODD_NAMES.len().to_string();
    let server = lab.server(here, "server", &["tcp-server", "--connections", &count]);
    for name in ODD_NAMES {
        let mut command: Command = here.command(lab.program_named(OsStr::from_bytes(name)));
        must(command.args(["tcp-client", "127.0.0.1", &server.port, "--log", &lab.log()]));
    }
    server.running.finish().assert_code(0);

    let server = lab.server(there, "resolver", &["udp-server", "--listen", "[fd77:1::2]:0"]);
    client(here, "lookup", &["udp-client", "fd77:1::2", &server.port, "--datagrams", "3", "--size", "1000"]);
    let server = lab.server(here, "resolver", &["udp-server", "--listen", "[::1]:0"]);
    client(here, "lookup", &["udp-client", "::1", &server.port, "--datagrams", "3"]);
    for address in ["127.0.0.1", "::1", "10.77.1.2", "fd77:1::2"] {
        client(here, "pinger", &["ping", address, "--raw", "--id", "4242", "--count", "2"]);
    }
    client(there, "refused", &["tcp-refused", "10.77.1.1", "9"]);

    let server = lab.server(here, "server", &["tcp-server", "--connections", "2"]);
    let (first, second, to) =
        (lab.program("first"), lab.program("second"), format!("127.0.0.1:{}", server.port));
    let clients = format!("{first},{second}");
    client(here, "storm", &["same-pid-storm", "--count", "2", "--clients", &clients, "--to", &to]);
    server.running.finish().assert_code(0);
}

/// Panics unless the recording has in it what readers could stumble over.
fn assert_holds_what_is_hard(packets: &[recorder_tests::seen::Seen]) {
    let comments: Vec<&str> = packets.iter().filter_map(|packet| packet.comment.as_deref()).collect();
    for name in ODD_NAMES.map(truth::spelled) {
        let begins = format!("{name}[");
        assert!(
            comments.iter().any(|comment| comment.starts_with(&begins)),
            "no packet of {name}: {comments:#?}"
        );
    }
    for name in ["lo", "eth1"] {
        let there = packets.iter().any(|packet| packet.interface.as_deref() == Some(name));
        assert!(there, "no packet on {name}");
    }
    for ending in [" > ?", "]", ""] {
        assert!(
            comments.iter().any(|comment| comment.ends_with(ending)),
            "no comment that ends with {ending:?}"
        );
    }
    assert!(comments.iter().any(|comment| comment.is_empty()), "no packet without a process");
    assert!(packets.iter().any(|packet| packet.captured < packet.length), "no packet is cut");
    let pid = |name: &str| comments.iter().find_map(|comment| comment.strip_prefix(name)?.split(']').next());
    assert_eq!(pid("first["), pid("second["), "no process id was used again");
}
