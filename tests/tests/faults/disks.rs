//! Disks that are full, read-only, slow or failing.

use std::process::Command;

use recorder_tests::disk::Disk;
use recorder_tests::lab::machine_allows;
use recorder_tests::process::{must, run};
use recorder_tests::recorder::{Recording, binary};
use recorder_tests::rotation::{Line, files, sequence, sequence_of_cut};
use recorder_tests::tshark::assert_others_read;
use recorder_tests::wait::wait_until;

use super::{
    LARGE_RING, NUMBERED, Report, all_numbers, assert_in_order, assert_whole, lab, names, numbers_in_cut,
};

const TOOLS: [&str; 8] = ["ip", "trafgen", "tshark", "capinfos", "tcpdump", "unshare", "nsenter", "setpriv"];

/// Four megabytes and more in the file.
const SENT: u32 = 40_000;

/// Starts to record the numbered packets in a file of the disk.
fn record(disk: &Disk, line: &Line, file: &str, more: &[&str]) -> Recording {
    Recording::start(&mut command(disk, line, file, more))
}

fn command(disk: &Disk, line: &Line, file: &str, more: &[&str]) -> Command {
    disk.record(&line.there, &[&NUMBERED[..], more, &["-w", &disk.text(file)]].concat())
}

fn allowed(more: &[&str]) -> bool {
    machine_allows(&[&TOOLS[..], more].concat())
}

#[test]
fn a_full_disk_ends_the_recording_and_the_file_is_whole_and_tells_what_was_lost() {
    if !allowed(&[]) {
        return;
    }
    // Sizes at which the last write is cut at other places.
    for kib in [512, 1204, 2048, 2052] {
        let (lab, line) = (lab(), Line::new());
        let disk = Disk::in_memory(&lab, kib);
        let file = disk.text("f.pcapng");
        let recording = record(&disk, &line, "f.pcapng", &LARGE_RING);
        must(&mut line.trafgen(&lab, SENT, 100));
        let report = Report::of(recording.finish(), 1);
        report.assert_says(&[
            &format!("cannot write to {file} after "),
            "No space left on device",
            "make room",
        ]);
        assert_eq!(report.value["ended"], "failure");
        let numbers = sequence(&disk.path("f.pcapng"));
        let last = assert_in_order(&numbers, 1, &report.output);
        assert_eq!(u64::from(last), report.number("packets"), "{kib} KiB\n{}", report.output);
        assert!(report.number("dropped_by_recorder") > 0, "{}", report.output);
        assert!(report.number("received") <= SENT.into(), "{}", report.output);
        report.assert_accounts_for(report.number("received"));
        assert_whole(&disk.path("f.pcapng"), &report);
        assert_eq!(names(&disk.path("")), ["f.pcapng"]);
    }
}

#[test]
fn a_compressed_file_on_a_full_disk_can_be_read_up_to_its_last_flush() {
    if !allowed(&["zstd"]) {
        return;
    }
    let (lab, line) = (lab(), Line::new());
    let disk = Disk::in_memory(&lab, 2048);
    let recording = record(&disk, &line, "f.pcapng.zst", &LARGE_RING);
    must(&mut line.trafgen_random(&lab, SENT, 200));
    let report = Report::of(recording.finish(), 1);
    report.assert_says(&["No space left on device", "make room"]);
    report.assert_accounts_for(report.number("received"));
    let numbers = numbers_in_cut(&lab, &disk.path("f.pcapng.zst"));
    let last = assert_in_order(&numbers, 1, &report.output);
    // What came through after the last flush is more than what is promised.
    assert!(u64::from(last) >= report.number("packets"), "{last} packets can be read\n{}", report.output);
}

#[test]
fn a_ring_of_files_on_a_full_disk_removes_its_oldest_and_loses_nothing_new() {
    if !allowed(&["zstd"]) {
        return;
    }
    for name in ["f.pcapng", "f.pcapng.zst"] {
        let (lab, line) = (lab(), Line::new());
        let disk = Disk::in_memory(&lab, 2048);
        let ring = ["-b", "filesize:300", "-b", "files:100"];
        let recording = record(&disk, &line, name, &[&LARGE_RING[..], &ring].concat());
        must(&mut line.trafgen_random(&lab, SENT, 200));
        let report = Report::of(recording.stop(), 1);
        report.assert_accounts_for(SENT.into());
        assert_eq!(report.number("packets"), u64::from(SENT), "{}", report.output);
        report.assert_says(&[
            "the disk is full: removed ",
            "the oldest file of the ring",
            "keep fewer or smaller files",
        ]);
        let files = files(&disk.path(name));
        let (first, removed) = (files[0].0, report.number("files_written") - files.len() as u64);
        assert_eq!(u64::from(first) - 1, removed, "the oldest ones went, one by one\n{}", report.output);
        assert_eq!(report.number("problems"), removed, "each is told\n{}", report.output);
        assert!(files.len() >= 3, "no more than was needed: {files:?}\n{}", report.output);
        // zstd, which judges the compressed ones in `all_numbers`, tells tcpdump nothing.
        files.iter().filter(|_| name == "f.pcapng").for_each(|(_, file)| assert_others_read(file));
        let numbers = all_numbers(&disk.path(name));
        let last = assert_in_order(&numbers, numbers[0], &report.output);
        assert_eq!(last, SENT, "{}", report.output);
    }
}

