//! RustNet on a part of the same workload, judged by the same truth as well as its output allows.
//!
//! It names one process for each packet of its annotated pcapng (`--pcapng-export`): the one at this host's end. So the
//! workload has its clients here, where it records, and its servers elsewhere; what counts is the client's end.

use std::path::Path;
use std::process::Command;

use recorder_tests::judge::{Judged, judge};
use recorder_tests::lab::say;
use recorder_tests::process::{Running, SIGINT, must};
use recorder_tests::recorder::{Recording, record};

use crate::plan::Plan;
use crate::stage::{Place, Stage, finish, wait_until};

/// How often a recorder was right about a workload.
pub(crate) struct Compared {
    pub(crate) workload: &'static str,
    pub(crate) recorder: String,
    pub(crate) packets: usize,
    pub(crate) right: usize,
    pub(crate) wrong: usize,
    pub(crate) unnamed: usize,
}

struct Workload {
    name: &'static str,
    play: fn(&Place<'_>, usize),
}

const WORKLOADS: [Workload; 3] = [
    Workload { name: "TCP clients that live a few milliseconds", play: short_tcp },
    Workload { name: "UDP clients that live a few milliseconds", play: short_udp },
    Workload { name: "TCP connections that are open for 5 s, then talk", play: long_tcp },
];

/// Plays the workloads under RustNet and under the recorder.
pub(crate) fn compare(plan: &Plan, program: &str) -> Vec<Compared> {
    let version = must(Command::new(program).arg("--version")).stdout.trim().to_string();
    let mut rows = Vec::new();
    for workload in &WORKLOADS {
        rows.push(under_rustnet(plan, workload, program, &version));
        rows.push(under_recorder(plan, workload));
    }
    rows
}

fn under_rustnet(plan: &Plan, workload: &Workload, program: &str, version: &str) -> Compared {
    let stage = Stage::new(plan, "rustnet");
    let (file, path) = (stage.file(), stage.lab.text("recording.pcapng"));
    let mut command = stage.here.command(program);
    command.args([
        "-i",
        "eth1",
        "--headless",
        "--output",
        "json",
        "--no-resolve-dns",
        "--no-geoip",
        "--no-uid-drop",
    ]);
    command.args(["--no-sandbox", "--pcapng-export", &path]);
    let rustnet = Running::start(&mut command);
    // It says nothing when it is ready; but then there is a packet socket.
    let packet_sockets =
        || must(stage.here.command("cat").arg("/proc/net/packet")).stdout.lines().count() - 1;
    wait_until("RustNet's packet socket", || packet_sockets() > 0);
    (workload.play)(&stage.places()[2], plan.count(1000, 200));
    rustnet.signal(SIGINT);
    rustnet.finish();
    compared(workload, version.to_string(), &file, &stage, name_by_rustnet)
}

fn under_recorder(plan: &Plan, workload: &Workload) -> Compared {
    let stage = Stage::new(plan, "rustnet");
    let path = stage.lab.text("recording.pcapng");
    let arguments = ["-i", "eth1", "--attribution", plan.mode().name(), "-w", &path];
    let recording = Recording::start(&mut record(&stage.here, &arguments));
    (workload.play)(&stage.places()[2], plan.count(1000, 200));
    recording.stop().assert_code(0);
    let name = format!("recorder ({})", plan.mode().name());
    compared(workload, name, &stage.file(), &stage, names_by_recorder)
}

fn compared(
    workload: &Workload,
    recorder: String,
    file: &Path,
    stage: &Stage<'_>,
    names: fn(&str) -> Vec<String>,
) -> Compared {
    let judgement = judge(file, &stage.truths());
    let verdicts: Vec<Option<bool>> =
        judgement.packets.iter().map(|judged| is_right(judged, names)).collect();
    let count = |verdict| verdicts.iter().filter(|other| **other == verdict).count();
    let row = Compared {
        workload: workload.name,
        recorder,
        packets: verdicts.len(),
        right: count(Some(true)),
        wrong: count(Some(false)),
        unnamed: count(None),
    };
    say(&format!(
        "{}: {}: {} packets, {} right, {} wrong, {} unnamed",
        row.recorder, row.workload, row.packets, row.right, row.wrong, row.unnamed
    ));
    row
}

/// Whether all names are of processes at the ends of the packet; nothing if there is no name.
fn is_right(judged: &Judged, names: fn(&str) -> Vec<String>) -> Option<bool> {
    let named = judged.packet.comment.as_deref().map(names).unwrap_or_default();
    let is_at_an_end = |name: &String| judged.senders.contains(name) || judged.receivers.contains(name);
    (!named.is_empty()).then(|| named.iter().all(is_at_an_end))
}

/// `rustnet process=server pid=14679 ppid=14512 uid=0 attr=procfs-relaxed direction=incoming`
fn name_by_rustnet(comment: &str) -> Vec<String> {
    let value = |key: &str| comment.split(' ').find_map(|word| word.strip_prefix(key));
    let process = value("process=").zip(value("pid="));
    process.map(|(name, pid)| format!("{name}[{pid}]")).into_iter().collect()
}

fn names_by_recorder(comment: &str) -> Vec<String> {
    comment.split(" > ").filter(|end| *end != "?").map(str::to_string).collect()
}

fn short_tcp(place: &Place<'_>, clients: usize) {
    let count = clients.to_string();
    let server = place.server("server", &["tcp-server", "--connections", &count]);
    for _ in 0..clients {
        place.client("client", &server.port, &["tcp-client"]);
    }
    finish(server);
}

fn short_udp(place: &Place<'_>, clients: usize) {
    let count = clients.to_string();
    let server = place.server("server", &["udp-server", "--datagrams", &count]);
    for _ in 0..clients {
        place.client("client", &server.port, &["udp-client"]);
    }
    finish(server);
}

/// Twenty connections, each a process; five seconds are ten times the interval at which RustNet looks.
fn long_tcp(place: &Place<'_>, _clients: usize) {
    const CONNECTIONS: usize = 20;
    let stage = place.stage;
    let gate = stage.lab.text("go-on");
    let server =
        place.server("server", &["tcp-server", "--prefork", "20", "--requests", "50", "--wait-close"]);
    let job = ["tcp-client", "--requests", "50", "--gate", &gate];
    let clients: Vec<Running> =
        (0..CONNECTIONS).map(|_| place.start_client("client", &server.port, &job)).collect();
    std::thread::sleep(std::time::Duration::from_secs(5));
    stage.open_gate("go-on");
    for client in clients {
        client.finish().assert_code(0);
    }
}
