//! Files of other programs, through the real binary: packets, times and lengths are those that tshark sees, whatever the format.
//!
//! The files of ../shared/data are not ours to commit: where they are not, their tests are skipped.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use recorder_tests::lab::{has_tool, in_ci, say, test_name};
use recorder_tests::process::{Output, must, run};
use recorder_tests::recorder::binary;
use recorder_tests::rooms::root;
use recorder_tests::seen::nanoseconds;
use recorder_tests::tshark::fields;
use serde_json::Value;

/// Time in nanoseconds, bytes on the wire, bytes in the file.
type Packet = (u64, u64, u64);

fn show(file: &Path, arguments: &[&str]) -> Output {
    run(Command::new(binary()).arg("show").arg(file).args(arguments).env("TZ", "UTC"))
}

fn objects(file: &Path) -> Vec<Value> {
    let output = show(file, &["--json"]);
    output.assert_code(0);
    output.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn by_recorder(file: &Path) -> Vec<Packet> {
    let number = |object: &Value, key: &str| object[key].as_u64().unwrap_or_else(|| panic!("{object}"));
    let packet =
        |object: &Value| (number(object, "time_ns"), number(object, "length"), number(object, "captured"));
    objects(file).iter().map(packet).collect()
}

/// Without the rows that are no packets: custom blocks, and entries of systemd's journal.
fn by_tshark(file: &Path) -> Vec<Packet> {
    let names = ["frame.time_epoch", "frame.len", "frame.cap_len"];
    let rows = fields(file, "!frame.cb_pen and !systemd_journal", &names);
    let number = |text: &str| text.parse().unwrap_or(0);
    // A simple packet block has no time: tshark tells none, and the recorder 1970.
    let time = |text: &str| if text.is_empty() { 0 } else { nanoseconds(text) };
    rows.iter().map(|row| (time(&row[0]), number(&row[1]), number(&row[2]))).collect()
}

fn has(tools: &[&str]) -> bool {
    let missing: Vec<&&str> = tools.iter().filter(|tool| !has_tool(tool)).collect();
    assert!(
        missing.is_empty() || !in_ci(),
        "in CI nothing is skipped, but these are not installed: {missing:?}"
    );
    if !missing.is_empty() {
        say(&format!("skipped: {}: not installed: {missing:?}", test_name()));
    }
    missing.is_empty()
}

/// The captures in a folder of ../shared/data; nothing where it is not.
fn shared(folder: &str) -> Vec<PathBuf> {
    let folder = root().join("../shared/data").join(folder);
    let mut files = Vec::new();
    let mut folders = vec![folder.clone()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    files.retain(|path| {
        path.extension().is_some_and(|extension| extension == "pcapng" || extension == "pcap")
    });
    files.sort();
    if files.is_empty() {
        say(&format!("skipped: {}: {} is not here", test_name(), folder.display()));
    }
    files
}

#[test]
fn the_conformance_files_read_as_tshark_reads_them() {
    if !has(&["tshark"]) {
        return;
    }
    let files = shared("pcapng-conformance");
    for file in &files {
        if file.ends_with("test008.pcapng") {
            continue;
        }
        assert_eq!(by_recorder(file), by_tshark(file), "{}", file.display());
    }
    assert!(files.is_empty() || files.len() == 24, "{files:?}");
}

#[test]
fn the_conformance_file_with_options_of_impossible_lengths_is_told_by_the_option() {
    for file in shared("pcapng-conformance").iter().filter(|file| file.ends_with("test008.pcapng")) {
        let output = show(file, &[]);
        output.assert_code(1);
        assert!(output.stderr.contains("the block at byte "), "{}", output.stderr);
        assert!(
            output.stderr.contains("the option if_MACaddr of its interface has length 1, not 6"),
            "{}",
            output.stderr
        );
    }
}

#[test]
fn the_captures_of_apple_read_with_their_processes() {
    if !has(&["tshark"]) {
        return;
    }
    for file in shared("apple") {
        assert_eq!(by_recorder(&file), by_tshark(&file), "{}", file.display());
        let shown = show(&file, &[]);
        let owners = |name: &str| shown.stdout.lines().filter(|line| line.ends_with(name)).count();
        let found = match file.ends_with("radar-88502733.pcapng") {
            true => [owners("  packetdrill[554]"), owners("  -")],
            false => [owners("  iperf[53147]"), owners("  iperf[53245]")],
        };
        let expected = if file.ends_with("radar-88502733.pcapng") { [3, 1] } else { [12, 12] };
        assert_eq!(found, expected, "{}\n{}", file.display(), shown.stdout);
    }
    for file in shared("pktap").iter().filter(|file| !file.ends_with("pktap-heap-overflow.pcap")) {
        assert_eq!(by_recorder(file), by_tshark(file), "{}", file.display());
    }
}

#[test]
fn every_format_that_wireshark_saves_the_sample_in_is_read_with_the_same_packets() {
    if !has(&["tshark", "editcap", "tcpdump", "gzip", "zstd"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let sample = root().join("samples/loopback.pcapng");
    let expected = by_tshark(&sample);
    assert_eq!(by_recorder(&sample), expected);
    let in_microseconds: Vec<Packet> =
        expected.iter().map(|(time, length, captured)| (time / 1000 * 1000, *length, *captured)).collect();
    let path = |name: &str| folder.path().join(name);
    // No other format has room for the custom blocks at its end.
    let packets = path("packets");
    must(Command::new("tshark").arg("-r").arg(&sample).args(["-Y", "!frame.cb_pen", "-w"]).arg(&packets));
    for (format, is_exact) in [("pcap", false), ("nsecpcap", true), ("modpcap", false), ("pcapng", true)] {
        let file = path(format);
        must(Command::new("editcap").args(["-F", format]).arg(&packets).arg(&file));
        let expected = if is_exact { &expected } else { &in_microseconds };
        assert_eq!(&by_recorder(&file), expected, "{format}");
        for (tool, suffix) in [("gzip", "gz"), ("zstd", "zst")] {
            must(Command::new(tool).args(["-k", "-q"]).arg(&file));
            assert_eq!(&by_recorder(&path(&format!("{format}.{suffix}"))), expected, "{format}.{suffix}");
        }
    }
    let file = path("tcpdump");
    must(Command::new("tcpdump").args(["-n", "-r"]).arg(&sample).arg("-w").arg(&file));
    assert_eq!(by_recorder(&file), in_microseconds);
    let plain = |file: &Path| show(file, &[]).assert_code(0).stdout.lines().count();
    assert_eq!(plain(&file), expected.len());
}
