//! What `replay` sends arrives: in order, to the byte, in time. Needs root; says so and passes without.

#![expect(clippy::expect_used, reason = "helpers of tests are test code too")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use recorder_tests::blocks::Ending;
use recorder_tests::lab::{Lab, machine_allows};
use recorder_tests::made::{self, ETHERNET, Made, RAW_IP, frame, irregular, step_differences};
use recorder_tests::namespace::{Namespace, connect};
use recorder_tests::process::{Output, Running, SIGINT, must, run};
use recorder_tests::recorder::{Recording, binary, record};
use recorder_tests::seen::{by_pcap_parser, by_recorder};
use recorder_tests::tshark::fields;
use recorder_tests::wireshark::{Wireshark, rows};
use serde_json::Value;

const TOOLS: [&str; 2] = ["ip", "tshark"];

const MS: u64 = 1_000_000;
const START: u64 = 1_700_000_000_123_456_789;

fn lab() -> Lab {
    Lab::new(env!("CARGO_BIN_EXE_traffic"))
}

/// Two namespaces that are connected, and say nothing by themselves.
fn connected() -> (Namespace, Namespace) {
    let (here, there) = (Namespace::new("sender"), Namespace::new("receiver"));
    for namespace in [&here, &there] {
        namespace.set("net/ipv6/conf/default/disable_ipv6", "1");
        namespace.set("net/ipv6/conf/all/disable_ipv6", "1");
    }
    let (a, b) = (here.name(), there.name());
    must(
        Command::new("ip")
            .args(["link", "add", "eth1", "netns", a, "type", "veth", "peer", "name", "eth1", "netns", b]),
    );
    for namespace in [&here, &there] {
        namespace.ip(&["link", "set", "dev", "eth1", "arp", "off", "up"]);
    }
    (here, there)
}

/// `recorder replay FILE -i eth1 ARGUMENTS` in a namespace, with the report as JSON.
fn replay(namespace: &Namespace, file: &Path, arguments: &[&str]) -> (Output, Value) {
    let mut command = namespace.command(binary());
    let output = run(command.arg("replay").arg(file).args(["-i", "eth1", "--json"]).args(arguments));
    let report = output.stderr.lines().find_map(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    (output, report)
}

/// What arrives in the other namespace: time in nanoseconds, and bytes.
fn arrived(lab: &Lab, there: &Namespace, send: impl FnOnce()) -> Vec<(u64, Vec<u8>)> {
    let file = lab.path("arrived.pcapng");
    let arguments = ["-i", "eth1", "--attribution", "none", "--force", "-w"];
    let recording = Recording::start(record(there, &arguments).arg(&file));
    send();
    recording.stop().assert_code(0);
    packets(&file)
}

fn packets(file: &Path) -> Vec<(u64, Vec<u8>)> {
    let (seen, _) = by_pcap_parser(file);
    seen.into_iter().map(|packet| (packet.time_ns, packet.data.expect("pcap-parser has the data"))).collect()
}

fn bytes(packets: &[(u64, Vec<u8>)]) -> Vec<&[u8]> {
    packets.iter().map(|(_, data)| data.as_slice()).collect()
}

#[test]
fn a_recording_arrives_in_order_to_the_byte_and_in_time() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, (here, there)) = (lab(), connected());
    let (file, sent) = (lab.path("a.pcapng"), irregular(500));
    made::write(&file, ETHERNET, &sent);
    let expected: Vec<&[u8]> = sent.iter().map(|packet| packet.data.as_slice()).collect();
    for (speed, factor) in [("1", 1), ("4", 4)] {
        let arrived = arrived(&lab, &there, || {
            let (output, report) = replay(&here, &file, &["--speed", speed]);
            output.assert_code(0);
            assert_eq!(report["packets"], 500, "{output}");
        });
        assert_eq!(bytes(&arrived), expected, "at speed {speed}");
        let recorded: Vec<u64> = sent.iter().map(|packet| packet.time_ns / factor).collect();
        let times: Vec<u64> = arrived.iter().map(|(time, _)| *time).collect();
        let differences = step_differences(&recorded, &times);
        // All of them on a machine that has a core to spare; this one may have none for a while.
        let (median, most) = (differences[differences.len() / 2], differences[differences.len() * 9 / 10]);
        assert!(median < MS / 5 && most < MS, "at speed {speed} steps differ by: {differences:?}");
    }
}

