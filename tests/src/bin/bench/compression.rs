//! What compression saves and costs, by level: the same loads as those of the other comparisons, recorded once without and once
//! with each level.

use std::fs;
use std::path::Path;
use std::process::Command;

use recorder_tests::lab::{machine_allows, say};
use recorder_tests::namespace::{Namespace, connect};
use recorder_tests::process::{Running, SIGINT, must};
use recorder_tests::recorder::{READY, record};
use tempfile::TempDir;

use crate::capture::folder;
use crate::count::count;
use crate::report::median;
use crate::tool::{SENDERS_CORE, pinned, traffic};

/// None, and levels from fast to small.
const LEVELS: [Option<u32>; 6] = [None, Some(1), Some(3), Some(6), Some(9), Some(19)];

/// What is recorded.
struct Load {
    name: &'static str,
    interface: &'static str,
    send: fn(&Namespace, &Namespace, u64),
}

const LOADS: [Load; 2] = [
    Load { name: "connect + accept + close, no data", interface: "lo", send: short_connections },
    Load { name: "iperf3 TCP, random bytes, 200 Mbit/s", interface: "eth1", send: random_bytes },
];

/// One recording.
struct Turn {
    level: Option<u32>,
    /// The size of the file, as it is on disk and decompressed.
    size: u64,
    plain_size: u64,
    packets: u64,
    /// Packets that the interfaces sent meanwhile, and that are not in the file.
    missing: u64,
    cpu_ns: f64,
}

/// `bench compression`.
pub(crate) fn main(arguments: &[String]) {
    if !machine_allows(&["ip", "iperf3", "taskset", "zstd"]) {
        return;
    }
    let is_quick = arguments.iter().any(|argument| argument == "--quick");
    let (rounds, size) = if is_quick { (1, 1) } else { (2, 5) };
    let mut text = format!(
        "Made by `bench compression {}`, {rounds} rounds, {}.\n\n",
        arguments.join(" "),
        recorder_tests::document::circumstances()
    );
    text.push_str("| load | level | bytes per packet | size | missing | CPU per packet |\n|---|---|---:|---:|---:|---:|\n");
    for load in LOADS {
        let turns: Vec<Turn> =
            (0..rounds).flat_map(|_| LEVELS.map(|level| one_turn(&load, level, size))).collect();
        LEVELS.iter().for_each(|level| text.push_str(&row(&load, *level, &turns)));
    }
    text.push_str(EXPLANATION);
    println!("{text}");
    let file = arguments.iter().position(|argument| argument == "--write");
    if let Some(path) = file.and_then(|at| arguments.get(at + 1)) {
        recorder_tests::document::replace(path, "make bench-compression", &text);
    }
}

const EXPLANATION: &str = "
Sums of the rounds; CPU: the median. Size: that of the file against the same packets without compression. CPU: user and system time
of the recorder, the threads that compress included, divided by the packets in the file. Missing: sent, and not in the file: the
kernel dropped it because the ring of 64 MiB was full, or it was still there ten seconds after the end. Full annotation; what is sent
is held on core 0, the recorder has both.
";

fn row(load: &Load, level: Option<u32>, turns: &[Turn]) -> String {
    let of_level: Vec<&Turn> = turns.iter().filter(|turn| turn.level == level).collect();
    let sum = |figure: fn(&Turn) -> u64| of_level.iter().map(|turn| figure(turn)).sum::<u64>();
    let name = level.map_or("none".to_owned(), |level| level.to_string());
    let per_packet = sum(|turn| turn.size) as f64 / sum(|turn| turn.packets).max(1) as f64;
    let percent = 100.0 * sum(|turn| turn.size) as f64 / sum(|turn| turn.plain_size).max(1) as f64;
    let missing = sum(|turn| turn.missing);
    let cpu = median(of_level.iter().map(|turn| turn.cpu_ns).collect());
    format!("| {} | {name} | {per_packet:.0} | {percent:.1} % | {missing} | {cpu:.0} ns |\n", load.name)
}

fn one_turn(load: &Load, level: Option<u32>, size: u64) -> Turn {
    let folder = folder();
    let (here, there) = (Namespace::new("sender"), Namespace::new("receiver"));
    connect(&here, &there, 1);
    for namespace in [&here, &there] {
        // As on a wire, and not in pieces of 64 KB.
        namespace.ip(&["link", "set", "dev", "eth1", "gso_max_segs", "1"]);
    }
    let file = folder.path().join("capture");
    let mut command = record(&there, &["-q", "-i", load.interface, "-w"]);
    command.arg(&file);
    if let Some(level) = level {
        command.arg(format!("--compress=zstd:{level}"));
    }
    let recorder = Running::start(&mut command);
    recorder.wait_for_stderr(READY, |line| line.starts_with(READY));
    let sent = || {
        there.sent(load.interface).0 + if load.interface == "lo" { 0 } else { here.sent(load.interface).0 }
    };
    let before = sent();
    (load.send)(&here, &there, size);
    let sent = sent() - before;
    recorder.signal(SIGINT);
    let output = recorder.finish();

    let plain = if level.is_some() { decompressed(&file, &folder) } else { file.clone() };
    let counted = count(plain.to_str().expect("our paths are UTF-8"));
    let bytes = |path: &Path| fs::metadata(path).map_or(0, |data| data.len());
    let turn = Turn {
        level,
        size: bytes(&file),
        plain_size: bytes(&plain),
        packets: counted.packets,
        missing: sent.saturating_sub(counted.packets),
        cpu_ns: output.cpu.as_nanos() as f64 / counted.packets.max(1) as f64,
    };
    let Turn { size, packets, missing, cpu_ns, .. } = turn;
    say(&format!(
        "{}: {level:?}: {packets} packets, {missing} missing, {size} bytes, {cpu_ns:.0} ns",
        load.name
    ));
    turn
}

fn decompressed(file: &Path, folder: &TempDir) -> std::path::PathBuf {
    let plain = folder.path().join("plain");
    must(Command::new("zstd").args(["-q", "-d", "-o"]).arg(&plain).arg(file));
    plain
}

/// Small packets of many flows: what compresses well.
fn short_connections(_: &Namespace, there: &Namespace, size: u64) {
    let iterations = (10_000 * size).to_string();
    must(pinned(there, SENDERS_CORE, &traffic()).args(["connect-loop", "--iterations", &iterations]));
}

/// As of a download that is encrypted: payload that does not compress at all.
fn random_bytes(here: &Namespace, there: &Namespace, size: u64) {
    let mut command = pinned(there, SENDERS_CORE, "iperf3");
    let server = Running::start(command.args(["-s", "-1", "--forceflush", "-B", "10.77.1.2"]));
    server.wait_for_stdout("listening", |line| line.contains("listening"));
    let bytes = format!("{}M", 20 * size);
    // From a file: of its own iperf3 sends the same random buffer again and again.
    let arguments = ["-c", "10.77.1.2", "-b", "200M", "-n", &bytes, "-F", "/dev/urandom"];
    must(pinned(here, SENDERS_CORE, "iperf3").args(arguments));
    server.finish().assert_code(0);
}
