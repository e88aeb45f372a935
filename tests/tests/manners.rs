//! What scripts and people at a terminal rely on: the closing lines, the report, comments, sizes. Needs root; says so and
//! passes without.

#![expect(clippy::expect_used, reason = "helpers of tests are test code too")]
#![expect(clippy::panic, reason = "a panic is how a test fails")]

use std::path::Path;
use std::process::Command;

use recorder_tests::lab::{Lab, machine_allows};
use recorder_tests::namespace::Namespace;
use recorder_tests::process::{Output, Running, SIGINT, must, run};
use recorder_tests::recorder::{Recording, record};
use recorder_tests::tshark::fields;
use serde_json::Value;

const TOOLS: [&str; 4] = ["ip", "tshark", "capinfos", "tcpdump"];

fn lab() -> Lab {
    Lab::new(env!("CARGO_BIN_EXE_traffic"))
}

/// Records on loopback while so many clients fetch from a server; `arguments` come first.
fn record_clients(lab: &Lab, namespace: &Namespace, count: usize, arguments: &[&str]) -> Output {
    let file = lab.text("a.pcapng");
    let all: Vec<&str> = arguments.iter().copied().chain(["-i", "lo", "-w", &file]).collect();
    let recording = Recording::start(&mut record(namespace, &all));
    let server = lab.server(namespace, "server", &["tcp-server", "--connections", &count.to_string()]);
    for _ in 0..count {
        must(&mut lab.command(namespace, "client", &["tcp-client", "127.0.0.1", &server.port]));
    }
    server.running.finish().assert_code(0);
    recording.stop()
}

fn report(output: &Output) -> Value {
    let last = output.stderr.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("the last line is no JSON: {error}\n{output}"))
}

fn sum(object: &Value) -> u64 {
    object.as_object().expect("an object").values().map(|count| count.as_u64().expect("a number")).sum()
}

#[test]
fn the_report_agrees_with_the_file_that_others_read() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("report"));
    let output = record_clients(&lab, &namespace, 3, &["--json", "--quiet"]);
    output.assert_code(0);
    let report = report(&output);
    let file = lab.path("a.pcapng");
    let packets = fields(&file, "tcp", &["frame.number"]).len() as u64;
    assert!(packets >= 24, "three connections: {packets}\n{output}");
    assert_eq!(report["packets"].as_u64(), Some(packets), "{output}");
    assert_eq!(report["interfaces"][0]["name"], "lo", "{output}");
    assert_eq!(report["interfaces"][0]["packets"].as_u64(), Some(packets), "{output}");
    let length = file.metadata().expect("there is a file").len();
    assert_eq!(report["bytes"].as_u64(), Some(length), "{output}");
    assert_eq!(report["files"], serde_json::json!([lab.text("a.pcapng")]), "{output}");
    assert_eq!(report["ended"], "signal", "{output}");
    assert_eq!(report["signal"].as_i64(), Some(SIGINT.into()), "{output}");
    assert_eq!(report["exit_code"], 0, "{output}");
    for nothing in ["dropped_by_kernel", "dropped_by_recorder", "socket_events_lost", "not_selected"] {
        assert_eq!(report[nothing], 0, "{nothing}\n{output}");
    }
    let attributed = report["attributed_packets"].as_u64().expect("a number");
    assert_eq!(sum(&report["found"]), attributed, "{output}");
    assert_eq!(attributed + sum(&report["reasons"]), packets, "{output}");
    // One server has all packets, three clients have their part each.
    let busiest = report["busiest"].as_array().expect("a list");
    let names: Vec<_> = busiest.iter().filter_map(|process| process["name"].as_str()).collect();
    assert_eq!(names, ["server", "client", "client", "client"], "{output}");
    assert_eq!(busiest[0]["packets"].as_u64(), Some(packets), "{output}");
    let text = output.stderr.contains("packets captured");
    assert!(!text, "the report stands in place of the text\n{output}");
}