#[test]
fn a_rate_is_kept_and_loops_follow_each_other() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, (here, there)) = (lab(), connected());
    let file = lab.path("a.pcapng");
    let sent: Vec<_> = (0..100).map(|number| Made::whole(START, frame(number, 125))).collect();
    made::write(&file, ETHERNET, &sent);
    // The same rate, in packets and in bits.
    for rate in ["1000", "1Mbit"] {
        let arrived = arrived(&lab, &there, || {
            let (output, report) = replay(&here, &file, &["--rate", rate, "--loop", "3"]);
            output.assert_code(0);
            assert_eq!((&report["packets"], &report["passes"]), (&300.into(), &3.into()), "{output}");
            let duration = report["duration_ns"].as_u64().expect("a number");
            // 299 steps of a millisecond; later than that only by what the last packet was late.
            assert!((299 * MS..600 * MS).contains(&duration), "{rate}: {output}");
        });
        let expected: Vec<&[u8]> =
            std::iter::repeat_n(&sent, 3).flatten().map(|packet| &packet.data[..]).collect();
        assert_eq!(bytes(&arrived), expected, "{rate}");
    }
    let arrived = arrived(&lab, &there, || {
        let (output, report) = replay(&here, &file, &["--top-speed", "--loop", "50"]);
        output.assert_code(0);
        assert_eq!(report["packets"], 5000, "{output}");
    });
    let expected: Vec<&[u8]> =
        std::iter::repeat_n(&sent, 50).flatten().map(|packet| &packet.data[..]).collect();
    assert_eq!(bytes(&arrived), expected);
}

#[test]
fn a_signal_ends_it_with_a_report() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, (here, there)) = (lab(), connected());
    let file = lab.path("a.pcapng");
    made::write(
        &file,
        ETHERNET,
        &[Made::whole(START, frame(1, 60)), Made::whole(START + 3_600_000 * MS, frame(2, 60))],
    );
    // It waits for an hour, or sends for ever.
    for arguments in [&["--speed", "1"][..], &["--top-speed", "--loop", "0"]] {
        let before = there.received("eth1");
        let mut command = here.command(binary());
        let running = Running::start(command.arg("replay").arg(&file).args(["-i", "eth1"]).args(arguments));
        while there.received("eth1") == before {
            assert!(!running.has_ended(), "{arguments:?}");
        }
        running.signal(SIGINT);
        let output = running.finish();
        output.assert_code(0);
        assert!(output.stderr.contains(" bytes sent on eth1 in "), "{output}");
    }
}

#[test]
fn what_the_interface_cannot_take_is_told_and_the_rest_is_sent() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, (here, there)) = (lab(), connected());
    let file = lab.path("a.pcapng");
    let (longest, cut) = (frame(2, 1514), frame(3, 40));
    let all = [
        Made::whole(START, frame(1, 1515)),
        Made::whole(START, longest.clone()),
        Made { time_ns: START, length: 900, data: cut.clone() },
        Made::whole(START, frame(4, 13)),
    ];
    made::write(&file, ETHERNET, &all);
    let arrived = arrived(&lab, &there, || {
        let (output, report) = replay(&here, &file, &[]);
        output.assert_code(1);
        let counts = ["packets", "cut", "failed", "too_long", "too_short"].map(|key| report[key].as_u64());
        assert_eq!(counts, [2, 1, 2, 1, 1].map(Some), "{output}");
    });
    assert_eq!(bytes(&arrived), [longest, cut]);

    // A recording that was cut is sent up to there.
    let text = fs::read(&file).expect("it was written");
    fs::write(&file, &text[..text.len() - 20]).expect("cannot write the capture");
    let (output, report) = replay(&here, &file, &[]);
    output.assert_code(1);
    assert_eq!(report["packets"], 2, "{output}");
    assert!(output.stderr.contains("the file ends inside the block at byte "), "{output}");
}

