//! `recorder filter`: copies of a part of the time, of legacy captures, and one for each process, container or connection.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use recorder_tests::recorder::binary;
use recorder_tests::rooms::root;
use recorder_tests::tshark::assert_others_read;

fn sample() -> PathBuf {
    root().join("samples/loopback.pcapng")
}

/// `recorder filter FILE -w OUT OPTIONS`, which succeeds.
fn filter(file: &Path, out: &Path, options: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("filter").arg(file).arg("--force").arg("-w").arg(out).args(options).env("TZ", "UTC");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{options:?}: {output:?}");
    output
}

/// The lines that `recorder show` prints.
fn shown(file: &Path) -> Vec<String> {
    let output = Command::new(binary()).arg("show").arg(file).env("TZ", "UTC").output().unwrap();
    assert!(output.status.success(), "{}: {output:?}", file.display());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// UDP from 10.0.0.1 and this port to 10.0.0.2:53, bare IP.
fn udp(port: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    packet.extend(port.to_be_bytes());
    packet.extend([0, 53, 0, 8, 0, 0]);
    packet
}

/// A big-endian legacy capture in nanoseconds, of bare IP: a packet a second.
fn legacy(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_3c4d, 0x0002_0004, 0, 0, 65535, 101] {
        file.extend(u32::to_be_bytes(word));
    }
    for (number, packet) in packets.iter().enumerate() {
        let length = packet.len() as u32;
        for word in [1_700_000_000 + number as u32, 7, length, length] {
            file.extend(word.to_be_bytes());
        }
        file.extend(packet);
    }
    file
}

#[test]
fn a_part_of_the_time_is_what_editcap_takes_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let [capture, ours, theirs] =
        ["a.pcap", "ours.pcapng", "theirs.pcap"].map(|name| folder.path().join(name));
    let packets: Vec<Vec<u8>> = (1..=10).map(udp).collect();
    fs::write(&capture, legacy(&packets)).unwrap();
    for (options, expected) in [
        (&["--after", "2023-11-14T22:13:23.000000007Z"][..], 4..11),
        (&["--after", "2023-11-14 22:13:23.000000008", "--before", "2023-11-14T23:13:28.5+01:00"], 5..10),
        (&["--before", "2023-11-14T22:13:23.000000007Z"], 1..4),
        (&["--after", "+2s", "--before", "+4s"], 3..5),
        (&["--after", "+1.5s", "--before", "+2001ms"], 3..4),
        (&["--before", "+0"], 1..1),
    ] {
        filter(&capture, &ours, options);
        let ports: Vec<String> = expected.clone().map(|port| format!("10.0.0.1:{port} ")).collect();
        let lines = shown(&ours);
        assert_eq!(lines.len(), ports.len(), "{options:?}: {lines:?}");
        assert!(lines.iter().zip(&ports).all(|(line, port)| line.contains(port)), "{options:?}: {lines:?}");
        assert_others_read(&ours);
    }
    // The last one that both say in whole seconds.
    let range = ["2023-11-14T22:13:22Z", "2023-11-14T22:13:26Z"];
    filter(&capture, &ours, &["--after", range[0], "--before", range[1]]);
    let mut editcap = Command::new("editcap");
    let Ok(output) = editcap.args(["-A", range[0], "-B", range[1]]).arg(&capture).arg(&theirs).output()
    else {
        println!("skipped: no editcap here");
        return;
    };
    assert!(output.status.success(), "{output:?}");
    assert_eq!(shown(&ours), shown(&theirs));
}

#[test]
fn a_time_that_is_none_is_told_and_nothing_is_created() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.pcapng");
    let mut command = Command::new(binary());
    command.arg("filter").arg(sample()).arg("-w").arg(&out).args(["--after", "noon"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("`noon` is no time: expected 2026-11-21T01:22:47Z, "), "{told}");
    assert!(!out.exists());
}

