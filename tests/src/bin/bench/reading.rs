//! How fast `recorder show` prints a large file of small packets, and in how much memory, beside `tcpdump -n -r`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use recorder_tests::document;
use recorder_tests::lab::{machine_allows, say};
use recorder_tests::namespace::Namespace;
use recorder_tests::process::{Running, must};
use recorder_tests::recorder::binary;

use crate::capture::folder;
use crate::count::count;
use crate::report::{median, spread};
use crate::tool::{SENDERS_CORE, Tool, pinned, traffic};

/// Who recorded, and how many datagrams make a gigabyte then.
const FILES: [(Tool, &str, u64); 2] =
    [(Tool::Recorder, "ours.pcapng", 5_500_000), (Tool::Tcpdump, "theirs.pcap", 8_500_000)];

/// On a machine that others use, reading a gigabyte takes minutes.
const DEADLINE: Duration = Duration::from_secs(900);

const PARTS: u64 = 10;

/// One reading of one file.
struct Turn {
    seconds: f64,
    cpu: Duration,
    peak_memory: u64,
}

/// `bench reading`.
pub(crate) fn main(arguments: &[String]) {
    if !machine_allows(&["ip", "tcpdump", "taskset"]) {
        return;
    }
    let is_quick = arguments.iter().any(|argument| argument == "--quick");
    let (rounds, divisor) = if is_quick { (1, 100) } else { (3, 1) };
    let version = document::first_line("tcpdump", &["--version"]);
    let mut text = format!(
        "Made by `bench reading {}`, {rounds} rounds, {}; {version}.\n\n\
         | file | packets | read by | time (spread) | CPU per packet (spread) | peak memory | CPU against tcpdump |\n\
         |---|---:|---|---:|---:|---:|---:|\n",
        arguments.join(" "),
        document::circumstances()
    );
    for (tool, name, datagrams) in FILES {
        let folder = folder();
        let path = folder.path().join(name);
        record(tool, &path, datagrams / divisor);
        text.push_str(&rows(tool, &path, rounds));
    }
    text.push_str(EXPLANATION);
    println!("{text}");
    let file = arguments.iter().position(|argument| argument == "--write");
    if let Some(path) = file.and_then(|at| arguments.get(at + 1)) {
        document::replace(path, "make bench-reading", &text);
    }
}

const EXPLANATION: &str = "
`tcpdump -n -r FILE` and `recorder show FILE`, one after the other in each round, into /dev/null. The files: datagrams of 64 bytes and
20 000 short connections on loopback, recorded by the tool that is named, the recorder's with full annotation; in memory. CPU: user
and system time divided by the packets in the file. Few connections, because tcpdump looks each one up in a table that does not grow.
";

fn record(tool: Tool, path: &Path, datagrams: u64) {
    let here = Namespace::new("reading");
    let file = path.to_str().expect("our paths are UTF-8");
    let running = tool.start(&here, "lo", file);
    // In parts, because a program that runs for two minutes is taken for one that hangs.
    for _ in 0..PARTS {
        let part = (datagrams / PARTS).to_string();
        must(pinned(&here, SENDERS_CORE, &traffic()).args(["udp-loop", "--iterations", &part]));
    }
    must(pinned(&here, SENDERS_CORE, &traffic()).args(["connect-loop", "--iterations", "20000"]));
    tool.stop(running).assert_code(0);
}

fn rows(tool: Tool, path: &Path, rounds: usize) -> String {
    let file = path.to_str().expect("our paths are UTF-8");
    let packets = count(file).packets;
    let size = fs::metadata(path).map_or(0, |data| data.len());
    let programs = [
        ("tcpdump -n -r", format!("tcpdump -n -r {file}")),
        ("recorder show", format!("{} show {file}", binary())),
    ];
    let turns: Vec<[Turn; 2]> =
        (0..rounds).map(|_| programs.each_ref().map(|(name, command)| read(name, command))).collect();
    let mut text = String::new();
    for (which, (name, _)) in programs.iter().enumerate() {
        let all =
            |figure: fn(&Turn) -> f64| turns.iter().map(|round| figure(&round[which])).collect::<Vec<f64>>();
        let per_packet: Vec<f64> =
            all(|turn| turn.cpu.as_nanos() as f64).iter().map(|ns| ns / packets.max(1) as f64).collect();
        let against = turns.iter().map(|round| round[which].cpu.as_secs_f64() / round[0].cpu.as_secs_f64());
        text.push_str(&format!(
            "| {} MB, {} | {packets} | `{name}` | {} s | {} ns | {:.0} MiB | {:.2} |\n",
            size / 1_000_000,
            tool.name(),
            spread(all(|turn| turn.seconds)),
            spread(per_packet),
            median(all(|turn| turn.peak_memory as f64)) / f64::from(1 << 20),
            median(against.collect()),
        ));
    }
    text
}

fn read(name: &str, command: &str) -> Turn {
    let start = Instant::now();
    let running = Running::start(Command::new("sh").args(["-c", &format!("exec {command} > /dev/null")]));
    let output = running.finish_within(DEADLINE);
    output.assert_code(0);
    let turn =
        Turn { seconds: start.elapsed().as_secs_f64(), cpu: output.cpu, peak_memory: output.peak_memory };
    say(&format!(
        "{name}: {:.1} s, {:.1} s of CPU, {} bytes",
        turn.seconds,
        turn.cpu.as_secs_f64(),
        turn.peak_memory
    ));
    turn
}