#[test]
fn bare_ip_is_sent_on_ethernet_only_with_an_address_to_send_it_to() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, (here, there)) = (lab(), connected());
    let file = lab.path("a.pcapng");
    let ip = [&[0x45, 0, 0, 24, 0, 0, 0, 0, 64, 253, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2][..], b"data"].concat();
    made::write(&file, RAW_IP, &[Made::whole(START, ip.clone())]);
    let mut command = here.command(binary());
    let output = run(command.arg("replay").arg(&file).args(["-i", "eth1"]));
    output.assert_code(2);
    assert!(output.stderr.contains("link type 101") && output.stderr.contains("--enet-dmac"), "{output}");
    let arrived = arrived(&lab, &there, || {
        replay(&here, &file, &["--enet-dmac", "02:00:00:00:00:07"]).0.assert_code(0);
    });
    let own: Vec<u8> =
        here.mac("eth1").split(':').map(|byte| u8::from_str_radix(byte, 16).expect("a byte")).collect();
    assert_eq!(bytes(&arrived), [[&[2, 0, 0, 0, 0, 7][..], &own, &[8, 0], &ip].concat()]);
}

#[test]
fn an_error_says_what_and_why() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, (here, _there)) = (lab(), connected());
    let file = lab.path("a.pcapng");
    made::write(&file, ETHERNET, &irregular(3));
    let on = |interface: &str, file: &Path| {
        let mut command = here.command(binary());
        let output = run(command.arg("replay").arg(file).args(["-i", interface]));
        output.assert_code(2);
        output.stderr
    };
    assert!(
        on("nosuch", &file).contains("cannot send on nosuch: no such interface\n  `recorder interfaces`")
    );
    assert!(on("eth1", &lab.path("nosuch")).contains("cannot open "));
    here.ip(&["link", "set", "dev", "eth1", "down"]);
    assert!(on("eth1", &file).contains("cannot send on eth1: it is down\n  bring it up first"));
    let mut command = Command::new("setpriv");
    command
        .args(["--bounding-set=-net_raw", "--inh-caps=-net_raw"])
        .arg(binary())
        .arg("replay")
        .arg(&file)
        .args(["-i", "lo"]);
    let output = run(&mut command);
    output.assert_code(2);
    assert!(
        output.stderr.contains("cannot send on lo: operation not permitted")
            && output.stderr.contains("CAP_NET_RAW"),
        "{output}"
    );
}

/// Real conversations, recorded with their processes: two clients, a server, over both versions of IP.
fn conversations(lab: &Lab) -> PathBuf {
    let (one, other) = (Namespace::new("client"), Namespace::new("server"));
    connect(&one, &other, 1);
    let file = lab.path("conversations.pcapng");
    let recording = Recording::start(record(&one, &["-i", "eth1", "-w"]).arg(&file));
    for address in ["10.77.1.2", "fd77:1::2"] {
        let listen = if address.contains(':') { format!("[{address}]:0") } else { format!("{address}:0") };
        let tcp = lab.server(&other, "server", &["tcp-server", "--listen", &listen, "--connections", "2"]);
        let udp = lab.server(&other, "server", &["udp-server", "--listen", &listen, "--datagrams", "2"]);
        for name in ["alpha", "beta"] {
            must(&mut lab.command(&one, name, &["tcp-client", address, &tcp.port]));
            must(&mut lab.command(&one, name, &["udp-client", address, &udp.port]));
        }
        tcp.running.finish().assert_code(0);
        udp.running.finish().assert_code(0);
        must(one.command("ping").args(["-c", "1", address]));
    }
    recording.stop().assert_code(0);
    file
}

