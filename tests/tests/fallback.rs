//! Owners from /proc: where eBPF is refused, and where that is asked for. Needs root; says so and passes without.
//!
//! What is looked up now and then is not complete; what it says is right.

#![expect(clippy::expect_used, reason = "helpers of tests are test code too")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use recorder_tests::judge::{Judgement, Verdict, judge};
use recorder_tests::lab::{Lab, machine_allows, say};
use recorder_tests::namespace::{Namespace, connect};
use recorder_tests::process::{Output, Running, SIGUSR1, must, run};
use recorder_tests::recorder::{Recording, Refusal, binary, record};
use recorder_tests::truth;
use recorder_tests::tshark::assert_others_read;

const TOOLS: [&str; 6] = ["ip", "tshark", "capinfos", "tcpdump", "setpriv", "unshare"];

fn lab() -> Lab {
    Lab::new(env!("CARGO_BIN_EXE_traffic"))
}

/// A connection and a UDP exchange that are there before and after all that they say, while this command records on
/// loopback. The judgement is over what they said in between.
fn record_the_patient(lab: &Lab, namespace: &Namespace, command: &mut Command) -> (Judgement, Output) {
    let (go, done) = (lab.text("go"), lab.text("done"));
    let server = lab.server(namespace, "server", &["tcp-server", "--connections", "1", "--wait-close"]);
    let echo = lab.server(namespace, "echo", &["udp-server", "--listen", "0.0.0.0:0"]);
    let patient = |arguments: &[&str]| {
        let mut command = lab.command(namespace, "client", arguments);
        let client = Running::start(command.args(["--when", &go, "--until", &done]));
        client.wait_for_stdout("a port", |line| line.parse::<u16>().is_ok());
        client
    };
    let tcp = patient(&["tcp-client", "127.0.0.1", &server.port]);
    let udp = patient(&["udp-client", "127.0.0.1", &echo.port, "--connected", "--datagrams", "2"]);
    let recording = Recording::start(command);
    fs::write(&go, "").expect("cannot write the signal to go");
    // Request, reply, their two acknowledgements; two datagrams and their echoes.
    wait_for_packets(&recording, 8);
    fs::write(&done, "").expect("cannot write the signal to end");
    for client in [tcp, udp, server.running] {
        client.finish().assert_code(0);
    }
    drop(echo);
    let output = recording.stop();
    let judgement = judge(&lab.path("p.pcapng"), &truth::read(lab.log()));
    (judgement, output)
}

/// Until so many packets have been written: they have their owners by then.
fn wait_for_packets(recording: &Recording, count: u32) {
    let running = recording.running();
    loop {
        let lines = running.stderr_lines();
        running.signal(SIGUSR1);
        running.wait_for_more_stderr(lines);
        let number =
            |line: &str| line.split_once(" packets, ").and_then(|(count, _)| count.parse::<u32>().ok());
        let enough = |line: &str| number(line).is_some_and(|written| written >= count);
        if running.any_stderr(enough) {
            return;
        }
    }
}

fn assert_never_wrong(judgement: &Judgement, at_least_right: usize, context: &str) {
    say(&format!("{context}: {judgement}"));
    let wrong: Vec<_> =
        judgement.packets.iter().filter(|judged| judged.verdict == Verdict::Wrong).take(20).collect();
    assert!(wrong.is_empty(), "{context}: {judgement}\n{wrong:#?}");
    assert!(
        judgement.count(Verdict::Right) >= at_least_right,
        "{context}: {judgement}\n{:#?}",
        judgement.packets
    );
}

fn section_comments(file: &Path) -> String {
    must(Command::new("capinfos").args(["-k"]).arg(file)).stdout
}

// --- asked for

