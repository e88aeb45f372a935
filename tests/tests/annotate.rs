//! `recorder annotate`: captures get their processes from PKTAP headers, from logs, and in other forms; judged by tshark.
//!
//! The files of ../shared/data are not ours to commit: where they are not, their tests are skipped.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use recorder::pcapng::{Annotate, Known, Reader, Rewriter};
use recorder_tests::recorder::binary;
use recorder_tests::rooms::root;
use recorder_tests::tshark::assert_others_read;
use recorder_tests::wireshark::Wireshark;
use serde_json::Value;

fn sample() -> PathBuf {
    root().join("samples/loopback.pcapng")
}

/// The captures in a folder of ../shared/data; nothing where it is not.
fn shared(folder: &str) -> Vec<PathBuf> {
    let folder = root().join("../shared/data").join(folder);
    let Ok(entries) = fs::read_dir(&folder) else {
        println!("skipped: no {}", folder.display());
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn run(command: &str, file: &Path, options: &[&str]) -> Output {
    Command::new(binary()).arg(command).arg(file).args(options).env("TZ", "UTC").output().unwrap()
}

/// What a command that succeeds prints of a file.
fn printed(command: &str, file: &Path, options: &[&str]) -> String {
    let output = run(command, file, options);
    assert!(output.status.success(), "{command} {}: {output:?}", file.display());
    String::from_utf8(output.stdout).unwrap()
}

/// `recorder annotate FILE -w OUT OPTIONS`, which succeeds; what it says.
fn annotate(file: &Path, out: &Path, options: &[&str]) -> String {
    let options = [&["--force", "-w", out.to_str().unwrap()], options].concat();
    let output = run("annotate", file, &options);
    assert!(output.status.success(), "{}: {output:?}", file.display());
    String::from_utf8(output.stderr).unwrap()
}

/// A PKTAP header of 156 bytes: interface, inner link type, flags, process id and name, effective ones.
fn pktap(interface: &str, dlt: u32, flags: u32, pid: i32, name: &str, effective: (i32, &str)) -> Vec<u8> {
    let mut header = vec![0; 156];
    for (at, number) in [(0, 156), (4, 1), (8, dlt), (36, flags), (52, pid as u32), (84, effective.0 as u32)]
    {
        header[at..at + 4].copy_from_slice(&number.to_le_bytes());
    }
    for (at, text) in [(12, interface), (56, name), (88, effective.1)] {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    header
}

/// UDP from port 40000 to port 53, bare IP.
fn udp(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0];
    packet.extend(source);
    packet.extend(destination);
    packet.extend([0x9c, 0x40, 0, 53, 0, 8, 0, 0]);
    packet
}

/// A legacy capture in microseconds, one packet a second.
fn legacy(link_type: u32, packets: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65535, link_type] {
        file.extend(u32::to_le_bytes(word));
    }
    for (number, packet) in packets.iter().enumerate() {
        let length = packet.len() as u32;
        for word in [1_700_000_000 + number as u32, 5, length, length] {
            file.extend(word.to_le_bytes());
        }
        file.extend(packet);
    }
    file
}

/// One packet out on Ethernet, one in on utun (for Safari), one that nobody is named for.
fn mac() -> Vec<Vec<u8>> {
    let ethernet = |packet: Vec<u8>| [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0][..], &packet].concat();
    let (here, there) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    vec![
        [pktap("en0", 1, 2, 512, "curl", (-1, "")), ethernet(udp(here, there))].concat(),
        [
            pktap("utun3", 0, 1, 88, "nsurlsessiond", (510, "Safari")),
            [vec![2, 0, 0, 0], udp(there, here)].concat(),
        ]
        .concat(),
        [pktap("en0", 1, 1, -1, "", (-1, "")), ethernet(udp(there, here))].concat(),
    ]
}