#[test]
fn only_what_was_chosen_is_sent() {
    if !machine_allows(&["ip", "tshark", "ping"]) {
        return;
    }
    let (lab, (here, there)) = (lab(), connected());
    let file = conversations(&lab);
    for arguments in [
        &["--name", "alpha"][..],
        &["--process", "name=beta", "-f", "udp"],
        &["--name", "alpha", "--direction", "out"],
    ] {
        // What `filter` keeps and `show` tells of them, to the byte.
        let (direction, chosen) = match arguments.split_last_chunk() {
            Some((rest, ["--direction", direction])) => (Some(*direction), rest),
            _ => (None, arguments),
        };
        let kept = lab.path("kept.pcapng");
        must(Command::new(binary()).arg("filter").arg(&file).args(["--force", "-w"]).arg(&kept).args(chosen));
        let seen = by_recorder(&kept, Ending::Whole);
        let wanted = seen
            .iter()
            .map(|packet| direction.is_none_or(|wanted| packet.direction.as_deref() == Some(wanted)));
        let all = packets(&kept);
        let expected: Vec<&[u8]> =
            bytes(&all).into_iter().zip(wanted).filter_map(|(data, wanted)| wanted.then_some(data)).collect();
        assert!(
            expected.len() >= 2 && expected.len() < packets(&file).len(),
            "{arguments:?}: {}",
            expected.len()
        );
        let arrived = arrived(&lab, &there, || {
            let mut all = vec!["--top-speed"];
            all.extend(arguments);
            replay(&here, &file, &all).0.assert_code(0);
        });
        assert_eq!(bytes(&arrived), expected, "{arguments:?}");
    }
}

#[test]
fn between_other_addresses_all_checksums_are_right() {
    if !machine_allows(&["ip", "tshark", "ping"]) {
        return;
    }
    let (lab, (here, there)) = (lab(), connected());
    let file = conversations(&lab);
    // The kernel left the checksums to a network card that there is not: what is wrong in the recording is right then.
    let arguments = [
        "--top-speed",
        "--pnat",
        "10.77.1.1:192.0.2.7",
        "--pnat",
        "10.77.1.0/24:198.51.100.0/24",
        "--pnat",
        "[fd77:1::/64]:[2001:db8:5::/64]",
        "--enet-smac",
        "02:00:00:00:00:aa",
        "--enet-dmac",
        "02:00:00:00:00:bb",
        "--fix-checksums",
    ];
    let arrived = arrived(&lab, &there, || {
        let (output, _) = replay(&here, &file, &arguments);
        output.assert_code(0);
    });
    assert_eq!(arrived.len(), packets(&file).len());
    let received = lab.path("arrived.pcapng");
    let others = "eth.src != 02:00:00:00:00:aa || eth.dst != 02:00:00:00:00:bb || ip.addr == 10.0.0.0/8 || ipv6.addr == fd77::/16";
    assert_eq!(fields(&received, others, &["frame.number"]), Vec::<Vec<String>>::new());
    for (protocol, status, at_least) in [
        ("ip", "ip.checksum.status", 20),
        ("tcp", "tcp.checksum.status", 30),
        ("udp", "udp.checksum.status", 8),
        ("icmp", "icmp.checksum.status", 2),
        ("icmpv6", "icmpv6.checksum.status", 2),
    ] {
        let mut command = Wireshark::own().fields_command(&received, protocol, &[status]);
        for preference in ["ip", "tcp", "udp"] {
            command.args(["-o", &format!("{preference}.check_checksum:TRUE")]);
        }
        let rows = rows(&must(&mut command));
        // 1 is good.
        assert!(rows.len() >= at_least && rows.iter().all(|row| row == &["1"]), "{protocol}: {rows:?}");
    }
    let flows = fields(
        &received,
        "tcp.flags.syn == 1 && tcp.flags.ack == 0",
        &["ip.src", "ip.dst", "ipv6.src", "ipv6.dst"],
    );
    let expected = [["192.0.2.7", "198.51.100.2", "", ""], ["", "", "2001:db8:5::1", "2001:db8:5::2"]];
    for expected in expected {
        assert_eq!(flows.iter().filter(|flow| **flow == expected).count(), 2, "{flows:?}");
    }
}
