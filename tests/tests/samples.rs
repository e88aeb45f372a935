//! Recordings from `samples/`, through the real binary: what it prints of them is what it printed when they were made, and
//! tshark sees the same packets and the same processes.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use recorder_tests::recorder::binary;
use recorder_tests::rooms::root;
use recorder_tests::tshark::fields;

fn sample() -> PathBuf {
    root().join("samples/loopback.pcapng")
}

/// What the recorder prints of the sample, in UTC.
fn printed(command: &str) -> String {
    let output = Command::new(binary()).arg(command).arg(sample()).env("TZ", "UTC").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{command}: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

fn golden(command: &str) -> String {
    let path = root().join(format!("samples/loopback.pcapng.{command}.txt"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn show_prints_of_a_sample_what_it_always_printed() {
    let (got, expected) = (printed("show"), golden("show"));
    assert_eq!(got, expected, "\n--- got\n{got}\n--- expected\n{expected}");
}

#[test]
fn summary_prints_of_a_sample_what_it_always_printed() {
    let (got, expected) = (printed("summary"), golden("summary"));
    assert_eq!(got, expected, "\n--- got\n{got}\n--- expected\n{expected}");
}

#[test]
fn tshark_sees_the_packets_and_processes_that_show_prints() {
    if Command::new("tshark").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "tshark is missing");
        println!("skipped: no tshark here");
        return;
    }
    let theirs = fields(&sample(), "ip", &["frame.comment"]);
    let ours = printed("show");
    let ours: Vec<&str> = ours.lines().filter_map(|line| line.split("  ").nth(1)).collect();
    let theirs: Vec<&str> = theirs.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(theirs, ours);
}
