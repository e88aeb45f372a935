//! A recorder that stands still, is too slow, is killed; and the file at any moment, as a power cut would leave it.

use std::fs;
use std::path::Path;
use std::process::Command;

use recorder_tests::blocks::{self, Ending};
use recorder_tests::judge::{Verdict, judge};
use recorder_tests::lab::machine_allows;
use recorder_tests::namespace::Namespace;
use recorder_tests::process::{Running, SIGCONT, SIGSTOP, must, run};
use recorder_tests::recorder::{Recording, binary, record};
use recorder_tests::rotation::{Line, sequence};
use recorder_tests::truth;
use recorder_tests::wait::wait_until;

use super::{NUMBERED, Report, assert_in_order, assert_whole, lab};

const TOOLS: [&str; 5] = ["ip", "trafgen", "tshark", "capinfos", "tcpdump"];

/// Waits until all threads of the process stand still.
fn stop(recording: &Recording) {
    recording.running().signal(SIGSTOP);
    let status = format!("/proc/{}/status", recording.running().pid());
    let text = || fs::read_to_string(&status).unwrap_or_default();
    wait_until("it stands still", text, || text().contains("State:\tT"));
}

#[test]
fn what_comes_while_the_recorder_stands_still_is_recorded_or_counted_as_dropped() {
    if !machine_allows(&TOOLS) {
        return;
    }
    const SENT: u32 = 40_000;
    let (lab, line) = (lab(), Line::new());
    let file = lab.text("f.pcapng");
    let arguments = [&NUMBERED[..], &["-B", "1", "-w", &file]].concat();
    let recording = Recording::start(&mut record(&line.there, &arguments));
    stop(&recording);
    // Forty times what the ring holds.
    must(&mut line.trafgen(&lab, SENT, 1000));
    recording.running().signal(SIGCONT);
    let size = || lab.path("f.pcapng").metadata().map_or(0, |file| file.len());
    wait_until("the ring is empty", || format!("{} bytes", size()), || size() > 100_000);
    must(&mut line.trafgen(&lab, 100, 1000));
    let report = Report::of(recording.stop(), 1);
    report.assert_accounts_for(u64::from(SENT) + 100);
    assert!(report.number("dropped_by_kernel") > u64::from(SENT) / 2, "{}", report.output);
    assert_whole(&lab.path("f.pcapng"), &report);
    let numbers = sequence(&lab.path("f.pcapng"));
    assert_eq!(numbers.len() as u64, report.number("packets"), "{}", report.output);
    let (before, after) = numbers.split_at(numbers.len() - 100);
    assert!(before.is_sorted(), "in order\n{}", report.output);
    assert_eq!(assert_in_order(after, 1, &report.output), 100);
}

#[test]
fn socket_events_that_come_while_the_recorder_stands_still_are_counted_and_make_no_wrong_name() {
    if !machine_allows(&["ip", "tshark"]) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("events"));
    let file = lab.text("f.pcapng");
    let arguments = ["-i", "lo", "--event-buffer-size", "4", "--json", "-w", &file];
    let recording = Recording::start(&mut record(&namespace, &arguments));
    let server = lab.server(&namespace, "server", &["tcp-server"]);
    let (client, to) = (lab.program("client"), format!("127.0.0.1:{}", server.port));
    let storm = ["storm", "--count", "200", "--protocol", "tcp", "--to", &to, "--client", &client];
    stop(&recording);
    must(&mut lab.command(&namespace, "storm", &storm));
    recording.running().signal(SIGCONT);
    must(&mut lab.command(&namespace, "storm", &storm));
    drop(server);
    let report = Report::of(recording.stop(), 1);
    assert!(report.number("socket_events_lost") > 0, "{}", report.output);
    assert_eq!(report.number("dropped_by_kernel"), 0, "{}", report.output);
    report.assert_accounts_for(report.number("packets"));
    assert_whole(Path::new(&file), &report);
    let judgement = judge(Path::new(&file), &truth::read(lab.log()));
    let wrong: Vec<_> = judgement.packets.iter().filter(|judged| judged.verdict == Verdict::Wrong).collect();
    assert!(wrong.is_empty(), "{judgement}\n{wrong:#?}");
}

#[test]
fn a_copy_of_the_file_at_any_moment_has_all_whole_packets_before_its_end() {
    if !machine_allows(&[&TOOLS[..], &["zstd"]].concat()) {
        return;
    }
    const COPIES: usize = 10;
    for name in ["f.pcapng", "f.pcapng.zst"] {
        let (lab, line) = (lab(), Line::new());
        let file = lab.text(name);
        let arguments = [&NUMBERED[..], &["-w", &file]].concat();
        let recording = Recording::start(&mut record(&line.there, &arguments));
        let mut traffic = line.trafgen_random(&lab, 10_000_000, 300);
        let traffic = Running::start(traffic.args(["--gap", "1ms"]));
        let mut copies: Vec<Vec<u8>> = Vec::new();
        let read = || fs::read(lab.path(name)).expect("it is there");
        let size = || lab.path(name).metadata().map_or(0, |file| file.len());
        while copies.len() < COPIES {
            let before = copies.last().map_or(0, Vec::len) as u64;
            wait_until("the file grows", || format!("{before} bytes"), || size() > before);
            copies.push(read());
        }
        drop(traffic);
        let report = Report::of(recording.stop(), 0);
        let whole = read();
        let mut most = 0;
        for (number, copy) in copies.iter().enumerate() {
            assert!(whole.starts_with(copy), "copy {number} is the beginning of the file\n{}", report.output);
            let file = lab.path(format!("copy-{number}.{}", name.split_once('.').expect("a suffix").1));
            fs::write(&file, copy).expect("cannot write a copy");
            let packets = packets_in_copy(&file);
            assert!(
                packets >= most,
                "copy {number}: {packets} packets, {most} in the one before\n{}",
                report.output
            );
            most = packets;
        }
        assert!(most > 100, "{most} packets in the last copy\n{}", report.output);
    }
}

/// How many packets are in a file that was cut: as we see it, tshark, and pcap-parser if it is not compressed.
fn packets_in_copy(file: &Path) -> usize {
    let shown = run(Command::new(binary()).arg("show").arg(file));
    let ours = shown.stdout.lines().count();
    let tshark = run(Command::new("tshark").arg("-n").arg("-r").arg(file).args([
        "-T",
        "fields",
        "-e",
        "frame.number",
    ]));
    assert_eq!(ours, tshark.stdout.lines().count(), "as many as tshark sees\n{shown}\n{}", tshark.stderr);
    if file.extension().is_some_and(|suffix| suffix == "zst") {
        shown.assert_code(1);
        assert!(shown.stderr.contains("ends inside the block"), "what is missing is said\n{}", shown.stderr);
        return ours;
    }
    let mut packets = 0;
    let ending = blocks::walk(file, |block| {
        packets += usize::from(matches!(block, pcap_parser::Block::EnhancedPacket(_)))
    });
    assert_eq!(ours, packets, "as many as pcap-parser sees");
    shown.assert_code(i32::from(ending == Ending::Cut));
    ours
}
