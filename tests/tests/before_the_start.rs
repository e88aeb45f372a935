//! Sockets that are older than the recording: right at both ends from the first packet on. Needs root; says so and passes
//! without.

#![expect(clippy::expect_used, reason = "helpers of tests are test code too")]

use std::fs;

use recorder_tests::judge::{self, judge};
use recorder_tests::lab::{Lab, Server, machine_allows};
use recorder_tests::namespace::{Namespace, connect};
use recorder_tests::process::{Output, Running, must};
use recorder_tests::recorder::{Recording, ask, record};
use recorder_tests::truth;

const TOOLS: [&str; 2] = ["ip", "tshark"];

/// What has sockets before the recording, and says something when it is told to.
struct Story {
    lab: Lab,
    /// Where clients are, and the recorder; and where servers are.
    here: Namespace,
    there: Option<Namespace>,
    servers: Vec<Server>,
    clients: Vec<Running>,
}

impl Story {
    /// All in one network namespace.
    fn on_loopback(label: &str) -> Self {
        let lab = Lab::new(env!("CARGO_BIN_EXE_traffic"));
        Self { lab, here: Namespace::new(label), there: None, servers: Vec::new(), clients: Vec::new() }
    }

    /// Servers at the other end of a veth pair: 10.77.1.2.
    fn over_veth(label: &str) -> Self {
        let story = Self::on_loopback(label);
        let there = Namespace::new("there");
        connect(&story.here, &there, 1);
        Self { there: Some(there), ..story }
    }

    fn server(&mut self, arguments: &[&str]) -> String {
        let namespace = self.there.as_ref().unwrap_or(&self.here);
        let server = self.lab.server(namespace, "server", arguments);
        let port = server.port.clone();
        self.servers.push(server);
        port
    }

    /// A client that has its socket now, and talks when the recording goes on.
    fn client(&mut self, arguments: &[&str]) {
        let go = self.lab.text("go");
        let mut command = self.lab.command(&self.here, "client", arguments);
        let client = Running::start(command.args(["--when", &go]));
        client.wait_for_stdout("a port", |line| line.parse::<u16>().is_ok());
        self.clients.push(client);
    }

    /// Records what they say, and compares.
    fn assert_all_right(self, at_least: usize, context: &str) -> Output {
        let Self { lab, here, there, servers, clients } = self;
        let file = lab.path("old.pcapng");
        let interface = if there.is_some() { "eth1" } else { "lo" };
        let recording =
            Recording::start(&mut record(&here, &["-i", interface, "-w", &lab.text("old.pcapng")]));
        fs::write(lab.path("go"), "").expect("cannot write the signal to go");
        for running in clients.into_iter().chain(servers.into_iter().map(|server| server.running)) {
            running.finish().assert_code(0);
        }
        let output = recording.stop();
        output.assert_code(0);
        assert_one_record_each(&lab.text("old.pcapng"));
        judge(&file, &truth::read(lab.log())).assert_all_right(at_least, &format!("{context}\n{output}"));
        output
    }
}

/// A process that was found in /proc and then told of by the kernel side is one, not two.
fn assert_one_record_each(file: &str) {
    let text = ask(&["summary", "--json", file]);
    let summary: serde_json::Value = serde_json::from_str(&text).expect("summary --json is JSON");
    let processes = summary["processes"].as_array().expect("there is a list of processes");
    let mut pids: Vec<_> = processes.iter().map(|process| process["pid"].as_u64()).collect();
    pids.sort_unstable();
    let all = pids.len();
    pids.dedup();
    assert_eq!(pids.len(), all, "a process has two records: {text}");
    assert!(all > 0, "there are processes: {text}");
}

#[test]
fn a_connection_that_is_idle_until_after_the_start_is_named_from_its_first_packet_on() {
    if !machine_allows(&TOOLS) {
        return;
    }
    for address in ["127.0.0.1", "::1"] {
        let mut story = Story::on_loopback("old-tcp");
        let listen = if address == "::1" { "[::1]:0" } else { "127.0.0.1:0" };
        let port = story.server(&["tcp-server", "--listen", listen, "--connections", "1"]);
        story.client(&["tcp-client", address, &port]);
        let output = story.assert_all_right(5, &format!("TCP from before the start to {address}"));
        assert!(output.stderr.contains("from before the start"), "how they were found is told\n{output}");
    }
}

#[test]
fn connections_from_before_the_start_are_named_over_veth_where_servers_are_in_another_namespace() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let mut story = Story::over_veth("old-veth");
    let port = story.server(&["tcp-server", "--listen", "10.77.1.2:0", "--connections", "1"]);
    story.client(&["tcp-client", "10.77.1.2", &port]);
    let port = story.server(&["udp-server", "--listen", "10.77.1.2:0", "--datagrams", "2"]);
    story.client(&["udp-client", "10.77.1.2", &port, "--connected", "--datagrams", "2"]);
    story.assert_all_right(9, "TCP and UDP from before the start over veth");
}

#[test]
fn datagrams_name_a_server_from_before_the_start_that_has_not_said_a_word_yet() {
    if !machine_allows(&TOOLS) {
        return;
    }
    for (listen, to) in
        [("127.0.0.1:0", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "127.0.0.1"), ("[::]:0", "::1")]
    {
        let mut story = Story::on_loopback("old-udp");
        let port = story.server(&["udp-server", "--listen", listen, "--datagrams", "3"]);
        story.client(&["udp-client", to, &port, "--connected", "--datagrams", "2"]);
        story.client(&["udp-client", to, &port]);
        story.assert_all_right(6, &format!("UDP from before the start at {listen}"));
    }
}

#[test]
fn a_port_is_not_its_old_owners_any_more_when_that_has_closed_it_without_a_word() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let lab = Lab::new(env!("CARGO_BIN_EXE_traffic"));
    let namespace = Namespace::new("old-closed");
    let old = lab.server(&namespace, "old", &["udp-server", "--listen", "0.0.0.0:0", "--datagrams", "1"]);
    let (pid, listen) = (old.pid(), format!("0.0.0.0:{}", old.port));
    let file = lab.path("closed.pcapng");
    let recording =
        Recording::start(&mut record(&namespace, &["-i", "lo", "-w", &lab.text("closed.pcapng")]));
    let port = old.port.clone();
    // Killed, and waited for.
    drop(old);
    let new = lab.server(&namespace, "new", &["udp-server", "--listen", &listen, "--datagrams", "1"]);
    must(&mut lab.command(&namespace, "client", &["udp-client", "127.0.0.1", &port]));
    new.running.finish().assert_code(0);
    let output = recording.stop();
    output.assert_code(0);
    let packets = judge::packets(&file, "udp");
    assert_eq!(packets.len(), 2, "a question and its answer: {packets:#?}\n{output}");
    for packet in packets {
        let comment = packet.comment.clone().unwrap_or_default();
        assert!(!comment.contains(&format!("[{pid}]")), "the old owner is gone: {packet:?}\n{output}");
        assert!(comment.contains("new["), "the new owner is named: {packet:?}\n{output}");
    }
}
