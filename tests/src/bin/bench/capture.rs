//! Packets dropped, and CPU per packet: one namespace sends to another, and the recorders take turns listening there.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use recorder_tests::lab::say;
use recorder_tests::namespace::{Namespace, connect};
use recorder_tests::process::{Output, Running, must};
use tempfile::TempDir;

use crate::Plan;
use crate::count::count;
use crate::tool::{SENDERS_CORE, Tool, pinned};

/// A recorder has caught up when its file has not grown for this long: tcpdump looks at a block that is not full after
/// one second.
const SETTLED: Duration = Duration::from_millis(1500);

/// What is sent.
pub(crate) struct Load {
    pub(crate) name: String,
    kind: Kind,
}

enum Kind {
    /// Frames of this many bytes, as fast as trafgen can, from no socket.
    Trafgen { frame_bytes: u32, packets: u64 },
    /// Real flows, whose packets have owners at both ends.
    Iperf { arguments: Vec<String> },
}

/// One turn of one tool.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(crate) tool: Tool,
    /// Packets that the interfaces of both sides say they sent.
    pub(crate) sent: u64,
    /// Packets in the file.
    pub(crate) written: u64,
    /// Packets that the tool says were dropped.
    pub(crate) told_dropped: u64,
    /// User and system time of the tool.
    pub(crate) cpu: Duration,
}

impl Turn {
    pub(crate) fn ns_per_packet(&self) -> f64 {
        self.cpu.as_nanos() as f64 / self.written.max(1) as f64
    }
}

/// All turns of one load.
pub(crate) struct Measured {
    pub(crate) load: String,
    pub(crate) rounds: Vec<Vec<Turn>>,
}

/// Measures all loads.
pub(crate) fn measure(plan: &Plan) -> Vec<Measured> {
    loads(plan.quick).iter().map(|load| measure_load(plan, load)).collect()
}

/// The sizes keep a file below 2 GB, and with it the memory that a file in /dev/shm is.
fn loads(quick: bool) -> Vec<Load> {
    let small = if quick { 10 } else { 1 };
    let trafgen = |frame_bytes: u32, packets: u64| {
        let name = format!("trafgen, {frame_bytes}-byte frames");
        Load { name, kind: Kind::Trafgen { frame_bytes, packets: packets / small } }
    };
    let iperf = |name: &str, arguments: &str| {
        let arguments = arguments.split(' ').map(str::to_string).collect();
        Load { name: name.into(), kind: Kind::Iperf { arguments } }
    };
    let tcp = format!("-n {}M", 1000 / small);
    let udp = format!("-u -b 0 -l 1400 -n {}M", 1000 / small);
    vec![
        // 64 bytes on the wire are 60 and the frame check sequence, which no recorder sees.
        trafgen(60, 3_000_000),
        trafgen(1400, 1_000_000),
        iperf("iperf3 TCP, 1500-byte segments", &tcp),
        iperf("iperf3 UDP, 1400-byte datagrams", &udp),
    ]
}

fn measure_load(plan: &Plan, load: &Load) -> Measured {
    let (here, there) = (Namespace::new("sender"), Namespace::new("receiver"));
    connect(&here, &there, 1);
    for namespace in [&here, &there] {
        // Otherwise TCP crosses a veth pair in pieces of 64 KB, and there is hardly a packet to measure.
        namespace.ip(&["link", "set", "dev", "eth1", "gso_max_segs", "1"]);
    }
    let folder = folder();
    let rounds =
        (0..plan.rounds).map(|round| one_round(plan, load, round, [&here, &there], &folder)).collect();
    Measured { load: load.name.clone(), rounds }
}

/// Memory, where there is some, so that no disk takes part.
pub(crate) fn folder() -> TempDir {
    let shared_memory = Path::new("/dev/shm");
    match shared_memory.is_dir() {
        true => TempDir::with_prefix_in("recorder-bench-", shared_memory),
        false => TempDir::with_prefix("recorder-bench-"),
    }
    .expect("cannot make a temporary folder")
}

