//! Recording, showing and copying the packets of some processes: all of them, and no other. Needs root; says so and passes
//! without.

#![expect(clippy::expect_used, reason = "helpers of tests are test code too")]

use std::path::Path;
use std::process::Command;

use recorder_tests::blocks;
use recorder_tests::judge::{self, Judged, Packet, Verdict, judge};
use recorder_tests::lab::{Lab, Server, machine_allows};
use recorder_tests::namespace::{Namespace, connect};
use recorder_tests::process::{Output, Running, must, run};
use recorder_tests::recorder::{Recording, binary, record};
use recorder_tests::truth;
use recorder_tests::tshark::{assert_others_read, fields};

const TOOLS: [&str; 4] = ["ip", "tshark", "capinfos", "tcpdump"];

const CHOSEN: &str = "name=alpha or name=beta";
/// How many short lives each name has.
const LIVES: usize = 100;

fn lab() -> Lab {
    Lab::new(env!("CARGO_BIN_EXE_traffic"))
}

/// `recorder ARGUMENTS`.
fn recorder(arguments: &[&str]) -> Output {
    run(Command::new(binary()).args(arguments))
}

/// Programs that all talk at the same time, over loopback and over a veth pair, to servers of which the chosen ones are not.
fn everybody_talks(lab: &Lab, here: &Namespace, there: &Namespace) {
    let lives = LIVES.to_string();
    let server = |namespace, listen: &str, kind: &str, lives: usize| {
        let (kind, count) = match kind {
            "tcp" => ("tcp-server", "--connections"),
            _ => ("udp-server", "--datagrams"),
        };
        lab.server(namespace, "server", &[kind, "--listen", listen, count, &lives.to_string()])
    };
    let servers = [
        server(there, "10.77.1.2:0", "tcp", 2 * LIVES),
        server(here, "127.0.0.1:0", "tcp", 2 * LIVES),
        server(there, "10.77.1.2:0", "udp", 2 * LIVES),
        server(here, "127.0.0.1:0", "udp", 2 * LIVES),
    ];
    let [far_tcp, near_tcp, far_udp, near_udp] = &servers;
    let far = |server: &Server| format!("10.77.1.2:{}", server.port);
    let near = |server: &Server| format!("127.0.0.1:{}", server.port);
    // Names that begin and end alike, and one that is another's server on the same ports.
    let storms: Vec<Running> = [
        ("alpha", "tcp", far(far_tcp)),
        ("alphabet", "tcp", far(far_tcp)),
        ("beta", "tcp", near(near_tcp)),
        ("gamma", "tcp", near(near_tcp)),
        ("alpha", "udp", near(near_udp)),
        ("gamma", "udp", near(near_udp)),
        ("beta", "udp", far(far_udp)),
        ("alphabet", "udp", far(far_udp)),
    ]
    .into_iter()
    .map(|(name, protocol, to)| {
        let client = lab.program(name);
        let arguments =
            ["storm", "--count", &lives, "--protocol", protocol, "--to", &to, "--client", &client];
        Running::start(&mut lab.command(here, "storm", &arguments))
    })
    .collect();
    for running in storms.into_iter().chain(servers.into_iter().map(|server| server.running)) {
        running.finish().assert_code(0);
    }
}

/// Whether the truth gives this packet to one of the chosen.
fn is_chosen(judged: &Judged) -> bool {
    let is_chosen = |label: &String| label.starts_with("alpha[") || label.starts_with("beta[");
    judged.senders.iter().chain(&judged.receivers).any(is_chosen)
}

/// What tells packets apart, but for their times: each recording has a clock reading of its own.
fn spelled(packets: &[&Packet]) -> Vec<String> {
    let spell = |packet: &&Packet| {
        let Packet { number: _, time_ns: _, protocol, source, destination, flags, length, comment } = packet;
        format!("{protocol} {source} > {destination} {flags} {length} bytes: {comment:?}")
    };
    packets.iter().map(spell).collect()
}

/// What tshark shows of packets, but for their times and places in the file.
fn as_shown(file: &Path) -> Vec<String> {
    let names = [
        "frame.len",
        "frame.cap_len",
        "frame.interface_name",
        "frame.packet_flags",
        "frame.comment",
        "ip.src",
        "ip.id",
        "tcp.seq_raw",
        "tcp.ack_raw",
        "tcp.flags",
        "udp.port",
        "tcp.payload",
        "udp.payload",
    ];
    fields(file, "tcp or udp", &names).iter().map(|row| row.join(" ")).collect()
}

/// The same packets are in both, each as often, whatever their order; else says which are not.
fn assert_same(what: &str, mut got: Vec<String>, mut expected: Vec<String>) {
    got.sort_unstable();
    expected.sort_unstable();
    let lacks = |one: &[String], other: &[String]| {
        let mut left = other.to_vec();
        left.retain(|packet| one.binary_search(packet).is_err());
        left.truncate(20);
        left
    };
    let (missing, strange) = (lacks(&got, &expected), lacks(&expected, &got));
    assert!(
        got == expected,
        "{what}: {} packets instead of {}\nmissing: {missing:#?}\nstrange: {strange:#?}",
        got.len(),
        expected.len()
    );
}

