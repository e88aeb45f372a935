//! Small recordings with their events (`record --keep-events`), which every `cargo test` attributes again (samples/kept): each
//! kernel tells the same things in its own way.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use recorder_tests::lab::say;
use recorder_tests::process::{Running, must, run};
use recorder_tests::recorder::binary;

use tempfile::TempDir;

use crate::guest::{RECORDING, play_all};
use crate::stories::{Stage, Story, WAYS, finish};
use crate::verdict::{judge_samples, release};

/// What `recorder record` is given in each of these stories.
const KEEP: &str = "--keep-events";
/// How long packets may take to be written.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const SAMPLES: [Story; 11] = [
    Story { name: "kept short lives", at_least: WAYS * 2 * (8 + 2 + 2), play: short_lives, loses: false },
    Story { name: "kept prefork", at_least: WAYS * 2 * 8, play: prefork, loses: false },
    Story { name: "kept forking", at_least: WAYS * 4 * 8, play: forking, loses: false },
    Story { name: "kept inetd", at_least: WAYS * 2 * 8, play: inetd, loses: true },
    Story { name: "kept waiting", at_least: WAYS * (2 * 8 + 4), play: waiting, loses: true },
    Story { name: "kept same flow", at_least: WAYS * 3 * 6, play: same_flow, loses: true },
    Story { name: "kept handovers", at_least: WAYS * (7 + 2 * 8), play: handovers, loses: false },
    Story { name: "kept port again", at_least: WAYS * 2 * (8 + 2), play: port_again, loses: false },
    Story { name: "kept from before", at_least: WAYS * (5 + 2), play: from_before, loses: false },
    Story { name: "kept losses", at_least: 1, play: losses, loses: true },
    Story { name: "kept procfs", at_least: 1, play: procfs, loses: true },
];

/// Short-lived clients, and echo requests.
fn short_lives(stage: &Stage) {
    stage.record_with(&[KEEP], |way| {
        let tcp = way.serve("server-tcp", None, "0", &["tcp-server", "--connections", "2"]);
        way.clients(2, "tcp", &tcp.port);
        finish(tcp);
        let udp = way.serve("server-udp", None, "0", &["udp-server", "--datagrams", "4"]);
        way.clients(2, "udp", &udp.port);
        (0..2).for_each(|_| way.client("udp-client", &udp.port, &["--connected"]));
        finish(udp);
        way.ping();
    });
}

fn prefork(stage: &Stage) {
    let arguments = ["tcp-server", "--prefork", "2", "--connections", "1", "--null-address", "--wait-close"];
    stage.record_with(&[KEEP], |way| {
        let server = way.serve("server", None, "0", &arguments);
        way.clients(2, "tcp", &server.port);
        finish(server);
    });
}

/// A child for each connection, forked without exec.
fn forking(stage: &Stage) {
    stage.record_with(&[KEEP], |way| {
        let server = way.serve("server", None, "0", &["tcp-server", "--connections", "4", "--forking"]);
        for pause in ["0", "1", "2", "3"] {
            way.client("tcp-client", &server.port, &["--until-eof", "--pause-ms", pause]);
        }
        finish(server);
    });
}

fn inetd(stage: &Stage) {
    let program = stage.lab.program("inetd-program");
    stage.record_with(&[KEEP], |way| {
        let server =
            way.serve("inetd", None, "0", &["tcp-server", "--connections", "2", "--inetd", &program]);
        (0..2).for_each(|_| way.client("tcp-client", &server.port, &["--until-eof"]));
        finish(server);
    });
}

/// Programs that wait in a receive call when the packet comes: one that was started with the connection, and several on one socket.
fn waiting(stage: &Stage) {
    let program = stage.lab.program("inetd-program");
    stage.record_with(&[KEEP], |way| {
        let server =
            way.serve("inetd", None, "0", &["tcp-server", "--connections", "2", "--inetd", &program]);
        (0..2).for_each(|_| way.client("tcp-client", &server.port, &["--until-eof", "--pause-ms", "40"]));
        finish(server);
        let pool = way.serve("pool", None, "0", &["udp-prefork-server", "--processes", "3"]);
        way.clients(4, "udp", &pool.port);
    });
}

/// Connections of one flow, one after the other, each ended by a reset.
fn same_flow(stage: &Stage) {
    stage.record_with(&[KEEP], |way| {
        let server = way.serve("server", None, "0", &["tcp-server", "--connections", "3"]);
        let own = way.own_address("40123");
        (0..3).for_each(|_| way.client("tcp-client", &server.port, &["--bind", &own, "--reset"]));
        finish(server);
    });
}

/// Fork without exec, and a socket that is passed on (SCM_RIGHTS).
fn handovers(stage: &Stage) {
    let heir = stage.lab.program("heir");
    let tcp_server = ["tcp-server", "--connections", "2", "--requests", "1000", "--wait-close"];
    stage.record_with(&[KEEP], |way| {
        let tcp = way.serve("server-tcp", None, "0", &tcp_server);
        let udp = way.serve("server-udp", None, "0", &["udp-server"]);
        for how in ["fork", "pass"] {
            let common = ["--how", how, "--turns", "1", "--heir", &heir, "--protocol"];
            way.client("turns-client", &tcp.port, &[&common[..], &["tcp"]].concat());
            way.client("turns-client", &udp.port, &[&common[..], &["udp"]].concat());
        }
        finish(tcp);
    });
}

