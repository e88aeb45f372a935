//! The clock is set while packets are recorded, back and forth, and the machine sleeps: in an emulated machine, for no other's
//! clock is ours to set.
//!
//! The programs tell times since the start of the machine here, a clock that nobody sets. After each step the guest notes how far the time
//! of day is from it. So the packets, whose times follow the steps, can be brought onto the clock of the programs, and judged.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use recorder_tests::clock;
use recorder_tests::judge::{Packet, judge_these, packets};
use recorder_tests::lab::Server;
use recorder_tests::process::Running;
use recorder_tests::recorder::Recording;
use recorder_tests::truth;
use recorder_tests::tshark::assert_others_read;

use crate::guest::{FAILURE, RECORDING, SETS_CLOCK, TRUTH};
use crate::samples::wait_for_packets;
use crate::stories::{Stage, TCP_PACKETS, WAYS, Way};

/// The name of this in the names of files.
const CLOCKS: &str = "clocks";
/// The ending of the file with the offsets.
const OFFSETS: &str = "offsets";

/// Recordings of the same packets: from one ring, and from two whose packets are merged.
const CAPTURES: [(&str, &[&str]); 2] = [("any", &["-i", "any"]), ("named", &["-i", "lo", "-i", "eth1"])];

/// What happens while clients come and go, one after the other. Right after the last one the recording ends.
const FAULTS: [fn(); 5] = [
    the_clock_is_set_back_by_seconds,
    the_clock_is_set_back_by_an_hour,
    the_clock_is_set_forward_by_an_hour,
    the_machine_sleeps,
    the_clock_is_set_back_by_seconds,
];

/// A step of less than ten seconds.
const SECONDS: i64 = 5;
const HOUR: i64 = 60 * 60;
/// For how long the machine sleeps, at least, and how often it may be woken before.
const SLEEP: Duration = Duration::from_secs(2);
const SLEEPS: usize = 10;
/// How long it is awake between two sleeps: packets from before the first have been written then. That two steps follow each other
/// sooner is a limit (docs/LIMITS.md).
const AWAKE: Duration = Duration::from_millis(200);
/// How soon all packets are in the file, or the recording has ended, whatever was done to the clock: less than any step.
const SOON: Duration = Duration::from_secs(3);

/// Clients of each protocol on each way, at each fault.
const LIVES: usize = 6;
/// What they send and receive.
const PACKETS: usize = WAYS * LIVES * (TCP_PACKETS + 2);

fn the_clock_is_set_back_by_seconds() {
    clock::step(-SECONDS);
}

fn the_clock_is_set_back_by_an_hour() {
    clock::step(-HOUR);
}

fn the_clock_is_set_forward_by_an_hour() {
    clock::step(HOUR);
}

/// Suspended to memory, until it is woken from out here ([`crate::machine`]).
fn the_machine_sleeps() {
    let slept = || {
        let awake = clock::awake();
        clock::boot() - awake
    };
    let before = slept();
    for _ in 0..SLEEPS {
        fs::write("/sys/power/state", "mem").expect("the machine does not sleep");
        if slept() - before >= SLEEP {
            return;
        }
        thread::sleep(AWAKE);
    }
    panic!("it slept for {:?}", slept() - before);
}

/// In the guest: records while all of that happens.
pub(crate) fn play(out: &Path) {
    assert!(std::env::var_os(SETS_CLOCK).is_some(), "this sets the clock of the machine that it runs on");
    let stage = Stage::by_boot_time();
    let servers = stage.ways().map(|way| serve(&way));
    let files = CAPTURES.map(|(name, _)| stage.lab.path(name));
    let captures = CAPTURES.iter().zip(&files);
    let recordings: Vec<Recording> =
        captures.map(|((_, arguments), file)| stage.start(file, arguments)).collect();
    let mut offsets = vec![clock::offset_ns()];
    for (number, fault) in (1..).zip(FAULTS) {
        let clients = start_clients(&stage, &servers);
        fault();
        offsets.push(clock::offset_ns());
        clients.into_iter().for_each(|clients| _ = clients.finish().assert_code(0));
        if number < FAULTS.len() {
            files.iter().for_each(|file| wait_for_packets(file, number * PACKETS, SOON));
        }
    }
    let begin = Instant::now();
    recordings.into_iter().for_each(|recording| _ = recording.stop().assert_code(0));
    let took = begin.elapsed();
    assert!(took < SOON, "the recordings ended after {took:?}");
    drop(servers);
    let offsets: String = offsets.iter().map(|offset| format!("{offset}\n")).collect();
    fs::write(out.join(file(OFFSETS)), offsets).expect("cannot write the offsets");
    fs::copy(stage.lab.log(), out.join(file(TRUTH))).expect("cannot copy the truth");
    for ((name, _), recording) in CAPTURES.iter().zip(&files) {
        fs::copy(recording, out.join(recording_of(name))).expect("cannot copy a recording");
    }
}

