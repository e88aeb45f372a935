//! The recorder on real traffic, in network namespaces of our own. Needs root; says so and passes without.
//!
//! Every story is told the same way: programs that say what they did, a recording, and the judge who compares.

#![expect(clippy::expect_used, reason = "helpers of tests are test code too")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use recorder_tests::blocks::{self, Kind};
use recorder_tests::judge::{self, Judgement, Packet, judge};
use recorder_tests::lab::{Lab, Server, has_tool, machine_allows};
use recorder_tests::namespace::{Namespace, connect};
use recorder_tests::process::{Running, SIGINT, SIGTERM, SIGUSR1, must, run};
use recorder_tests::recorder::{Recording, binary, record};
use recorder_tests::summary::packets_without_owner;
use recorder_tests::truth::{self, Truth, only};
use recorder_tests::tshark::{assert_others_read, fields, knows_field};

const TOOLS: [&str; 2] = ["ip", "tshark"];
const READERS: [&str; 4] = ["ip", "tshark", "capinfos", "tcpdump"];
const NOBODY: u32 = 65534;

fn lab() -> Lab {
    Lab::new(env!("CARGO_BIN_EXE_traffic"))
}

/// Records on loopback in a namespace of its own while `play` runs, and judges what was recorded.
fn on_loopback(label: &str, play: impl FnOnce(&Lab, &Namespace)) -> (Lab, Judgement) {
    let (lab, namespace) = (lab(), Namespace::new(label));
    let file = lab.text("lo.pcapng");
    let recording = Recording::start(&mut record(&namespace, &["-i", "lo", "-w", &file]));
    play(&lab, &namespace);
    recording.stop().assert_code(0);
    let judgement = judge(Path::new(&file), &truth::read(lab.log()));
    (lab, judgement)
}

fn client(lab: &Lab, namespace: &Namespace, name: &str, arguments: &[&str]) {
    must(&mut lab.command(namespace, name, arguments));
}

/// Waits for a server that ends by itself.
fn finish(server: Server) {
    server.running.finish().assert_code(0);
}

// --- both ends, on every packet

#[test]
fn every_packet_of_a_command_names_its_client_and_its_server() {
    if !machine_allows(&READERS) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("command"));
    let server = lab.server(&namespace, "server", &["tcp-server", "--connections", "1"]);
    let (name, fetch) = fetcher(&lab, &server.port);
    let file = lab.path("a.pcapng");
    let script = format!("{fetch} & echo pid $!; wait $!");
    let arguments = ["-i", "lo", "-w", &lab.text("a.pcapng"), "--", "sh", "-c", &script];
    let output = must(&mut record(&namespace, &arguments));
    finish(server);

    let pid = output.stdout.lines().find_map(|line| line.strip_prefix("pid ")).map(str::parse::<u32>);
    let Some(Ok(pid)) = pid else { panic!("the command's standard output did not come through\n{output}") };
    let mut truths = truth::read(lab.log());
    truths.retain(|truth| truth.role != "client");
    truths.push(seen_from_the_client(only(&truths, "server"), &name, pid));
    judge(&file, &truths).assert_all_right(8, "a command");
    assert_from_first_syn_to_last_ack(&judge::packets(&file, "tcp"));
    assert_reads_well_everywhere(&file, &name);
}

/// Name and command line of something that fetches a page.
fn fetcher(lab: &Lab, port: &str) -> (String, String) {
    if has_tool("curl") {
        return ("curl".into(), format!("curl -sS http://127.0.0.1:{port}/"));
    }
    let own = lab.program("fetch");
    ("fetch".into(), format!("{own} tcp-client 127.0.0.1 {port} --until-eof --log {}", lab.log()))
}

/// The connection that the server tells of, as the client at its other end would tell of it.
fn seen_from_the_client(server: &Truth, name: &str, pid: u32) -> Truth {
    let (local, remote) = (server.remote.expect("the server knows its peer"), Some(server.local));
    Truth {
        pid,
        tid: pid,
        name: name.into(),
        role: "client".into(),
        local,
        remote,
        start_ns: 0,
        ..server.clone()
    }
}