#[test]
fn a_pktap_capture_becomes_its_inner_packets_with_their_processes() {
    let folder = tempfile::tempdir().unwrap();
    let [capture, out] = ["mac.pcap", "out.pcapng"].map(|name| folder.path().join(name));
    for link_type in [258, 149] {
        fs::write(&capture, legacy(link_type, &mac())).unwrap();
        let told = annotate(&capture, &out, &[]);
        assert_eq!(
            told,
            format!("3 packets in {}, 2 with a process\n  without a process, not told: 1\n", out.display())
        );
        let shown = printed("show", &out, &[]);
        let expected = "2023-11-14 22:13:20.000005000 en0 Out UDP 10.0.0.1:40000 -> 10.0.0.2:53 length 42  curl[512]\n\
                        2023-11-14 22:13:21.000005000 utun3 In UDP 10.0.0.2:40000 -> 10.0.0.1:53 length 32  nsurlsessiond[88]\n\
                        2023-11-14 22:13:22.000005000 en0 In UDP 10.0.0.2:40000 -> 10.0.0.1:53 length 42  -\n";
        assert_eq!(shown, expected);
        let summary = printed("summary", &out, &[]);
        assert!(summary.contains("attributed: 2 packets (66.6 %)"), "{summary}");
        for (version, wireshark) in Wireshark::all() {
            let fields = ["frame.interface_name", "ip.src", "udp.dstport", "frame.comment"];
            let rows = wireshark.fields(&out, "udp", &fields);
            let comments: Vec<String> = rows.iter().map(|row| row.join(" ")).collect();
            let expected = [
                "en0 10.0.0.1 53 curl[512]",
                "utun3 10.0.0.2 53 nsurlsessiond[88];Safari[510] (effective)",
                "en0 10.0.0.2 53 ",
            ];
            assert_eq!(comments, expected, "Wireshark {version}");
            if wireshark.knows_field("frame.darwin.process_info.pid") {
                let fields = ["frame.darwin.process_info.pid", "frame.darwin.process_info.pname"];
                let rows = wireshark.fields(&out, "udp && frame.comment", &fields);
                assert_eq!(rows, [["512", "curl"], ["88", "nsurlsessiond"]], "Wireshark {version}");
            }
        }
    }
}

#[test]
fn the_real_pktap_captures_name_process_512_and_their_query() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.pcapng");
    for file in shared("pktap").iter().filter(|file| !file.ends_with("pktap-heap-overflow.pcap")) {
        annotate(file, &out, &[]);
        assert_others_read(&out);
        for (version, wireshark) in Wireshark::all() {
            let fields = ["frame.interface_name", "ip.src", "dns.qry.name", "frame.comment"];
            // From 4.4 on tshark writes a backslash as two.
            let rows = wireshark.fields(&out, "dns", &fields).concat().join(" ").replace(r"\\", r"\");
            assert_eq!(rows, r"en0 10.32.4.27 in.m.yahoo.com \x00[512]", "Wireshark {version}");
            if wireshark.knows_field("frame.darwin.process_info.pid") {
                let rows = wireshark.fields(&out, "dns", &["frame.darwin.process_info.pid"]);
                assert_eq!(rows, [["512"]], "Wireshark {version}");
            }
        }
    }
}

#[test]
fn a_hostile_pktap_capture_keeps_its_packets_and_names_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.pcapng");
    for file in shared("pktap").iter().filter(|file| file.ends_with("pktap-heap-overflow.pcap")) {
        let options = ["--force", "-w", out.to_str().unwrap()];
        let output = run("annotate", file, &options);
        assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
        let (theirs, ours) = (run("show", file, &[]), run("show", &out, &[]));
        assert!(ours.status.success(), "{ours:?}");
        let lines = |output: &Output| String::from_utf8_lossy(&output.stdout).lines().count();
        assert_eq!(lines(&ours), lines(&theirs), "{output:?}");
    }
}

#[test]
fn flipped_and_cut_pktap_captures_neither_panic_nor_make_a_damaged_file() {
    let mut files = vec![legacy(149, &mac())];
    files.extend(shared("pktap").iter().map(|path| fs::read(path).unwrap()));
    let mut seed = 7_u64;
    let mut next = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    for file in files {
        for round in 0..5000 {
            let mut bytes = file.clone();
            for _ in 0..1 + round % 4 {
                let at = next(bytes.len());
                bytes[at] = next(256) as u8;
            }
            bytes.truncate(bytes.len() - if round % 5 == 0 { next(bytes.len()) } else { 0 });
            let Ok(reader) = Reader::new(bytes.as_slice()) else { continue };
            let mut rewriter = Rewriter::new(reader, Vec::new(), Annotate::ALL, Known::default(), None);
            while let Ok(Some(_)) = rewriter.next_packet() {
                rewriter.keep(None).unwrap();
            }
            let (rewritten, out) = rewriter.finish().unwrap();
            let mut reader = Reader::new(out.as_slice()).unwrap();
            let mut packets = 0;
            while reader.next_packet().unwrap().is_some() {
                packets += 1;
            }
            assert_eq!(packets, rewritten.packets);
        }
    }
}

