//! Which TCP segments were sent again: `recorder summary` and tshark say the same of connections that really lost packets.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::process::Command;

use recorder_tests::lab::{Lab, machine_allows};
use recorder_tests::namespace::{Namespace, connect};
use recorder_tests::process::{Running, SIGINT, must};
use recorder_tests::recorder::ask;
use recorder_tests::tshark::fields;

/// Segments sent again, by source address, source port and destination port.
type Counts = BTreeMap<(String, String, String), u64>;

fn of_tshark(file: &str) -> Counts {
    let mut counts = Counts::new();
    let names = ["ip.src", "tcp.srcport", "tcp.dstport"];
    for row in fields(file.as_ref(), "tcp.analysis.retransmission", &names) {
        let [source, from, to] = row.try_into().expect("three fields");
        *counts.entry((source, from, to)).or_default() += 1;
    }
    counts
}

fn of_recorder(file: &str) -> Counts {
    let text = ask(&["summary", "--json", "--by", "connection", file]);
    let object: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let mut counts = Counts::new();
    for connection in object["connections"].as_array().expect("connections") {
        for (way, from, to) in [("sent", "source", "destination"), ("received", "destination", "source")] {
            let port = |end: &str| connection[format!("{end}_port")].to_string();
            let source = connection[from].as_str().expect("an address").to_owned();
            match connection["sent_again"][way].as_u64().expect("a number") {
                0 => {}
                again => *counts.entry((source, port(from), port(to))).or_default() += again,
            }
        }
    }
    counts
}

#[test]
fn of_connections_that_lose_packets_tshark_says_the_same_at_both_ends() {
    if !machine_allows(&["ip", "nft", "iperf3", "tcpdump", "editcap", "tshark"]) {
        return;
    }
    let lab = Lab::new("");
    let (near, far) = (Namespace::new("near"), Namespace::new("far"));
    connect(&near, &far, 1);
    let lose = "table inet lossy { chain input { type filter hook input priority 0; numgen random mod 100 < 3 drop; }; }";
    for namespace in [&near, &far] {
        must(namespace.command("nft").arg(lose));
    }
    let server = Running::start(far.command("iperf3").args(["--server", "--one-off", "--forceflush"]));
    server.wait_for_stdout("the server listens", |line| line.contains("listening"));
    let files = ["near.pcap", "far.pcap"].map(|name| lab.text(name));
    let captures: Vec<Running> = [&near, &far]
        .into_iter()
        .zip(&files)
        .map(|(namespace, file)| {
            let mut command = namespace.command("tcpdump");
            command.args(["-Z", "root", "--immediate-mode", "-U", "-s", "128", "-i", "eth1", "-w", file]);
            let running = Running::start(&mut command);
            running.wait_for_stderr("it captures", |line| line.contains("listening on eth1"));
            running
        })
        .collect();
    must(near.command("iperf3").args(["--client", "10.77.1.2", "--bytes", "40M", "--parallel", "3"]));
    server.finish().assert_code(0);
    for capture in captures {
        capture.signal(SIGINT);
        capture.finish().assert_code(0);
    }
    for file in &files {
        let capture = format!("{file}ng");
        must(Command::new("editcap").args(["-F", "pcapng", file, &capture]));
        let file = &capture;
        let (theirs, ours) = (of_tshark(file), of_recorder(file));
        assert!(!theirs.is_empty(), "nothing was lost\n{}", ask(&["summary", "--by", "connection", file]));
        assert_eq!(ours, theirs, "{file}\n{}", evidence(file));
    }
}

/// Each segment that tshark has something to say of.
fn evidence(file: &str) -> String {
    must(Command::new("tshark").args(["-n", "-r", file, "-Y", "tcp.analysis.flags"])).stdout
}
