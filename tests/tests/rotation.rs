//! Recordings in several files, compressed ones, and pipes: that each file stands alone, and that nothing is lost between two.
//! Needs root; says so and passes without.

#![expect(clippy::expect_used, reason = "helpers of tests are test code too")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use recorder_tests::blocks;
use recorder_tests::judge::judge;
use recorder_tests::lab::{Lab, machine_allows, say};
use recorder_tests::namespace::Namespace;
use recorder_tests::process::{Output, Running, SIGINT, must, run};
use recorder_tests::recorder::{READY, Recording, ask, binary, record};
use recorder_tests::rotation::{Line, decompressed_as_far_as_possible, files, sequence};
use recorder_tests::truth;
use recorder_tests::tshark::{assert_others_read, fields};
use recorder_tests::wait::wait_until;
use recorder_tests::wireshark::Wireshark;
use serde_json::Value;

const TOOLS: [&str; 4] = ["ip", "trafgen", "tshark", "capinfos"];
const BESIDE: [&str; 4] = ["ip", "trafgen", "tshark", "dumpcap"];
const SIGKILL: i32 = 9;
const NOBODY: u32 = 65534;

fn lab() -> Lab {
    Lab::new(env!("CARGO_BIN_EXE_traffic"))
}

/// `recorder record` on the line, of nothing but the numbered packets.
fn record_line(line: &Line, file: &str, arguments: &[&str]) -> Command {
    record(&line.there, &[&["-i", "eth1", "-f", "tcp", "-w", file], arguments].concat())
}

fn start_dumpcap(line: &Line, file: &str, arguments: &[&str]) -> Running {
    let mut command = line.there.command("dumpcap");
    command.args(["-q", "-p", "-i", "eth1", "-f", "tcp", "-w", file]).args(arguments);
    let running = Running::start(&mut command);
    running.wait_for_stderr("File: ", |line| line.starts_with("File: "));
    running
}

/// The numbers of the packets, file by file.
type Numbers = BTreeMap<u32, Vec<u32>>;

fn sequences(path: &Path) -> Numbers {
    files(path).into_iter().map(|(number, file)| (number, sequence(&file))).collect()
}

/// That each of `1..=count` is there once, in this order.
fn assert_each_once(found: &[u32], count: u32, evidence: &Output) {
    let wrong = found.iter().zip(1..).find(|(found, expected)| *found != expected);
    assert!(wrong.is_none(), "number {wrong:?} (found, expected)\n{evidence}");
    assert_eq!(found.len(), count as usize, "all numbers are there\n{evidence}");
}

// --- beside dumpcap

#[test]
fn limits_of_packets_and_files_give_the_same_files_as_dumpcap() {
    if !machine_allows(&BESIDE) {
        return;
    }
    for arguments in [
        "-b packets:10",
        "-b packets:10 -b files:2",
        "-b packets:10 -b files:1",
        "-b packets:10 -a files:2",
        "-b packets:10 -a files:3 -b files:2",
        "-b packets:10 -a packets:25",
        "-b packets:10 -c 20",
        "-b packets:10 -b filesize:1000000",
        "-b duration:1000 -a packets:15",
    ] {
        let (ours, theirs, evidence) = side_by_side(arguments, 35, 100);
        assert!(!theirs.is_empty(), "{arguments}: dumpcap wrote nothing");
        assert_eq!(ours, theirs, "{arguments}\n{evidence}");
    }
}

#[test]
fn limits_of_size_give_as_many_files_as_dumpcap_and_each_is_as_large_as_it_may_be() {
    if !machine_allows(&BESIDE) {
        return;
    }
    // Packets so large that what we write around each does not count: 1400 bytes.
    for arguments in [
        "-b filesize:20",
        "-a filesize:20 -b files:2",
        "-b filesize:20 -a files:2",
        "-b filesize:20 -b packets:9",
    ] {
        let (ours, theirs, evidence) = side_by_side(arguments, 40, 1400);
        assert_eq!(ours, theirs, "{arguments}\n{evidence}");
    }
}

