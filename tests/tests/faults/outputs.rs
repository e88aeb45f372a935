//! Outputs that are taken away, that are links, or that nobody reads. Nothing but the requested outputs is ever written.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use recorder_tests::lab::machine_allows;
use recorder_tests::namespace::Namespace;
use recorder_tests::process::{Running, must, run};
use recorder_tests::recorder::{Recording, binary, record};
use recorder_tests::rotation::{Line, files, sequence};
use recorder_tests::tshark::{assert_others_read, fields};
use recorder_tests::wait::wait_until;

use super::{NUMBERED, Report, all_numbers, assert_in_order, lab, names};

const TOOLS: [&str; 4] = ["ip", "trafgen", "tshark", "capinfos"];

/// Starts to record the numbered packets in a file.
fn start(line: &Line, file: &str, more: &[&str]) -> Recording {
    Recording::start(&mut record(&line.there, &[&NUMBERED[..], more, &["-w", file]].concat()))
}

#[test]
fn a_recording_whose_file_or_folder_is_deleted_ends_and_says_that_nothing_is_left() {
    if !machine_allows(&TOOLS) {
        return;
    }
    for (more, deleted) in [
        (&[][..], "folder/f.pcapng"),
        (&[], "folder"),
        (&["-b", "packets:10"], "folder"),
        (&["-b", "packets:10", "-b", "files:3"], "folder"),
    ] {
        let (lab, line) = (lab(), Line::new());
        fs::create_dir(lab.path("folder")).expect("cannot make a folder");
        let recording = start(&line, &lab.text("folder/f.pcapng"), more);
        must(&mut line.trafgen(&lab, 35, 100));
        let all = || all_in(&lab.path("folder"));
        wait_until("they are in the files", || format!("{} bytes", all()), || all() > 35 * 100);
        // Out of the way first: a next file may be created there while it is being removed.
        fs::rename(lab.path(deleted), lab.path("gone")).expect("cannot rename it");
        must(Command::new("rm").arg("-r").arg(lab.path("gone")));
        let report = Report::of(recording.finish(), 2);
        report
            .assert_says(&["was deleted while it was written to", "record into a folder that nobody clears"]);
        if !more.is_empty() {
            report.assert_says(&["cannot create ", "its directory does not exist"]);
        }
        assert_eq!(report.value["files"], serde_json::json!([]), "{}", report.output);
        report.assert_accounts_for(35);
    }
}

fn all_in(folder: &Path) -> u64 {
    let sizes = fs::read_dir(folder).into_iter().flatten().flatten();
    sizes.map(|entry| entry.metadata().map_or(0, |file| file.len())).sum()
}

#[test]
fn of_several_files_one_that_is_deleted_is_told_and_the_next_one_begins() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, line) = (lab(), Line::new());
    let path = lab.path("f.pcapng");
    let recording = start(&line, &lab.text("f.pcapng"), &["-b", "packets:10"]);
    must(&mut line.trafgen(&lab, 15, 100));
    wait_until("two files", || format!("{:?}", files(&path)), || files(&path).len() == 2);
    let second = files(&path)[1].1.clone();
    let bytes = || second.metadata().map_or(0, |file| file.len());
    wait_until("five packets in the second", || format!("{} bytes", bytes()), || bytes() > 5 * 100);
    fs::remove_file(&second).expect("cannot remove a file");
    wait_until("the third file", || format!("{:?}", files(&path)), || files(&path).len() == 2);
    must(&mut line.trafgen(&lab, 15, 100));
    let report = Report::of(recording.stop(), 1);
    report.assert_says(&[&format!(
        "{} was deleted while it was written to: the 5 packets in it are lost",
        second.display()
    )]);
    report.assert_accounts_for(30);
    assert_eq!(report.number("problems"), 1, "{}", report.output);
    let files = files(&path);
    assert_eq!(files.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 3, 4], "{}", report.output);
    assert_eq!(report.value["files"].as_array().map(Vec::len), Some(3), "{}", report.output);
    files.iter().for_each(|(_, file)| assert_others_read(file));
    assert_in_order(&sequence(&files[0].1), 1, &report.output);
    let after: Vec<u32> = files[1..].iter().flat_map(|(_, file)| sequence(file)).collect();
    assert_eq!(assert_in_order(&after, 1, &report.output), 15, "{}", report.output);
}

