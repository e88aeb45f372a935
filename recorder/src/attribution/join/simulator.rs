//! A small world of processes and sockets that knows who really sent and received each packet, and a kernel side and a
//! pipeline that tell the join what the real ones would: late, out of order, and with losses. Some of the sockets are older
//! than the recording: a scan tells of them, while everything goes on.
//!
//! Deterministic: the seeds are fixed and the random numbers are its own. The table at the end is the record of what
//! loss and lateness cost; its column `wrong` is zero, whatever happens. The fuzz target `join` decides instead of the seeds
//! (`play`), and finds worlds that no seed makes.
//!
//! Here is what there is in the world, and the pipeline; what happens in it is in the files of the folder.

mod kernel;
mod scans;
mod tcp;
mod udp;
mod world;

use std::collections::BTreeMap;
#[cfg(test)]
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use super::super::event::{
    Cookie, Happening, Holder, NetNs, ProcessId, Reach, Scan, Sighting, SocketNews, User,
};
use super::*;
use crate::model::Endpoint;

/// Most of them made a wrong name once; hundreds of others were tried.
#[cfg(test)]
const SEEDS: [u64; 29] = [
    2, 11, 13, 14, 204, 338, 359, 387, 394, 401, 506, 737, 7_130, 7_559, 7_715, 7_832, 8_092, 8_378, 8_430,
    40_884, 41_904, 42_040, 100_112, 100_231, 1_373_300, 3_151_953, 3_602_038, 5_000_598, 6_357_872,
];
const ACTIONS: u32 = 1200;
/// What happened before the recording began.
#[cfg(test)]
const ACTIONS_BEFORE: u32 = 150;
const US: u64 = 1_000;
const MS: u64 = 1_000_000;
/// Events of two CPUs are in the wrong order by at most this much.
const DISORDER: u64 = 5 * US;

/// xorshift64*; or a script of two bytes for each decision, as long as there are some.
struct Random {
    state: u64,
    script: Option<std::vec::IntoIter<[u8; 2]>>,
}

impl Random {
    const fn new(seed: u64) -> Self {
        Self { state: seed, script: None }
    }

    #[cfg(fuzzing)]
    fn scripted(script: &[u8]) -> Self {
        Self { state: 1, script: Some(script.as_chunks().0.to_vec().into_iter()) }
    }

    const fn is_scripted(&self) -> bool {
        self.script.is_some()
    }

    /// Whether there was a script, and all of it was played.
    fn is_over(&self) -> bool {
        self.script.as_ref().is_some_and(|script| script.as_slice().is_empty())
    }

    fn next(&mut self) -> u64 {
        const SPREAD: u64 = 0x2545_F491_4F6C_DD1D;
        if let Some(decision) = self.script.as_mut().and_then(Iterator::next) {
            return u64::from(u16::from_le_bytes(decision)).wrapping_mul(SPREAD) >> 16;
        }
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(SPREAD) >> 16
    }

    /// From `low` up to but not including `high`.
    fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low)
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.next().is_multiple_of(many)
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> Option<T> {
        if choices.is_empty() { None } else { Some(choices[self.next() as usize % choices.len()]) }
    }
}

/// A socket: what is true of it, and what the kernel side keeps of it (`recorder_shared::Socket`).
struct Socket {
    cookie: u64,
    netns: u32,
    /// Remote port 0: unconnected.
    flow: Flow,
    listens: bool,
    holders: Vec<u64>,
    is_open: bool,
    /// TCP: a reset has ended it; UDP: never.
    is_dead: bool,
    /// Of an accepted connection.
    remote_isn: u32,
    /// A listener: the connections that wait to be accepted, first come, first served.
    queue: VecDeque<usize>,
    /// The last one that used it.
    user: Option<u64>,
    /// Of a socket from before the recording that was not used since: all that have had it open since.
    heirs: Vec<u64>,
    /// Whether the kernel side keeps anything of it, if it is not of TCP.
    is_kept: bool,
    kept: Kept,
}

/// All zero: nothing is kept.
#[derive(Clone, Copy, Default)]
struct Kept {
    process: u64,
    since: u64,
    existed: u64,
    suspect: u64,
    suspect_at: u64,
    flow: Option<Flow>,
    flow_epoch: u32,
    use_epoch: u32,
}