/// The packets of each file, as the recorder and dumpcap made them of the same packets.
fn side_by_side(arguments: &str, count: u32, frame_bytes: usize) -> (Numbers, Numbers, String) {
    let (lab, line) = (lab(), Line::new());
    let (ours, theirs) = (lab.path("ours.pcapng"), lab.path("theirs.pcapng"));
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let plain = [&arguments[..], &["--annotate", "none", "--attribution", "none"]].concat();
    let recorder = Recording::start(&mut record_line(&line, &lab.text("ours.pcapng"), &plain));
    let dumpcap = start_dumpcap(&line, &lab.text("theirs.pcapng"), &arguments);
    must(&mut line.trafgen(&lab, count, frame_bytes));
    // Both have them all, unless they have ended by themselves.
    let last = |path: &Path| {
        files(path)
            .into_iter()
            .map(|(number, file)| (number, fs::metadata(file).map_or(0, |data| data.len())))
            .collect::<Vec<_>>()
    };
    settled(|| (last(&ours), last(&theirs)));
    let [recorder, dumpcap] =
        [(recorder.running().has_ended(), recorder.stop()), (dumpcap.has_ended(), stop(dumpcap))];
    assert_eq!(
        recorder.0, dumpcap.0,
        "one has ended by itself, the other has not\n{}{}",
        recorder.1, dumpcap.1
    );
    recorder.1.assert_code(0);
    (sequences(&ours), sequences(&theirs), format!("{}{}", recorder.1, dumpcap.1))
}

/// Waits until what is seen has not changed for a second.
fn settled<T: PartialEq>(see: impl Fn() -> T) {
    let (mut last, mut since) = (see(), Instant::now());
    while since.elapsed() < Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(50));
        let now = see();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}

fn stop(running: Running) -> Output {
    running.signal(SIGINT);
    running.finish()
}

#[test]
fn durations_and_intervals_end_files_when_those_of_dumpcap_end() {
    if !machine_allows(&BESIDE) {
        return;
    }
    for arguments in ["-b duration:1.5 -a files:3", "-b interval:2 -a files:3"] {
        let (lab, line) = (lab(), Line::new());
        let (ours, theirs) = (lab.path("ours.pcapng"), lab.path("theirs.pcapng"));
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let command = &mut record_line(
            &line,
            &lab.text("ours.pcapng"),
            &[&arguments[..], &["--attribution", "none"]].concat(),
        );
        let began = Instant::now();
        let recorder = Recording::start(command);
        let dumpcap = start_dumpcap(&line, &lab.text("theirs.pcapng"), &arguments);
        let between_starts = began.elapsed();
        // Until both have ended by themselves.
        let mut traffic = line.trafgen(&lab, 100_000, 100);
        let traffic = Running::start(traffic.args(["--gap", "5ms"]));
        let (recorder, dumpcap) = (recorder.finish(), dumpcap.finish());
        drop(traffic);
        let evidence = format!("{recorder}{dumpcap}");
        let [ours, theirs] = [ends(&ours), ends(&theirs)];
        assert_eq!((ours.len(), theirs.len()), (3, 3), "{ours:?} {theirs:?}\n{evidence}");
        // dumpcap looks at the clock when it has nothing else to do, every half second at the latest; and where it is late with one
        // file, it is with the next ones.
        let late = Duration::from_millis(700);
        for ((ours, theirs), files) in ours.iter().zip(&theirs).zip(1..) {
            let apart = between_starts + late * files;
            let difference = Duration::from_secs_f64((ours - theirs).abs());
            assert!(
                difference < apart,
                "files end {difference:?} apart, the starts {between_starts:?}: {ours} {theirs}\n{evidence}"
            );
        }
        let numbers: Vec<u32> = sequences(&lab.path("ours.pcapng")).into_values().flatten().collect();
        let first = numbers.first().copied().unwrap_or_default();
        assert!(
            numbers.iter().zip(first..).all(|(number, expected)| *number == expected),
            "nothing between two files\n{recorder}"
        );
    }
}

