//! What becomes of a recording when something fails: the file is valid up to that moment, what is lost is counted, the message says what
//! to do, the exit code is right. docs/RELIABILITY.md has a row for each test here. They need root; say so and pass without.

#![expect(clippy::expect_used, reason = "helpers of tests are test code too")]
#![expect(clippy::panic, reason = "the same")]

mod disks;
mod interfaces;
mod limits;
mod outputs;
mod standstill;
mod table;

use std::fs;
use std::path::Path;

use recorder_tests::lab::Lab;
use recorder_tests::process::Output;
use recorder_tests::recorder::ask;
use recorder_tests::rotation::{decompressed_as_far_as_possible, files, sequence, sequence_of_cut};
use recorder_tests::tshark::assert_others_read;
use serde_json::Value;

/// What the recorder is told to record: the numbered packets of a `Line`, and to report in JSON.
const NUMBERED: [&str; 5] = ["-i", "eth1", "-f", "tcp", "--json"];
/// A ring that holds all packets of a test, so that what is lost was not lost there.
const LARGE_RING: [&str; 2] = ["-B", "256"];

fn lab() -> Lab {
    Lab::new(env!("CARGO_BIN_EXE_traffic"))
}

/// The final report.
struct Report {
    value: Value,
    /// All that was said.
    output: Output,
}

impl Report {
    /// The report of a recorder that ended with this exit code.
    fn of(output: Output, exit_code: i32) -> Self {
        output.assert_code(exit_code);
        let line = output.stderr.lines().last().unwrap_or_default();
        let value = serde_json::from_str(line).unwrap_or_else(|error| panic!("no report: {error}\n{output}"));
        Self { value, output }
    }

    fn number(&self, key: &str) -> u64 {
        self.value[key].as_u64().unwrap_or_else(|| panic!("no {key}\n{}", self.output))
    }

    /// That each packet is accounted for: `sent` is how many there were.
    fn assert_accounts_for(&self, sent: u64) -> &Self {
        let lost = self.number("dropped_by_kernel") + self.number("dropped_by_recorder");
        let accounted = self.number("packets") + lost + self.number("not_selected");
        assert_eq!(
            self.number("received"),
            accounted,
            "received = written + dropped + left out\n{}",
            self.output
        );
        assert_eq!(accounted, sent, "all that were sent\n{}", self.output);
        self
    }

    /// That the screen says all of this.
    fn assert_says(&self, texts: &[&str]) -> &Self {
        for text in texts {
            assert!(self.output.stderr.contains(text), "`{text}` is not said\n{}", self.output);
        }
        self
    }
}

/// That others read the file to its end, that it has its counters, and that they say the same as the report of a recording in one file.
fn assert_whole(file: &Path, report: &Report) {
    assert_others_read(file);
    let told = statistics(file);
    for key in ["dropped_by_kernel", "dropped_by_recorder", "socket_events_lost"] {
        assert_eq!(told[key].as_u64(), report.value[key].as_u64(), "{key}: {told}\n{}", report.output);
    }
}

/// What the file says that was counted.
fn statistics(file: &Path) -> Value {
    // A command that reads files may not look into the mount namespaces of others (/proc/PID/root).
    let copy = tempfile::NamedTempFile::new().expect("cannot make a temporary file");
    std::fs::copy(file, copy.path()).expect("cannot copy the recording");
    let summary = ask(&["summary", "--json", copy.path().to_str().expect("our paths are UTF-8")]);
    let summary: Value = serde_json::from_str(&summary).expect("summary --json is JSON");
    assert!(!summary["statistics"].is_null(), "no counters in {}: {summary}", file.display());
    summary["statistics"].clone()
}

/// That these are the numbers from `first` on, without a gap; gives the last.
fn assert_in_order(numbers: &[u32], first: u32, evidence: &Output) -> u32 {
    let wrong = numbers.iter().zip(first..).find(|(found, expected)| *found != expected);
    assert!(wrong.is_none(), "number {wrong:?} (found, expected)\n{evidence}");
    first + numbers.len() as u32 - 1
}

/// The numbers in all files that were made from this name.
fn all_numbers(path: &Path) -> Vec<u32> {
    files(path).iter().flat_map(|(_, file)| sequence(file)).collect()
}

/// The numbers in a compressed file that was cut.
fn numbers_in_cut(lab: &Lab, file: &Path) -> Vec<u32> {
    let plain = lab.path("plain.pcapng");
    decompressed_as_far_as_possible(file, &plain);
    sequence_of_cut(&plain)
}

/// The names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder can be read").flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
