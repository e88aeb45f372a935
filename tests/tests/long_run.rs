//! A long recording, made short: sockets, processes, interfaces and files come and go without a pause. Memory and descriptors stay as they
//! are, and at each rotation every packet is accounted for. `LONG_RUN_SECONDS` says how long; `make test-long` is for more. Needs root; says
//! so and passes without.

#![expect(clippy::expect_used, reason = "helpers of tests are test code too")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pcap_parser::Block;
use recorder_tests::blocks::{self, Ending};
use recorder_tests::judge::{Verdict, judge};
use recorder_tests::lab::{Lab, Server, machine_allows, say};
use recorder_tests::process::{Output, must};
use recorder_tests::recorder::{Recording, ask, record};
use recorder_tests::rotation::{Line, files};
use recorder_tests::truth;
use serde_json::Value;

const TOOLS: [&str; 3] = ["ip", "trafgen", "tshark"];
/// How long, if nothing else is said.
const SECONDS: u64 = 8;
/// How many programs talk in each round.
const CLIENTS: [(&str, usize); 2] = [("tcp", CONNECTIONS), ("udp", 200)];
const CONNECTIONS: usize = 10;
/// So long a closed TCP connection is remembered, and with it who had it.
const LINGER: Duration = Duration::from_secs(120);
/// What a connection and its process may take for that time.
const BYTES_PER_CONNECTION: usize = 4096;
/// What the allocator may take at a time, and what is remembered of those who are over until it is worth a look.
const SLACK_BYTES: usize = 4 << 20;

fn duration() -> Duration {
    let seconds =
        std::env::var("LONG_RUN_SECONDS").ok().map(|text| text.parse().expect("a number of seconds"));
    Duration::from_secs(seconds.unwrap_or(SECONDS))
}

#[test]
fn memory_and_descriptors_stay_as_they_are_and_each_file_accounts_for_its_packets() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, line) = (Lab::new(env!("CARGO_BIN_EXE_traffic")), Line::new());
    let (all, some) = (lab.text("all.pcapng"), lab.text("some.pcapng"));
    // A ring that bursts overrun, and one of all interfaces from which a part is chosen.
    let named = ["-i", "lo", "-i", "eth1", "-B", "1", "-b", "packets:2000", "--json", "-w", &all];
    let chosen = ["-i", "any", "--name", "client", "-b", "packets:500", "--json", "-w", &some];
    let mut all = Watched::start(&line, &named, lab.path("all.pcapng"), true);
    let mut some = Watched::start(&line, &chosen, lab.path("some.pcapng"), false);
    let servers = CLIENTS.map(|(protocol, count)| {
        let arguments = [&format!("{protocol}-server"), "--listen", "127.0.0.1:0"];
        (protocol, count, lab.server(&line.there, "server", &arguments))
    });
    let (begin, duration) = (Instant::now(), duration());
    let mut rounds = 0;
    while rounds < 4 || begin.elapsed() < duration {
        churn(&lab, &line, &servers, rounds);
        rounds += 1;
        for watched in [&mut all, &mut some] {
            watched.look();
        }
        if rounds == 2 {
            // What is judged is what came until now.
            judge_files(&lab, &all.path);
        }
    }
    drop(servers);
    let report = format!("{rounds} rounds, {:?}", begin.elapsed());
    for watched in [all, some] {
        say(&format!("long run: {report}: {}", watched.finish()));
    }
}

/// A few hundred sockets and processes, one interface and a burst of packets.
fn churn(lab: &Lab, line: &Line, servers: &[(&str, usize, Server)], round: u32) {
    let client = lab.program("client");
    for (protocol, count, server) in servers {
        let (to, count) = (format!("127.0.0.1:{}", server.port), count.to_string());
        let storm = ["storm", "--count", &count, "--protocol", protocol, "--to", &to, "--client", &client];
        must(&mut lab.command(&line.there, "storm", &storm));
    }
    let (name, peer) = (format!("new{round}"), format!("wen{round}"));
    line.there.ip(&["link", "add", &name, "type", "veth", "peer", "name", &peer]);
    for interface in [&name, &peer] {
        line.there.ip(&["link", "set", interface, "up"]);
    }
    must(&mut line.trafgen(lab, 5000, 1000));
    line.there.ip(&["link", "del", &name]);
}

/// Names in the files that are there: none is wrong.
fn judge_files(lab: &Lab, path: &Path) {
    let truth = truth::read(lab.log());
    for (number, file) in done(path) {
        let judgement = judge(&file, &truth);
        let wrong: Vec<_> =
            judgement.packets.iter().filter(|judged| judged.verdict == Verdict::Wrong).collect();
        assert!(wrong.is_empty(), "file {number}: {judgement}\n{wrong:#?}");
    }
}

/// All files but the last two, of which the former may still be written to: a file is created before the one before it is ended.
fn done(path: &Path) -> Vec<(u32, PathBuf)> {
    let mut files = files(path);
    files.truncate(files.len().saturating_sub(2));
    files
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    received: u64,
    written: u64,
    dropped: u64,
    left_out: u64,
}

