//! Recording leaves nothing behind and disturbs nobody, however it ends. Needs root; says so and passes without.

#![expect(clippy::expect_used, reason = "helpers of tests are test code too")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use recorder_tests::lab::{Lab, machine_allows, say};
use recorder_tests::namespace::{Namespace, connect};
use recorder_tests::process::{Running, SIGINT, must};
use recorder_tests::recorder::{READY, record};
use recorder_tests::wait::wait_until;
use serde_json::Value;

const TOOLS: [&str; 4] = ["ip", "tc", "bpftool", "tshark"];
const SIGKILL: i32 = 9;

fn lab() -> Lab {
    Lab::new(env!("CARGO_BIN_EXE_traffic"))
}

// --- what a recorder could leave

/// Everything on this machine that a recorder could have put there, apart from its programs, as text: one line each.
fn traces(namespace: &Namespace) -> BTreeSet<String> {
    let mut lines: BTreeSet<String> = BTreeSet::new();
    // Other tests make and delete network namespaces meanwhile.
    let of_tests = |line: &str| line.contains("/run/netns/recorder-") || line.starts_with("recorder-");
    let mut add = |kind: &str, text: &str| {
        lines.extend(text.lines().filter(|line| !of_tests(line)).map(|line| format!("{kind}: {line}")));
    };
    for process in ["self", "1"] {
        let path = format!("/proc/{process}/mountinfo");
        add(&path, &fs::read_to_string(&path).expect("mountinfo can be read"));
    }
    add("qdisc", &must(namespace.command("tc").args(["qdisc", "show"])).stdout);
    add("link", &namespace.ip(&["-o", "link", "show"]));
    for folder in ["/sys/fs/bpf", "/run/netns"] {
        let names = fs::read_dir(folder).into_iter().flatten().flatten();
        names.for_each(|entry| add(folder, &entry.file_name().to_string_lossy()));
    }
    lines
}

/// Programs that were not there before and that no living process holds. Other recorders may run meanwhile.
fn orphaned_programs(before: &BTreeSet<u64>) -> Vec<String> {
    // The holders last: a program of another recorder that begins between the two looks has one.
    let programs = bpf_programs();
    let held = held_programs();
    let orphaned = programs.into_iter().filter(|(id, _)| !held.contains(id) && !before.contains(id));
    orphaned.map(|(id, name)| format!("{name} ({id})")).collect()
}

/// All programs of the kernel: id and name. The service manager has programs of its own.
fn bpf_programs() -> Vec<(u64, String)> {
    let text = must(Command::new("bpftool").args(["prog", "show", "-j"])).stdout;
    let value: Value = serde_json::from_str(&text).expect("bpftool writes JSON");
    let programs = value.as_array().cloned().unwrap_or_default();
    let id_and_name = |program: &Value| {
        Some((program["id"].as_u64()?, program["name"].as_str().unwrap_or_default().to_owned()))
    };
    programs.iter().filter_map(id_and_name).collect()
}

/// The programs that living processes hold, by a descriptor of the program or of its link (fdinfo, `prog_id:`).
fn held_programs() -> BTreeSet<u64> {
    let mut held = BTreeSet::new();
    for process in fs::read_dir("/proc").expect("/proc can be read").flatten() {
        // A process may end while it is looked at.
        for entry in fs::read_dir(process.path().join("fdinfo")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let ids = text.lines().filter_map(|line| line.strip_prefix("prog_id:"));
            held.extend(ids.filter_map(|id| id.trim().parse::<u64>().ok()));
        }
    }
    held
}

// --- killed

/// When the recorder is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// This long after it was started: somewhere between its first instruction and its first packet.
    After(Duration),
    /// When it has loaded this many programs.
    Loaded(usize),
    /// When it says that it records.
    Ready,
    /// When packets are in its file.
    Writing,
    /// When it was told to end.
    Ending,
}

impl Moment {
    fn all() -> Vec<Self> {
        let begins = (0..12).map(|step| Self::After(Duration::from_millis(step * 25)));
        let loads = [1, 5, 10].map(Self::Loaded);
        begins.chain(loads).chain([Self::Ready, Self::Writing, Self::Ending]).collect()
    }