fn port_again(stage: &Stage) {
    stage.record_with(&[KEEP], |way| {
        for (protocol, arguments) in
            [("tcp", ["tcp-server", "--connections", "1"]), ("udp", ["udp-server", "--datagrams", "1"])]
        {
            let first = way.serve("first", None, "0", &arguments);
            let port = first.port.clone();
            way.clients(1, protocol, &port);
            finish(first);
            let second = way.serve("second", None, &port, &arguments);
            way.clients(1, protocol, &port);
            finish(second);
        }
    });
}

/// Sockets that are there before the start, which a snapshot shows.
fn from_before(stage: &Stage) {
    let go = stage.lab.text("go");
    let mut before = Vec::new();
    for way in stage.ways() {
        for job in ["tcp", "udp"] {
            let server =
                [format!("{job}-server"), if job == "tcp" { "--connections" } else { "--datagrams" }.into()];
            let server = way.serve("server", None, "0", &[&server[0], &server[1], "1"]);
            before
                .push((way.waiting_client(&format!("{job}-client"), &server.port, &["--when", &go]), server));
        }
    }
    let mut before = Some(before);
    stage.record_with(&[KEEP], |_| {
        fs::write(&go, "").expect("cannot write the signal to go");
        for (client, server) in before.take().into_iter().flatten() {
            client.finish().assert_code(0);
            finish(server);
        }
    });
}

/// The smallest ring for events, and more of them than it holds.
fn losses(stage: &Stage) {
    stage.record_lossy(&[KEEP, "--event-buffer-size", "4"], |way| {
        let tcp = way.serve("server-tcp", None, "0", &["tcp-server", "--connections", "8"]);
        way.clients(8, "tcp", &tcp.port);
        finish(tcp);
    });
}

/// Without eBPF, sockets that stay open until they have been seen.
fn procfs(stage: &Stage) {
    let (go, end) = (stage.lab.text("go"), stage.lab.text("end"));
    let mut before: Vec<(Running, _)> = Vec::new();
    for way in stage.ways() {
        let server = way.serve("server", None, "0", &["udp-server"]);
        let client =
            way.waiting_client("udp-client", &server.port, &["--connected", "--when", &go, "--until", &end]);
        before.push((client, server));
    }
    let mut before = Some(before);
    stage.record_lossy(&[KEEP, "--attribution", "procfs"], |_| {
        let Some(before) = before.take() else { return };
        fs::write(&go, "").expect("cannot write the signal to go");
        wait_for_packets(&stage.recording(), 2 * WAYS, PATIENCE);
        fs::write(&end, "").expect("cannot write the signal to end");
        before.into_iter().for_each(|(client, _)| {
            client.finish().assert_code(0);
        });
    });
}

/// Waits until so many packets are written.
pub(crate) fn wait_for_packets(file: &Path, count: usize, patience: Duration) {
    let end = Instant::now() + patience;
    loop {
        let shown = run(Command::new(binary()).arg("show").arg(file));
        if shown.stdout.lines().count() >= count {
            return;
        }
        assert!(Instant::now() < end, "{count} packets are not written\n{shown}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A recording with its events gives the same file again.
pub(crate) fn assert_replayed(context: &str, story: &Story, results: &Path) {
    let (file, again) = (results.join(story.file(RECORDING)), results.join(story.file("again.pcapng")));
    annotate_again(&file, &again);
    let read = |path: &Path| fs::read(path).expect("the file is there");
    assert!(read(&file) == read(&again), "{context}: {} and {} differ", file.display(), again.display());
}

/// Puts the recordings into a folder, each as RELEASE-STORY.pcapng.zst.
pub(crate) fn store(release: &str, results: &Path, folder: &Path) {
    let numbers: Vec<&str> = release.split('.').take(2).collect();
    for story in &SAMPLES {
        let name = story.file("pcapng.zst");
        let name = format!("{}-{}", numbers.join("."), name.trim_start_matches("kept-"));
        annotate_again(&results.join(story.file(RECORDING)), &folder.join(&name));
        say(&format!("kernels: {name}"));
    }
}

/// Plays the stories on this machine, and puts the recordings into a folder. They hold the events of all its programs, so
/// it should have little else to do.
pub(crate) fn record_here(folder: &Path) {
    let out = TempDir::with_prefix("recorder-samples-").expect("cannot make a temporary folder");
    play_all(SAMPLES.iter(), out.path());
    judge_samples("here", out.path());
    store(&release(out.path()), out.path(), folder);
}

fn annotate_again(file: &Path, again: &Path) {
    let mut command = Command::new(binary());
    must(command.args(["annotate", "--from-events", "--force"]).arg(file).arg("-w").arg(again));
}
