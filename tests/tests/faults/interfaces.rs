//! Interfaces that go, come, go down and get other names.

use recorder_tests::lab::machine_allows;
use recorder_tests::namespace::connect;
use recorder_tests::process::must;
use recorder_tests::recorder::{Recording, record};
use recorder_tests::rotation::{Line, sequence};
use recorder_tests::tshark::{assert_others_read, fields};
use recorder_tests::wait::wait_until;

use super::{NUMBERED, Report, assert_in_order, assert_whole, lab};

const TOOLS: [&str; 5] = ["ip", "trafgen", "tshark", "capinfos", "tcpdump"];

fn start(line: &Line, file: &str, more: &[&str]) -> Recording {
    Recording::start(&mut record(&line.there, &[&NUMBERED[..], more, &["-w", file]].concat()))
}

fn says(recording: &Recording, what: &str) {
    recording.running().wait_for_stderr(what, |line| line.contains(what));
}

#[test]
fn when_the_last_interface_is_removed_the_recording_ends_and_has_all_packets() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, line) = (lab(), Line::new());
    let recording = start(&line, &lab.text("f.pcapng"), &[]);
    must(&mut line.trafgen(&lab, 100, 100));
    line.there.ip(&["link", "del", "eth1"]);
    let report = Report::of(recording.finish(), 1);
    report.assert_says(&["eth1 is gone", "no interface is left", "record on any"]);
    assert_eq!(report.value["ended"], "no interface left");
    report.assert_accounts_for(100);
    assert_whole(&lab.path("f.pcapng"), &report);
    assert_eq!(assert_in_order(&sequence(&lab.path("f.pcapng")), 1, &report.output), 100);
}

#[test]
fn when_one_of_two_interfaces_is_removed_the_other_is_recorded_on() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, line) = (lab(), Line::new());
    line.there.ip(&["link", "add", "other", "type", "veth", "peer", "name", "rehto"]);
    line.there.ip(&["link", "set", "other", "up"]);
    let recording = start(&line, &lab.text("f.pcapng"), &["-i", "other"]);
    line.there.ip(&["link", "del", "other"]);
    says(&recording, "other is gone");
    must(&mut line.trafgen(&lab, 100, 100));
    let report = Report::of(recording.stop(), 0);
    report.assert_accounts_for(100);
    assert_whole(&lab.path("f.pcapng"), &report);
    assert_eq!(assert_in_order(&sequence(&lab.path("f.pcapng")), 1, &report.output), 100);
}

#[test]
fn an_interface_that_is_down_for_a_while_is_recorded_before_and_after() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, line) = (lab(), Line::new());
    let recording = start(&line, &lab.text("f.pcapng"), &[]);
    must(&mut line.trafgen(&lab, 100, 100));
    line.there.ip(&["link", "set", "eth1", "down"]);
    says(&recording, "eth1 is down; recording goes on when it comes up again");
    line.there.ip(&["link", "set", "eth1", "up"]);
    says(&recording, "eth1 is up again");
    must(&mut line.trafgen(&lab, 100, 100));
    let report = Report::of(recording.stop(), 0);
    report.assert_accounts_for(200);
    assert_whole(&lab.path("f.pcapng"), &report);
    let numbers = sequence(&lab.path("f.pcapng"));
    assert_eq!(assert_in_order(&numbers[..100], 1, &report.output), 100);
    assert_eq!(assert_in_order(&numbers[100..], 1, &report.output), 100);
}

#[test]
fn an_interface_that_gets_another_name_is_recorded_on_under_that() {
    if !machine_allows(&TOOLS) {
        return;
    }
    for interface in ["eth1", "any"] {
        let (lab, line) = (lab(), Line::new());
        let file = lab.text("f.pcapng");
        let arguments = ["-i", interface, "-f", "tcp", "--json", "-w", &file];
        let recording = Recording::start(&mut record(&line.there, &arguments));
        let mut second = line.trafgen(&lab, 100, 100);
        must(&mut line.trafgen(&lab, 100, 100));
        // With any, an interface has the name that it has when its first packet is written.
        let size = || lab.path("f.pcapng").metadata().map_or(0, |file| file.len());
        wait_until("they are in the file", || format!("{} bytes", size()), || size() > 100 * 100);
        line.there.ip(&["link", "set", "eth1", "name", "renamed"]);
        must(&mut second);
        let report = Report::of(recording.stop(), 0);
        report.assert_accounts_for(200);
        assert_others_read(&lab.path("f.pcapng"));
        let names = fields(&lab.path("f.pcapng"), "tcp", &["frame.interface_name"]).concat();
        let count = |name: &str| names.iter().filter(|other| *other == name).count();
        assert_eq!((count("eth1"), count("renamed")), (100, 100), "-i {interface}\n{}", report.output);
    }
}

#[test]
fn interfaces_that_come_while_any_is_recorded_are_recorded_from_their_first_packet() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, line) = (lab(), Line::new());
    let file = lab.text("f.pcapng");
    let recording =
        Recording::start(&mut record(&line.there, &["-i", "any", "-f", "tcp", "--json", "-w", &file]));
    for _ in 0..3 {
        must(&mut line.trafgen(&lab, 100, 100));
        line.there.ip(&["link", "del", "eth1"]);
        connect(&line.here, &line.there, 1);
    }
    let report = Report::of(recording.stop(), 0);
    report.assert_accounts_for(300);
    assert_others_read(&lab.path("f.pcapng"));
    let numbers = sequence(&lab.path("f.pcapng"));
    assert_eq!(numbers.len(), 300, "{}", report.output);
    numbers.chunks(100).for_each(|some| assert_eq!(assert_in_order(some, 1, &report.output), 100));
}