/// The times of the last packets of the files, in seconds since 1970.
fn ends(path: &Path) -> Vec<f64> {
    let last = |file: PathBuf| fields(&file, "tcp", &["frame.time_epoch"]).concat().pop();
    let times = files(path).into_iter().filter_map(|(_, file)| last(file));
    times.map(|time| time.parse().expect("a time")).collect()
}

// --- nothing is lost between two files

const MANY: u32 = 400_000;
/// A ring that holds them all, so that none can be lost before it is written.
const LARGE_RING: [&str; 2] = ["-B", "256"];

#[test]
fn at_full_rate_a_hundred_rotations_lose_and_double_nothing() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let limit = format!("packets:{}", MANY / 100);
    let (recorded, output) = at_full_rate("many.pcapng", &["-b", &limit]);
    assert_eq!(recorded.len(), 101, "the last one is empty\n{output}");
    let whole: Vec<u32> = recorded.into_values().flatten().collect();
    assert_each_once(&whole, MANY, &output);
}

#[test]
fn at_full_rate_rotations_by_size_lose_and_double_nothing() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (recorded, output) = at_full_rate("large.pcapng", &["-b", "filesize:400"]);
    assert!(recorded.len() > 100, "{} files\n{output}", recorded.len());
    let whole: Vec<u32> = recorded.into_values().flatten().collect();
    assert_each_once(&whole, MANY, &output);
}

#[test]
fn at_full_rate_rotations_of_compressed_files_lose_and_double_nothing() {
    if !machine_allows(&[&TOOLS[..], &["zstd"]].concat()) {
        return;
    }
    let limit = format!("packets:{}", MANY / 100);
    let (recorded, output) = at_full_rate("small.pcapng.zst", &["-b", &limit]);
    assert_eq!(recorded.len(), 101, "the last one is empty\n{output}");
    let whole: Vec<u32> = recorded.into_values().flatten().collect();
    assert_each_once(&whole, MANY, &output);
}

/// Records [`MANY`] packets that come as fast as trafgen can send them. The numbers of the packets by file, and what was said.
fn at_full_rate(name: &str, arguments: &[&str]) -> (Numbers, Output) {
    let (lab, line) = (lab(), Line::new());
    let recording =
        Recording::start(&mut record_line(&line, &lab.text(name), &[&LARGE_RING[..], arguments].concat()));
    let began = Instant::now();
    must(&mut line.trafgen(&lab, MANY, 60));
    say(&format!("{MANY} packets in {:?}", began.elapsed()));
    let output = recording.stop();
    output.assert_code(0);
    (sequences(&lab.path(name)), output)
}

#[test]
fn compressed_files_end_when_they_are_as_large_as_asked_for_on_disk() {
    if !machine_allows(&[&TOOLS[..], &["zstd"]].concat()) {
        return;
    }
    let (lab, line) = (lab(), Line::new());
    let path = lab.path("c.pcapng.zst");
    let arguments = [&LARGE_RING[..], &["-b", "filesize:200", "--compress", "zstd:1"]].concat();
    let recording = Recording::start(&mut record_line(&line, &lab.text("c.pcapng.zst"), &arguments));
    must(&mut line.trafgen(&lab, MANY, 60));
    let output = recording.stop();
    output.assert_code(0);
    let sizes: Vec<u64> =
        files(&path).iter().map(|(_, file)| fs::metadata(file).map_or(0, |data| data.len())).collect();
    let (last, full) = sizes.split_last().expect("there are files");
    assert!(full.len() >= 2, "sizes {sizes:?}\n{output}");
    // What 32 KiB compress to, and the records and statistics at the end.
    assert!(full.iter().all(|size| (200_000..240_000).contains(size)), "sizes {sizes:?}\n{output}");
    assert!(*last < 240_000, "sizes {sizes:?}\n{output}");
    let whole: Vec<u32> = sequences(&path).into_values().flatten().collect();
    assert_each_once(&whole, MANY, &output);
}

