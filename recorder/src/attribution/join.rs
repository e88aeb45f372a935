//! Who held this flow at that time: socket events on one side, packets on the other.
//!
//! A pure state machine: no clock, no I/O. Time comes in with events and questions. What it knows has two layers,
//! because the kernel tells them apart: which socket had a flow when (`flows`), and which process used a socket when
//! (`sockets`). Both are intervals, so that a late question gets the answer for its own time. A third one (`bound`) stands
//! in for `flows` where sockets were seen in the kernel's tables, and have not shown by packets what flows they have.
//!
//! The rule above all: a wrong name is worse than none. Two candidates that differ give none; and after events were lost
//! nothing is believed that was not confirmed since.

use std::collections::VecDeque;
use std::time::Duration;

use foldhash::HashMap;

use self::bound::BoundSockets;
use self::holds::{Hold, confirm_hold, insert_hold};
use self::losses::Losses;
use self::sockets::{ONE_OF_SEVERAL, SocketState, Use};
use super::event::{Cookie, Happening, NetNs, ProcessId, Scan, Sighting, SocketNews};
use crate::model::{Flow, Found, MonoTime, Protocol, Reason};

/// How long a packet may precede the event that explains it: the tap runs microseconds before the hook behind it, and
/// an accept some milliseconds after the SYN. A question that waited this long gets its final answer.
pub const SLACK: Duration = Duration::from_millis(50);
/// How long after its packet a hook may run: the ingress hook runs behind the tap, and a send call returns when its
/// packet has left. No name is given before.
pub(super) const HOOK_SLACK: Duration = Duration::from_millis(1);
/// How long a closed TCP connection is remembered: the kernel still answers for it (TIME_WAIT, 60 s, and the last
/// retransmissions before it).
const TCP_LINGER: Duration = Duration::from_secs(120);
/// How far packet times and event times may be apart, being read from two clocks.
const CLOCK_ERROR: Duration = Duration::from_micros(200);
/// The same where an event and a packet follow each other within microseconds, and which came first decides whose it is.
const FINE_CLOCK_ERROR: Duration = Duration::from_micros(20);
/// How long another closed flow is remembered: its last packets may stand in a queue of the network layer. Also one that
/// its socket has left for another, because the kernel side tells it again when it comes back.
const LINGER: Duration = Duration::from_secs(2);
/// How long a connection that nobody accepts, or that nobody uses, is remembered.
const UNACCEPTED_LINGER: Duration = Duration::from_secs(10);
/// The most flows remembered; beyond, those that are over are forgotten early.
const MOST_FLOWS: usize = 400_000;

/// A question: who was this end of the flow?
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// The flow, seen from the end that is asked for.
    pub flow: Flow,
    /// When the packet was captured.
    pub at: MonoTime,
    /// Whether that end sent the packet.
    pub sent: bool,
    /// Whether the packet opens a connection (TCP SYN without ACK).
    pub opens: bool,
    /// Whether a packet like this is made by a send call: so whoever sent it was the socket's user by then.
    pub by_call: bool,
    /// Only sockets of this network namespace count (loopback); none if any may.
    pub only_netns: Option<NetNs>,
    /// The network namespace of which the address of the asked end is one: there a socket without an address takes it.
    pub home: Option<NetNs>,
    /// How long the packet waited for events: the time since `at` for which all events are known.
    pub waited: Duration,
}

/// The answer to a [`Question`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This process, this thread (0: unknown).
    Owner(ProcessId, u32, Found),
    /// None, and why: `NoSocket`, `Ambiguous`, `EventsLost` or `TooLate`.
    None(Reason),
}

/// The join.
#[derive(Debug, Default)]
pub struct Join {
    flows: HashMap<Flow, Vec<Hold>>,
    sockets: HashMap<Cookie, SocketState>,
    /// Sockets that take what comes to their port, as far as their packets do not tell them by flow.
    bound: BoundSockets,
    /// What to forget, and when; one queue for each time of grace, so that each is in order.
    fading: [VecDeque<(MonoTime, Fading)>; GRACES.len()],
    losses: Losses,
    /// The end of a loss whose leavings are still remembered.
    unswept: Option<MonoTime>,
    /// When the last scan that stands for itself began.
    scanned: MonoTime,
    /// Before this an older socket may have had any flow.
    known_since: MonoTime,
}

/// The times of grace before something is forgotten.
const GRACES: [Duration; 3] = [LINGER, UNACCEPTED_LINGER, TCP_LINGER];

