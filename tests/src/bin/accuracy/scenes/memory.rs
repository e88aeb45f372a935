//! 100 000 live sockets and 10 000 processes.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use recorder_tests::process::{Running, SIGUSR1, must};

use crate::plan::{Mode, Plan};
use crate::scenario::Expected::But;
use crate::scenario::{Scenario, Take};
use crate::stage::{InProgress, Stage, wait_until};

pub(crate) const ALL: [Scenario; 1] = [Scenario {
    name: "memory",
    what: "100 000 live UDP sockets of 10 000 processes: the recorder and its maps stay under 200 MB, and forget what is closed",
    expected: But { limits: "When events are lost", may_lack: |_| true },
    play: memory,
}];

/// What is closed must be forgotten within this time.
const FORGETS: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(300);
/// The target of DESIGN.md, section 6.
const MOST_BYTES: u64 = 200_000_000;

fn memory(plan: &Plan) -> Take {
    let stage = Stage::new(plan, "memory");
    let recording = stage.record(&[]);
    let listen = ["udp-server", "--silent", "--listen", "127.0.0.1:0"];
    let server = stage.lab.server(&stage.here, "server", &listen);
    let gate = stage.lab.text("go");
    let processes = plan.count(10_000, 500);
    let (count, to) = (processes.to_string(), format!("127.0.0.1:{}", server.port));
    let arguments = ["hold", "--processes", &count, "--sockets", "10", "--to", &to, "--gate", &gate];
    let mut holders = stage.here.command(stage.lab.program("holder"));
    let holders = Running::start(holders.args(arguments));
    holders.wait_for_stdout("that all sockets are open", |line| line == "holding");

    let full = settled(&recording, plan);
    let pid = recording.running().pid();
    let resident = kib_in(&format!("/proc/{pid}/status"), "VmRSS:");
    let own = kib_in(&format!("/proc/{pid}/smaps_rollup"), "Pss:");
    let maps = map_bytes(pid);
    stage.open_gate("go");
    holders.finish().assert_code(0);
    let shrunk = full.map(|full| wait_until_shrunk(&recording, full));
    let output = recording.stop_somehow();
    // The storm of sockets at the start may have cost events; that is another scenario's matter.
    let mut take = Take::default();
    take.must(matches!(output.status.code(), Some(0 | 1)), || format!("it did not end well\n{output}"));
    let used = own + maps;
    take.must(used < MOST_BYTES, || format!("{own} bytes, and maps of {maps} bytes besides"));
    let (sockets, mega) = (10 * processes, |bytes: u64| bytes / 1_000_000);
    take.note(format!(
        "{sockets} sockets, {processes} processes: {} MB, {} MB of maps among them (resident: {} MB, with the ring for events, \
         which is mapped twice in a row, counted twice)",
        mega(used),
        mega(maps),
        mega(resident)
    ));
    if let (Some(full), Some(shrunk)) = (full, shrunk) {
        take.must(shrunk.flows * 100 <= full.flows && shrunk.sockets * 100 <= full.sockets, || {
            format!("of {full:?} there are still {shrunk:?}, {FORGETS:?} after all were closed")
        });
        take.must(full.sockets >= sockets as u64, || format!("{full:?} remembered of {sockets} sockets"));
        take.note(format!("remembered: {full:?}; after they were closed: {shrunk:?}"));
    }
    take
}

/// How many flows and sockets the recorder remembers, as SIGUSR1 tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Remembered {
    flows: u64,
    sockets: u64,
}

/// What SIGUSR1 prints: `...; remembers 12 flows of 34 sockets`.
fn remembered(recording: &InProgress<'_>) -> Remembered {
    let running = recording.running();
    let lines = running.stderr_lines();
    running.signal(SIGUSR1);
    running.wait_for_more_stderr(lines);
    let said = running.last_stderr("what it remembers", |line| line.contains("remembers "));
    let words: Vec<&str> =
        said.split_once("remembers ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
    let number = |at: usize| words.get(at).and_then(|word| word.parse().ok());
    let numbers = number(0).zip(number(3));
    let (flows, sockets) = numbers.unwrap_or_else(|| panic!("not what SIGUSR1 prints: {said}"));
    Remembered { flows, sockets }
}

/// Waits until nothing more is learnt; nothing where the recorder has no such tables.
fn settled(recording: &InProgress<'_>, plan: &Plan) -> Option<Remembered> {
    if plan.mode() != Mode::Ebpf {
        return None;
    }
    let mut last = remembered(recording);
    wait_until("the tables to settle", || {
        thread::sleep(PAUSE);
        let now = remembered(recording);
        std::mem::replace(&mut last, now) == now
    });
    Some(last)
}

/// A closed UDP socket is forgotten after two seconds.
fn wait_until_shrunk(recording: &InProgress<'_>, full: Remembered) -> Remembered {
    let end = Instant::now() + FORGETS;
    loop {
        thread::sleep(PAUSE);
        let now = remembered(recording);
        if now.flows * 100 <= full.flows && now.sockets * 100 <= full.sockets || Instant::now() > end {
            return now;
        }
    }
}

/// The value of a line like `VmRSS:  1234 kB`, in bytes.
fn kib_in(path: &str, key: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {path}: {error}"));
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("no {key}"));
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    kib * 1024
}

/// What the kernel has allocated for the maps that this process holds, as bpftool tells; without the ring for events, whose
/// pages are among its own.
fn map_bytes(pid: u32) -> u64 {
    let folder = format!("/proc/{pid}/fdinfo");
    let files = fs::read_dir(&folder).expect("cannot read the descriptors of the recorder");
    let ids: Vec<String> = files
        .flatten()
        .filter_map(|file| fs::read_to_string(file.path()).ok())
        .filter_map(|text| {
            text.lines().find_map(|line| line.strip_prefix("map_id:")).map(|id| id.trim().to_string())
        })
        .collect();
    ids.iter().map(|id| bytes_of_map(id)).sum()
}

fn bytes_of_map(id: &str) -> u64 {
    let json = must(Command::new("bpftool").args(["-j", "map", "show", "id", id])).stdout;
    let map: serde_json::Value = serde_json::from_str(&json).expect("bpftool -j writes JSON");
    if map["type"] == "ringbuf" { 0 } else { map["bytes_memlock"].as_u64().unwrap_or(0) }
}