/// A server for each protocol. It waits for one client more than come: the last reply of a server that has ended may pass the tap after that.
fn serve(way: &Way<'_>) -> [(&'static str, Server); 2] {
    let all = (LIVES * FAULTS.len() + 1).to_string();
    let tcp = way.serve("server-tcp", None, "0", &["tcp-server", "--connections", &all]);
    [("tcp", tcp), ("udp", way.serve("server-udp", None, "0", &["udp-server", "--datagrams", &all]))]
}

/// Starts clients of all servers, and waits until half of them have ended.
fn start_clients(stage: &Stage, servers: &[[(&str, Server); 2]]) -> Vec<Running> {
    let ended = || fs::read_to_string(stage.lab.log()).map_or(0, |log| log.matches("\"client\"").count());
    let before = ended();
    let ways = stage.ways();
    let servers =
        ways.iter().zip(servers).flat_map(|(way, servers)| servers.iter().map(move |server| (way, server)));
    let running: Vec<Running> =
        servers.map(|(way, (protocol, server))| way.start_clients(LIVES, protocol, &server.port)).collect();
    let end = Instant::now() + Duration::from_secs(60);
    while ended() - before < WAYS * LIVES {
        assert!(Instant::now() < end, "{} of {} clients have ended", ended() - before, 2 * WAYS * LIVES);
        thread::sleep(Duration::from_millis(1));
    }
    assert!(running.iter().any(|clients| !clients.has_ended()), "some are still to come");
    running
}

/// Out here: each packet is there, and named as the programs say; its time is what the clock showed.
pub(crate) fn judge(name: &str, results: &Path) {
    let context = format!("{name}: the clock is set, the machine sleeps");
    if let Ok(failure) = fs::read_to_string(results.join(file(FAILURE))) {
        panic!("{context}: could not be played: {failure}");
    }
    let truths = truth::read(results.join(file(TRUTH)));
    let offsets = fs::read_to_string(results.join(file(OFFSETS))).expect("the guest tells the offsets");
    let offsets: Vec<i64> = offsets.lines().filter_map(|line| line.parse().ok()).collect();
    for (capture, _) in CAPTURES {
        let (context, recording) = (format!("{context}: {capture}"), results.join(recording_of(capture)));
        assert_others_read(&recording);
        let packets = by_boot_time(packets(&recording, "frame"), &offsets, &context);
        judge_these(packets, &recording, &truths).assert_all_right(FAULTS.len() * PACKETS, &context);
    }
}

/// Moves the times of packets, which are in the order in which they were captured, to the clock that nobody sets. Between two of them there
/// is less than half an hour, however long the machine sleeps, and less than a step back where the clock is set back.
fn by_boot_time(mut packets: Vec<Packet>, offsets: &[i64], context: &str) -> Vec<Packet> {
    const SECOND_NS: i64 = 1_000_000_000;
    let (mut step, mut last_ns) = (0, None);
    for packet in &mut packets {
        let boot_ns = |step: usize| packet.time_ns as i64 - offsets[step];
        let is_next = |time_ns| {
            last_ns.is_none_or(|last_ns| (-SECOND_NS..HOUR * SECOND_NS / 2).contains(&(time_ns - last_ns)))
        };
        let found = (step..offsets.len()).find(|step| is_next(boot_ns(*step)));
        step = found.unwrap_or_else(|| {
            panic!("{context}: after step {step} ({offsets:?}) nobody's clock shows this: {packet:?}")
        });
        let time_ns = boot_ns(step);
        last_ns = Some(time_ns);
        packet.time_ns = time_ns as u64;
    }
    assert_eq!(step + 1, offsets.len(), "{context}: there are packets from after each step: {offsets:?}");
    packets
}

/// The name of a file of this.
pub(crate) fn file(ending: &str) -> String {
    format!("{CLOCKS}.{ending}")
}

fn recording_of(capture: &str) -> String {
    file(&format!("{capture}.{RECORDING}"))
}