// --- each file stands alone

#[test]
fn each_file_is_whole_for_every_reader_and_their_sums_are_those_of_the_recording() {
    if !machine_allows(&["ip", "tshark", "capinfos", "tcpdump"]) {
        return;
    }
    let (lab, line) = (lab(), Line::new());
    let namespace = &line.there;
    let path = lab.path("alone.pcapng");
    let file = lab.text("alone.pcapng");
    let comment = ["--capture-comment", "in each"];
    let arguments = [&["-i", "lo", "-i", "eth1", "-b", "packets:7", "-w", &file], &comment[..]].concat();
    let recording = Recording::start(&mut record(namespace, &arguments));
    for _ in 0..4 {
        let server = lab.server(namespace, "server", &["tcp-server", "--connections", "1"]);
        must(&mut lab.command(namespace, "client", &["tcp-client", "127.0.0.1", &server.port]));
        server.running.finish().assert_code(0);
    }
    let output = recording.stop();
    output.assert_code(0);
    let files = files(&path);
    assert!(files.len() >= 5, "{files:?}\n{output}");
    let mut sums = Sums::default();
    for (number, file) in &files {
        assert_others_read(file);
        blocks::assert_consistent(file);
        judge(file, &truth::read(lab.log())).assert_all_right(0, &format!("file {number}"));
        let interfaces = must(Command::new("capinfos").args(["-I", "-k"]).arg(file));
        let has = |text: &str| assert!(interfaces.stdout.contains(text), "{text} is missing\n{interfaces}");
        ["Name = lo", "Name = eth1", "in each", "attribution: ebpf"].into_iter().for_each(has);
        sums.add(file);
        let mode = fs::metadata(file).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "each file is for its owner alone");
    }
    sums.assert_told_in(&output);
    assert_eq!(
        sums.packets,
        7 * (files.len() as u64 - 1) + packets_in(&files[files.len() - 1].1),
        "\n{output}"
    );
}

/// What `recorder summary` tells of the files, added up.
#[derive(Debug, Default)]
struct Sums {
    packets: u64,
    attributed: u64,
    received: u64,
    end_ns: u64,
}

impl Sums {
    fn add(&mut self, file: &Path) {
        let text = ask(&["summary", "--json", file.to_str().expect("our paths are UTF-8")]);
        let summary: Value = serde_json::from_str(&text).expect("summary --json is JSON");
        self.packets += summary["total"]["packets"].as_u64().expect("packets");
        self.attributed += summary["attributed_packets"].as_u64().expect("attributed packets");
        let start = summary["statistics"]["start_ns"].as_u64().expect("a start");
        let end = summary["statistics"]["end_ns"].as_u64().expect("an end");
        assert!(
            start <= end && (self.end_ns == 0 || start == self.end_ns),
            "a file begins where the one before ends: {text}"
        );
        self.end_ns = end;
        self.received += blocks::received(file);
    }

    fn assert_told_in(&self, output: &Output) {
        let told = |what: &str| {
            let line = output.stderr.lines().find(|line| line.contains(what));
            let number =
                line.and_then(|line| line.split(' ').next()).and_then(|number| number.parse::<u64>().ok());
            assert!(number.is_some(), "{what} is not told\n{output}");
            number.unwrap_or_default()
        };
        assert_eq!(self.packets, told("packets captured"), "{self:?}\n{output}");
        assert_eq!(self.received, told("packets received by filter"), "{self:?}\n{output}");
        assert_eq!(self.attributed, told("packets attributed"), "{self:?}\n{output}");
    }
}

fn packets_in(file: &Path) -> u64 {
    fields(file, "not frame.cb_pen", &["frame.number"]).len() as u64
}