impl Counts {
    /// What the file says, and its packets. Where the kernel does not say on which interface it dropped packets, they are not among
    /// the received ones.
    fn of(file: &Path, knows_dropped: bool) -> Self {
        let mut written = 0;
        let ending =
            blocks::walk(file, |block| written += u64::from(matches!(block, Block::EnhancedPacket(_))));
        assert_eq!(ending, Ending::Whole, "{} ends within a block", file.display());
        let summary = ask(&["summary", "--json", file.to_str().expect("our paths are UTF-8")]);
        let summary: Value = serde_json::from_str(&summary).expect("summary --json is JSON");
        let number = |key: &str| summary["statistics"][key].as_u64().unwrap_or(0);
        let by_kernel = if knows_dropped { number("dropped_by_kernel") } else { 0 };
        let dropped = by_kernel + number("dropped_by_recorder");
        Self { received: blocks::received(file), written, dropped, left_out: number("not_selected") }
    }

    /// What the final report says.
    fn told_in(output: &Output, knows_dropped: bool) -> Self {
        let line = output.stderr.lines().last().unwrap_or_default();
        let report: Value = serde_json::from_str(line).expect("the last line is the report");
        let number = |key: &str| report[key].as_u64().expect("a number");
        let by_kernel = if knows_dropped { number("dropped_by_kernel") } else { 0 };
        let dropped = by_kernel + number("dropped_by_recorder");
        Self {
            received: number("received"),
            written: number("packets"),
            dropped,
            left_out: number("not_selected"),
        }
    }
}

/// The files of a recording that were looked into.
struct Checked {
    /// Whether the kernel says of each interface what it dropped.
    knows_dropped: bool,
    files: u64,
    sums: Counts,
}

impl Checked {
    /// That the file accounts for its packets.
    fn check(&mut self, file: &Path) {
        let Counts { received, written, dropped, left_out } = Counts::of(file, self.knows_dropped);
        let evidence =
            || format!("received {received}, written {written}, dropped {dropped}, left out {left_out}");
        assert_eq!(received, written + dropped + left_out, "{} in {}", evidence(), file.display());
        self.files += 1;
        let sums = &mut self.sums;
        sums.received += received;
        sums.written += written;
        sums.dropped += dropped;
        sums.left_out += left_out;
    }
}

/// A recorder, and what was seen of it.
struct Watched {
    recording: Recording,
    path: PathBuf,
    checked: Checked,
    looks: Vec<Look>,
}

/// What was seen after a round.
#[derive(Debug)]
struct Look {
    at: Instant,
    descriptors: usize,
    memory_bytes: usize,
}

impl Watched {
    fn start(line: &Line, arguments: &[&str], path: PathBuf, knows_dropped: bool) -> Self {
        let recording = Recording::start(&mut record(&line.there, arguments));
        let checked = Checked { knows_dropped, files: 0, sums: Counts::default() };
        Self { recording, path, checked, looks: Vec::new() }
    }

    /// Looks at the process, then checks the files that are done and removes them, but for those of the first two rounds.
    fn look(&mut self) {
        let pid = self.recording.running().pid();
        let descriptors = || fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
        // Between two files it has one more.
        let descriptors = (0..20).map(|_| descriptors()).min().unwrap_or_default();
        self.looks.push(Look { at: Instant::now(), descriptors, memory_bytes: own_memory(pid) });
        if self.looks.len() > 2 {
            for (_, file) in done(&self.path) {
                self.checked.check(&file);
                fs::remove_file(&file).expect("cannot remove a file");
            }
        }
    }

    /// Ends it. Nothing grew, and the sums over all files are those of its report.
    fn finish(mut self) -> String {
        let looks = &self.looks;
        let (first, last) = looks.first().zip(looks.last()).expect("there was a round");
        // At the middle all that has a bound has been used.
        let middle = &looks[looks.len() / 2];
        let remembered = |then: &Look| {
            let is_remembered = |look: &&Look| look.at <= then.at && then.at - look.at < LINGER;
            CONNECTIONS * looks.iter().filter(is_remembered).count() * BYTES_PER_CONNECTION
        };
        let most = middle.memory_bytes + SLACK_BYTES + remembered(last).saturating_sub(remembered(middle));
        let steady = looks.iter().all(|look| look.descriptors == first.descriptors);
        assert!(
            steady && last.memory_bytes <= most,
            "{most} bytes at the end at most, always as many descriptors: {looks:#?}"
        );
        let seen = format!(
            "{} descriptors, {} to {} KiB of memory",
            first.descriptors,
            first.memory_bytes >> 10,
            last.memory_bytes >> 10
        );
        let output = self.recording.stop();
        files(&self.path).iter().for_each(|(_, file)| self.checked.check(file));
        let Checked { knows_dropped, files, sums } = self.checked;
        assert_eq!(Counts::told_in(&output, knows_dropped), sums, "all files together\n{output}");
        format!("{files} files, {sums:?}; {seen}")
    }
}

/// The memory that a process has for itself, without rings that it shares with the kernel.
fn own_memory(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse::<usize>().ok()).expect("a number") << 10
}