    fn wait(self, recorder: &Running, before: &BTreeSet<u64>, file: &Path) {
        let ready = || recorder.wait_for_stderr("that it records", |line| line.starts_with(READY));
        match self {
            Self::After(time) => thread::sleep(time),
            Self::Loaded(count) => {
                let new = || bpf_programs().iter().filter(|(id, _)| !before.contains(id)).count();
                wait_until("programs are loaded", || format!("{} new ones", new()), || new() >= count);
            }
            Self::Ready => drop(ready()),
            Self::Writing => {
                ready();
                let size = || fs::metadata(file).map_or(0, |file| file.len());
                let empty = size();
                wait_until("packets are written", || format!("{} bytes", size()), || size() > empty + 1000);
            }
            Self::Ending => {
                ready();
                recorder.signal(SIGINT);
            }
        }
    }
}

#[test]
fn a_recorder_that_is_killed_at_any_moment_leaves_only_its_file() {
    if !machine_allows(&TOOLS) {
        return;
    }
    let (lab, namespace) = (lab(), Namespace::new("killed"));
    let server = lab.server(&namespace, "server", &["tcp-server"]);
    let client = ["tcp-client", "127.0.0.1", &server.port, "--until-eof", "--forever"];
    let _client = Running::start(&mut lab.command(&namespace, "client", &client));
    let before = traces(&namespace);
    for (number, moment) in Moment::all().into_iter().enumerate() {
        let name = format!("killed-{number}.pcapng");
        let file = lab.path(&name);
        let others: BTreeSet<u64> = bpf_programs().into_iter().map(|(id, _)| id).collect();
        let files_before = names_in(&lab);
        let recorder = Running::start(&mut record(&namespace, &["-i", "lo", "-w", &lab.text(&name)]));
        moment.wait(&recorder, &others, &file);
        recorder.signal(SIGKILL);
        drop(recorder);

        // The kernel frees programs some milliseconds after their last user.
        let orphaned = || orphaned_programs(&others);
        let left = || format!("{:?}", orphaned());
        wait_until(&format!("{moment:?}: no program is left"), left, || orphaned().is_empty());
        let left: Vec<String> = traces(&namespace).difference(&before).cloned().collect();
        assert!(left.is_empty(), "{moment:?}: something else is left: {left:#?}");
        let mut files_after = names_in(&lab);
        files_after.remove(&name);
        assert_eq!(files_after, files_before, "{moment:?}: files beside the recording are left");
        if matches!(moment, Moment::Writing) {
            assert_holds_packets(&file);
        }
    }
}