fn assert_from_first_syn_to_last_ack(packets: &[Packet]) {
    let flags: Vec<&str> = packets.iter().map(|packet| packet.flags.as_str()).collect();
    assert_eq!(flags.first(), Some(&"0x0002"), "the first packet is not the SYN: {flags:?}");
    assert_eq!(flags.last(), Some(&"0x0010"), "the last packet is not the last ACK: {flags:?}");
    let ends = flags.iter().filter(|flags| **flags == "0x0011").count();
    assert_eq!(ends, 2, "both sides close: {flags:?}");
}

fn assert_reads_well_everywhere(file: &Path, client: &str) {
    assert_others_read(file);
    blocks::assert_consistent(file);
    let numbers: Vec<String> = fields(file, "not frame.cb_pen", &["frame.number"]).concat();
    let expected: Vec<String> = (1..=numbers.len()).map(|number| number.to_string()).collect();
    assert_eq!(numbers, expected, "frame numbers of packets moved");
    let statistics = blocks::read(file).iter().filter(|block| **block == Kind::Statistics).count();
    assert_eq!(statistics, 1, "one interface, one statistics block at the end");

    // Wireshark 4.6 and later.
    if knows_field("frame.darwin.process_info.pname") {
        let names = fields(file, "tcp", &["frame.darwin.process_info.pname"]).concat();
        assert!(names.iter().all(|name| name == client || name == "server"), "{names:?}");
        assert!(names.iter().any(|name| name == client), "{names:?}");
    }
}

#[test]
fn a_name_longer_than_the_kernel_keeps_is_whole() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (_lab, judgement) = on_loopback("long", |lab, namespace| {
        let server =
            lab.server(namespace, "a-server-with-a-long-name", &["tcp-server", "--connections", "1"]);
        client(lab, namespace, "a-client-with-a-long-name", &["tcp-client", "127.0.0.1", &server.port]);
        finish(server);
    });
    judgement.assert_all_right(8, "long names");
}

// --- a thousand short lives

#[test]
fn a_thousand_short_tcp_clients_over_loopback_are_named_right() {
    storm_on_loopback("tcp");
}

#[test]
fn a_thousand_short_udp_clients_over_loopback_are_named_right() {
    storm_on_loopback("udp");
}

#[test]
fn a_thousand_short_tcp_clients_over_veth_are_named_right_where_they_are() {
    storm_over_veth("tcp", Side::Client);
}

#[test]
fn a_thousand_short_tcp_clients_over_veth_are_named_right_from_the_servers_side() {
    storm_over_veth("tcp", Side::Server);
}

#[test]
fn a_thousand_short_udp_clients_over_veth_are_named_right_where_they_are() {
    storm_over_veth("udp", Side::Client);
}

#[test]
fn a_thousand_short_udp_clients_over_veth_are_named_right_from_the_servers_side() {
    storm_over_veth("udp", Side::Server);
}

const LIVES: usize = 1000;

fn storm_on_loopback(protocol: &str) {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (_lab, judgement) = on_loopback(&format!("storm-{protocol}"), |lab, namespace| {
        let server = storm_server(lab, namespace, protocol, "127.0.0.1");
        storm(lab, namespace, protocol, &format!("127.0.0.1:{}", server.port));
        finish(server);
    });
    judgement
        .assert_all_right(packets_of_lives(protocol), &format!("{LIVES} {protocol} clients over loopback"));
}

enum Side {
    Client,
    Server,
}