impl Join {
    /// Takes one event.
    pub fn event(&mut self, news: &SocketNews) {
        let socket = self.sockets.entry(news.cookie).or_default();
        socket.heard = socket.heard.max(news.at);
        if let Some(key) = socket.bound.filter(|_| is_whole(news.flow) && news.happening == Happening::IsUsed)
        {
            // It has a remote end now, and takes nothing from others.
            self.bound.leave(key, news.cookie, news.at);
        }
        if let Some(user) = news.user {
            socket.learn_use(news, user);
        }
        match news.happening {
            Happening::HasFlow => self.learn_flow(news),
            Happening::IsUsed if is_whole(news.flow) => self.learn_flow(news),
            Happening::IsUsed => {}
            Happening::IsOpened => self.learn_opening(news),
            Happening::IsClosed => self.learn_close(news),
        }
    }

    /// A scan for older sockets is under way: until it is there, any flow may be theirs.
    pub const fn expect_snapshot(&mut self) {
        self.known_since = MonoTime::from_ns(u64::MAX);
    }

    /// Takes what was seen in the kernel's tables. All events from before its end must be known by now; a scan that stands
    /// for itself ([`Found::Procfs`]) knows of none.
    pub fn scanned(&mut self, scan: &Scan) {
        if scan.found == Found::Procfs {
            // As good as lost: what happened since the last scan, unless what is seen now says that nothing did. One loss
            // for each pause, so that what was seen at its end is believed for all of it, and what was not, is not.
            self.lost_between(self.scanned.plus(Duration::from_nanos(1)), scan.began);
            self.scanned = scan.began;
        } else {
            self.known_since = scan.began;
        }
        for sighting in &scan.sockets {
            let closed = self.sockets.get(&sighting.cookie).and_then(|socket| socket.closed);
            // Closed while the scan went on: it was seen before that, and nothing of it is to be told.
            if closed.is_none_or(|closed| closed > scan.ended) {
                self.learn_sighting(sighting, scan);
            }
        }
        self.bound.end_scan(scan);
    }

    fn learn_sighting(&mut self, sighting: &Sighting, scan: &Scan) {
        let Sighting { cookie, netns, flow, holder, .. } = *sighting;
        // Its SYN was told of, and so will be its accept.
        let is_it = |hold: &Hold| hold.netns == netns && hold.socket.is_none() && hold.listener.is_some();
        if self.flows.get(&flow).is_some_and(|holds| holds.iter().any(is_it)) {
            return;
        }
        let new = Hold::seen(sighting, scan);
        // That a connection began would have been told, unless it was lost.
        let is_told = self.losses.end_of_last(scan.ended).is_none_or(|end| end < scan.began);
        let socket = self.sockets.entry(cookie).or_default();
        socket.heard = socket.heard.max(scan.began);
        socket.see_holder(holder, scan);
        if is_whole(flow) {
            socket.flow.get_or_insert(flow);
            let holds = self.flows.entry(flow).or_default();
            match holds.iter().position(|hold| hold.socket == Some(cookie)) {
                Some(known) => {
                    let is_older = holds[known].is_of_unknown_age() && is_told;
                    let from = if is_older { new.from } else { holds[known].from };
                    confirm_hold(holds, known, from, scan.began);
                }
                // Nobody told that it got this flow, so it had it before there was anybody to tell.
                None => insert_hold(holds, new),
            }
        } else if flow.protocol != Protocol::TCP && flow.local.port != 0 {
            // What reaches a listening TCP socket is told by the kernel side, socket or not.
            socket.bound = Some((flow.protocol, flow.local.port));
            self.bound.see(sighting, scan);
        }
    }

    /// A packet opens a connection (TCP SYN without ACK); the flow is its sender's. Closed connections of the same
    /// flow, seen from either end, answer for no packet from then on: what comes is the new one's, or the kernel's.
    pub fn note_opening(&mut self, flow: Flow, at: MonoTime) {
        for flow in [flow, flow.reversed()] {
            let Some(holds) = self.flows.get_mut(&flow) else { continue };
            for hold in holds.iter_mut().filter(|hold| hold.from <= at) {
                let closed = closed_at(&self.sockets, hold);
                // The first one after the close counts, for those who ask late.
                if hold.reopened.is_none_or(|known| closed.is_none_or(|closed| closed > known)) {
                    hold.reopened = Some(at);
                }
            }
        }
    }

    /// Events that happened between these times are not all known.
    pub fn lost_between(&mut self, from: MonoTime, to: MonoTime) {
        self.losses.add(from, to);
        self.unswept.get_or_insert(to);
    }