#[test]
fn the_packets_of_the_chosen_processes_are_recorded_all_of_them_and_no_other() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let lab = lab();
    let (here, there) = (Namespace::new("chosen"), Namespace::new("peers"));
    connect(&here, &there, 1);
    let begin = |name: &str, arguments: &[&str]| {
        let file = lab.text(name);
        let all = [&["-i", "lo", "-i", "eth1", "-w", &file], arguments].concat();
        Recording::start(&mut record(&here, &all))
    };
    let recordings = [
        begin("all.pcapng", &[]),
        begin("chosen.pcapng", &["--process", CHOSEN]),
        begin("others.pcapng", &["--process", &format!("not ({CHOSEN})")]),
    ];
    everybody_talks(&lab, &here, &there);
    let [_, chosen, others] = recordings.map(|recording| {
        let output = recording.stop();
        output.assert_code(0);
        output
    });

    let truths = truth::read(lab.log());
    let judged = |name: &str| {
        let judgement = judge(&lab.path(name), &truths);
        judgement.assert_all_right(6 * LIVES, name);
        judgement.packets
    };
    let (all, chosen_packets, other_packets) =
        (judged("all.pcapng"), judged("chosen.pcapng"), judged("others.pcapng"));
    let packets = |of: &[Judged]| spelled(&of.iter().map(|judged| &judged.packet).collect::<Vec<_>>());
    let of_truth = |chosen: bool| {
        let these = all.iter().filter(|judged| is_chosen(judged) == chosen);
        spelled(&these.map(|judged| &judged.packet).collect::<Vec<_>>())
    };
    assert_same("the chosen ones'", packets(&chosen_packets), of_truth(true));
    assert_same("the others'", packets(&other_packets), of_truth(false));
    assert_counted(&lab, "chosen.pcapng", &chosen, other_packets.len());
    assert_counted(&lab, "others.pcapng", &others, chosen_packets.len());

    let filtered = lab.path("filtered.pcapng");
    let arguments =
        ["filter", &lab.text("all.pcapng"), "-w", &lab.text("filtered.pcapng"), "--process", CHOSEN];
    recorder(&arguments).assert_code(0);
    assert_same("filter and record", as_shown(&filtered), as_shown(&lab.path("chosen.pcapng")));
    blocks::assert_consistent(&filtered);
    assert_others_read(&filtered);
}

/// What was left out is counted: on the screen, and in the file.
fn assert_counted(lab: &Lab, name: &str, output: &Output, left_out: usize) {
    let line = output.stderr.lines().find(|line| line.contains("packets left out"));
    let told = line.and_then(|line| line.split(' ').next()).and_then(|number| number.parse::<usize>().ok());
    // Others than the programs talk too: neighbours ask for addresses.
    assert!(told.is_some_and(|told| told >= left_out), "{left_out} were left out\n{output}");
    let summary = recorder(&["summary", "--json", &lab.text(name)]);
    let summary: serde_json::Value = serde_json::from_str(&summary.stdout).expect("JSON");
    assert_eq!(summary["statistics"]["not_selected"].as_u64(), told.map(|told| told as u64), "{summary}");
}

#[test]
fn of_a_command_only_the_chosen_of_its_descendants_are_recorded() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("descendants"));
    let server = lab.server(&namespace, "server", &["tcp-server", "--connections", "3"]);
    let [alpha, beta] = ["alpha", "beta"].map(|name| {
        format!("{} tcp-client 127.0.0.1 {} --log {}", lab.program(name), server.port, lab.log())
    });
    // The same name, and no descendant of the command.
    let file = lab.path("a.pcapng");
    let text = lab.text("a.pcapng");
    let stranger = format!("{alpha} & {alpha}; {beta}; wait");
    let arguments = ["-i", "lo", "-w", &text, "--name", "beta", "--", "sh", "-c", &stranger];
    let output = must(&mut record(&namespace, &arguments));
    server.running.finish().assert_code(0);
    let packets = judge::packets(&file, "frame");
    assert!(packets.len() >= 8, "{packets:#?}\n{output}");
    let is_betas = |packet: &&Packet| packet.comment.as_deref().is_some_and(|line| line.contains("beta["));
    assert_eq!(packets.iter().filter(is_betas).count(), packets.len(), "{packets:#?}");
    let judgement = judge(&file, &truth::read(lab.log()));
    assert_eq!(judgement.count(Verdict::Right), packets.len(), "{judgement}");
}

#[test]
fn a_wrong_selection_is_an_error_before_anything_is_captured_or_created() {
    let lab = lab();
    for (arguments, words) in [
        (
            &["--process", "nmae=curl"][..],
            &["there is no key `nmae`", "\n  nmae=curl\n  ^ expected one of pid"][..],
        ),
        (
            &["--process", "name=curl and (pid=1"],
            &["a ( is not closed", "\n                      ^ expected"],
        ),
        (&["--pid", "curl"], &["'--pid <PID>': `curl` is no process id"]),
        (&["--user", "nobody-of-this-name"], &["there is no user `nobody-of-this-name` here"]),
        (
            &["--name", "curl", "--attribution", "none"],
            &["--attribution none", "\n  leave --attribution out"],
        ),
    ] {
        let file = lab.text("never.pcapng");
        let output = recorder(&[&["record", "-i", "lo", "-w", &file], arguments].concat());
        output.assert_code(2);
        for word in words {
            assert!(output.stderr.contains(word), "{word:?} is missing\n{output}");
        }
        assert!(!Path::new(&file).exists(), "a file was created\n{output}");
    }
}