fn storm_over_veth(protocol: &str, side: Side) {
    if !machine_allows(&TOOLS) {
        return;
    }
    let lab = lab();
    let (here, there) = (Namespace::new("clients"), Namespace::new("servers"));
    connect(&here, &there, 1);
    let server = storm_server(&lab, &there, protocol, "10.77.1.2");
    let (recorded, whose) = match side {
        Side::Client => (&here, "client"),
        Side::Server => (&there, "server"),
    };
    let file = lab.path("veth.pcapng");
    let arguments = ["-i", "eth1", "-w", &lab.text("veth.pcapng")];
    let recording = Recording::start(&mut record(recorded, &arguments));
    storm(&lab, &here, protocol, &format!("10.77.1.2:{}", server.port));
    finish(server);
    recording.stop().assert_code(0);

    let judgement = judge(&file, &truth::read(lab.log()));
    let context = format!("{LIVES} {protocol} clients over veth, recorded on the {whose}'s side");
    judgement.assert_all_right(packets_of_lives(protocol), &context);
}

/// SYN, SYN+ACK, ACK, request, reply, two FINs and their ACKs, of which one may ride on another packet.
fn packets_of_lives(protocol: &str) -> usize {
    if protocol == "tcp" { 8 * LIVES } else { 2 * LIVES }
}

fn storm_server(lab: &Lab, namespace: &Namespace, protocol: &str, address: &str) -> Server {
    let (listen, lives) = (format!("{address}:0"), LIVES.to_string());
    match protocol {
        "tcp" => {
            lab.server(namespace, "server", &["tcp-server", "--listen", &listen, "--connections", &lives])
        }
        _ => lab.server(namespace, "server", &["udp-server", "--listen", &listen, "--datagrams", &lives]),
    }
}

fn storm(lab: &Lab, namespace: &Namespace, protocol: &str, to: &str) {
    let (client, lives) = (lab.program("client"), LIVES.to_string());
    let arguments = ["storm", "--count", &lives, "--protocol", protocol, "--to", to, "--client", &client];
    let output = must(&mut lab.command(namespace, "storm", &arguments));
    recorder_tests::lab::say(&format!("{protocol} storm: {}", output.stdout.trim()));
}

// --- what has no owner

#[test]
fn what_a_router_forwards_between_local_processes_names_both_and_what_is_nobodys_has_no_owner() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let lab = lab();
    let (left, router, right) = (Namespace::new("left"), Namespace::new("router"), Namespace::new("right"));
    route_through(&left, &router, &right);
    let server =
        lab.server(&right, "server", &["tcp-server", "--listen", "10.77.2.2:0", "--connections", "1"]);
    let file = lab.path("router.pcapng");
    let recording = Recording::start(&mut record(&router, &["-i", "any", "-w", &lab.text("router.pcapng")]));
    client(&lab, &left, "client", &["tcp-client", "10.77.2.2", &server.port]);
    finish(server);
    send_spoofed(&left, &lab, &router.mac("eth1"), "10.99.0.1:1000", "10.98.0.1:2000", 5);
    recording.stop().assert_code(0);

    let mut judgement = judge(&file, &truth::read(lab.log()));
    judgement.packets.retain(|judged| judged.packet.protocol == "tcp");
    judgement.assert_all_right(16, "TCP through a router, on both of its interfaces");
    // Five go in, five go out.
    assert_without_owner(&file, "udp.dstport == 2000", 10);
    assert!(packets_without_owner(&file, "forwarded") >= 10, "forwarded packets are counted as such");
    let arp = fields(&file, "arp", &["frame.comment"]);
    assert!(!arp.is_empty(), "the router asked for addresses");
    assert_without_owner(&file, "arp", arp.len());
    assert!(packets_without_owner(&file, "not IP") >= arp.len() as u64, "ARP is counted as not IP");
}

fn route_through(left: &Namespace, router: &Namespace, right: &Namespace) {
    connect(left, router, 1);
    connect(router, right, 2);
    router.set("net/ipv4/ip_forward", "1");
    for interface in ["all", "eth1", "eth2"] {
        router.set(&format!("net/ipv4/conf/{interface}/rp_filter"), "0");
    }
    left.ip(&["route", "add", "default", "via", "10.77.1.2"]);
    right.ip(&["route", "add", "default", "via", "10.77.2.1"]);
    router.ip(&["route", "add", "10.98.0.0/16", "via", "10.77.2.2"]);
}