impl Kept {
    fn change_user(&mut self, process: u64, at: u64) {
        if self.process == 0 {
            self.since = at;
        } else if self.process != process {
            // A suspicion counts once; socket.rs has to forget it as well, or a later change of user is dated back to it.
            self.since = if self.suspect == process { self.suspect_at } else { at };
            self.suspect = 0;
        }
        self.process = process;
    }
}

/// A TCP connection between two sockets of this world.
struct Connection {
    client: usize,
    /// Once it is accepted.
    server: Option<usize>,
    server_cookie: u64,
    /// The client's initial sequence number.
    isn: u32,
    listener: usize,
    /// Seen from the client.
    flow: Flow,
    is_over: bool,
    /// The ends whose owner is the one that accepts: packet and end.
    waiting: Vec<(usize, usize)>,
}

struct Packet {
    at: u64,
    netns: u32,
    flow: Flow,
    opens: bool,
    knows_netns: bool,
    /// The names that are right for the sender and for the receiver; an empty list: nobody; none: not asked for.
    right: [Option<Vec<u64>>; 2],
    /// All that have a socket open that this end can be.
    held: [Vec<u64>; 2],
}

impl Packet {
    /// Who was the end that sent it, or the one that received it, in whatever namespace.
    fn question(&self, sent: bool, waited: Duration) -> Question {
        Question {
            flow: if sent { self.flow } else { self.flow.reversed() },
            at: MonoTime::from_ns(self.at),
            sent,
            opens: self.opens,
            by_call: true,
            only_netns: None,
            home: None,
            waited,
        }
    }
}

struct Drain {
    at: u64,
    has_lost: bool,
}

/// One scan, in the making: what it sees and when.
struct Scanning {
    /// After how many actions it begins.
    begins_after: u32,
    began: u64,
    /// The sockets that were listed.
    listed: Vec<usize>,
    /// The connections that waited to be accepted at them.
    waiting: Vec<Sighting>,
    done: Option<Scan>,
}

enum Later {
    Accept(usize),
    Receive(usize),
    Close(usize),
}

struct World {
    random: Random,
    now: u64,
    epoch: u32,
    loss_per_mille: u64,
    has_lost: bool,
    raise_at: Option<u64>,
    next_drain: u64,
    ids: u64,
    processes: Vec<u64>,
    sockets: Vec<Socket>,
    connections: Vec<Connection>,
    later: BTreeMap<(u64, u64), Later>,
    events: Vec<SocketNews>,
    packets: Vec<Packet>,
    drains: Vec<Drain>,
    scanning: Scanning,
    /// What one would see who looks again and again.
    looks: Vec<Scan>,
}

fn end(host: u8, port: u16) -> Endpoint {
    Endpoint::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)), port)
}

#[derive(Clone, Copy, Debug, Default)]
struct Score {
    asked: u32,
    right: u32,
    wrong: u32,
    /// Nobody was there, and nobody was named.
    nobody: u32,
    no_socket: u32,
    ambiguous: u32,
    lost: u32,
    late: u32,
}

impl Score {
    fn count(&mut self, right: &[u64], answer: Answer) {
        self.asked += 1;
        let counter = match answer {
            Answer::Owner(ProcessId(process), ..) if right.contains(&process) => &mut self.right,
            Answer::Owner(..) => &mut self.wrong,
            Answer::None(_) if right.is_empty() => &mut self.nobody,
            Answer::None(Reason::Ambiguous) => &mut self.ambiguous,
            Answer::None(Reason::EventsLost) => &mut self.lost,
            Answer::None(Reason::TooLate) => &mut self.late,
            Answer::None(_) => &mut self.no_socket,
        };
        *counter += 1;
    }
}

/// As long as an answer is said to stand, it is the answer.
fn check_that_it_stands(join: &Join, question: &Question, answer: Answer, random: &mut Random) {
    let until = join.stands_until(&question.flow, question.at);
    let last = until.minus(Duration::from_nanos(1));
    let length = last.since(question.at).as_nanos() as u64;
    let within = question.at.plus(Duration::from_nanos(random.within(0, length.min(2_000 * MS) + 1)));
    for at in [within, last] {
        let later = Question { at, ..*question };
        assert_eq!(join.ask(&later), answer, "{question:?} stands until {until:?}, but not at {at:?}");
    }
}