fn names_in(lab: &Lab) -> BTreeSet<String> {
    let entries = fs::read_dir(lab.path("")).expect("our folder can be read").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The file ends where the recorder was killed, perhaps within a block; what is before that is readable.
fn assert_holds_packets(file: &Path) {
    let path = file.to_str().expect("our paths are UTF-8");
    let output = Command::new("tshark").args(["-n", "-r", path]).output().expect("tshark can be started");
    let packets = String::from_utf8_lossy(&output.stdout).lines().count();
    assert!(packets > 0, "no packet can be read from the file of a killed recorder\n{output:?}");
}

// --- traffic is untouched

/// Counters of a namespace that only grow when something goes wrong: /proc/net/snmp and netstat, named in net/ipv4/proc.c.
/// Not `RetransSegs`: a loss probe counts there, and on a busy machine an answer that is merely late is probed for.
const TROUBLE: [&str; 17] = [
    "TcpExt.TCPFastRetrans",
    "TcpExt.TCPSlowStartRetrans",
    "Tcp.InErrs",
    "Tcp.OutRsts",
    "Tcp.EstabResets",
    "Tcp.AttemptFails",
    "Udp.InErrors",
    "Udp.NoPorts",
    "Udp.RcvbufErrors",
    "Udp.SndbufErrors",
    "Ip.InDiscards",
    "Ip.OutDiscards",
    "Ip.InHdrErrors",
    "Ip.OutNoRoutes",
    "TcpExt.TCPTimeouts",
    "TcpExt.ListenDrops",
    "TcpExt.TCPRcvQDrop",
];

/// The counters of trouble in a namespace, and what its device dropped.
fn trouble(namespace: &Namespace) -> Vec<(String, u64)> {
    let text = must(namespace.command("cat").args(["/proc/net/snmp", "/proc/net/netstat"])).stdout;
    let lines: Vec<&str> = text.lines().collect();
    let mut counters: Vec<(String, u64)> = Vec::new();
    for pair in lines.chunks_exact(2) {
        let names = pair[0].split_whitespace();
        for (name, value) in names.zip(pair[1].split_whitespace()).skip(1) {
            let group = pair[0].split(':').next().unwrap_or_default();
            let name = format!("{group}.{name}");
            if TROUBLE.contains(&name.as_str()) {
                counters.push((name, value.parse().unwrap_or(u64::MAX)));
            }
        }
    }
    let known: BTreeSet<&str> = counters.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(known.len(), TROUBLE.len(), "this kernel has other counters: {known:?}");
    counters.extend(device_trouble(namespace));
    counters
}

fn device_trouble(namespace: &Namespace) -> Vec<(String, u64)> {
    let json = namespace.ip(&["-j", "-s", "link", "show", "dev", "eth1"]);
    let links: Value = serde_json::from_str(&json).expect("ip -j writes JSON");
    let stats = &links[0]["stats64"];
    let one =
        |way: &str, what: &str| (format!("{way}.{what}"), stats[way][what].as_u64().unwrap_or(u64::MAX));
    ["rx", "tx"].into_iter().flat_map(|way| ["errors", "dropped"].map(|what| one(way, what))).collect()
}

/// A transfer that iperf3 makes until it is ended, told every tenth of a second.
struct Transfer {
    client: Running,
    server: Running,
}

impl Transfer {
    fn start(from: &Namespace, to: &Namespace, arguments: &[&str]) -> Self {
        let server = ["--server", "--one-off", "--forceflush", "--bind", "10.77.1.2"];
        let server = Running::start(to.command("iperf3").args(server));
        server.wait_for_stdout("that it listens", |line| line.contains("Server listening"));
        let client = ["--client", "10.77.1.2", "--forceflush", "--interval", "0.1", "--time", "0"];
        let client = Running::start(from.command("iperf3").args(client).args(arguments));
        Self { client, server }
    }

    /// Waits until this many more tenths of a second are told.
    fn go_on(&self, tenths: usize) {
        let wanted = self.client.stdout_lines() + tenths;
        self.client.wait_for_more_stdout(wanted - 1);
    }

    /// Ends it; gives what it told.
    fn end(self) -> String {
        let Self { client, server } = self;
        client.signal(SIGINT);
        let told = client.finish().stdout;
        drop(server);
        told
    }
}

#[test]
fn a_running_transfer_does_not_notice_that_a_recorder_starts_runs_and_is_killed() {
    if !machine_allows(&["ip", "iperf3"]) {
        return;
    }
    // At this rate a core is far from busy: what is lost or late is not for want of time. On a busy machine the receiver's turn may come
    // late: its buffer holds the datagrams of a third of a second.
    let tcp = ["--bitrate", "200M"];
    let udp = ["--udp", "--bitrate", "2M", "--length", "1000"];
    for arguments in [&tcp[..], &udp[..]] {
        let (lab, from, to) = (lab(), Namespace::new("from"), Namespace::new("to"));
        connect(&from, &to, 1);
        let transfer = Transfer::start(&from, &to, arguments);
        transfer.go_on(10);
        let before = (trouble(&from), trouble(&to));
        for ending in [SIGKILL, SIGINT] {
            let name = format!("transfer-{ending}.pcapng");
            let recorder = Running::start(&mut record(&from, &["-i", "eth1", "-w", &lab.text(&name)]));
            recorder.wait_for_stderr("that it records", |line| line.starts_with(READY));
            transfer.go_on(5);
            recorder.signal(ending);
            drop(recorder);
            transfer.go_on(5);
        }
        let after = (trouble(&from), trouble(&to));
        let told = transfer.end();
        assert_eq!(after, before, "the transfer had trouble while it was recorded\n{told}");
        say(&format!("iperf3 {}: {}", arguments.join(" "), throughput(&told)));
    }
}

/// The lowest and the middle of what iperf3 tells for each tenth of a second. Told, not asserted: a time is no test.
fn throughput(told: &str) -> String {
    // [  5]   0.10-0.20   sec  2.38 MBytes   200 Mbits/sec    0    230 KBytes
    let rate = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let unit = words.iter().position(|word| *word == "Mbits/sec")?;
        words.get(unit.checked_sub(1)?)?.parse::<f64>().ok()
    };
    let mut rates: Vec<f64> = told.lines().filter_map(rate).collect();
    rates.sort_by(f64::total_cmp);
    let middle = rates.get(rates.len() / 2);
    format!("{} tenths of a second, lowest {:?}, middle {middle:?} Mbit/s", rates.len(), rates.first())
}