/// Packets that no socket sent, from eth1 of this namespace.
fn send_spoofed(from: &Namespace, lab: &Lab, mac: &str, source: &str, destination: &str, count: u32) {
    let mut command = from.command(lab.program("spoofer"));
    command.args(["raw-udp", "--interface", "eth1", "--mac", mac, "--from", source, "--to", destination]);
    must(command.args(["--count", &count.to_string()]));
}

fn assert_without_owner(file: &Path, filter: &str, packets: usize) {
    let comments = fields(file, filter, &["frame.number", "frame.comment"]);
    assert_eq!(comments.len(), packets, "packets that are {filter}: {comments:#?}");
    let named: Vec<_> =
        comments.iter().filter(|row| row.get(1).is_some_and(|comment| !comment.is_empty())).collect();
    assert!(named.is_empty(), "{filter} has no owner, and yet: {named:#?}");
}

#[test]
fn a_reset_for_a_closed_port_has_no_sender_and_names_its_receiver() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, _) = on_loopback("refused", |lab, namespace| {
        client(lab, namespace, "refused", &["tcp-refused", "127.0.0.1", "9"]);
    });
    let truths = truth::read(lab.log());
    let name = only(&truths, "refused").label();
    let comments = fields(&lab.path("lo.pcapng"), "tcp", &["tcp.flags", "frame.comment"]);
    assert_eq!(comments.len(), 2, "a SYN and a RST: {comments:?}");
    let syn = comments[0][1].as_str();
    assert!(syn == name || syn == format!("{name} > ?"), "the SYN is the client's: {comments:?}");
    assert_eq!(
        comments[1][1],
        format!("? > {name}"),
        "the RST is the kernel's, for the client: {comments:?}"
    );
    blocks::assert_consistent(&lab.path("lo.pcapng"));
}

#[test]
fn a_datagram_for_nobody_and_the_kernels_answer_have_no_owner_and_are_counted() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let lab = lab();
    let (here, there) = (Namespace::new("here"), Namespace::new("there"));
    connect(&here, &there, 1);
    let file = lab.path("nobody.pcapng");
    let recording = Recording::start(&mut record(&there, &["-i", "eth1", "-w", &lab.text("nobody.pcapng")]));
    send_spoofed(&here, &lab, &there.mac("eth1"), "10.77.1.1:1000", "10.77.1.2:9", 1);
    // The echo comes back after the answer to the datagram, which had to ask for the address first.
    let server = lab.server(&there, "server", &["udp-server", "--listen", "10.77.1.2:0", "--datagrams", "1"]);
    client(&lab, &here, "client", &["udp-client", "10.77.1.2", &server.port]);
    finish(server);
    recording.stop().assert_code(0);

    assert_without_owner(&file, "udp.dstport == 9 and not icmp", 1);
    assert_without_owner(&file, "icmp.type == 3", 1);
    assert_eq!(packets_without_owner(&file, "no socket"), 1);
    // The port unreachable, and what the two kernels say to each other about groups and routers.
    let kernels = fields(&file, "icmp or icmpv6", &["frame.number"]).len() as u64;
    assert_eq!(packets_without_owner(&file, "kernel"), kernels);
}

#[test]
fn last_acks_name_processes_that_are_gone_whoever_closes_first() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, judgement) = on_loopback("last-ack", |lab, namespace| {
        let client_first = ["tcp-server", "--connections", "1", "--wait-close"];
        for arguments in [&client_first[..], &["tcp-server", "--connections", "1"]] {
            let server = lab.server(namespace, "server", arguments);
            client(lab, namespace, "client", &["tcp-client", "127.0.0.1", &server.port]);
            finish(server);
        }
    });
    judgement.assert_all_right(16, "both orders of closing");
    blocks::assert_consistent(&lab.path("lo.pcapng"));
}

