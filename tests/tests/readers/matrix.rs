//! Packets, bytes, times, interfaces, comments and processes are the same for everybody.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pcap_parser::Block;
use recorder_tests::blocks::{Ending, walk};
use recorder_tests::lab::{Lab, has_tool, in_ci, machine_allows, say, test_name};
use recorder_tests::namespace::Namespace;
use recorder_tests::process::{Running, must, run};
use recorder_tests::recorder::{Recording, record};
use recorder_tests::seen::{
    Seen, assert_said, assert_same, by_pcap_file, by_pcap_parser, by_recorder, by_tcpdump, by_tshark, json,
    nanoseconds,
};
use recorder_tests::truth;
use recorder_tests::wait::wait_until;
use recorder_tests::wireshark::Wireshark;
use serde_json::Value;

use crate::recordings::{Recorded, TOOLS, lab, live, namespace, sample};

// --- the matrix

/// Panics unless every reader sees this recording as `recorder show` does.
fn assert_all_agree(recorded: &Recorded, lab: &Lab, ending: Ending) {
    let file = recorded.put(lab);
    let mut ours = by_recorder(&file, ending);
    for packet in &mut ours {
        if !recorded.has_comments() {
            packet.comment = Some(String::new());
        }
        if !recorded.has_process_blocks() {
            packet.process = Some(String::new());
        }
    }
    let us = ("recorder show", ours.as_slice());

    let (packets, seen_ending) = by_pcap_parser(&file);
    assert_eq!(seen_ending, ending, "how {} ends", file.display());
    assert_same(us, ("pcap-parser", &packets));
    if ending == Ending::Whole {
        assert_same(("pcap-parser", &packets), ("pcap-file", &by_pcap_file(&file)));
    }
    if has_tool("tcpdump") {
        let copy = lab.path("tcpdump.pcap");
        assert_same(("pcap-parser", &packets), ("tcpdump", &by_tcpdump(&file, &copy, ending)));
    } else {
        assert!(!in_ci(), "in CI nothing is skipped, but tcpdump is not installed");
        say(&format!("skipped: {}: tcpdump is not installed; run tests/install-deps", test_name()));
    }
    let mut has_untimed = false;
    walk(&file, |block| has_untimed |= matches!(block, Block::Custom(_)));
    for one in Wireshark::all() {
        let (version, wireshark) = one;
        let seen = by_tshark(wireshark, &file, ending);
        assert_same(us, (&format!("tshark {version}"), &seen));
        assert_counts(one, &file, &ours, has_untimed, ending);
        assert_saved_again(wireshark, version, &file, lab, &packets, ending);
    }
}

/// What editcap and mergecap make of the file has its packets; the recorder finds no process in it that was not there before.
/// mergecap puts the sample in front.
fn assert_saved_again(
    wireshark: &Wireshark,
    version: &str,
    file: &Path,
    lab: &Lab,
    packets: &[Seen],
    ending: Ending,
) {
    let [edited, merged] = ["editcap", "mergecap"].map(|tool| lab.path(format!("{tool}-{version}.pcapng")));
    let first = lab.path("first.pcapng");
    fs::write(&first, sample().bytes).expect("cannot write the sample");
    assert_said(&run(wireshark.command("editcap").arg(file).arg(&edited)), ending);
    let mut merge = wireshark.command("mergecap");
    let output = run(merge.args(["-a", "-w"]).arg(&merged).arg(&first).arg(file));
    assert_said(&output, ending);

    let both = [by_pcap_parser(&first).0, packets.to_vec()].concat();
    let all_told = [json(&first, Ending::Whole), json(file, ending)].concat();
    let told = &all_told[all_told.len() - packets.len()..];
    for (tool, copy, packets, told) in
        [("editcap", edited, packets, told), ("mergecap", merged, &both, &all_told)]
    {
        let who = format!("{tool} {version}");
        assert_same(("pcap-parser", packets), (&who, &by_pcap_parser(&copy).0));
        for (before, after) in told.iter().zip(&json(&copy, Ending::Whole)) {
            let ends = ["sender", "receiver"];
            let is_less = ends.into_iter().all(|end| is_less_of(&after[end], &before[end]));
            assert!(is_less, "{}, saved again by {who}\n{before}\n{after}", file.display());
        }
    }
}

/// Whether all that is told of a process after saving was told before. A name that is lost is spelled as an empty one.
fn is_less_of(after: &Value, before: &Value) -> bool {
    let Some(after) = after.as_object() else { return true };
    after.iter().all(|(key, value)| before.get(key) == Some(value) || key == "name" && value == "\\x00")
}

