//! More than can be followed: no name may be wrong, and what is lost is counted, told and written.

use std::process::Command;

use recorder_tests::judge::{Judged, Verdict};
use recorder_tests::process::{Output, Running, must};
use recorder_tests::recorder::{READY, binary};
use recorder_tests::truth::Truth;

use crate::plan::{Mode, Plan};
use crate::scenario::Expected::But;
use crate::scenario::{Expected, Scenario, Take};
use crate::stage::Stage;

/// Whatever is lost, the names that remain are right.
const OVERLOAD: Expected = But { limits: "When events are lost", may_lack: |_| true };

pub(crate) const ALL: [Scenario; 6] = [
    Scenario {
        name: "overload-spoofed-flows",
        what: "50 000 new flows a second from tuples that nobody has, to a listener and a UDP server, beside short-lived clients",
        expected: OVERLOAD,
        play: spoofed_flows,
    },
    Scenario {
        name: "overload-real-flows",
        what: "four processes that open sockets as fast as they can, and share the ports of one another",
        expected: OVERLOAD,
        play: large_events,
    },
    Scenario {
        name: "overload-small-events",
        what: "the same, with a ring for events of 64 KiB",
        expected: OVERLOAD,
        play: small_events,
    },
    Scenario {
        name: "overload-forks",
        what: "forks as fast as they go, beside short-lived clients",
        // Nothing is lost, so nothing may be missing.
        expected: Expected::AllRight,
        play: forks,
    },
    Scenario {
        name: "overload-small-ring",
        what: "the sockets storm, with a ring for packets of 1 MiB",
        expected: OVERLOAD,
        play: |plan| real_flows(plan, "overload-small-ring", &["-B", "1"]),
    },
    Scenario {
        name: "overload-slow-disk",
        what: "standard output into a reader that stalls, with a ring of 1 MiB",
        expected: OVERLOAD,
        play: slow_disk,
    },
];

/// The routes by which answers to spoofed packets leave, to nobody.
fn route_to_nobody(stage: &Stage<'_>) {
    stage.here.ip(&["route", "add", "10.99.0.0/16", "via", "10.77.1.2"]);
    for interface in ["all", "eth1"] {
        stage.here.set(&format!("net/ipv4/conf/{interface}/rp_filter"), "0");
    }
}

fn spoofed_flows(plan: &Plan) -> Take {
    let stage = Stage::new(plan, "overload-spoofed-flows");
    route_to_nobody(&stage);
    let recording = stage.record(&[]);
    let sink = sink(&stage, "sink", "10.77.1.1:0");
    let target = format!("10.77.1.1:{}", sink.1);
    let flows = plan.count(200_000, 50_000).to_string();
    let mac = stage.here.mac("eth1");
    let arguments =
        ["flow-storm", "--interface", "eth1", "--mac", &mac, "--tcp-to", &target, "--udp-to", &target];
    let mut storm = stage.there.command(stage.lab.program("flow-storm"));
    let storm = Running::start(storm.args(arguments).args(["--flows", &flows, "--rate", "50000"]));
    let mut rounds = 0;
    // Clients come and go while the storm lasts.
    while !storm.has_ended() {
        short_clients(&stage, 20);
        rounds += 1;
    }
    let said = storm.finish();
    said.assert_code(0);
    let output = recording.stop_somehow();
    let mut take = losses_are_told(&stage, &output);
    take.note(format!("flow storm: {}; {} short-lived clients meanwhile", said.stdout.trim(), 40 * rounds));
    take
}

/// As many TCP and UDP clients from here to there.
fn short_clients(stage: &Stage<'_>, count: usize) {
    let place = stage.places()[2];
    let count_text = count.to_string();
    let tcp = place.server("server-tcp", &["tcp-server", "--connections", &count_text]);
    let udp = place.server("server-udp", &["udp-server"]);
    for _ in 0..count {
        place.client("client-tcp", &tcp.port, &["tcp-client"]);
        // Its datagram may be lost in the storm, so that it waits for no answer.
        place.client("client-udp", &udp.port, &["udp-client", "--silent"]);
    }
    drop(tcp);
}

fn sink(stage: &Stage<'_>, name: &str, listen: &str) -> (Running, String) {
    let running = Running::start(&mut stage.lab.command(&stage.here, name, &["sink", "--listen", listen]));
    let port = running.wait_for_stdout("a port", |line| line.parse::<u16>().is_ok());
    (running, port)
}

const STORMERS: [&str; 4] = ["storm-a", "storm-b", "storm-c", "storm-d"];

fn socket_storm(stage: &Stage<'_>, port: &str, seconds: usize) -> Vec<Output> {
    let (target, seconds) = (format!("127.0.0.1:{port}"), seconds.to_string());
    let arguments = ["socket-storm", "--tcp-to", &target, "--udp-to", &target, "--seconds", &seconds];
    let start = |name: &&str| Running::start(&mut stage.lab.command(&stage.here, name, &arguments));
    let storms: Vec<Running> = STORMERS.iter().map(start).collect();
    storms.into_iter().map(Running::finish).collect()
}

fn real_flows(plan: &Plan, label: &str, recorder: &[&str]) -> Take {
    let stage = Stage::new(plan, label);
    let recording = stage.record(recorder);
    let sink = sink(&stage, "sink", "127.0.0.1:0");
    let storms = socket_storm(&stage, &sink.1, plan.count(6, 1));
    let output = recording.stop_somehow();
    storms.iter().for_each(|storm| {
        storm.assert_code(0);
    });
    let mut take = losses_are_told(&stage, &output).at_least(1000);
    note_rate(&mut take, &stage.truths(), plan.count(6, 1));
    take
}