// --- who really uses the socket

#[test]
fn a_prefork_server_is_named_by_the_child_that_accepted() {
    prefork("prefork", &["tcp-server", "--prefork", "4"]);
}

#[test]
fn a_prefork_server_that_does_not_ask_for_addresses_is_named_by_the_child_that_accepted() {
    prefork("prefork-null", &["tcp-server", "--prefork", "4", "--null-address"]);
}

fn prefork(label: &str, arguments: &[&str]) {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (_lab, judgement) = on_loopback(label, |lab, namespace| {
        let server = lab.server(namespace, "server", arguments);
        for _ in 0..20 {
            client(lab, namespace, "client", &["tcp-client", "127.0.0.1", &server.port, "--until-eof"]);
        }
    });
    judgement.assert_all_right(160, label);
}

#[test]
fn a_server_that_accepts_with_a_null_address_is_named() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (_lab, judgement) = on_loopback("null-address", |lab, namespace| {
        let server = lab.server(namespace, "server", &["tcp-server", "--null-address", "--connections", "1"]);
        client(lab, namespace, "client", &["tcp-client", "127.0.0.1", &server.port]);
        finish(server);
    });
    judgement.assert_all_right(8, "accept with a null address");
}

#[test]
fn a_udp_server_on_the_wildcard_address_is_named_with_all_its_clients() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (_lab, judgement) = on_loopback("udp-wildcard", |lab, namespace| {
        let server =
            lab.server(namespace, "server", &["udp-server", "--listen", "0.0.0.0:0", "--datagrams", "9"]);
        let three = ["udp-client", "127.0.0.1", &server.port, "--datagrams", "3"];
        client(lab, namespace, "unconnected", &three);
        client(lab, namespace, "connected", &[&three[..], &["--connected"]].concat());
        client(lab, namespace, "another", &three);
        finish(server);
    });
    judgement.assert_all_right(18, "UDP wildcard server");
}

#[test]
fn a_connection_inherited_by_fork_without_exec_is_named_by_the_one_that_uses_it() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (_lab, judgement) = on_loopback("handover", |lab, namespace| {
        let server =
            lab.server(namespace, "server", &["tcp-server", "--connections", "1", "--requests", "2"]);
        client(lab, namespace, "client", &["handover-client", "127.0.0.1", &server.port]);
        finish(server);
    });
    judgement.assert_all_right(10, "fork without exec");
}

#[test]
fn a_dual_stack_listener_is_named_to_clients_of_both_families() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (_lab, judgement) = on_loopback("dual-stack", |lab, namespace| {
        let server =
            lab.server(namespace, "server", &["tcp-server", "--listen", "[::]:0", "--connections", "2"]);
        client(lab, namespace, "client-4", &["tcp-client", "127.0.0.1", &server.port]);
        client(lab, namespace, "client-6", &["tcp-client", "::1", &server.port]);
        finish(server);
    });
    judgement.assert_all_right(16, "dual-stack listener");
}

#[test]
fn sockets_from_before_the_recording_are_named() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("before"));
    let server = lab.server(&namespace, "server", &["tcp-server", "--connections", "1"]);
    let file = lab.path("before.pcapng");
    let recording =
        Recording::start(&mut record(&namespace, &["-i", "lo", "-w", &lab.text("before.pcapng")]));
    client(&lab, &namespace, "client", &["tcp-client", "127.0.0.1", &server.port]);
    finish(server);
    recording.stop().assert_code(0);
    judge(&file, &truth::read(lab.log())).assert_all_right(8, "a listener from before the recording");
}