#[test]
fn interfaces_of_any_stand_in_the_files_that_have_packets_of_them() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, line) = (lab(), Line::new());
    let path = lab.path("any.pcapng");
    let arguments = ["-i", "any", "-f", "tcp", "-w", &lab.text("any.pcapng"), "-b", "packets:5"];
    let recording = Recording::start(&mut record(&line.there, &arguments));
    // A SYN and its reset on loopback, then the others on eth1.
    must(&mut lab.command(&line.there, "client", &["tcp-refused", "127.0.0.1", "9"]));
    must(&mut line.trafgen(&lab, 13, 100));
    let output = recording.stop();
    output.assert_code(0);
    let names: Vec<Vec<String>> = files(&path)
        .iter()
        .map(|(_, file)| {
            let mut names = fields(file, "tcp", &["frame.interface_name"]).concat();
            names.dedup();
            names
        })
        .collect();
    assert_eq!(
        names,
        [vec!["lo".to_string(), "eth1".into()], vec!["eth1".into()], vec!["eth1".into()], vec![]],
        "\n{output}"
    );
    let of_second = must(Command::new("capinfos").arg("-I").arg(&files(&path)[1].1)).stdout;
    assert!(!of_second.contains("Name = lo"), "lo has no packet in the second file\n{of_second}");
}

// --- when something goes wrong

#[test]
fn a_next_file_that_cannot_be_created_ends_the_recording_and_what_was_written_stays() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, line) = (lab(), Line::new());
    let folder = lab.path("folder");
    fs::create_dir(&folder).expect("cannot create a folder");
    let recording =
        Recording::start(&mut record_line(&line, &lab.text("folder/f.pcapng"), &["-b", "packets:10"]));
    fs::rename(&folder, lab.path("moved")).expect("cannot rename a folder");
    must(&mut line.trafgen(&lab, 10, 100));
    let output = recording.finish();
    output.assert_code(1);
    assert!(
        output.stderr.contains("cannot create ") && output.stderr.contains("_00002_"),
        "object\n{output}"
    );
    assert!(output.stderr.contains("its directory does not exist"), "why, and the remedy\n{output}");
    let files = files(&lab.path("moved/f.pcapng"));
    assert_eq!(files.len(), 1, "{files:?}\n{output}");
    assert_others_read(&files[0].1);
    assert_each_once(&sequence(&files[0].1), 10, &output);
    assert_eq!(blocks::received(&files[0].1), 10, "the statistics are there\n{output}");
}

#[test]
fn several_files_cannot_be_standard_output() {
    if !machine_allows(&["ip"]) {
        return;
    }
    let namespace = Namespace::new("stdout");
    let output = run(&mut record(&namespace, &["-w", "-", "-b", "packets:10"]));
    output.assert_code(2);
    assert!(
        output.stderr.starts_with("recorder: cannot write several files to standard output\n  "),
        "{output}"
    );
}

// --- the command after each file

