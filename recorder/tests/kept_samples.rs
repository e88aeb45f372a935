//! The recordings in samples/kept, attributed again by the events in them: a change of the join that alters an owner is seen here,
//! on any machine, without root. samples/README.md says how each was made.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use recorder::model::{Attribution, Owner, ProcessTable, Statistics};
use recorder::pcapng::Reader;
use recorder::pipeline::Again;

/// The most differences that are told of one sample.
const TOLD: usize = 20;

fn samples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples/kept");
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut samples: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    samples.sort();
    samples
}

fn stored(sample: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    recorder::output::open(sample).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn attributed_again(file: &[u8]) -> Vec<u8> {
    let again = Again::new(Reader::new(file).unwrap()).unwrap().write(Vec::new(), None).unwrap();
    assert!(again.failure.is_none(), "{:?}", again.failure);
    again.out
}

/// The owners of all packets in words, and what was counted.
fn owners(file: &[u8]) -> (Vec<String>, Statistics) {
    let mut reader = Reader::new(file).unwrap();
    let mut owners = Vec::new();
    while let Some(record) = reader.next_packet().unwrap() {
        owners.push(match record.attribution {
            Attribution::Known { sender, receiver, .. } => {
                format!("{} > {}", in_words(sender, record.processes), in_words(receiver, record.processes))
            }
            Attribution::Unknown(_) => "nobody".to_owned(),
        });
    }
    (owners, reader.statistics().unwrap())
}

fn in_words(owner: Option<Owner>, processes: &ProcessTable) -> String {
    let process = owner.and_then(|owner| processes.get(owner.process));
    process.map_or_else(
        || "?".to_owned(),
        |process| format!("{}[{}]", String::from_utf8_lossy(&process.name), process.pid),
    )
}

/// What is different, one line each.
fn differences(stored: &[u8], again: &[u8]) -> Vec<String> {
    let ((before, counted), (after, counted_again)) = (owners(stored), owners(again));
    assert_eq!(before.len(), after.len(), "packets are missing");
    let pairs = before.iter().zip(&after).enumerate().filter(|(_, (before, after))| before != after);
    let mut lines: Vec<String> =
        pairs.map(|(at, (before, after))| format!("packet {}: {before}, now {after}", at + 1)).collect();
    if counted.attribution != counted_again.attribution {
        lines.push(format!("counted {:?}, now {:?}", counted.attribution, counted_again.attribution));
    }
    lines
}

#[test]
fn each_sample_has_the_owners_that_it_had_when_it_was_recorded() {
    let samples = samples();
    assert!(!samples.is_empty(), "there are no samples");
    let mut wrong = Vec::new();
    for sample in &samples {
        let stored = stored(sample);
        let differences = differences(&stored, &attributed_again(&stored));
        if !differences.is_empty() {
            let name = sample.file_name().unwrap().to_string_lossy();
            wrong.push(format!("{name}:\n  {}", differences[..differences.len().min(TOLD)].join("\n  ")));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} samples have other owners\n{}",
        wrong.len(),
        samples.len(),
        wrong.join("\n")
    );
}

#[test]
fn each_sample_gives_the_same_file_again_to_the_byte() {
    for sample in samples() {
        let stored = stored(&sample);
        assert!(attributed_again(&stored) == stored, "{} gives another file", sample.display());
    }
}
