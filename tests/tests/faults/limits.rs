//! Too little memory, too few descriptors.

use std::process::Command;

use recorder_tests::lab::machine_allows;
use recorder_tests::namespace::Namespace;
use recorder_tests::process::{must, run};
use recorder_tests::recorder::{READY, Recording, binary, record};
use recorder_tests::rotation::{Line, files};
use recorder_tests::tshark::assert_others_read;

use super::{NUMBERED, Report, all_numbers, assert_in_order, lab};

/// `recorder record ARGUMENTS` with a limit that prlimit sets.
fn limited(namespace: &Namespace, limit: &str, arguments: &[&str]) -> Command {
    let mut command = namespace.command("prlimit");
    command.args([limit, &binary(), "record"]).args(arguments);
    command
}

#[test]
fn without_memory_for_its_ring_nothing_is_recorded_and_that_is_said() {
    if !machine_allows(&["ip", "prlimit"]) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("memory"));
    let arguments = ["-i", "lo", "-B", "1024", "-w", &lab.text("f.pcapng")];
    let output = run(&mut limited(&namespace, "--as=600000000", &arguments));
    output.assert_code(2);
    let told = "recorder: cannot record on lo: cannot allocate memory (packet ring)\n  ask for a smaller ring with --buffer-size\n";
    assert!(output.stderr.ends_with(told), "{output}");
    assert!(!lab.path("f.pcapng").exists(), "nothing usable was done, so there is no file\n{output}");
}

#[test]
fn without_memory_for_events_owners_come_from_proc_or_asking_for_ebpf_fails() {
    if !machine_allows(&["ip", "prlimit"]) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("memory"));
    let arguments = ["-i", "lo", "-B", "1", "--event-buffer-size", "1GiB", "-w", &lab.text("f.pcapng")];
    let remedy = "ask for a smaller ring with --event-buffer-size";
    let output = Recording::start(&mut limited(&namespace, "--as=600000000", &arguments)).stop();
    output.assert_code(0);
    assert!(output.stderr.contains("because eBPF is refused") && output.stderr.contains(remedy), "{output}");
    let with_ebpf = [&arguments[..], &["--attribution", "ebpf", "--force"]].concat();
    let output = run(&mut limited(&namespace, "--as=600000000", &with_ebpf));
    output.assert_code(2);
    assert!(
        output.stderr.contains("cannot find the owners of packets") && output.stderr.contains(remedy),
        "{output}"
    );
}

#[test]
fn with_too_few_descriptors_it_records_what_it_can_or_says_what_to_do() {
    if !machine_allows(&["ip", "prlimit"]) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("descriptors"));
    let mut seen = [0, 0, 0];
    // With fewer than five the program itself cannot be loaded.
    for limit in [5, 6, 8, 20, 40, 80] {
        let name = format!("f{limit}.pcapng");
        let file = lab.text(&name);
        let arguments = ["-i", "lo", "-a", "duration:0.1", "-w", &file];
        let output = run(&mut limited(&namespace, &format!("--nofile={limit}"), &arguments));
        let told = output.stderr.to_lowercase();
        match output.status.code() {
            Some(2) => {
                assert!(!lab.path(&name).exists(), "{output}");
                seen[0] += 1;
            }
            _ => {
                output.assert_code(0);
                assert!(output.stderr.contains(READY), "{output}");
                seen[if told.contains("owners by /proc") { 1 } else { 2 }] += 1;
            }
        }
        if !told.contains("owners by ebpf") {
            assert!(told.contains("too many open files") && told.contains("ulimit -n"), "{output}");
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "refused, by /proc, by eBPF: {seen:?}");
}

#[test]
fn without_a_descriptor_for_the_next_file_the_recording_ends_and_what_was_written_stays() {
    if !machine_allows(&["ip", "trafgen", "tshark", "capinfos", "tcpdump", "prlimit"]) {
        return;
    }
    let (lab, line) = (lab(), Line::new());
    let file = lab.text("f.pcapng");
    let arguments = [&NUMBERED[..], &["-b", "packets:10", "-w", &file]].concat();
    let recording = Recording::start(&mut record(&line.there, &arguments));
    let pid = recording.running().pid().to_string();
    must(Command::new("prlimit").args(["--pid", &pid, "--nofile=3"]));
    must(&mut line.trafgen(&lab, 35, 100));
    let report = Report::of(recording.finish(), 1);
    report.assert_says(&["cannot create ", "_00002_", "Too many open files", "raise the limit (ulimit -n)"]);
    report.assert_accounts_for(35);
    let all = files(&lab.path("f.pcapng"));
    assert_eq!(all.len(), 1, "{all:?}\n{}", report.output);
    assert_others_read(&all[0].1);
    assert_eq!(assert_in_order(&all_numbers(&lab.path("f.pcapng")), 1, &report.output), 10);
}