#[test]
fn the_command_after_each_file_runs_beside_the_recording_as_the_user_who_called() {
    if !machine_allows(&[&TOOLS[..], &["setpriv"]].concat()) {
        return;
    }
    let (lab, line) = (lab(), Line::new());
    lab.open_to_all();
    let id = NOBODY.to_string();
    let script = lab.path("after");
    let text = "#!/bin/sh\n{ id -u; nice; sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status; ls -l /proc/self/fd | grep -c 'socket:\\|anon_inode:'; echo \"$1\"; } | paste -sd ' ' >> \"$0.log\"\n";
    fs::write(&script, text).expect("cannot write a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("cannot change a mode");
    fs::write(lab.path("after.log"), "").expect("cannot write a file");
    fs::set_permissions(lab.path("after.log"), fs::Permissions::from_mode(0o666))
        .expect("cannot change a mode");
    let mut command =
        record_line(&line, &lab.text("z.pcapng"), &["-b", "packets:10", "-z", &lab.text("after")]);
    command.env("SUDO_UID", &id).env("SUDO_GID", &id).env("SUDO_USER", "nobody");
    let recording = Recording::start(&mut command);
    must(&mut line.trafgen(&lab, 25, 100));
    let log = || fs::read_to_string(lab.path("after.log")).unwrap_or_default();
    wait_until("two files are done while the recording goes on", log, || log().lines().count() == 2);
    let output = recording.stop();
    output.assert_code(0);
    let mut told: Vec<String> = log().lines().map(str::to_string).collect();
    told.sort_by_key(|line| line.rsplit(' ').next().map(str::to_owned));
    let expected: Vec<String> = files(&lab.path("z.pcapng"))
        .iter()
        // The lowest priority, no capability, none of our sockets and programs.
        .map(|(_, file)| format!("{id} 19 0000000000000000 0 {}", file.display()))
        .collect();
    assert_eq!(told, expected, "\n{output}");
    let owner = fs::metadata(&files(&lab.path("z.pcapng"))[2].1).expect("it is there").uid();
    assert_eq!(owner, NOBODY, "each file is the invoking user's\n{output}");
}

#[test]
fn a_command_after_a_file_that_fails_is_told_and_counts() {
    if !machine_allows(&TOOLS) {
        return;
    }
    for (program, told) in
        [("false", "exit status 1"), ("/no/such/program", "cannot run /no/such/program for ")]
    {
        let (lab, line) = (lab(), Line::new());
        let arguments = ["-b", "packets:10", "-z", program];
        let recording = Recording::start(&mut record_line(&line, &lab.text("z.pcapng"), &arguments));
        must(&mut line.trafgen(&lab, 15, 100));
        let output = recording.stop();
        output.assert_code(1);
        assert_eq!(output.stderr.matches(told).count(), 2, "once for each file\n{output}");
        let whole: Vec<u32> = sequences(&lab.path("z.pcapng")).into_values().flatten().collect();
        assert_each_once(&whole, 15, &output);
    }
}

#[test]
fn a_slow_command_after_a_file_holds_nothing_up_and_a_second_signal_ends_the_waiting() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, line) = (lab(), Line::new());
    let script = lab.path("slow");
    fs::write(&script, "#!/bin/sh\necho $$ >> \"$0.pids\"\nexec sleep 1000\n")
        .expect("cannot write a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("cannot change a mode");
    let arguments = ["-b", "packets:10", "-z", &lab.text("slow")];
    let recording = Recording::start(&mut record_line(&line, &lab.text("s.pcapng"), &arguments));
    must(&mut line.trafgen(&lab, 1000, 100));
    let listed = || format!("{:?}", files(&lab.path("s.pcapng")));
    wait_until("all files, though no command has ended", listed, || {
        files(&lab.path("s.pcapng")).len() == 101
    });
    recording.running().signal(SIGINT);
    recording.running().wait_for_stderr("waiting", |line| line.contains("waiting for the command"));
    let output = recording.stop();
    output.assert_code(1);
    assert!(output.stderr.contains("101 files are left to it"), "{output}");
    let pids = fs::read_to_string(lab.path("slow.pids")).expect("some run");
    for pid in pids.lines() {
        must(Command::new("kill").arg(pid));
    }
}

// --- compressed files that were cut

#[test]
fn a_killed_recording_can_be_read_up_to_its_last_second_plain_and_compressed() {
    if !machine_allows(&[&TOOLS[..], &["zstd"]].concat()) {
        return;
    }
    for name in ["killed.pcapng", "killed.pcapng.zst"] {
        let (lab, line) = (lab(), Line::new());
        let recording = Recording::start(&mut record_line(&line, &lab.text(name), &[]));
        let mut traffic = line.trafgen(&lab, 100_000, 100);
        let traffic = Running::start(traffic.args(["--gap", "2ms"]));
        let size = || fs::metadata(lab.path(name)).map_or(0, |data| data.len());
        // Flushed three times at least.
        for _ in 0..3 {
            let before = size();
            wait_until("the file grows", || format!("{before} bytes"), || size() > before);
        }
        recording.running().signal(SIGKILL);
        let killed_s = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        recording.finish();
        drop(traffic);
        let numbers = cut_file_of(&lab, name, killed_s);
        assert!(numbers.iter().zip(1..).all(|(number, expected)| *number == expected), "{numbers:?}");
    }
}