    /// Forgets what no packet at or after `now` can ask for.
    pub fn forget(&mut self, now: MonoTime) {
        for queue in 0..GRACES.len() {
            while let Some(&(until, fading)) = self.fading[queue].front() {
                if until > now && self.flows.len() <= MOST_FLOWS {
                    break;
                }
                self.fading[queue].pop_front();
                self.fade(until, fading);
            }
        }
        if let Some(swept) = self.unswept.filter(|end| end.plus(LINGER) < now) {
            self.sweep(swept);
            self.unswept = self.losses.last_end().filter(|last| *last > swept);
        }
        self.losses.forget(now);
    }

    /// How many flows and sockets are remembered.
    pub fn size(&self) -> (usize, usize) {
        (self.flows.len(), self.sockets.len())
    }

    /// The processes that an answer may name, some more than once.
    pub(super) fn users(&self) -> impl Iterator<Item = ProcessId> {
        self.sockets.values().flat_map(|socket| socket.uses.iter().map(|used| used.process))
    }

    fn fade(&mut self, until: MonoTime, fading: Fading) {
        match fading {
            Fading::Socket(cookie) => {
                let Some(socket) = self.sockets.remove(&cookie) else { return };
                if let Some(key) = socket.bound {
                    self.bound.forget(key, cookie);
                }
                if let Some(flow) = socket.flow {
                    self.retain_holds(flow, |hold| hold.socket != Some(cookie));
                }
            }
            Fading::Flow(cookie, flow) => self.fade_flow(until, cookie, flow),
            Fading::Unused(cookie, flow) => {
                if self.sockets.get(&cookie).is_some_and(|socket| socket.uses.is_empty()) {
                    self.sockets.remove(&cookie);
                    self.retain_holds(flow, |hold| hold.socket != Some(cookie));
                }
            }
            Fading::Unaccepted(flow) => {
                self.retain_holds(flow, |hold| {
                    hold.socket.is_some() || hold.from.plus(UNACCEPTED_LINGER) > until
                });
            }
        }
    }

    /// The socket had left the flow for another one; it may have come back since.
    fn fade_flow(&mut self, until: MonoTime, cookie: Cookie, flow: Flow) {
        let has_come_back = self.sockets.get(&cookie).is_some_and(|socket| socket.flow == Some(flow));
        let Some(holds) = self.flows.get_mut(&flow) else { return };
        let Some(hold) = holds.iter_mut().find(|hold| hold.socket == Some(cookie)) else { return };
        let later = hold.confirmed.plus(LINGER);
        if has_come_back {
            hold.fades = false;
        } else if later > until {
            self.forget_later(LINGER, later, Fading::Flow(cookie, flow));
        } else {
            self.retain_holds(flow, |hold| hold.socket != Some(cookie));
        }
    }

    fn forget_later(&mut self, grace: Duration, until: MonoTime, fading: Fading) {
        if let Some(queue) = GRACES.iter().position(|known| *known == grace) {
            self.fading[queue].push_back((until, fading));
        }
    }

    /// Forgets what was not heard of since a loss: it gives no name any more, and its end may be what was lost.
    fn sweep(&mut self, loss_end: MonoTime) {
        self.flows.retain(|_, holds| {
            holds.retain(|hold| hold.confirmed >= loss_end);
            !holds.is_empty()
        });
        self.sockets.retain(|_, socket| socket.heard >= loss_end);
        self.bound.sweep(loss_end);
    }

    fn retain_holds(&mut self, flow: Flow, keep: impl FnMut(&Hold) -> bool) {
        if let Some(holds) = self.flows.get_mut(&flow) {
            holds.retain(keep);
            if holds.is_empty() {
                self.flows.remove(&flow);
            }
        }
    }

    fn learn_flow(&mut self, news: &SocketNews) {
        self.learn_hold(news);
        if news.happening == Happening::HasFlow
            && self.sockets.get(&news.cookie).is_none_or(|socket| socket.uses.is_empty())
        {
            let until = news.at.plus(UNACCEPTED_LINGER);
            self.forget_later(UNACCEPTED_LINGER, until, Fading::Unused(news.cookie, news.flow));
        }
        let socket = self.sockets.entry(news.cookie).or_default();
        // The kernel side compares with the flow that it told last, not with the one that stands in the socket.
        let left = match socket.flow {
            Some(flow) if flow != news.flow && news.happening == Happening::HasFlow => {
                socket.flow = Some(news.flow);
                flow
            }
            Some(flow) if flow != news.flow => news.flow,
            _ => {
                socket.flow = Some(news.flow);
                return;
            }
        };
        let hold =
            self.flows.get_mut(&left).into_iter().flatten().find(|hold| hold.socket == Some(news.cookie));
        if let Some(hold) = hold.filter(|hold| !hold.fades) {
            hold.fades = true;
            self.forget_later(LINGER, news.at.plus(LINGER), Fading::Flow(news.cookie, left));
        }
    }