#[test]
fn a_symbolic_link_at_the_path_of_an_output_is_not_followed() {
    if !machine_allows(&["ip"]) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("links"));
    fs::write(lab.path("victim"), "precious").expect("cannot write a file");
    for (link, to) in [("link", "victim"), ("dangling", "nowhere"), ("folder", "."), ("device", "/dev/null")]
    {
        symlink(to, lab.path(link)).expect("cannot make a link");
    }
    let before = names(&lab.path(""));
    for link in ["link", "dangling", "folder", "device"] {
        for force in [&[][..], &["--force"]] {
            let output =
                run(&mut record(&namespace, &[&["-i", "lo", "-w", &lab.text(link)], force].concat()));
            output.assert_code(2);
            let told = format!("recorder: cannot create {}: ", lab.text(link));
            assert!(output.stderr.contains(&told) && output.stderr.contains("\n  "), "{output}");
            let why = if force.is_empty() { "File exists" } else { "it is a symbolic link" };
            assert!(output.stderr.contains(why), "{output}");
        }
    }
    assert_eq!(fs::read_to_string(lab.path("victim")).expect("it is there"), "precious");
    assert_eq!(names(&lab.path("")), before);
}

#[test]
fn a_symbolic_link_at_the_name_of_the_next_file_ends_the_recording_and_is_not_followed() {
    if !machine_allows(&TOOLS) {
        return;
    }
    for force in [&[][..], &["--force"]] {
        let (lab, line) = (lab(), Line::new());
        fs::write(lab.path("victim"), "precious").expect("cannot write a file");
        // For each second of the next minutes, as somebody would who can guess.
        let links = "cd \"$0\"; now=$(date +%s); for i in $(seq 0 200); do echo @$((now + i)); done | date -f - +%Y%m%d%H%M%S \
                     | while read -r time; do ln -s victim f_00003_$time.pcapng; done";
        must(Command::new("sh").args(["-c", links]).arg(lab.path("")));
        let before = names(&lab.path(""));
        let recording = start(&line, &lab.text("f.pcapng"), &[&["-b", "packets:10"], force].concat());
        must(&mut line.trafgen(&lab, 35, 100));
        let report = Report::of(recording.finish(), 1);
        let why = if force.is_empty() { "File exists" } else { "it is a symbolic link" };
        report.assert_says(&["cannot create ", "_00003_", why]);
        report.assert_accounts_for(35);
        assert_eq!(fs::read_to_string(lab.path("victim")).expect("it is there"), "precious");
        let new: Vec<String> =
            names(&lab.path("")).into_iter().filter(|name| !before.contains(name)).collect();
        assert_eq!(new.iter().filter(|name| name.starts_with("f_")).count(), 2, "{new:?}\n{}", report.output);
        let written: Vec<u32> = report.value["files"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|file| sequence(Path::new(file.as_str().expect("a path"))))
            .collect();
        assert_eq!(assert_in_order(&written, 1, &report.output), 20, "{}", report.output);
    }
}

#[test]
fn a_recording_in_several_files_writes_nothing_but_them() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, line) = (lab(), Line::new());
    fs::create_dir(lab.path("folder")).expect("cannot make a folder");
    let recording = start(&line, &lab.text("folder/f.pcapng"), &["-b", "packets:10", "-b", "files:3"]);
    must(&mut line.trafgen(&lab, 45, 100));
    let report = Report::of(recording.stop(), 0);
    let listed: Vec<String> = files(&lab.path("folder/f.pcapng"))
        .iter()
        .filter_map(|(_, file)| Some(file.file_name()?.to_string_lossy().into_owned()))
        .collect();
    assert_eq!(names(&lab.path("folder")), listed, "{}", report.output);
    assert_eq!(listed.len(), 3, "{}", report.output);
    assert_eq!(assert_in_order(&all_numbers(&lab.path("folder/f.pcapng")), 21, &report.output), 45);
}

#[test]
fn standard_output_and_inherited_pipes_are_written_to_by_any_of_their_names() {
    if !machine_allows(&[&TOOLS[..], &["bash"]].concat()) {
        return;
    }
    for way in [
        "$0 record $2 -w - > $1",
        "$0 record $2 -w /dev/stdout > $1",
        "$0 record $2 -w /dev/fd/1 | cat > $1",
        "$0 record $2 -w >(cat > $1); wait $!",
    ] {
        let (lab, namespace) = (lab(), Namespace::new("names"));
        let server = lab.server(&namespace, "server", &["tcp-server"]);
        let client = ["tcp-client", "127.0.0.1", &server.port, "--until-eof", "--forever"];
        let client = Running::start(&mut lab.command(&namespace, "client", &client));
        let mut command = namespace.command("bash");
        let output = must(command.args(["-c", way, &binary(), &lab.text("f.pcapng"), "-i lo -c 50"]));
        drop(client);
        assert!(output.stderr.contains("50 packets captured"), "{way}\n{output}");
        assert_others_read(&lab.path("f.pcapng"));
        let packets = fields(&lab.path("f.pcapng"), "tcp", &["frame.number"]);
        assert_eq!(packets.len(), 50, "{way}\n{output}");
    }
}