/// The numbers in a file that was cut, if it reaches to a second before its end: as tshark reads it, and with zstd's help.
fn cut_file_of(lab: &Lab, name: &str, killed_s: f64) -> Vec<u32> {
    let file = lab.path(name);
    let is_compressed = name.ends_with(".zst");
    let shown = run(Command::new(binary()).args(["show"]).arg(&file));
    shown.assert_code(if is_compressed { 1 } else { 0 });
    let count = shown.stdout.lines().count();
    for (version, wireshark) in Wireshark::all() {
        let mut tshark = wireshark.command("tshark");
        let tshark = run(tshark.arg("-r").arg(&file).args(["-T", "fields", "-e", "frame.time_epoch"]));
        let last: f64 = tshark.stdout.lines().last().and_then(|time| time.parse().ok()).unwrap_or_default();
        assert!(
            killed_s - last < 1.0,
            "{name}: killed at {killed_s}, for tshark {version} the last packet is at {last}"
        );
        assert_eq!(
            count,
            tshark.stdout.lines().count(),
            "we read as many as tshark {version} does: {}",
            tshark.stderr
        );
    }
    if !is_compressed {
        return sequence(&file);
    }
    assert!(shown.stderr.contains("the file ends inside the block at byte "), "{}", shown.stderr);
    let plain = lab.path("plain.pcapng");
    decompressed_as_far_as_possible(&file, &plain);
    let numbers = sequence(&plain);
    assert_eq!(numbers.len(), count, "zstd gives as many as tshark does, and we");
    numbers
}

#[test]
fn plain_zstd_and_gzip_are_read_alike_from_a_file_and_from_a_pipe() {
    if !machine_allows(&["ip", "zstd", "gzip"]) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("alike"));
    let recording = Recording::start(&mut record(&namespace, &["-i", "lo", "-w", &lab.text("a.pcapng")]));
    must(&mut lab.command(&namespace, "client", &["tcp-refused", "127.0.0.1", "9"]));
    recording.stop().assert_code(0);
    must(Command::new("zstd").args(["-q", "-k"]).arg(lab.path("a.pcapng")));
    must(Command::new("gzip").arg("-k").arg(lab.path("a.pcapng")));
    // The first bytes tell, and not the name.
    fs::rename(lab.path("a.pcapng.gz"), lab.path("b.pcapng")).expect("cannot rename a file");
    for command in [&["show"][..], &["show", "--json"], &["summary"], &["summary", "--json"]] {
        let expected = ask(&[command, &[&lab.text("a.pcapng")]].concat());
        assert!(expected.contains("client"), "{expected}");
        for name in ["a.pcapng", "a.pcapng.zst", "b.pcapng"] {
            assert_eq!(ask(&[command, &[&lab.text(name)]].concat()), expected, "{name}");
            let script = format!("cat {} | {} {} -", lab.text(name), binary(), command.join(" "));
            assert_eq!(
                must(Command::new("sh").args(["-c", &script])).stdout,
                expected,
                "{name} through a pipe"
            );
        }
    }
}

// --- pipes

