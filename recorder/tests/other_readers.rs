//! Our files in the hands of other people's readers: tshark, capinfos, tcpdump, and pcap-file's own decoder.
//!
//! A reader that is not installed is skipped, and says so. On failure everything is printed: the command, its
//! exit status, standard output and standard error.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of tests may panic: that is how tests fail"
)]

use std::fs::File;
use std::path::Path;
use std::process::Command;

use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use recorder::model::*;
use recorder::pcapng::{Annotate, SectionInfo, Writer};
use tempfile::TempDir;

const START: u64 = 1_700_000_000_123_456_789;
const PACKETS: usize = 5;

/// From 10.0.0.1:40000 to 10.0.0.2:53 over Ethernet, UDP with a valid DNS header.
#[rustfmt::skip]
const FRAME: [u8; 54] = [
    2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00,
    0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 17, 0x26, 0xc2, 10, 0, 0, 1, 10, 0, 0, 2,
    0x9c, 0x40, 0, 53, 0, 20, 0, 0,
    0x12, 0x34, 0x01, 0x00, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// The comments of the packets; the second and the last packet have none.
const COMMENTS: [&str; PACKETS] =
    ["curl[4242] > dnsmasq[99]", "", r"ev\x0ail\x5b1\x5d \x3e sshd[666]", "dnsmasq[99]", ""];

fn process(pid: u32, name: &[u8]) -> Process {
    Process {
        pid,
        name: name.to_vec(),
        path: Some(b"/usr/bin/some thing".to_vec()),
        parent_pid: Some(1),
        uid: Some(1000),
        start: Some(RealTime::from_ns(START - 1_000_000_000)),
        cgroup: Some("/system.slice/a.service".into()),
        container: None,
        unit: Some("a.service".into()),
        command_line: Some(CommandLine { bytes: b"some\0thing\0".to_vec(), is_cut: false }),
    }
}

fn interface(name: &str) -> Interface {
    Interface {
        name: name.to_owned(),
        description: Some("uplink".into()),
        link_type: LinkType::ETHERNET,
        mac: Some([2, 0, 0, 0, 0, 1]),
        snap_length: 262_144,
        filter: Some("udp".into()),
    }
}

/// Writes a file with everything that a recording can hold, and returns where.
fn recording(directory: &TempDir, annotate: Annotate) -> std::path::PathBuf {
    let mut table = ProcessTable::default();
    let owner = |index| Some(Owner { process: index, tid: 7 });
    let curl = owner(table.push(process(4242, b"curl")));
    let dnsmasq = owner(table.push(process(99, b"dnsmasq")));
    let evil = owner(table.push(process(666, b"ev\nil[1] > sshd")));
    let known = |sender, receiver, both_local| Attribution::Known {
        sender,
        receiver,
        both_local,
        found: Found::Socket,
    };
    let owners: [(Attribution, Direction); PACKETS] = [
        (known(curl, dnsmasq, true), Direction::Outbound),
        (Attribution::Unknown(Reason::NoSocket), Direction::Inbound),
        (known(evil, None, false), Direction::Outbound),
        (known(None, dnsmasq, false), Direction::Inbound),
        (Attribution::Unknown(Reason::Forwarded), Direction::Unknown),
    ];

    let path = directory.path().join("recording.pcapng");
    let section = SectionInfo {
        hardware: Some("x86_64".into()),
        os: Some("Linux 6.12".into()),
        application: Some("recorder".into()),
        comments: vec!["a capture comment".into()],
    };
    let mut writer = Writer::new(File::create(&path).unwrap(), annotate, &section);
    writer.add_interface(&interface("eth0")).unwrap();
    writer.add_interface(&interface("wlan0")).unwrap();
    let mut statistics = Statistics {
        start: RealTime::from_ns(START),
        end: RealTime::from_ns(START + 10),
        interfaces: vec![
            InterfaceCounts {
                received: 3,
                dropped_by_kernel: None,
                dropped_by_us: 0,
                written: 3
            };
            2
        ],
        dropped_by_kernel: 1,
        ..Statistics::default()
    };
    for (index, (attribution, direction)) in owners.iter().enumerate() {
        let packet = Packet {
            interface: InterfaceId(index as u32 % 2),
            time: RealTime::from_ns(START + index as u64),
            direction: *direction,
            reception: Reception::Unicast,
            original_length: FRAME.len() as u32,
            // The last one is cut, and to an odd length.
            data: if index == PACKETS - 1 { &FRAME[..45] } else { &FRAME },
        };
        statistics.attribution.count(attribution);
        writer.packet(&packet, attribution, &table).unwrap();
    }
    writer.finish(&statistics, &table).unwrap();
    path
}

/// What a reader prints about a file; nothing if it is not installed. Complaints fail the test.
fn run(program: &str, arguments: &[&str], is_harmless: impl Fn(&str) -> bool) -> Option<String> {
    let output = match Command::new(program).args(arguments).env("LC_ALL", "C.UTF-8").output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: {program} is not installed");
            return None;
        }
        Err(error) => panic!("cannot run {program}: {error}"),
    };
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let complaints: Vec<&str> =
        stderr.lines().filter(|line| !line.is_empty() && !is_harmless(line)).collect();
    assert!(
        output.status.success() && complaints.is_empty(),
        "{program} {arguments:?}: {}\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n---",
        output.status,
    );
    Some(stdout)
}

fn tshark(path: &Path, arguments: &[&str]) -> Option<String> {
    let mut all = vec!["-n", "-r", path.to_str().unwrap()];
    all.extend(arguments);
    // Not about the file: Wireshark says it to whoever is root.
    run("tshark", &all, |line| line.contains("Running as user \"root\""))
}