#[test]
fn a_recorder_under_ip_netns_exec_names_processes_though_it_sees_no_cgroups() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("netns-exec"));
    let file = lab.path("exec.pcapng");
    let mut command = namespace.ip_netns_exec(&binary());
    let recording = Recording::start(command.args(["record", "-i", "lo", "-w", &lab.text("exec.pcapng")]));
    let server = lab.server(&namespace, "server", &["tcp-server", "--connections", "1"]);
    client(&lab, &namespace, "client", &["tcp-client", "127.0.0.1", &server.port]);
    finish(server);
    recording.stop().assert_code(0);
    judge(&file, &truth::read(lab.log())).assert_all_right(8, "ip netns exec");
}

// --- one command and its descendants

#[test]
fn only_the_descendants_of_the_command_are_recorded_daemons_included() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("descendants"));
    let server = lab.server(&namespace, "server", &["tcp-server"]);
    let stranger = ["tcp-client", "127.0.0.1", &server.port, "--until-eof", "--forever"];
    let stranger = Running::start(&mut lab.command(&namespace, "stranger", &stranger));
    let file = lab.path("descendants.pcapng");
    let job = |name: &str, what: &str| {
        let (program, port, log) = (lab.program(name), &server.port, lab.log());
        format!("{program} {what} 127.0.0.1 {port} --until-eof --log {log}")
    };
    let script = format!("{}; {}; exit 7", job("daemon", "daemon-client"), job("child", "tcp-client"));
    let path = lab.text("descendants.pcapng");
    let output = run(&mut record(&namespace, &["-i", "lo", "-w", &path, "--", "sh", "-c", &script]));
    drop(stranger);

    output.assert_code(1);
    assert!(output.stderr.contains('7'), "the exit status of the command is told\n{output}");
    let judgement = judge(&file, &truth::read(lab.log()));
    judgement.assert_all_right(16, "a daemon and a child, among strangers");
    for name in ["daemon[", "child["] {
        let named = |comment: &Option<String>| comment.as_ref().is_some_and(|comment| comment.contains(name));
        let count = judgement.packets.iter().filter(|judged| named(&judged.packet.comment)).count();
        assert!(count >= 8, "{name} has {count} packets\n{output}");
    }
    let strangers = fields(&file, "frame.comment contains \"stranger\"", &["frame.number"]);
    assert!(strangers.is_empty(), "packets of strangers: {strangers:?}");
}

#[test]
fn under_sudo_the_command_runs_as_the_user_and_the_file_is_theirs() {
    if !machine_allows(&["ip"]) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("sudo"));
    lab.open_to_all();
    let id = NOBODY.to_string();
    let mut command = record(&namespace, &["-i", "lo", "-w", &lab.text("sudo.pcapng"), "--", "id", "-u"]);
    command.env("SUDO_UID", &id).env("SUDO_GID", &id).env("SUDO_USER", "nobody");
    let output = must(&mut command);
    assert_eq!(output.stdout.trim(), id, "the command runs as the invoking user\n{output}");
    let owner = fs::metadata(lab.path("sudo.pcapng")).unwrap().uid();
    assert_eq!(owner, NOBODY, "the file is the invoking user's\n{output}");
}

#[test]
fn a_command_that_cannot_be_started_is_said_so() {
    if !machine_allows(&["ip"]) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("no-command"));
    let path = lab.text("none.pcapng");
    let output = run(&mut record(&namespace, &["-i", "lo", "-w", &path, "--", "/no/such/program"]));
    output.assert_code(2);
    assert!(output.stderr.contains("/no/such/program"), "the error names the program\n{output}");
}

// --- how a recording begins and ends

#[test]
fn sigint_and_sigterm_end_a_recording_cleanly() {
    if !machine_allows(&READERS) {
        return;
    }
    for signal in [SIGINT, SIGTERM] {
        let (lab, namespace) = (lab(), Namespace::new("signals"));
        let recording = Recording::start(&mut record(&namespace, &["-i", "lo", "-w", &lab.text("s.pcapng")]));
        let server = lab.server(&namespace, "server", &["tcp-server", "--connections", "1"]);
        client(&lab, &namespace, "client", &["tcp-client", "127.0.0.1", &server.port]);
        finish(server);
        recording.stop_with(signal).assert_code(0);
        assert_others_read(&lab.path("s.pcapng"));
        let mode = fs::metadata(lab.path("s.pcapng")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "the file is for its owner alone");
    }
}