#[test]
fn what_lives_longer_than_the_pause_between_two_looks_is_named() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("procfs"));
    let arguments = ["-i", "lo", "-w", &lab.text("p.pcapng"), "--attribution", "procfs"];
    let (judgement, output) = record_the_patient(&lab, &namespace, &mut record(&namespace, &arguments));
    output.assert_code(0);
    assert_never_wrong(&judgement, 8, &format!("--attribution procfs\n{output}"));
    assert!(output.stderr.contains("recording on lo, owners by /proc"), "{output}");
    assert!(output.stderr.contains("by what /proc showed"), "how they were found is told\n{output}");
    let comments = section_comments(&lab.path("p.pcapng"));
    assert!(comments.contains("attribution: procfs, as asked for"), "{comments}");
    assert_others_read(&lab.path("p.pcapng"));
}

#[test]
fn what_lives_shorter_is_right_or_without_an_owner() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let prefork: [&[&str]; 3] = [
        &["tcp-server", "--prefork", "4"],
        &["tcp-server", "--prefork", "4", "--null-address"],
        &["tcp-server", "--requests", "2"],
    ];
    for (number, arguments) in prefork.into_iter().enumerate() {
        let (lab, namespace) = (lab(), Namespace::new("procfs-short"));
        let file = lab.text("p.pcapng");
        let procfs = ["-i", "lo", "-w", &file, "--attribution", "procfs"];
        let recording = Recording::start(&mut record(&namespace, &procfs));
        let server = lab.server(&namespace, "server", arguments);
        for _ in 0..20 {
            let client = if number == 2 { "handover-client" } else { "tcp-client" };
            must(&mut lab.command(&namespace, "client", &[client, "127.0.0.1", &server.port]));
        }
        drop(server);
        let output = recording.stop();
        output.assert_code(0);
        let judgement = judge(Path::new(&file), &truth::read(lab.log()));
        assert!(judgement.packets.len() >= 140, "{judgement}\n{output}");
        assert_never_wrong(&judgement, 0, &format!("{arguments:?} by procfs"));
        assert_eq!(
            judgement.count(Verdict::Unattributed) + judgement.count(Verdict::Right),
            judgement.packets.len()
        );
    }
}

#[test]
fn a_storm_of_short_lives_has_no_wrong_name() {
    if !machine_allows(&TOOLS) {
        return;
    }
    for protocol in ["tcp", "udp"] {
        let (lab, namespace) = (lab(), Namespace::new("procfs-storm"));
        let file = lab.text("p.pcapng");
        let procfs = ["-i", "lo", "-w", &file, "--attribution", "procfs"];
        let recording = Recording::start(&mut record(&namespace, &procfs));
        let arguments: &[&str] = match protocol {
            "tcp" => &["tcp-server", "--connections", "500"],
            _ => &["udp-server", "--datagrams", "500"],
        };
        let server = lab.server(&namespace, "server", arguments);
        let (client, to) = (lab.program("client"), format!("127.0.0.1:{}", server.port));
        let storm = ["storm", "--count", "500", "--protocol", protocol, "--to", &to, "--client", &client];
        must(&mut lab.command(&namespace, "storm", &storm));
        server.running.finish().assert_code(0);
        let output = recording.stop();
        output.assert_code(0);
        let judgement = judge(Path::new(&file), &truth::read(lab.log()));
        assert_never_wrong(&judgement, 0, &format!("500 {protocol} clients by procfs\n{output}"));
    }
}

#[test]
fn looking_into_other_network_namespaces_keeps_none_of_them() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, here, there) = (lab(), Namespace::new("stays"), Namespace::new("goes"));
    connect(&here, &there, 1);
    let server = lab.server(&there, "server", &["tcp-server"]);
    let procfs = ["-i", "lo", "-w", &lab.text("p.pcapng"), "--attribution", "procfs"];
    let recording = Recording::start(&mut record(&here, &procfs));
    drop(server);
    drop(there);
    // A namespace takes its interfaces along, and with a veth its peer, when nobody has it open any more.
    let end = Instant::now() + Duration::from_secs(60);
    while here.ip(&["link", "show"]).contains("eth1") {
        assert!(Instant::now() < end, "the namespace is still there");
    }
    recording.stop().assert_code(0);
}

