//! How fast recordings are sent, and how well in time, beside tcpreplay.

use std::path::Path;

use recorder_tests::document;
use recorder_tests::lab::{machine_allows, say};
use recorder_tests::made::{self, ETHERNET, Made, frame, irregular, step_differences};
use recorder_tests::namespace::{Namespace, connect};
use recorder_tests::process::{Running, SIGINT, must};
use recorder_tests::recorder::{READY, binary, record};
use recorder_tests::seen::by_pcap_parser;
use tempfile::TempDir;

use crate::capture::folder;
use crate::report::median;

/// Those that send.
const SENDERS: [Sender; 3] = [
    Sender { name: "recorder replay", at_top_speed: &["--top-speed"], is_ours: true },
    Sender { name: "tcpreplay", at_top_speed: &["-t"], is_ours: false },
    Sender { name: "tcpreplay --preload-pcap", at_top_speed: &["-t", "-K"], is_ours: false },
];

struct Sender {
    name: &'static str,
    at_top_speed: &'static [&'static str],
    is_ours: bool,
}

impl Sender {
    /// Sends a file to its end; gives how long it says that this took, in seconds.
    fn send(&self, from: &Namespace, file: &Path, arguments: &[&str]) -> f64 {
        if self.is_ours {
            let mut command = from.command(binary());
            let output = must(command.arg("replay").arg(file).args(["-i", "eth1", "--json"]).args(arguments));
            let report: serde_json::Value = serde_json::from_str(&output.stderr).expect("a report");
            report["duration_ns"].as_f64().expect("a number") / 1e9
        } else {
            let mut command = from.command("tcpreplay");
            let output = must(command.args(["-i", "eth1"]).args(arguments).arg(file));
            // `Actual: 1000 packets (60000 bytes) sent in 0.001234 seconds`
            let told = output.stdout.split(" sent in ").nth(1).and_then(|rest| rest.split(' ').next());
            told.and_then(|seconds| seconds.parse().ok()).expect("tcpreplay tells how long it took")
        }
    }
}

/// `bench replay`.
pub(crate) fn main(arguments: &[String]) {
    if !machine_allows(&["ip", "tcpreplay"]) {
        return;
    }
    let is_quick = arguments.iter().any(|argument| argument == "--quick");
    let (rounds, packets) = if is_quick { (1, 50_000) } else { (5, 1_000_000) };
    let folder = folder();
    let mut text = format!(
        "Made by `bench replay {}`, {rounds} rounds, {}; {}.\n\n",
        arguments.join(" "),
        document::circumstances(),
        document::first_line("tcpreplay", &["--version"]),
    );
    text.push_str(
        "| top speed | sender | packets/s (lowest-highest) | against tcpreplay |\n|---|---|---:|---:|\n",
    );
    for (length, packets) in [(60, packets), (1514, packets / 4)] {
        text.push_str(&top_speed(&folder, length, packets, rounds));
    }
    text.push_str("\n| recorded speed | steps that differ by more than 1 ms | median | 99 % | most |\n|---|---:|---:|---:|---:|\n");
    let count = if is_quick { 300 } else { 5000 };
    SENDERS[..2].iter().for_each(|sender| text.push_str(&in_time(&folder, sender, count)));
    text.push_str(EXPLANATION);
    println!("{text}");
    let file = arguments.iter().position(|argument| argument == "--write");
    if let Some(path) = file.and_then(|at| arguments.get(at + 1)) {
        document::replace(path, "make bench-replay", &text);
    }
}

const EXPLANATION: &str = "
Into a veth pair, from a file in memory; each round has one turn of each sender. Packets in a second: the median, as the sender tells it;
against tcpreplay (without preloading): the median of the ratios within each round. Recorded speed: irregular steps of 0 to 4 ms, as
recorded at the other end of the pair against those in the file.
";

fn connected() -> (Namespace, Namespace) {
    let (here, there) = (Namespace::new("sender"), Namespace::new("receiver"));
    connect(&here, &there, 1);
    (here, there)
}

fn top_speed(folder: &TempDir, length: usize, packets: u32, rounds: usize) -> String {
    let file = folder.path().join("load.pcapng");
    let load: Vec<Made> =
        (0..packets).map(|number| Made::whole(u64::from(number), frame(number, length))).collect();
    made::write(&file, ETHERNET, &load);
    let (here, there) = connected();
    let turn = |sender: &Sender| {
        let before = there.received("eth1");
        let seconds = sender.send(&here, &file, sender.at_top_speed);
        let arrived = there.received("eth1") - before;
        say(&format!("{}: {length} bytes: {arrived} of {packets} arrived in {seconds:.3} s", sender.name));
        assert!(arrived >= u64::from(packets), "{}: {arrived} of {packets} packets arrived", sender.name);
        f64::from(packets) / seconds
    };
    let turns: Vec<[f64; 3]> = (0..rounds).map(|_| SENDERS.each_ref().map(turn)).collect();
    let row = |(at, sender): (usize, &Sender)| {
        let rates: Vec<f64> = turns.iter().map(|turn| turn[at]).collect();
        let ratio = median(turns.iter().map(|turn| turn[at] / turn[1]).collect());
        let lowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = rates.iter().copied().fold(0.0, f64::max);
        let middle = median(rates);
        format!(
            "| {length} bytes | {} | {middle:.0} ({lowest:.0}-{highest:.0}) | {ratio:.2} |\n",
            sender.name
        )
    };
    SENDERS.iter().enumerate().map(row).collect()
}

fn in_time(folder: &TempDir, sender: &Sender, count: u32) -> String {
    let (file, arrived) = (folder.path().join("timed.pcapng"), folder.path().join("arrived.pcapng"));
    let sent = irregular(count);
    made::write(&file, ETHERNET, &sent);
    let (here, there) = connected();
    let arguments =
        ["-q", "-i", "eth1", "--attribution", "none", "--force", "-f", "ether proto 0x88b5", "-w"];
    let recorder = Running::start(record(&there, &arguments).arg(&arrived));
    recorder.wait_for_stderr(READY, |line| line.starts_with(READY));
    sender.send(&here, &file, &[]);
    recorder.signal(SIGINT);
    recorder.finish().assert_code(0);
    let (seen, _) = by_pcap_parser(&arrived);
    let identical =
        seen.iter().zip(&sent).filter(|(seen, sent)| seen.data.as_ref() == Some(&sent.data)).count();
    assert_eq!(
        (identical, seen.len()),
        (sent.len(), sent.len()),
        "{}: what arrived is what was sent",
        sender.name
    );
    let times: Vec<u64> = seen.iter().map(|packet| packet.time_ns).collect();
    let recorded: Vec<u64> = sent.iter().map(|packet| packet.time_ns).collect();
    let differences = step_differences(&recorded, &times);
    let at = |share: f64| differences[((differences.len() - 1) as f64 * share) as usize] as f64 / 1e3;
    let late = differences.iter().filter(|difference| **difference > 1_000_000).count();
    format!(
        "| {} | {late} of {} | {:.1} µs | {:.1} µs | {:.1} µs |\n",
        sender.name,
        differences.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    )
}