#[test]
fn a_ring_whose_only_file_fills_the_disk_ends_as_any_other_recording() {
    if !allowed(&[]) {
        return;
    }
    let (lab, line) = (lab(), Line::new());
    let disk = Disk::in_memory(&lab, 1024);
    let ring = ["-b", "filesize:100000", "-b", "files:3"];
    let recording = record(&disk, &line, "f.pcapng", &[&LARGE_RING[..], &ring].concat());
    must(&mut line.trafgen(&lab, SENT, 100));
    let report = Report::of(recording.finish(), 1);
    report.assert_says(&["No space left on device"]);
    report.assert_accounts_for(report.number("received"));
    let files = files(&disk.path("f.pcapng"));
    assert_eq!(files.len(), 1, "{files:?}\n{}", report.output);
    assert_whole(&files[0].1, &report);
    assert_in_order(&sequence(&files[0].1), 1, &report.output);
}

#[test]
fn on_a_disk_that_is_full_from_the_start_nothing_is_recorded_and_nothing_is_left() {
    if !allowed(&[]) {
        return;
    }
    for name in ["f.pcapng", "f.pcapng.zst"] {
        let (lab, line) = (lab(), Line::new());
        let disk = Disk::in_memory(&lab, 256);
        disk.shell("cat /dev/zero > \"$0/full\" 2> /dev/null || :");
        let output = run(&mut command(&disk, &line, name, &[]));
        output.assert_code(2);
        assert!(
            output.stderr.contains("No space left on device") && output.stderr.contains("make room"),
            "{output}"
        );
        assert_eq!(names(&disk.path("")), ["full"], "an empty file would look like a recording\n{output}");
    }
}

#[test]
fn where_no_more_files_can_be_made_a_ring_goes_on_and_others_end() {
    if !allowed(&[]) {
        return;
    }
    for ring in [&["-b", "packets:1000", "-b", "files:50"][..], &["-b", "packets:1000"]] {
        let (lab, line) = (lab(), Line::new());
        // The root folder and three files.
        let disk = Disk::of_files(&lab, 4);
        let recording = record(&disk, &line, "f.pcapng", &[&LARGE_RING[..], ring].concat());
        must(&mut line.trafgen(&lab, 10_500, 100));
        let is_ring = ring.len() > 2;
        let output = if is_ring { recording.stop() } else { recording.finish() };
        let report = Report::of(output, 1);
        report.assert_accounts_for(report.number("received"));
        let numbers = all_numbers(&disk.path("f.pcapng"));
        if is_ring {
            report.assert_says(&["the disk is full: removed "]);
            assert_eq!(assert_in_order(&numbers, 8001, &report.output), 10_500, "{}", report.output);
        } else {
            report.assert_says(&["cannot create ", "_00004_", "No space left on device", "make room"]);
            assert_eq!(assert_in_order(&numbers, 1, &report.output), 3000, "{}", report.output);
        }
        files(&disk.path("f.pcapng")).iter().for_each(|(_, file)| assert_others_read(file));
    }
}

#[test]
fn a_quota_is_as_a_full_disk_but_the_file_may_end_within_a_packet() {
    if !allowed(&["mkfs.btrfs"]) {
        return;
    }
    let (lab, line) = (lab(), Line::new());
    let disk = Disk::with_quota(&lab, 2048);
    let recording = record(&disk, &line, "user/f.pcapng", &LARGE_RING);
    must(&mut line.trafgen(&lab, SENT, 100));
    let report = Report::of(recording.finish(), 1);
    let told = format!("cannot write to {} after ", disk.text("user/f.pcapng"));
    report.assert_says(&[&told, "quota exceeded", "make room"]);
    report.assert_accounts_for(report.number("received"));
    // btrfs lets nobody who has used up a quota shorten a file.
    let last = assert_in_order(&sequence_of_cut(&disk.path("user/f.pcapng")), 1, &report.output);
    assert_eq!(u64::from(last), report.number("packets"), "{}", report.output);
}