#[test]
fn the_report_tells_how_the_command_ended() {
    if !machine_allows(&TOOLS) {
        return;
    }
    for (script, key, value) in [("exit 7", "exit_status", 7), ("kill -9 $$", "signal", 9)] {
        let (lab, namespace) = (lab(), Namespace::new("report-command"));
        let file = lab.text("a.pcapng");
        let arguments = ["-i", "lo", "-w", &file, "--json", "--", "sh", "-c", script];
        let output = run(&mut record(&namespace, &arguments));
        output.assert_code(1);
        let report = report(&output);
        assert_eq!(report["command"], serde_json::json!({ key: value }), "{output}");
        assert_eq!(
            (&report["ended"], &report["exit_code"]),
            (&"command ended".into(), &1.into()),
            "{output}"
        );
    }
}

/// tcpdump says how many packets it captured, how many the filter let through, how many the kernel dropped.
#[test]
fn the_closing_lines_are_tcpdumps() {
    if !machine_allows(&TOOLS) {
        return;
    }
    for count in ["1", "2"] {
        let (lab, namespace) = (lab(), Namespace::new("closing"));
        let server = lab.server(&namespace, "server", &["udp-server"]);
        let file = lab.text("a.pcapng");
        let ours = Recording::start(&mut record(&namespace, &["-i", "lo", "-w", &file, "-c", count]));
        let mut tcpdump = namespace.command("tcpdump");
        let tcpdump = Running::start(tcpdump.args(["-i", "lo", "-c", count, "-w", &lab.text("t.pcap")]));
        tcpdump.wait_for_stderr("that it listens", |line| line.contains("listening on"));
        must(&mut lab.command(&namespace, "client", &["udp-client", "127.0.0.1", &server.port]));
        let (ours, theirs) = (ours.finish(), tcpdump.finish());
        let closing = |output: &Output| -> Vec<String> {
            let is_closing = |line: &&str| line.starts_with(|first: char| first.is_ascii_digit());
            output.stderr.lines().filter(is_closing).take(3).map(str::to_string).collect()
        };
        let (our_lines, their_lines) = (closing(&ours), closing(&theirs));
        assert_eq!(their_lines.len(), 3, "{theirs}");
        assert_eq!((&our_lines[0], &our_lines[2]), (&their_lines[0], &their_lines[2]), "{ours}\n{theirs}");
        // The filter's count goes on behind the last packet that is written, and differently in both.
        let words =
            |line: &str| line.trim_start_matches(|digit: char| digit.is_ascii_digit()).replace("ets ", "et ");
        assert_eq!(words(&our_lines[1]), words(&their_lines[1]), "{ours}\n{theirs}");
    }
}

#[test]
fn every_capture_comment_is_in_the_file() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("comments"));
    let comments = ["--capture-comment", "the first", "--capture-comment", "der zweite: größer"];
    record_clients(&lab, &namespace, 1, &comments).assert_code(0);
    let seen = must(Command::new("capinfos").arg("-k").arg(lab.path("a.pcapng"))).stdout;
    for comment in ["the first", "der zweite: größer", "attribution: ebpf"] {
        assert!(seen.contains(comment), "{comment} is not in\n{seen}");
    }
}

#[test]
fn a_size_may_have_its_unit() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("sizes"));
    let sizes = ["--snaplen", "1KiB", "--buffer-size", "2MiB", "--event-buffer-size", "1M"];
    record_clients(&lab, &namespace, 1, &sizes).assert_code(0);
    assert_eq!(snap_length(&lab.path("a.pcapng")), "1024");
    for wrong in [["--buffer-size", "64 tons"], ["--buffer-size", "0"], ["--event-buffer-size", "2GiB"]] {
        let output = run(&mut record(&namespace, &wrong));
        output.assert_code(2);
        assert!(output.stderr.contains(wrong[0]), "{output}");
    }
}

fn snap_length(file: &Path) -> String {
    let seen = must(Command::new("capinfos").arg("-I").arg(file)).stdout;
    let length = seen.lines().find_map(|line| line.trim().strip_prefix("Capture length = "));
    length.unwrap_or_else(|| panic!("no snap length in\n{seen}")).to_string()
}