#[test]
fn the_statistics_of_a_part_say_that_they_are_partial() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.pcapng");
    let partial = "partial: all other counters are those of the original";
    let holds = |out: &Path| String::from_utf8_lossy(&fs::read(out).unwrap()).contains(partial);
    filter(&sample(), &out, &["-f", "tcp"]);
    assert!(holds(&out));
    filter(&sample(), &out, &[]);
    assert!(!holds(&out), "nothing is missing");
}

/// What each file of `--split-by` shows, by its name without the beginning; the names are those that are printed.
fn split(file: &Path, by: &str, options: &[&str]) -> BTreeMap<String, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("part.pcapng");
    let output = filter(file, &out, &[&["--split-by", by], options].concat());
    let printed = String::from_utf8_lossy(&output.stdout);
    let mut there: Vec<PathBuf> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    there.sort();
    let mut names: Vec<PathBuf> = printed.lines().map(PathBuf::from).collect();
    names.sort();
    assert_eq!(names, there, "{output:?}");
    let mut parts = BTreeMap::new();
    for path in there {
        if parts.len() < 8 {
            assert_others_read(&path);
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let label = name.strip_prefix("part_").and_then(|rest| rest.strip_suffix(".pcapng"));
        parts.insert(label.unwrap().to_owned(), shown(&path));
    }
    parts
}

#[test]
fn each_process_has_a_file_with_all_of_its_packets_and_its_record() {
    let all = shown(&sample());
    let parts = split(&sample(), "process", &[]);
    assert!(parts.len() > 2, "{parts:?}");
    for (label, lines) in &parts {
        let mark = match label.strip_prefix("without-") {
            Some(_) => "  -".to_owned(),
            None => label.rsplit_once('-').map(|(name, pid)| format!("{name}[{pid}]")).unwrap(),
        };
        let expected: Vec<&String> = all.iter().filter(|line| line.contains(&mark)).collect();
        assert_eq!(lines.iter().collect::<Vec<_>>(), expected, "{label}");
    }
    let covered = |line: &&String| parts.values().any(|lines| lines.contains(line));
    assert_eq!(all.iter().filter(covered).count(), all.len(), "no packet is lost");
    let containers = split(&sample(), "container", &[]);
    assert_eq!(containers.into_iter().collect::<Vec<_>>(), [("without-container".to_owned(), all)]);
}

#[test]
fn each_connection_has_a_file_with_both_directions_and_of_many_all_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let capture = folder.path().join("a.pcap");
    // More than can be open at once, and each comes twice.
    let packets: Vec<Vec<u8>> = (0..600).map(|number| udp(40_000 + number % 300)).collect();
    fs::write(&capture, legacy(&packets)).unwrap();
    let parts = split(&capture, "connection", &[]);
    assert_eq!(parts.len(), 300);
    for (label, lines) in &parts {
        let port =
            label.strip_prefix("UDP-10.0.0.1_").and_then(|rest| rest.strip_suffix("-10.0.0.2_53")).unwrap();
        assert_eq!(lines.len(), 2, "{label}");
        assert!(
            lines.iter().all(|line| line.contains(&format!("10.0.0.1:{port} -> 10.0.0.2:53"))),
            "{lines:?}"
        );
    }
    // Through a pipe there is one reading, and what does not fit into it is an error.
    let out = folder.path().join("part.pcapng");
    let mut command = Command::new(binary());
    command.args(["filter", "-", "--split-by", "connection", "-w"]).arg(&out);
    let output = command.stdin(fs::File::open(&capture).unwrap()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("standard input can be read once only"), "{told}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 128, "{output:?}");
}

#[test]
fn several_files_do_not_fit_into_standard_output() {
    for name in ["-", "/dev/stdout"] {
        let mut command = Command::new(binary());
        let output =
            command.arg("filter").arg(sample()).args(["-w", name, "--split-by", "process"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("several files do not fit into standard output"), "{told}");
        assert!(output.stdout.is_empty());
    }
}