/// capinfos counts the packets and their bytes, and knows the first and the last. Before 4.6 it tells no times of a file that
/// has Process Information blocks, which have none.
fn assert_counts(
    (version, wireshark): &(&str, Wireshark),
    file: &Path,
    packets: &[Seen],
    has_untimed: bool,
    ending: Ending,
) {
    let output =
        run(wireshark.command("capinfos").args(["-T", "-r", "-c", "-d", "-a", "-e", "-S"]).arg(file));
    assert_said(&output, ending);
    let columns: Vec<&str> = output.stdout.trim_end().split('\t').collect();
    let [_, count, bytes, first, last] = columns[..] else {
        panic!("other columns than asked for\n{output}")
    };
    let expected: u64 = packets.iter().map(|packet| packet.length).sum();
    assert_eq!(count, packets.len().to_string(), "capinfos {version}\n{output}");
    assert_eq!(bytes, expected.to_string(), "capinfos {version}\n{output}");
    let times = packets.iter().map(|packet| packet.time_ns).filter(|_| !has_untimed || *version == "4.6");
    for (time, expected) in [(first, times.clone().min()), (last, times.max())] {
        assert_eq!((time != "n/a").then(|| nanoseconds(time)), expected, "capinfos {version}\n{output}");
    }
}

#[test]
fn everybody_sees_our_sample_as_show_does() {
    assert_all_agree(&sample(), &lab(), Ending::Whole);
}

#[test]
fn everybody_sees_a_live_recording_as_show_does_however_it_is_annotated() {
    let Some(recordings) = live() else { return };
    for recorded in recordings {
        assert_all_agree(recorded, &lab(), Ending::Whole);
    }
}

#[test]
fn everybody_sees_an_empty_recording_as_empty() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, namespace) = (lab(), namespace("empty"));
    let file = lab.path("recorded.pcapng");
    Recording::start(record(&namespace, &["-i", "lo", "-w"]).arg(&file)).stop().assert_code(0);
    let bytes = fs::read(&file).unwrap();
    assert_all_agree(&Recorded { annotate: "all", bytes }, &lab, Ending::Whole);
    assert!(by_recorder(&file, Ending::Whole).is_empty());
}

#[test]
fn every_wireshark_sees_a_compressed_recording_as_show_does() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, namespace) = (lab(), namespace("compressed"));
    let file = lab.path("recorded.pcapng.zst");
    let recording = Recording::start(record(&namespace, &["-i", "lo", "-w"]).arg(&file));
    let server = lab.server(&namespace, "server", &["tcp-server", "--connections", "100"]);
    let client = ["tcp-client", "127.0.0.1", &server.port, "--connections", "100"];
    must(&mut lab.command(&namespace, "client", &client));
    server.running.finish().assert_code(0);
    recording.stop().assert_code(0);
    let zstd = fs::read(&file).unwrap();
    assert!(zstd.starts_with(&0xfd2f_b528_u32.to_le_bytes()), "it is not compressed");
    let ours = by_recorder(&file, Ending::Whole);
    assert!(ours.len() >= 800, "{} packets", ours.len());
    for one in Wireshark::all() {
        let (version, wireshark) = one;
        let seen = by_tshark(wireshark, &file, Ending::Whole);
        assert_same(("recorder show", &ours), (&format!("tshark {version}"), &seen));
        assert_counts(one, &file, &ours, true, Ending::Whole);
    }
}

#[test]
fn everybody_reads_a_recording_that_was_cut_within_a_packet_up_to_there() {
    let whole = sample();
    let lab = lab();
    let cut = whole.bytes.len() / 2;
    let recorded = Recorded { annotate: "all", bytes: whole.bytes[..cut].to_vec() };
    assert_all_agree(&recorded, &lab, Ending::Cut);
    let (before, after) = (
        by_recorder(&whole.put(&self::lab()), Ending::Whole).len(),
        by_pcap_parser(&recorded.put(&lab)).0.len(),
    );
    assert!(0 < after && after < before, "{after} of {before} packets are before the cut");
}

// --- what one looks for