/// Every tool once; each round another one begins.
fn one_round(plan: &Plan, load: &Load, round: usize, ends: [&Namespace; 2], folder: &TempDir) -> Vec<Turn> {
    let count = plan.tools.len();
    let tools = (0..count).map(|position| plan.tools[(position + round) % count]);
    tools.map(|tool| one_turn(tool, load, ends, folder)).collect()
}

fn one_turn(tool: Tool, load: &Load, [here, there]: [&Namespace; 2], folder: &TempDir) -> Turn {
    let path = folder.path().join("capture");
    let file = path.to_str().expect("our paths are UTF-8");
    let packets = || here.sent("eth1").0 + there.sent("eth1").0;
    let recorder = tool.start(there, "eth1", file);
    let before = packets();
    send(load, here, there, folder);
    let sent = packets() - before;
    wait_until_settled(&path);
    let output = tool.stop(recorder);
    let counted = count(file);
    fs::remove_file(&path).expect("cannot remove the capture file");

    let told_dropped = told_by_tcpdump(tool, &output).unwrap_or(counted.dropped);
    let turn = Turn { tool, sent, written: counted.packets, told_dropped, cpu: output.cpu };
    let ns = turn.ns_per_packet();
    say(&format!(
        "{}: {}: sent {sent}, written {}, {ns:.0} ns per packet",
        load.name,
        tool.name(),
        turn.written
    ));
    turn
}

/// A signal makes tcpdump leave what is still in the ring; so all wait until they have caught up.
fn wait_until_settled(path: &Path) {
    let size = || fs::metadata(path).map(|data| data.len()).unwrap_or(0);
    let mut last = size();
    loop {
        thread::sleep(SETTLED);
        let now = size();
        if now == last {
            return;
        }
        last = now;
    }
}

/// `N packets dropped by kernel`; the others write it into the file.
fn told_by_tcpdump(tool: Tool, output: &Output) -> Option<u64> {
    if tool != Tool::Tcpdump {
        return None;
    }
    let line = output.stderr.lines().find(|line| line.ends_with("dropped by kernel"))?;
    line.split(' ').next()?.parse().ok()
}

fn send(load: &Load, here: &Namespace, there: &Namespace, folder: &TempDir) {
    match &load.kind {
        Kind::Trafgen { frame_bytes, packets } => trafgen(here, there, *frame_bytes, *packets, folder),
        Kind::Iperf { arguments } => iperf(here, there, arguments),
    }
}

fn trafgen(here: &Namespace, there: &Namespace, frame_bytes: u32, packets: u64, folder: &TempDir) {
    let config = folder.path().join("trafgen.cfg");
    fs::write(&config, trafgen_config(&there.mac("eth1"), frame_bytes))
        .expect("cannot write trafgen's configuration");
    let mut command = pinned(here, SENDERS_CORE, "trafgen");
    command.args(["--dev", "eth1", "--cpus", "1", "--no-cpu-stats", "--num", &packets.to_string(), "--conf"]);
    must(command.arg(config));
}

/// 32 flows to an address on the link that nobody has: the receiver drops them without a word.
fn trafgen_config(mac: &str, frame_bytes: u32) -> String {
    let headers = 14 + 20 + 8;
    let payload = frame_bytes - headers;
    let packet = |port: u32| {
        format!(
            "{{ eth(da={mac}, sa=02:00:00:00:00:01), ipv4(sa=10.77.1.1, da=10.77.1.200, ttl=64), \
             udp(sp={port}, dp=9), fill(0x5a, {payload}) }}\n"
        )
    };
    (10_000..10_032).map(packet).collect()
}

fn iperf(here: &Namespace, there: &Namespace, arguments: &[String]) {
    let mut command = pinned(there, SENDERS_CORE, "iperf3");
    let server = Running::start(command.args(["-s", "-1", "--forceflush", "-B", "10.77.1.2"]));
    server.wait_for_stdout("listening", |line| line.contains("listening"));
    let mut client: Command = pinned(here, SENDERS_CORE, "iperf3");
    must(client.args(["-c", "10.77.1.2"]).args(arguments));
    server.finish().assert_code(0);
}
