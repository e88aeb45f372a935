//! Damaged files: what came before the damage is given, then an error with its place; never a panic, never memory beyond the
//! bound. Every file of samples/ and of ../shared/data, where that is, with many random changes each; the same ones every time.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use recorder::cli::color::Color;
use recorder::cli::selection::SelectionArgs;
use recorder::cli::show::{self, ShowArgs};
use recorder::decode;
use recorder::pcapng::{Copier, CopyError, ReadError, Reader};

/// For each file.
const MUTATIONS: u64 = 100_000;
/// Each so manieth is also copied; each so manieth of these also printed, by way of a file.
const COPIED: u64 = 16;
const PRINTED: u64 = 16;
/// What reading files of a few kilobytes may take, with all that a test takes, in KiB.
const MOST_MEMORY: u64 = 64 << 10;

/// Numbers that look random. https://prng.di.unimi.it/splitmix64.c
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Changes a file in one to four ways; tells where the first change is.
fn damage(file: &mut Vec<u8>, random: &mut Random) -> usize {
    let mut first = file.len();
    for _ in 0..=random.below(4) {
        let at = random.below(file.len());
        let end = (at + 1 + random.below(64)).min(file.len());
        match random.below(6) {
            0 => file[at] ^= 1 << random.below(8),
            1 => file[at] = random.next() as u8,
            2 => {
                // Numbers of four bytes, where the formats have theirs: absurd lengths, times, interfaces.
                let numbers = [
                    0,
                    1,
                    4,
                    12,
                    0x7fff_ffff,
                    0x8000_0000,
                    u32::MAX,
                    u32::MAX - 3,
                    1 << 24,
                    random.next() as u32,
                ];
                let number = numbers[random.below(numbers.len())];
                let bytes = if random.below(2) == 0 { number.to_le_bytes() } else { number.to_be_bytes() };
                let at = at & !3;
                first = first.min(at);
                file.iter_mut().skip(at).zip(bytes).for_each(|(old, new)| *old = new);
            }
            3 => file.truncate(at),
            4 => drop(file.drain(at..end)),
            _ => {
                let again = file[at..end].to_vec();
                let to = random.below(file.len());
                first = first.min(to);
                file.splice(to..to, again);
            }
        }
        first = first.min(at);
        if file.is_empty() {
            break;
        }
    }
    first
}

/// A packet, and where its block ends: time, length, a sum of its bytes, offset.
type Packet = (u64, u32, u64, u64);

/// All packets, and how it ended.
fn read(file: &[u8]) -> (Vec<Packet>, Option<ReadError>) {
    let mut packets = Vec::new();
    let mut reader = match Reader::new(file) {
        Ok(reader) => reader,
        Err(error) => return (packets, Some(error)),
    };
    let failure = loop {
        match reader.next_packet() {
            Ok(Some(record)) => {
                std::hint::black_box(decode::packet(record.interface.link_type, record.packet.data));
                let packet = &record.packet;
                let sum =
                    packet.data.iter().fold(7, |sum: u64, byte| sum.wrapping_mul(31) + u64::from(*byte));
                packets.push((packet.time.as_ns(), packet.original_length, sum, 0));
            }
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
        let offset = reader.offset();
        packets.last_mut().unwrap().3 = offset;
    };
    std::hint::black_box(reader.statistics());
    assert!(matches!(reader.next_packet(), Ok(None)), "nothing comes after the end");
    (packets, failure)
}

fn assert_has_its_place(error: &ReadError, length: usize) {
    match error {
        ReadError::Truncated { offset } | ReadError::Damaged { offset, .. } => {
            assert!(*offset <= length as u64, "{error}");
            assert!(error.to_string().contains(&format!("at byte {offset}")), "{error}");
        }
        ReadError::NotCapture { .. } => {}
        ReadError::Io { .. } => panic!("memory can be read: {error}"),
    }
}

fn copy(file: &[u8]) {
    let Ok(reader) = Reader::new(file) else { return };
    let mut out = Vec::new();
    let mut copier = Copier::new(reader, &mut out, "damaged".to_owned()).unwrap();
    loop {
        match copier.next_packet() {
            Ok(Some(_)) => copier.keep().unwrap(),
            Ok(None) | Err(CopyError::Read(_)) => break,
            Err(CopyError::Write(error)) => panic!("{error}"),
        }
    }
    copier.finish().unwrap();
    assert!(out.len() < 8 * file.len() + 65536);
}

fn print(path: &Path, json: bool) -> Vec<u8> {
    let selection = SelectionArgs::default();
    let args = ShowArgs { file: path.into(), json, filter: None, color: Color::Never, selection };
    let mut out = Vec::new();
    // That it fails is told by what it prints before.
    drop(show::run(&args, &mut out));
    out
}

fn assert_is_text(printed: &[u8], json: bool) {
    let text = std::str::from_utf8(printed).unwrap();
    let is_tame = |character: char| character == '\n' || !character.is_control();
    assert!(json || text.chars().all(is_tame), "a file must not steer a terminal: {text:?}");
    assert!(text.is_empty() || text.ends_with('\n'));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The captures below a folder.
fn captures(folder: PathBuf) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            files.extend(captures(path));
        } else if path.extension().is_some_and(|extension| extension == "pcapng" || extension == "pcap") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn peak_memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_hundred_thousand_damages_of_every_file_cost_nothing_but_what_is_behind_them() {
    let mut files = captures(root().join("samples"));
    let shared = captures(root().join("../shared/data"));
    if shared.is_empty() {
        println!("skipped: ../shared/data is not here; only the samples are damaged");
    }
    files.extend(shared);
    assert!(!files.is_empty());
    let folder = tempfile::tempdir().unwrap();
    let printed = folder.path().join("damaged");
    for (number, path) in files.iter().enumerate() {
        let whole = fs::read(path).unwrap();
        let (packets, _) = read(&whole);
        let mut random = Random(number as u64);
        let mut file = Vec::new();
        for mutation in 0..MUTATIONS {
            file.clone_from(&whole);
            let first = damage(&mut file, &mut random) as u64;
            let (found, failure) = read(&file);
            let before = packets.iter().take_while(|(.., end)| *end <= first).count();
            let context = || format!("mutation {mutation} of {}, first change at {first}", path.display());
            assert_eq!(found.get(..before), packets.get(..before), "{}", context());
            if let Some(failure) = failure {
                assert_has_its_place(&failure, file.len());
            }
            if mutation % COPIED == 0 {
                copy(&file);
            }
            if mutation % (COPIED * PRINTED) == 0 {
                fs::write(&printed, &file).unwrap();
                [false, true].into_iter().for_each(|json| assert_is_text(&print(&printed, json), json));
            }
        }
    }
    let peak = peak_memory_kib();
    println!("{} files, {} mutations, {peak} KiB at most", files.len(), files.len() as u64 * MUTATIONS);
    assert!(peak < MOST_MEMORY, "{peak} KiB");
}