#[test]
fn apples_captures_keep_their_processes_through_annotate_and_filter() {
    let folder = tempfile::tempdir().unwrap();
    let [out, copy] = ["out.pcapng", "copy.pcapng"].map(|name| folder.path().join(name));
    for file in shared("apple") {
        annotate(&file, &out, &[]);
        let options = ["--force", "-w", copy.to_str().unwrap()];
        assert!(run("filter", &out, &options).status.success());
        let shown = printed("show", &file, &["--json"]);
        assert!(shown.contains("\"sender\""), "{shown}");
        for written in [&out, &copy] {
            assert_eq!(printed("show", written, &["--json"]), shown, "{}", file.display());
        }
        for (version, wireshark) in Wireshark::all() {
            if wireshark.knows_field("frame.darwin.process_info.pid") {
                let fields =
                    ["frame.darwin.process_info.pid", "frame.darwin.process_info.pname", "frame.darwin.sc"];
                let theirs = wireshark.fields(&file, "frame.darwin", &fields);
                for written in [&out, &copy] {
                    assert_eq!(
                        wireshark.fields(written, "frame.darwin", &fields),
                        theirs,
                        "Wireshark {version}"
                    );
                }
            }
        }
    }
}

#[test]
fn into_the_forms_that_it_has_a_recording_is_written_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let [out, again] = ["out.pcapng", "again.pcapng"].map(|name| folder.path().join(name));
    annotate(&sample(), &out, &["--annotate", "all"]);
    assert_eq!(fs::read(&out).unwrap(), fs::read(sample()).unwrap());
    let shown = printed("show", &sample(), &[]);
    for form in ["comment", "comment,ids", "comment,darwin", "comment,custom"] {
        annotate(&sample(), &out, &["--annotate", form]);
        assert_eq!(printed("show", &out, &[]), shown, "{form}");
        assert_others_read(&out);
        annotate(&out, &again, &["--annotate", "all"]);
        assert_eq!(printed("show", &again, &[]), shown, "{form} and back");
    }
    annotate(&sample(), &out, &["--annotate", "none"]);
    assert!(printed("show", &out, &[]).lines().all(|line| line.ends_with("  -")));
}

#[test]
fn a_log_gives_a_capture_the_processes_that_it_lost() {
    let folder = tempfile::tempdir().unwrap();
    let [plain, log, out] = ["plain.pcapng", "log.jsonl", "out.pcapng"].map(|name| folder.path().join(name));
    annotate(&sample(), &plain, &["--annotate", "none"]);
    let mut lines = String::new();
    for line in printed("show", &sample(), &["--json"]).lines() {
        lines += &log_lines(&serde_json::from_str(line).unwrap());
    }
    fs::write(&log, &lines).unwrap();
    let told = annotate(&plain, &out, &["--from-log", log.to_str().unwrap()]);
    let shown = |file: &Path| -> Vec<String> {
        let processes = |line: &str| line.split("  ").nth(1).unwrap().replace("? > ", "").replace(" > ?", "");
        printed("show", file, &[]).lines().map(processes).collect()
    };
    // Of ICMP the log has no ports.
    let (ours, theirs) = (shown(&out), shown(&sample()));
    let named = ours.iter().zip(&theirs).filter(|(ours, _)| *ours != "-");
    assert!(named.clone().all(|(ours, theirs)| ours == theirs), "{ours:?}\n{theirs:?}\n{told}");
    assert_eq!(
        named.count(),
        theirs.iter().filter(|name| *name != "-").count(),
        "{ours:?}\n{theirs:?}\n{told}"
    );

    // The same flows at the same time for another process: nobody is named wrongly.
    let other = lines.replace("\"pid\":", "\"pid\":1");
    fs::write(&log, lines + &other).unwrap();
    let told = annotate(&plain, &out, &["--from-log", log.to_str().unwrap()]);
    assert!(shown(&out).iter().all(|name| name == "-"), "{told}");
    assert!(told.contains("without a process, ambiguous: "), "{told}");
}

/// An entry for each end of a packet that has a process.
fn log_lines(packet: &Value) -> String {
    let end = |address: &str, port: &str| {
        let address = packet[address].as_str()?;
        let port = packet[port].as_u64().or_else(|| packet["echo_id"].as_u64())?;
        let address: std::net::IpAddr = address.parse().ok()?;
        Some(std::net::SocketAddr::new(address, port as u16).to_string())
    };
    let (Some(source), Some(destination)) =
        (end("source", "source_port"), end("destination", "destination_port"))
    else {
        return String::new();
    };
    let mut lines = String::new();
    for (process, local, remote) in
        [(&packet["sender"], &source, &destination), (&packet["receiver"], &destination, &source)]
    {
        if process.is_object() {
            let entry = serde_json::json!({
                "protocol": packet["protocol"], "local": local, "remote": remote, "from": packet["time_ns"],
                "until": packet["time_ns"], "pid": process["pid"], "name": process["name"], "path": process["path"],
            });
            lines += &format!("{entry}\n");
        }
    }
    lines
}