#[test]
fn a_command_cannot_be_recorded_by_what_proc_shows() {
    if !machine_allows(&["ip"]) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("procfs-command"));
    let file = lab.text("p.pcapng");
    let output =
        run(&mut record(&namespace, &["-i", "lo", "-w", &file, "--attribution", "procfs", "--", "true"]));
    output.assert_code(2);
    assert!(output.stderr.contains("descendants") && output.stderr.contains("procfs"), "{output}");
    assert!(!lab.path("p.pcapng").exists(), "nothing usable was done, so there is no file\n{output}");
}

// --- refused

#[test]
fn where_ebpf_is_refused_the_recording_goes_on_with_procfs_and_says_why() {
    if !machine_allows(&TOOLS) {
        return;
    }
    for refusal in Refusal::ALL {
        let (lab, namespace) = (lab(), Namespace::new("refused"));
        let arguments = ["record", "-i", "lo", "-w", &lab.text("p.pcapng")];
        let mut command = refusal.recorder(&namespace, &arguments);
        let (judgement, output) = record_the_patient(&lab, &namespace, &mut command);
        output.assert_code(0);
        let context = format!("{refusal:?}\n{output}");
        assert!(
            output.stderr.contains("because eBPF is refused: "),
            "the reason is on the screen\n{context}"
        );
        let comments = section_comments(&lab.path("p.pcapng"));
        assert!(
            comments.contains("attribution: procfs; ebpf is refused: "),
            "and in the file\n{comments}\n{context}"
        );
        let is_blind = refusal == Refusal::CapabilityAndSight;
        assert_never_wrong(&judgement, if is_blind { 0 } else { 8 }, &context);
        assert_eq!(
            is_blind && output.stderr.contains("CAP_SYS_PTRACE"),
            is_blind,
            "what is missing is said\n{context}"
        );
    }
}

#[test]
fn where_ebpf_is_refused_asking_for_it_fails_with_the_remedy() {
    if !machine_allows(&TOOLS) {
        return;
    }
    for refusal in Refusal::ALL {
        let (lab, namespace) = (lab(), Namespace::new("refused"));
        let file = lab.text("p.pcapng");
        let output =
            run(&mut refusal
                .recorder(&namespace, &["record", "-i", "lo", "-w", &file, "--attribution", "ebpf"]));
        output.assert_code(2);
        let mut lines = output.stderr.lines();
        let first = lines.next().unwrap_or_default();
        assert!(first.starts_with("recorder: cannot find the owners of packets: "), "{refusal:?}\n{output}");
        let remedy = lines.next().unwrap_or_default();
        let word = match refusal {
            Refusal::Btf => "CONFIG_DEBUG_INFO_BTF",
            Refusal::Cgroup => "cgroup2",
            _ => "CAP_BPF",
        };
        assert!(remedy.starts_with("  ") && remedy.contains(word), "the remedy\n{refusal:?}\n{output}");
        assert!(!lab.path("p.pcapng").exists(), "nothing usable was done, so there is no file\n{output}");
    }
}

#[test]
fn where_ebpf_is_refused_a_command_cannot_be_recorded() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("refused"));
    let arguments = ["record", "-i", "lo", "-w", &lab.text("p.pcapng"), "--", "true"];
    let output = run(&mut Refusal::SeccompPermission.recorder(&namespace, &arguments));
    output.assert_code(2);
    assert!(output.stderr.starts_with("recorder: cannot find the owners of packets: "), "{output}");
}

#[test]
fn doctor_tells_that_procfs_works_where_ebpf_does_not() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let namespace = Namespace::new("doctor");
    let output = run(&mut Refusal::SeccompMissing.recorder(&namespace, &["doctor"]));
    output.assert_code(1);
    assert!(output.stdout.contains("--attribution procfs"), "{output}");
    let output = run(Command::new(binary()).arg("doctor"));
    assert!(output.stdout.contains("sock_diag and /proc"), "{output}");
}