/// The pipeline: each drain takes the events that have come and asks for the packets that have waited long enough.
/// What it says of the waiting is true: an event that has not come yet is not known.
fn replay(world: &World, seed: u64, lateness: u64, hold_back: u64, score: &mut Score) {
    let mut random = Random::new(seed + 77);
    let mut arriving: Vec<(u64, &SocketNews)> =
        world.events.iter().map(|news| (news.at.as_ns() + random.within(0, DISORDER), news)).collect();
    arriving.sort_by_key(|(reserved, _)| *reserved);
    // One ring: what is late holds up what comes behind it.
    let mut last = 0;
    for (arrival, _) in &mut arriving {
        last = last.max(*arrival + random.within(0, lateness + 1));
        *arrival = last;
    }
    let mut arriving = arriving.into_iter().peekable();
    let mut packets = world.packets.iter().peekable();
    let mut join = Join::default();
    join.expect_snapshot();
    let mut before = MonoTime::from_ns(0);
    let mut scan = world.scanning.done.as_ref();
    for drain in &world.drains {
        let at = MonoTime::from_ns(drain.at);
        // That something was lost is known before what was not.
        if drain.has_lost {
            join.lost_between(before, at);
        }
        while let Some((_, news)) = arriving.next_if(|(arrival, _)| *arrival <= drain.at) {
            join.event(news);
        }
        let watermark = MonoTime::from_ns(drain.at - lateness - DISORDER);
        if let Some(scan) = scan.take_if(|scan| scan.ended <= watermark) {
            join.scanned(scan);
        }
        while let Some(packet) = packets.next_if(|packet| packet.at + hold_back <= drain.at) {
            let at = MonoTime::from_ns(packet.at);
            if packet.opens {
                join.note_opening(packet.flow, at);
            }
            for sent in [true, false] {
                let question = Question {
                    only_netns: packet.knows_netns.then_some(NetNs(packet.netns)),
                    // All addresses here are those of the first network namespace.
                    home: (packet.knows_netns || packet.netns == 1).then_some(NetNs(packet.netns)),
                    ..packet.question(sent, watermark.since(at))
                };
                let answer = join.ask(&question);
                check_that_it_stands(&join, &question, answer, &mut random);
                let end = usize::from(!sent);
                let Some(right) = &packet.right[end] else { continue };
                // A scan sees who has it open; that somebody else had used it before may have been lost.
                let held = if matches!(answer, Answer::Owner(.., Found::Snapshot)) {
                    &packet.held[end]
                } else {
                    right
                };
                let right = [&right[..], held].concat();
                if let Answer::Owner(process, ..) = answer
                    && !right.contains(&process.0)
                {
                    println!(
                        "seed {seed} lateness {lateness} hold-back {hold_back}: {answer:?}, not {right:?}"
                    );
                    println!("  netns {} {question:?}\n  {}", packet.netns, question.flow);
                    for hold in join.flows.get(&question.flow).into_iter().flatten() {
                        println!("  {hold:?}");
                        println!("    {:?}", hold.socket.and_then(|cookie| join.sockets.get(&cookie)));
                    }
                }
                score.count(&right, answer);
            }
        }
        join.forget(watermark);
        before = at;
    }
}