#[test]
fn a_packet_is_in_the_pipe_within_200_ms() {
    if !machine_allows(&["ip", "bash"]) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("pipe"));
    let fifo = fifo(&lab);
    let recorder = Running::start(&mut record(&namespace, &["-i", "lo", "-w", &lab.text("fifo")]));
    let mut reader = File::open(&fifo).expect("cannot open the FIFO");
    recorder.wait_for_stderr(READY, |line| line.starts_with(READY));
    // One datagram for each line.
    let script = "while read -r text; do echo \"$text\" > /dev/udp/127.0.0.1/9; done";
    let mut sender = namespace
        .command("bash")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("bash starts");
    let mut marks = sender.stdin.take().expect("it is a pipe");
    let mut seen = Vec::new();
    let mut delays: Vec<Duration> = (0..30)
        .map(|number| {
            let mark = format!("mark-{number:03}");
            writeln!(marks, "{mark}").expect("bash reads");
            let sent = Instant::now();
            read_until(&mut reader, &mut seen, mark.as_bytes());
            sent.elapsed()
        })
        .collect();
    drop(marks);
    sender.wait().expect("bash ends");
    recorder.signal(SIGINT);
    // Whoever does not read holds it up.
    reader.read_to_end(&mut seen).expect("cannot read the FIFO");
    recorder.finish().assert_code(0);
    delays.sort();
    say(&format!(
        "from send to pipe: median {:?}, longest {:?}",
        delays[delays.len() / 2],
        delays[delays.len() - 1]
    ));
    // Not each of them: other tests may have all cores at a time.
    assert!(delays[delays.len() / 2] < Duration::from_millis(200), "{delays:?}");
}

fn fifo(lab: &Lab) -> PathBuf {
    let path = lab.path("fifo");
    must(Command::new("mkfifo").arg(&path));
    path
}

fn read_until(from: &mut impl Read, seen: &mut Vec<u8>, mark: &[u8]) {
    let mut chunk = [0; 65536];
    while !seen.windows(mark.len()).any(|window| window == mark) {
        let count = from.read(&mut chunk).expect("cannot read the pipe");
        assert!(count > 0, "the pipe ended before {}", String::from_utf8_lossy(mark));
        seen.extend_from_slice(&chunk[..count]);
    }
}

#[test]
fn a_closed_pipe_ends_the_recording_cleanly_also_a_compressed_one() {
    if !machine_allows(&["ip", "bash"]) {
        return;
    }
    let namespace = Namespace::new("closed");
    for compress in ["", "--compress zstd"] {
        let script = format!(
            "while sleep 0.05; do echo x > /dev/udp/127.0.0.1/9; done 2> /dev/null & \
             {{ {} record -i lo -w - {compress}; echo code $? >&2; }} | head -c 4 > /dev/null; kill $!",
            binary()
        );
        let output = must(namespace.command("bash").args(["-c", &script]));
        assert!(output.stderr.contains("stopped: nobody reads the output any more"), "{compress}\n{output}");
        assert!(output.stderr.ends_with("code 0\n"), "{compress}\n{output}");
    }
}

#[test]
fn tshark_reads_live_from_standard_output_and_from_a_fifo_and_the_recording_ends_with_it() {
    if !machine_allows(&[&TOOLS[..], &["bash"]].concat()) {
        return;
    }
    let script = |way: &str| match way {
        "standard output" => "$0 record -i eth1 -f tcp -w - | tshark -l -i - -c 5 -T fields -e tcp.seq_raw",
        _ => "$0 record -i eth1 -f tcp -w $1 & tshark -l -i $1 -c 5 -T fields -e tcp.seq_raw; wait",
    };
    for way in ["standard output", "FIFO"] {
        let (lab, line) = (lab(), Line::new());
        let path = fifo(&lab);
        let mut command = line.there.command("bash");
        let running = Running::start(command.args(["-c", script(way), &binary()]).arg(&path));
        running.wait_for_stderr(READY, |line| line.starts_with(READY));
        let mut traffic = line.trafgen(&lab, 100_000, 100);
        let traffic = Running::start(traffic.args(["--gap", "5ms"]));
        let output = running.finish();
        drop(traffic);
        assert_eq!(output.stdout.lines().collect::<Vec<_>>(), ["1", "2", "3", "4", "5"], "{way}\n{output}");
        assert!(output.stderr.contains("stopped: nobody reads the output any more"), "{way}\n{output}");
        assert!(fs::symlink_metadata(&path).expect("it is there").file_type().is_fifo(), "{way}");
    }
}