#[test]
fn a_ring_of_files_under_a_quota_removes_its_oldest_and_loses_nothing_new() {
    if !allowed(&["mkfs.btrfs"]) {
        return;
    }
    let (lab, line) = (lab(), Line::new());
    let disk = Disk::with_quota(&lab, 4096);
    let ring = ["-b", "filesize:300", "-b", "files:100"];
    let recording = record(&disk, &line, "user/f.pcapng", &[&LARGE_RING[..], &ring].concat());
    must(&mut line.trafgen(&lab, SENT, 100));
    let report = Report::of(recording.stop(), 1);
    report.assert_says(&["the disk is full: removed "]);
    report.assert_accounts_for(SENT.into());
    let numbers = all_numbers(&disk.path("user/f.pcapng"));
    let last = assert_in_order(&numbers, numbers[0], &report.output);
    assert_eq!(last, SENT, "{}", report.output);
}

#[test]
fn a_file_as_large_as_the_user_may_have_ends_the_recording() {
    if !allowed(&["prlimit"]) {
        return;
    }
    let (lab, line) = (lab(), Line::new());
    let file = lab.text("f.pcapng");
    let mut command = line.there.command("prlimit");
    command.args(["--fsize=1000000", &binary(), "record", "-w", &file]);
    let recording = Recording::start(command.args(NUMBERED).args(LARGE_RING));
    must(&mut line.trafgen(&lab, SENT, 100));
    let report = Report::of(recording.finish(), 1);
    report.assert_says(&[
        &format!("cannot write to {file} after 1000000 bytes"),
        "File too large",
        "--ring-buffer filesize:KB",
    ]);
    report.assert_accounts_for(report.number("received"));
    let last = assert_in_order(&sequence(&lab.path("f.pcapng")), 1, &report.output);
    assert_eq!(u64::from(last), report.number("packets"), "{}", report.output);
    assert_whole(&lab.path("f.pcapng"), &report);
}

#[test]
fn on_a_read_only_file_system_nothing_is_recorded_and_that_is_said() {
    if !allowed(&[]) {
        return;
    }
    let (lab, line) = (lab(), Line::new());
    let disk = Disk::in_memory(&lab, 1024);
    disk.shell("mount -o remount,ro \"$0\"");
    let file = disk.text("f.pcapng");
    let output = run(&mut command(&disk, &line, "f.pcapng", &[]));
    output.assert_code(2);
    let told = format!(
        "recorder: cannot create {file}: Read-only file system (os error 30)\n  choose a directory on"
    );
    assert!(output.stderr.starts_with(&told), "{output}");
}

#[test]
fn a_disk_that_becomes_read_only_ends_the_recording() {
    if !allowed(&["mkfs.ext4", "findmnt"]) {
        return;
    }
    let (lab, line) = (lab(), Line::new());
    let disk = Disk::ext4(&lab);
    let file = disk.text("f.pcapng");
    let recording = record(&disk, &line, "f.pcapng", &LARGE_RING);
    must(&mut line.trafgen(&lab, 1000, 100));
    let size = || disk.path("f.pcapng").metadata().map_or(0, |file| file.len());
    wait_until("they are in the file", || format!("{} bytes", size()), || size() > 100_000);
    disk.fail();
    must(&mut line.trafgen(&lab, 1000, 100));
    let report = Report::of(recording.finish(), 1);
    report.assert_says(&[
        &format!("cannot write to {file} after "),
        "Read-only file system",
        "record on another one",
    ]);
    report.assert_accounts_for(2000);
    let numbers = sequence(&disk.path("f.pcapng"));
    assert_eq!(assert_in_order(&numbers, 1, &report.output), 1000, "{}", report.output);
    assert_eq!(report.number("packets"), 1000, "{}", report.output);
}

#[test]
fn a_disk_that_holds_writers_up_costs_packets_that_are_counted_and_nothing_else() {
    if !allowed(&["mkfs.ext4", "fsfreeze"]) {
        return;
    }
    let (lab, line) = (lab(), Line::new());
    let disk = Disk::ext4(&lab);
    let recording = record(&disk, &line, "f.pcapng", &["-B", "1"]);
    disk.freeze();
    // Thirty times what the ring holds.
    must(&mut line.trafgen(&lab, SENT, 1000));
    disk.thaw();
    let report = Report::of(recording.stop(), 1);
    report.assert_accounts_for(SENT.into());
    assert!(report.number("dropped_by_kernel") > u64::from(SENT) / 2, "{}", report.output);
    assert_whole(&disk.path("f.pcapng"), &report);
    let numbers = sequence(&disk.path("f.pcapng"));
    assert!(numbers.is_sorted(), "in order\n{}", report.output);
    assert_eq!(numbers.len() as u64, report.number("packets"), "{}", report.output);
}