#[test]
fn tshark_shows_the_comments_and_no_frame_number_moves() {
    let directory = tempfile::tempdir().unwrap();
    let path = recording(&directory, Annotate::ALL);
    let fields = ["-T", "fields", "-e", "frame.number", "-e", "frame.interface_name", "-e", "frame.comment"];
    let Some(out) = tshark(&path, &fields) else { return };

    let rows: Vec<Vec<&str>> = out.lines().map(|line| line.split('\t').collect()).collect();
    for (index, comment) in COMMENTS.iter().enumerate() {
        let number = (index + 1).to_string();
        let name = ["eth0", "wlan0"][index % 2];
        // tshark escapes the backslash in its own output.
        let shown = rows[index][2].replace(r"\\", r"\");
        assert_eq!(
            (rows[index][0], rows[index][1], shown.as_str()),
            (number.as_str(), name, *comment),
            "\n{out}"
        );
    }
    // Until Wireshark 4.6 the custom blocks are rows of their own; they come after the last packet.
    let others = &rows[PACKETS..];
    assert!(others.len() == 3 || others.is_empty(), "\n{out}");
}

#[test]
fn tshark_finds_packets_by_their_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = recording(&directory, Annotate::ALL);
    for (filter, frames) in [
        (r#"frame.comment matches "^curl\\[""#, "1\n"),
        (r#"frame.comment contains "[99]""#, "1\n4\n"),
        (r#"frame.comment contains "sshd[1]""#, ""),
        ("frame.packet_flags_direction == 1", "2\n4\n"),
    ] {
        let Some(out) = tshark(&path, &["-Y", filter, "-T", "fields", "-e", "frame.number"]) else { return };
        assert_eq!(out, frames, "{filter}");
    }
}

#[test]
fn tshark_reads_times_to_the_nanosecond_and_finds_nothing_malformed() {
    let directory = tempfile::tempdir().unwrap();
    for annotate in [Annotate::ALL, Annotate::NONE] {
        let path = recording(&directory, annotate);
        let fields = ["-c", "1", "-T", "fields", "-e", "frame.time_epoch", "-e", "udp.dstport"];
        let Some(out) = tshark(&path, &fields) else { return };
        assert_eq!(out, "1700000000.123456789\t53\n");
        let malformed = tshark(&path, &["-Y", "_ws.malformed"]).unwrap();
        // The last packet is cut, and says so; that is not malformed.
        assert_eq!(malformed, "");
    }
}

#[test]
fn capinfos_counts_the_packets_and_shows_the_section() {
    let directory = tempfile::tempdir().unwrap();
    let path = recording(&directory, Annotate { custom: false, ..Annotate::ALL });
    let Some(out) = run("capinfos", &["-M", path.to_str().unwrap()], |_| false) else { return };
    let value = |key: &str| {
        let line = out.lines().find(|line| line.trim_start().starts_with(key));
        line.and_then(|line| line.split_once([':', '='])).map(|(_, value)| value.trim().to_owned())
    };
    assert_eq!(value("Number of packets"), Some(PACKETS.to_string()), "\n{out}");
    for text in
        ["a capture comment", "Linux 6.12", "x86_64", "Name = eth0", "Name = wlan0", "Filter string = udp"]
    {
        assert!(out.contains(text), "no {text:?} in\n{out}");
    }
}

#[test]
fn tcpdump_reads_every_packet() {
    let directory = tempfile::tempdir().unwrap();
    let path = recording(&directory, Annotate::ALL);
    let arguments = ["-nn", "-tt", "--nano", "-r", path.to_str().unwrap()];
    let is_harmless = |line: &str| line.starts_with("reading from file ");
    let Some(out) = run("tcpdump", &arguments, is_harmless) else { return };
    assert_eq!(out.lines().count(), PACKETS, "\n{out}");
    assert!(out.starts_with("1700000000.123456789 IP 10.0.0.1.40000 > 10.0.0.2.53"), "\n{out}");
}

#[test]
fn pcap_file_decodes_every_block() {
    let directory = tempfile::tempdir().unwrap();
    for annotate in [Annotate::ALL, Annotate::NONE] {
        let path = recording(&directory, annotate);
        let mut reader = PcapNgReader::new(File::open(&path).unwrap()).unwrap();
        let (mut comments, mut statistics, mut customs, mut darwin) = (Vec::new(), 0, 0, 0);
        while let Some(block) = reader.next_block() {
            match block.unwrap().0 {
                Block::EnhancedPacket(packet) => {
                    assert_eq!(packet.timestamp.as_nanos(), u128::from(START) + comments.len() as u128);
                    let comment = packet.options.iter().find_map(|option| match option {
                        EnhancedPacketOption::Common(CommonOption::Comment(text)) => Some(text.to_string()),
                        _ => None,
                    });
                    comments.push(comment.unwrap_or_default());
                }
                Block::InterfaceStatistics(_) => statistics += 1,
                Block::CustomCopiable(block) => {
                    assert_eq!(block.pen, 32622);
                    customs += 1;
                }
                Block::Unknown(block) => {
                    assert_eq!(block.type_, 0x8000_0001);
                    darwin += 1;
                }
                Block::InterfaceDescription(_) => {}
                other => panic!("{other:?}"),
            }
        }
        let expected = if annotate == Annotate::ALL { COMMENTS } else { [""; PACKETS] };
        assert_eq!(comments, expected);
        assert_eq!(statistics, 2);
        assert_eq!((customs, darwin), if annotate == Annotate::ALL { (3, 3) } else { (0, 0) });
    }
}