#[test]
fn sigusr1_prints_statistics_and_the_recording_goes_on() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("sigusr1"));
    let recording = Recording::start(&mut record(&namespace, &["-i", "lo", "-w", &lab.text("u.pcapng")]));
    let lines = recording.running().stderr_lines();
    recording.running().signal(SIGUSR1);
    recording.running().wait_for_more_stderr(lines);
    let server = lab.server(&namespace, "server", &["tcp-server", "--connections", "1"]);
    client(&lab, &namespace, "client", &["tcp-client", "127.0.0.1", &server.port]);
    finish(server);
    recording.stop().assert_code(0);
    judge(&lab.path("u.pcapng"), &truth::read(lab.log())).assert_all_right(8, "after SIGUSR1");
}

#[test]
fn a_recording_ends_by_itself_after_count_packets() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("count"));
    let server = lab.server(&namespace, "server", &["tcp-server", "--connections", "1"]);
    let arguments = ["-i", "lo", "-c", "5", "-w", &lab.text("c.pcapng")];
    let recording = Recording::start(&mut record(&namespace, &arguments));
    client(&lab, &namespace, "client", &["tcp-client", "127.0.0.1", &server.port]);
    recording.finish().assert_code(0);
    finish(server);
    let packets = fields(&lab.path("c.pcapng"), "not frame.cb_pen", &["frame.number"]);
    assert_eq!(packets.len(), 5, "{packets:?}");
}

#[test]
fn an_existing_file_is_overwritten_only_by_force() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("force"));
    let path = lab.text("precious.pcapng");
    fs::write(&path, "precious").unwrap();
    let output = run(&mut record(&namespace, &["-i", "lo", "-w", &path]));
    output.assert_code(2);
    assert!(output.stderr.starts_with("recorder: "), "{output}");
    assert!(
        output.stderr.contains(&path) && output.stderr.contains("--force"),
        "object and remedy\n{output}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious", "the file was touched\n{output}");

    Recording::start(&mut record(&namespace, &["-i", "lo", "-w", &path, "--force"])).stop().assert_code(0);
    assert!(fields(Path::new(&path), "not frame.cb_pen", &["frame.number"]).is_empty(), "nothing was sent");
}

#[test]
fn an_interface_that_does_not_exist_is_said_so() {
    if !machine_allows(&["ip"]) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("no-interface"));
    let output = run(&mut record(&namespace, &["-i", "nosuch0", "-w", &lab.text("n.pcapng")]));
    output.assert_code(2);
    assert!(output.stderr.starts_with("recorder: cannot record on nosuch0: "), "{output}");
}

#[test]
fn without_privileges_recording_fails_and_says_what_to_do() {
    if !machine_allows(&["setpriv"]) {
        return;
    }
    let lab = lab();
    lab.open_to_all();
    let recorder = lab.adopt(binary(), "recorder");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all", &recorder]);
    command.args(["record", "-i", "lo", "-w", &lab.text("unprivileged.pcapng")]);
    let output = run(&mut command);
    output.assert_code(2);
    let mut lines = output.stderr.lines();
    let first = lines.next().unwrap_or_default();
    assert!(
        first.starts_with("recorder: cannot record on lo: "),
        "what failed, on which object, why\n{output}"
    );
    let remedy = lines.next().unwrap_or_default();
    assert!(remedy.starts_with("  needs CAP_NET_RAW"), "the remedy, indented by two\n{output}");
    assert!(remedy.contains("sudo") && remedy.contains("recorder doctor"), "the remedy\n{output}");
    assert!(
        !lab.path("unprivileged.pcapng").exists(),
        "nothing usable was done, so there is no file\n{output}"
    );
}