#[test]
fn every_tshark_finds_the_packets_of_a_process() {
    let (sample, lab) = (sample(), lab());
    let file = sample.put(&lab);
    let ours = by_recorder(&file, Ending::Whole);
    let frames = |fits: &dyn Fn(&Seen) -> bool| {
        let numbers = ours.iter().enumerate().filter(|(_, packet)| fits(packet));
        numbers.map(|(index, _)| (index + 1).to_string()).collect::<Vec<String>>()
    };
    let comment = |packet: &Seen| packet.comment.clone().unwrap_or_default();
    let by_name = frames(&|packet| comment(packet).starts_with("lookup["));
    let by_direction = frames(&|packet| packet.direction.as_deref() == Some("in"));
    let by_process =
        frames(&|packet| packet.process.as_deref().is_some_and(|name| name.starts_with("lookup[")));
    let pid = comment(&ours[0])
        .split(['[', ']'])
        .nth(1)
        .map(str::to_string)
        .expect("the first packet has a process");
    let by_pid = frames(&|packet| comment(packet).contains(&format!("[{pid}]")));
    for (_, wireshark) in Wireshark::all() {
        let mut filters = vec![
            (r#"frame.comment matches "^lookup\\[""#.to_string(), &by_name),
            (format!(r#"frame.comment contains "[{pid}]""#), &by_pid),
            ("frame.packet_flags_direction == 1".into(), &by_direction),
        ];
        if wireshark.knows_field("frame.darwin.process_info.pname") {
            filters.push((r#"frame.darwin.process_info.pname == "lookup""#.into(), &by_process));
        }
        for (filter, expected) in filters {
            assert!(!expected.is_empty(), "nothing to find: {filter}");
            let found = wireshark.fields(&file, &filter, &["frame.number"]).concat();
            assert_eq!(&found, expected, "{wireshark:?}: {filter}");
        }
    }
}

#[test]
fn every_capinfos_shows_what_stands_about_section_and_interfaces() {
    let Some(recordings) = live() else { return };
    let lab = lab();
    let file = recordings[0].put(&lab);
    for (version, wireshark) in Wireshark::all() {
        let output = run(wireshark.command("capinfos").arg(&file));
        assert_said(&output, Ending::Whole);
        let expected = [
            "first comment",
            "second comment",
            "Name = lo",
            "Name = eth1",
            "Description = to the other namespace",
            "Filter string = ip or ip6 or arp",
            "Time precision = nanoseconds (9)",
            std::env::consts::ARCH,
        ];
        for text in expected {
            assert!(output.stdout.contains(text), "capinfos {version} does not show {text:?}\n{output}");
        }
    }
}

// --- killed

/// How much of the end may be missing from the file of a recorder that was killed.
const MISSING_AT_MOST: Duration = Duration::from_secs(1);
/// How often it is tried to stay below that.
const TRIES: usize = 3;

#[test]
fn a_killed_recording_is_read_up_to_its_last_second_by_everybody() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, namespace) = (lab(), namespace("killed"));
    let server = lab.server(&namespace, "server", &["tcp-server"]);
    let client = ["tcp-client", "127.0.0.1", &server.port, "--forever", "--pause-ms", "2"];
    let _client = Running::start(&mut lab.command(&namespace, "client", &client));
    // At other times since it has last written, for it writes now and then.
    for later in [0, 150, 300, 450].map(Duration::from_millis) {
        // On a machine that is busy all is late: then once more.
        let mut tries = (0..TRIES).map(|_| missing_when_killed(&namespace, &lab.log(), later));
        assert!(tries.any(|missing| missing <= MISSING_AT_MOST), "more than the last second is missing");
    }
}

/// Kills a recording of a namespace this long after it has written. All readers must agree on what is there; gives how long
/// before the end the first connection began that is not, by the log of the clients.
fn missing_when_killed(namespace: &Namespace, log: &str, later: Duration) -> Duration {
    let lab = lab();
    let file = lab.path("killed.pcapng");
    let recording = Recording::start(record(namespace, &["-i", "lo", "-w"]).arg(&file));
    let size = || fs::metadata(&file).map_or(0, |file| file.len());
    wait_until("packets are in the file", || format!("{} bytes", size()), || size() > 10_000);
    thread::sleep(later);
    let killed = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    // Dropped, it is killed.
    drop(recording);
    let ending = by_pcap_parser(&file).1;
    let bytes = fs::read(&file).expect("the recording can be read");
    assert_all_agree(&Recorded { annotate: "all", bytes }, &lab, ending);
    let last_ns = by_recorder(&file, ending).last().map_or(0, |packet| packet.time_ns);
    let begun =
        truth::read(log).into_iter().filter(|truth| truth.role == "client").map(|truth| truth.start_ns);
    let first_missing = begun.filter(|start_ns| *start_ns > last_ns).min().map(Duration::from_nanos);
    let missing = first_missing.map_or(Duration::ZERO, |first| killed.saturating_sub(first));
    say(&format!("killed {later:?} after a write: {missing:?} missing"));
    missing
}