/// Another pipeline: nobody tells anything; it looks now and then, and asks for the packets from before each look.
fn replay_looks(world: &World, every: usize, seed: u64, score: &mut Score) {
    let mut random = Random::new(seed + 78);
    let mut packets = world.packets.iter().peekable();
    let mut join = Join::default();
    for look in world.looks.iter().step_by(every) {
        join.scanned(look);
        let is_before = |packet: &&Packet| MonoTime::from_ns(packet.at).plus(HOOK_SLACK) <= look.began;
        while let Some(packet) = packets.next_if(is_before) {
            let at = MonoTime::from_ns(packet.at);
            if packet.opens {
                join.note_opening(packet.flow, at);
            }
            for sent in [true, false] {
                let question = Question {
                    // A short-lived flow in one namespace hides behind the same one in another: see LIMITS.md.
                    only_netns: Some(NetNs(packet.netns)),
                    home: Some(NetNs(packet.netns)),
                    ..packet.question(sent, look.began.since(at))
                };
                let answer = join.ask(&question);
                check_that_it_stands(&join, &question, answer, &mut random);
                let end = usize::from(!sent);
                let Some(right) = &packet.right[end] else { continue };
                // Who has it open is named, used or not.
                let right = [&right[..], &packet.held[end]].concat();
                if let Answer::Owner(process, ..) = answer
                    && !right.contains(&process.0)
                {
                    println!("seed {seed}: {answer:?}, not {right:?}\n  netns {} {question:?}", packet.netns);
                }
                score.count(&right, answer);
            }
        }
        join.forget(look.began);
    }
}

/// A world in which these bytes decide what happens, what is lost of the news, and how late they are; for the fuzz target `join`.
///
/// # Panics
/// If the join names a wrong process in it, or does not stand by an answer.
#[cfg(fuzzing)]
pub fn play(bytes: &[u8]) {
    let Some((&[loss, lateness, hold_back, every, before, seed], script)) = bytes.split_first_chunk() else {
        return;
    };
    let of = |choices: [u64; 4], byte: u8| choices[usize::from(byte % 4)];
    let random = Random::scripted(script);
    let world = World::of(random, of([0, 10, 100, 500], loss), [u32::from(before), ACTIONS]);
    let (lateness, hold_back) = (of([0, 1, 20, 100], lateness), of([50, 5, 0, 20], hold_back));
    let mut score = Score::default();
    replay(&world, seed.into(), lateness * MS, hold_back * MS, &mut score);
    replay_looks(&world, of([1, 2, 8, 3], every) as usize, seed.into(), &mut score);
    assert_eq!(score.wrong, 0, "wrong names: {score:?}");
}

#[test]
fn who_only_looks_now_and_then_gives_no_wrong_name() {
    let mut table =
        String::from("looks |   asked   right  wrong  nobody | no socket  ambiguous  not seen  too late\n");
    let mut wrong = 0;
    for every in [1, 2, 8] {
        let mut score = Score::default();
        for seed in SEEDS {
            replay_looks(&World::new(seed, 0), every, seed, &mut score);
        }
        let Score { asked, right, wrong: mistaken, nobody, no_socket, ambiguous, lost, late } = score;
        wrong += mistaken;
        writeln!(
            table,
            "1 in {every} | {asked:6} {right:7} {mistaken:6} {nobody:7} | {no_socket:9} {ambiguous:10} {lost:9} {late:9}"
        )
        .unwrap();
    }
    println!("{table}");
    assert_eq!(wrong, 0, "wrong names");
    insta::assert_snapshot!("what_looking_now_and_then_costs", table);
}

#[test]
fn no_loss_and_no_lateness_makes_a_wrong_name() {
    let mut table = String::from(
        "loss %  late ms  hold ms |   asked   right  wrong  nobody | no socket  ambiguous  events lost  too late\n",
    );
    let mut wrong = 0;
    for loss_per_mille in [0, 10, 100, 500] {
        let worlds = SEEDS.map(|seed| World::new(seed, loss_per_mille));
        for (lateness, hold_back) in
            [0, 1, 20, 100].into_iter().flat_map(|late| [50, 5, 0].map(|hold| (late, hold)))
        {
            let mut score = Score::default();
            for (world, seed) in worlds.iter().zip(SEEDS) {
                replay(world, seed, lateness * MS, hold_back * MS, &mut score);
            }
            let Score { asked, right, wrong: mistaken, nobody, no_socket, ambiguous, lost, late } = score;
            wrong += mistaken;
            writeln!(
                table,
                "{:6}  {lateness:7}  {hold_back:7} | {asked:7} {right:7} {mistaken:6} {nobody:7} | {no_socket:9} \
                 {ambiguous:10} {lost:12} {late:9}",
                loss_per_mille / 10,
            )
            .unwrap();
        }
    }
    println!("{table}");
    assert_eq!(wrong, 0, "wrong names");
    insta::assert_snapshot!("what_loss_and_lateness_cost", table);
}