fn note_rate(take: &mut Take, truths: &[Truth], seconds: usize) {
    let flows = truths.iter().filter(|truth| truth.role == "client").count();
    take.note(format!("{} flows a second from real sockets", flows / seconds));
}

/// With no event lost no packet may be without any owner. One end may be missing: two sockets may share a port, and a full
/// queue takes nothing. Where packets were dropped the machine did not keep up, and a datagram that passes the tap long after its
/// sender has gone has no sender either (docs/LIMITS.md).
fn large_events(plan: &Plan) -> Take {
    let mut take = real_flows(plan, "overload-real-flows", &[]);
    let keeps_up = take.dropped == 0 && !take.reasons.contains_key("events lost");
    if plan.mode() == Mode::Ebpf && keeps_up {
        let is_bare =
            |judged: &&Judged| judged.verdict == Verdict::Unattributed && judged.packet.comment.is_none();
        let bare = take.judgement.packets.iter().filter(is_bare).count();
        take.must(bare == 0, || format!("no events were lost, and {bare} packets have no owner at all"));
    }
    take
}

fn small_events(plan: &Plan) -> Take {
    let mut take = real_flows(plan, "overload-small-events", &["--event-buffer-size", "64"]);
    if plan.mode() == Mode::Ebpf {
        let lost = take.reasons.get("events lost").copied().unwrap_or(0);
        take.must(lost > 0, || "no packet lacks its owner for lost events, so nothing was shown".into());
    }
    take
}

fn forks(plan: &Plan) -> Take {
    let stage = Stage::new(plan, "overload-forks");
    let recording = stage.record(&[]);
    let count = plan.count(20_000, 3000).to_string();
    let start = |_| {
        let mut command = stage.here.command(stage.lab.program("forks"));
        Running::start(command.args(["fork-storm", "--count", &count]))
    };
    let storms: Vec<Running> = (0..4).map(start).collect();
    while storms.iter().any(|storm| !storm.has_ended()) {
        short_clients(&stage, 20);
    }
    let said: Vec<Output> = storms.into_iter().map(Running::finish).collect();
    let output = recording.stop_somehow();
    let mut take = losses_are_told(&stage, &output);
    take.note(format!("four times {}", said[0].stdout.trim()));
    take
}

/// The recorder writes into a pipe whose reader begins to read only after the storm.
fn slow_disk(plan: &Plan) -> Take {
    let stage = Stage::new(plan, "overload-slow-disk");
    let (pipe, gate, file) =
        (stage.lab.text("pipe"), stage.lab.text("read"), stage.lab.text("recording.pcapng"));
    must(Command::new("mkfifo").arg(&pipe));
    let mut reader = Command::new("sh");
    reader.args([
        "-c",
        "exec \"$0\" slow-copy --gate \"$1\" --to \"$2\" < \"$3\"",
        &stage.lab.program("reader"),
    ]);
    let reader = Running::start(reader.args([&gate, &file, &pipe]));
    let script = "exec \"$0\" record -i any -B 1 --attribution \"$1\" -w - > \"$2\"";
    let mut command = stage.here.command("sh");
    command.args(["-c", script, &binary(), plan.mode().name(), &pipe]);
    let recorder = Running::start(&mut command);
    recorder.wait_for_stderr("that it records", |line| line.starts_with(READY));
    let sink = sink(&stage, "sink", "127.0.0.1:0");
    socket_storm(&stage, &sink.1, plan.count(3, 1));
    stage.open_gate("read");
    recorder.signal(recorder_tests::process::SIGINT);
    let output = recorder.finish();
    reader.finish().assert_code(0);
    let mut take = losses_are_told(&stage, &output);
    let dropped = take.dropped;
    take.must(dropped > 0, || "the reader stalled, and yet nothing was dropped".into());
    take
}

/// What was lost stands on the screen, in the file and in the exit code, and the three agree.
fn losses_are_told(stage: &Stage<'_>, output: &Output) -> Take {
    let mut take = stage.judge();
    let summary = stage.summary();
    let in_file = |key: &str| summary["statistics"][key].as_u64().unwrap_or(0);
    let (dropped, lost) = (in_file("dropped_by_kernel"), in_file("socket_events_lost"));
    take.dropped = dropped;
    for (count, words) in [(dropped, " dropped by kernel"), (lost, " socket events lost")] {
        // `1 packet`, `2 packets`: as tcpdump says it.
        let number = |line: &str| line.strip_suffix(words)?.split(' ').next()?.parse::<u64>().ok();
        let on_screen = output.stderr.lines().find_map(number);
        take.must(on_screen.unwrap_or(0) == count, || {
            format!("the file says {count}{words}, the screen {on_screen:?}\n{output}")
        });
    }
    let expected = i32::from(dropped > 0 || lost > 0);
    take.must(output.status.code() == Some(expected), || format!("expected exit code {expected}\n{output}"));
    let judged = |verdict| {
        take.judgement.packets.iter().filter(move |judged: &&Judged| judged.verdict == verdict).count()
    };
    let owned = judged(Verdict::Right) + judged(Verdict::Wrong) + judged(Verdict::Unattributed);
    let share = 100.0 * judged(Verdict::Right) as f64 / owned.max(1) as f64;
    take.note(format!("{dropped} packets dropped, {lost} events lost; {share:.1} % of the packets that have owners are right"));
    take
}
