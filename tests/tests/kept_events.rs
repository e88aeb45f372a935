//! Recordings that hold what the attribution was told: attributed again they are the same to the byte, whatever was recorded and
//! however. Needs root; says so and passes without.

#![expect(clippy::expect_used, reason = "helpers of tests are test code too")]

use std::io::Read;
use std::path::Path;
use std::process::Command;

use recorder_tests::judge::judge;
use recorder_tests::lab::{Lab, machine_allows};
use recorder_tests::namespace::{Namespace, connect};
use recorder_tests::process::{Output, must, run};
use recorder_tests::recorder::{Recording, binary, record};
use recorder_tests::truth;
use recorder_tests::tshark::fields;

const TOOLS: [&str; 2] = ["ip", "tshark"];
/// Clients of each kind.
const LIVES: &str = "20";
/// The type of a block of events, little-endian.
const KEPT: [u8; 4] = 0x8052_4543_u32.to_le_bytes();

fn lab() -> Lab {
    Lab::new(env!("CARGO_BIN_EXE_traffic"))
}

/// `recorder ARGUMENTS`.
fn recorder(arguments: &[&str]) -> Output {
    run(Command::new(binary()).args(arguments))
}

/// Short-lived TCP and UDP clients on loopback and over a veth pair.
fn talk(lab: &Lab, here: &Namespace, there: &Namespace) {
    let client = lab.program("client");
    for (servers, address) in [(here, "127.0.0.1"), (there, "10.77.1.2")] {
        let listen = format!("{address}:0");
        for (protocol, job, count) in
            [("tcp", "tcp-server", "--connections"), ("udp", "udp-server", "--datagrams")]
        {
            let server = lab.server(servers, "server", &[job, "--listen", &listen, count, LIVES]);
            let to = format!("{address}:{}", server.port);
            let storm = ["storm", "--count", LIVES, "--protocol", protocol, "--to", &to, "--client", &client];
            must(&mut lab.command(here, "storm", &storm));
            server.running.finish().assert_code(0);
        }
    }
}

/// Attributes the file again; it must be the same.
fn assert_the_same_again(lab: &Lab, name: &str) {
    let again = lab.text(format!("again-{name}"));
    let output = recorder(&["annotate", "--from-events", &lab.text(name), "-w", &again]);
    output.assert_code(0);
    assert!(output.stderr.contains("0 have other owners"), "{output}");
    assert!(
        contents(&lab.path(name)) == contents(Path::new(&again)),
        "{name} and what became of it differ\n{output}"
    );
}

/// What is in a file, without compression: when that was flushed is another time.
fn contents(file: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut opened = recorder::output::open(file).expect("a file");
    opened.read_to_end(&mut bytes).expect("a whole file");
    bytes
}

fn has_kept_events(file: &Path) -> bool {
    contents(file).windows(16).any(|bytes| bytes.starts_with(&KEPT) && bytes.ends_with(b"rec-evts"))
}

#[test]
fn what_was_recorded_live_is_found_again_to_the_byte() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, here, there) = (lab(), Namespace::new("here"), Namespace::new("there"));
    connect(&here, &there, 1);
    for (name, interface) in [("any.pcapng", "any"), ("one.pcapng", "eth1")] {
        let all = ["-i", interface, "-w", &lab.text(name), "--keep-events"];
        let recording = Recording::start(&mut record(&here, &all));
        talk(&lab, &here, &there);
        recording.stop().assert_code(0);
        assert!(has_kept_events(&lab.path(name)));
        assert_the_same_again(&lab, name);
        judge(&lab.path(name), &truth::read(lab.log())).assert_all_right(100, name);
    }
    // Without annotation first, and with it later: the owners are those of the recording.
    let (plain, back) = (lab.text("plain.pcapng"), lab.text("back.pcapng"));
    let any = lab.text("any.pcapng");
    recorder(&["annotate", "--from-events", &any, "-w", &plain, "--annotate", "none"]).assert_code(0);
    assert_eq!(fields(Path::new(&plain), "frame.comment", &["frame.number"]).len(), 0, "comments in {plain}");
    recorder(&["annotate", "--from-events", &plain, "-w", &back, "--annotate", "all"]).assert_code(0);
    assert!(contents(Path::new(&back)) == contents(Path::new(&any)), "{back} is not {any}");
}

#[test]
fn what_is_left_out_of_a_recording_is_not_needed_to_find_its_owners_again() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, here, there) = (lab(), Namespace::new("here"), Namespace::new("there"));
    connect(&here, &there, 1);
    for (name, arguments) in [
        ("chosen.pcapng", &["--name", "client"][..]),
        ("filtered.pcapng.zst", &["-f", "udp"]),
        ("procfs.pcapng", &["--attribution", "procfs"]),
    ] {
        let file = lab.text(name);
        let all = [&["-i", "any", "-w", &file, "--keep-events"], arguments].concat();
        let recording = Recording::start(&mut record(&here, &all));
        talk(&lab, &here, &there);
        recording.stop().assert_code(0);
        assert_the_same_again(&lab, name);
    }
    let (file, log) = (lab.text("command.pcapng"), lab.log());
    let server =
        lab.server(&here, "server", &["tcp-server", "--listen", "127.0.0.1:0", "--connections", "1"]);
    let client = lab.program("client");
    let command = ["--", &client, "tcp-client", "127.0.0.1", &server.port, "--log", &log];
    let all = [&["-i", "any", "-w", &file, "--keep-events"][..], &command].concat();
    must(&mut record(&here, &all));
    server.running.finish().assert_code(0);
    assert_the_same_again(&lab, "command.pcapng");
}

#[test]
fn events_are_seen_by_nobody_else_and_not_copied() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, here, there) = (lab(), Namespace::new("here"), Namespace::new("there"));
    connect(&here, &there, 1);
    let file = lab.path("kept.pcapng");
    let recording =
        Recording::start(&mut record(&here, &["-i", "any", "-w", &lab.text("kept.pcapng"), "--keep-events"]));
    talk(&lab, &here, &there);
    recording.stop().assert_code(0);
    let shown = recorder(&["show", &lab.text("kept.pcapng")]);
    let packets = shown.assert_code(0).stdout.lines().count();
    assert_eq!(fields(&file, "!frame.cb_pen", &["frame.number"]).len(), packets, "rows of tshark");

    let copy = lab.text("copy.pcapng");
    let output = recorder(&["filter", &lab.text("kept.pcapng"), "-w", &copy]);
    output.assert_code(0);
    assert!(output.stderr.contains("events kept for replay are not in it"), "{output}");
    assert!(!has_kept_events(Path::new(&copy)));
    let output = recorder(&["annotate", "--from-events", &copy, "-w", &lab.text("none.pcapng")]);
    output.assert_code(2);
    assert!(output.stderr.contains("record with --keep-events"), "{output}");
    assert!(!lab.path("none.pcapng").exists(), "nothing usable was done");
}

#[test]
fn where_events_would_be_of_no_use_they_are_refused() {
    for arguments in [["-b", "packets:10"], ["--attribution", "none"]] {
        let all = [&["record", "--keep-events", "-w", "never.pcapng"], &arguments[..]].concat();
        let output = recorder(&all);
        output.assert_code(2);
        assert!(output.stderr.contains("--keep-events"), "{output}");
    }
}