    fn learn_hold(&mut self, news: &SocketNews) {
        let holds = self.flows.entry(news.flow).or_default();
        if let Some(known) = holds.iter().position(|hold| hold.socket == Some(news.cookie)) {
            confirm_hold(holds, known, news.at, news.at);
            return;
        }
        let mut waiting = holds.iter_mut().filter(|hold| hold.may_be_accepted_by(news));
        match waiting.next() {
            // Without a number it must be the only one.
            Some(accepted) if news.remote_isn != 0 || waiting.next().is_none() => {
                accepted.socket = Some(news.cookie);
                accepted.confirmed = accepted.confirmed.max(news.at);
            }
            _ => {
                let from = began(holds, news, &self.losses);
                insert_hold(holds, Hold { from, ..Hold::new(news, None, Some(news.cookie)) });
            }
        }
    }

    fn learn_opening(&mut self, news: &SocketNews) {
        let holds = self.flows.entry(news.flow).or_default();
        if let Some(known) = holds.iter_mut().find(|hold| hold.is_repeated_by(news)) {
            known.confirmed = known.confirmed.max(news.at);
            return;
        }
        insert_hold(holds, Hold::new(news, Some(news.cookie), None));
        let until = news.at.plus(UNACCEPTED_LINGER);
        self.forget_later(UNACCEPTED_LINGER, until, Fading::Unaccepted(news.flow));
    }

    fn learn_close(&mut self, news: &SocketNews) {
        let socket = self.sockets.entry(news.cookie).or_default();
        socket.closed = Some(news.at);
        if news.closed_by_other {
            // The end of the connection is the doing of one, or of the other.
            socket.uses.push(Use {
                process: ONE_OF_SEVERAL,
                tid: 0,
                from: news.at,
                confirmed: news.at,
                moved_data: None,
                handover: None,
                found: Found::Socket,
            });
        }
        socket.last_sent = news.at.plus(if news.drained { CLOCK_ERROR } else { LINGER });
        if is_whole(news.flow) {
            self.learn_flow(news);
        }
        let linger = if news.flow.protocol == Protocol::TCP { TCP_LINGER } else { LINGER };
        self.forget_later(linger, news.at.plus(linger), Fading::Socket(news.cookie));
    }
}

/// What will be forgotten.
#[derive(Clone, Copy, Debug)]
enum Fading {
    /// A closed socket and the flow that it had last.
    Socket(Cookie),
    /// A flow that its socket has left for another.
    Flow(Cookie, Flow),
    /// A connection that nobody may have accepted.
    Unaccepted(Flow),
    /// A socket that had no user when it got its flow: the kernel's own, whose end is not told.
    Unused(Cookie, Flow),
}

fn closed_at(sockets: &HashMap<Cookie, SocketState>, hold: &Hold) -> Option<MonoTime> {
    let cookie = hold.socket?;
    // A socket that is not remembered has been closed long ago.
    sockets.get(&cookie).map_or(Some(hold.confirmed), |socket| socket.closed)
}

/// When a connection began whose SYN nobody told: before any of its flow whose SYN was told, if none is forgotten or lost. While
/// a later one opens, an earlier one that waits to be accepted is dead.
fn began(holds: &[Hold], news: &SocketNews, losses: &Losses) -> MonoTime {
    let opened = holds.iter().find(|hold| hold.netns == news.netns && hold.listener.is_some());
    let remembered =
        opened.filter(|first| first.from <= news.at && news.at < first.from.plus(UNACCEPTED_LINGER));
    match remembered {
        // So much before that the other one's SYN, which the tap saw before the event, is not its.
        Some(first) if !losses.any_before(news.at, first.from) => first.from.minus(HOOK_SLACK),
        _ => news.at,
    }
}

/// Whether both ends are known: not so for an unconnected socket, nor for one that a reset has taken its port from.
const fn is_whole(flow: Flow) -> bool {
    flow.local.port != 0 && flow.remote.port != 0
}

mod asking;
mod bound;
mod holds;
mod losses;
#[cfg(any(test, fuzzing))]
mod simulator;
mod sockets;
#[cfg(test)]
mod tests;

#[cfg(fuzzing)]
#[doc(hidden)]
pub use simulator::play;