#[test]
fn rustnets_sidecar_names_the_processes_of_its_capture() {
    let folder = tempfile::tempdir().unwrap();
    let [capture, log, out] =
        ["a.pcap", "a.pcap.connections.jsonl", "out.pcapng"].map(|name| folder.path().join(name));
    let (here, there) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let mut answer = udp(there, here);
    answer[20..24].copy_from_slice(&[0, 53, 0x9c, 0x40]);
    fs::write(&capture, legacy(101, &[udp(here, there), answer, udp(here, [10, 0, 0, 3])])).unwrap();
    // As RustNet 1.7 writes it.
    let line = r#"{"timestamp":"2023-11-14T22:13:25Z","protocol":"UDP","local_addr":"10.0.0.1:40000","remote_addr":"10.0.0.2:53","pid":4242,"process_name":"dig","first_seen":{"nanos_since_epoch":5000,"secs_since_epoch":1700000000},"last_seen":{"nanos_since_epoch":5000,"secs_since_epoch":1700000001},"bytes_sent":28,"bytes_received":28,"state":"UDP_ACTIVE","attribution_match":"procfs-exact","process_lineage":{"ancestors":[],"truncated":true},"process_ppid":1,"process_executable":"/usr/bin/dig","process_uid":1000,"container":{"runtime":"docker"}}"#;
    // Others of its lines: nobody known, and what has no ports.
    let unknown = line.replace("4242", "null").replace("10.0.0.2:53", "10.0.0.3:53");
    let arp = line.replace("UDP\"", "ARP\"").replace(":40000", ":0").replace(":53", ":0");
    fs::write(&log, format!("{line}\n\n{unknown}\n{arp}\n{}\n", arp.replace("ARP\"", "ICMP\""))).unwrap();
    annotate(&capture, &out, &["--from-log", log.to_str().unwrap()]);
    let shown = printed("show", &out, &["--json"]);
    let pids: Vec<Value> = shown
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|packet| serde_json::json!([packet["sender"]["pid"], packet["receiver"]["pid"]]))
        .collect();
    assert_eq!(
        serde_json::json!(pids),
        serde_json::json!([[4242, null], [null, 4242], [null, null]]),
        "{shown}"
    );
    assert!(shown.contains("\"path\":\"/usr/bin/dig\",\"uid\":1000"), "{shown}");
    let rows = Wireshark::own().fields(&out, "udp", &["frame.comment"]);
    assert_eq!(rows.concat(), ["dig[4242]", "? > dig[4242]", ""]);
}

#[test]
fn a_log_that_makes_no_sense_is_told_by_its_line_and_nothing_is_created() {
    let folder = tempfile::tempdir().unwrap();
    let [log, out] = ["log.jsonl", "out.pcapng"].map(|name| folder.path().join(name));
    let good = r#"{"protocol":"tcp","local":"10.0.0.1:1","remote":"10.0.0.2:2","from":"2026-11-21T01:02:03.5+01:00","until":1900000000000000000,"pid":5}"#;
    for (bad, why) in [
        ("{", "EOF while parsing"),
        (&good.replace("\"pid\":5", "\"pid\":-5"), "invalid value: integer `-5`"),
        (&good.replace("tcp", "quic"), "`quic` is no protocol"),
        (&good.replace("10.0.0.2:2", "example.com:2"), "`example.com:2` is no address with a port"),
        (&good.replace("1900000000000000000", "5"), "it ends before it begins"),
        (&good.replace("2026-11-21T", "yesterday "), "`yesterday 01:02:03.5+01:00`: "),
        (&good.replace("\"from\"", "\"form\""), "missing field `from`"),
    ] {
        fs::write(&log, format!("{good}\n{bad}\n")).unwrap();
        let options = ["--from-log", log.to_str().unwrap(), "-w", out.to_str().unwrap()];
        let output = run("annotate", &sample(), &options);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(&format!("line 2 of the log {} makes no sense: ", log.display())), "{told}");
        assert!(told.contains(why), "{why:?} is missing in\n{told}");
        assert!(!out.exists());
    }
}
