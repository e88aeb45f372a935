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

use foldhash::{HashMap, HashSet};

use self::bound::BoundSockets;
use super::event::{Cookie, Handover, Happening, Holder, NetNs, ProcessId, Scan, Sighting, SocketNews, User};
use crate::model::{Flow, Found, MonoTime, Protocol, Reason};

/// How long a packet may precede the event that explains it: the tap runs microseconds before the hook behind it, and
/// an accept some milliseconds after the SYN. A question that waited this long gets its final answer.
pub const SLACK: Duration = Duration::from_millis(50);
/// How long after its packet a hook may run: the ingress hook runs behind the tap, and a send call returns when its
/// packet has left. No name is given before.
pub(super) const HOOK_SLACK: Duration = Duration::from_millis(1);
/// How long a program that was just executed does not wait for packets yet: it is being linked.
const STARTING: Duration = Duration::from_millis(5);
/// A SYN that comes so soon after another one is a new connection's; the same one is repeated after a second.
const REPEATED_OPENING: Duration = Duration::from_millis(900);
/// How long a connection that was reset is expected to wait for its accept: so long it may be taken for the next one of
/// its flow.
const QUEUE_SLACK: Duration = Duration::from_millis(250);
/// How long a closed TCP connection is remembered: the kernel still answers for it (TIME_WAIT, 60 s, and the last
/// retransmissions before it).
const TCP_LINGER: Duration = Duration::from_secs(120);
/// How long before the event of its SYN another packet of an incoming connection may seem to be: the hook runs before the
/// answer is made, but on another clock.
const HANDSHAKE_ERROR: Duration = Duration::from_micros(20);
/// How far packet times and event times may be apart, being read from two clocks.
const CLOCK_ERROR: Duration = Duration::from_micros(200);
/// How long another closed flow is remembered: its last packets may stand in a queue of the network layer. Also one that
/// its socket has left for another, because the kernel side tells it again when it comes back.
const LINGER: Duration = Duration::from_secs(2);
/// How long a connection that nobody accepts, or that nobody uses, is remembered.
const UNACCEPTED_LINGER: Duration = Duration::from_secs(10);
/// The most flows remembered; beyond, those that are over are forgotten early.
const MOST_FLOWS: usize = 400_000;
/// The most uses of one socket remembered, unless they all are recent.
const MOST_USES: usize = 256;
/// How long after a loss a flow that nobody knows may owe that to the loss.
const LOSS_SHADOW: Duration = Duration::from_secs(1);
/// Stands for whoever it is: of several holders of a socket, or of its user and the one who closed it.
const ONE_OF_SEVERAL: ProcessId = ProcessId(0);

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

/// A stretch of time in which a process used a socket; it ends where the next one begins.
#[derive(Clone, Copy, Debug)]
struct Use {
    process: ProcessId,
    tid: u32,
    from: MonoTime,
    /// The last time at which this was heard.
    confirmed: MonoTime,
    /// How the socket came to it from the one before, as far as that is known.
    handover: Option<Handover>,
    found: Found,
}

/// What is known of a socket.
#[derive(Debug, Default)]
struct SocketState {
    uses: Vec<Use>,
    /// Whether earlier uses were forgotten.
    is_cut: bool,
    closed: Option<MonoTime>,
    /// When the last packet that it sent, unless over TCP, may have passed the tap.
    last_sent: MonoTime,
    /// The flow that the kernel side will not tell again before another one or a new epoch.
    flow: Option<Flow>,
    /// When it was last heard of.
    heard: MonoTime,
    /// Whether it was seen without a remote end; then `bound` knows it by this protocol and port.
    bound: Option<(Protocol, u16)>,
}

/// A stretch of time in which a flow belonged to a socket.
#[derive(Clone, Copy, Debug)]
struct Hold {
    netns: NetNs,
    from: MonoTime,
    /// Before this nothing could reach the socket.
    existed: MonoTime,
    /// The last time at which this was heard.
    confirmed: MonoTime,
    /// The listening socket that the connection came in through.
    listener: Option<Cookie>,
    /// The socket itself; for an incoming connection only once somebody has accepted it.
    socket: Option<Cookie>,
    /// When the socket was accepted.
    accepted: MonoTime,
    /// Whether this may be another connection's socket.
    doubt: Doubt,
    /// When a SYN was seen that began another connection, if this one was closed by then.
    reopened: Option<MonoTime>,
    /// Whether it waits to be forgotten.
    fades: bool,
}

/// News of an accept do not tell which of several connections of one flow was accepted: one that was reset while it
/// waited, or another one that followed it. One listener's connections are accepted in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    None,
    /// Until all of them are accepted.
    UntilAccepted,
    /// They came in through different listeners, and there is no order among these.
    Lasting,
    /// Events were lost: one more may have been waiting.
    Lost,
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

/// The join.
#[derive(Debug, Default)]
pub struct Join {
    flows: HashMap<Flow, Vec<Hold>>,
    sockets: HashMap<Cookie, SocketState>,
    /// Sockets that take what comes to their port, as far as their packets do not tell them by flow.
    bound: BoundSockets,
    /// What to forget, and when; one queue for each time of grace, so that each is in order.
    fading: [VecDeque<(MonoTime, Fading)>; GRACES.len()],
    /// Between these times events were lost. Merged, oldest first.
    losses: VecDeque<(MonoTime, MonoTime)>,
    /// The end of a loss whose leavings are still remembered.
    unswept: Option<MonoTime>,
    /// When the last scan that stands for itself began.
    scanned: MonoTime,
    /// Before this an older socket may have had any flow.
    known_since: MonoTime,
    /// The ports at which connections waited to be accepted when older sockets were looked for.
    crowded: HashSet<(NetNs, u16)>,
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
            self.learn_use(news, user);
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
        if scan.found == Found::Snapshot {
            self.doubt_crowded(scan);
        }
    }

    /// Where connections wait to be accepted whose SYN nobody told of, an accept may be theirs.
    fn doubt_crowded(&mut self, scan: &Scan) {
        let crowded = scan.sockets.iter().filter(|sighting| sighting.is_crowded);
        self.crowded.extend(crowded.map(|sighting| (sighting.netns, sighting.flow.local.port)));
        if self.crowded.is_empty() {
            return;
        }
        for (flow, holds) in &mut self.flows {
            let here = |hold: &&mut Hold| self.crowded.contains(&(hold.netns, flow.local.port));
            for hold in holds.iter_mut().filter(here).filter(|hold| hold.listener.is_some()) {
                hold.doubt = Doubt::Lost;
            }
        }
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
        let is_told = last_loss(&self.losses, scan.ended).is_none_or(|end| end < scan.began);
        let socket = self.sockets.entry(cookie).or_default();
        socket.heard = socket.heard.max(scan.began);
        socket.see_holder(holder, scan);
        if is_whole(flow) {
            socket.flow.get_or_insert(flow);
            let holds = self.flows.entry(flow).or_default();
            match holds.iter_mut().find(|hold| hold.socket == Some(cookie)) {
                Some(known) => {
                    known.confirmed = known.confirmed.max(scan.began);
                    if known.is_of_unknown_age() && is_told {
                        known.from = known.from.min(new.from);
                    }
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
        match self.losses.back_mut() {
            Some((_, last)) if *last >= from => *last = to.max(*last),
            _ => self.losses.push_back((from, to)),
        }
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
            self.unswept = self.losses.back().map(|(_, to)| *to).filter(|last| *last > swept);
        }
        while self.losses.front().is_some_and(|(_, to)| to.plus(TCP_LINGER) < now && self.losses.len() > 64) {
            self.losses.pop_front();
        }
    }

    /// How many flows and sockets are remembered.
    pub fn size(&self) -> (usize, usize) {
        (self.flows.len(), self.sockets.len())
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

    fn learn_use(&mut self, news: &SocketNews, user: User) {
        let socket = self.sockets.entry(news.cookie).or_default();
        // Who has it open says less than who uses it. The one use that a snapshot tells of is the first.
        if socket.uses.first().is_some_and(|seen| seen.is_superseded_by(news, user)) {
            socket.uses.remove(0);
        }
        let Some(last) = socket.uses.last_mut() else {
            // Most sockets have one; a vector that grows by itself begins with four.
            socket.uses.reserve_exact(1);
            socket.uses.push(Use::new(news, user));
            return;
        };
        if last.process == user.process && last.from <= user.since {
            last.tid = if last.tid == user.tid { last.tid } else { 0 };
            // Confirmed only if it used the socket all the time since; otherwise another one may have in between.
            if user.since <= last.from || user.since <= last.confirmed {
                last.confirmed = last.confirmed.max(news.at);
            } else {
                socket.uses.push(Use::new(news, user));
            }
        } else if user.since >= last.from {
            socket.uses.push(Use::new(news, user));
        } else if let Some(same) = socket.uses.iter_mut().rev().find(|used| used.is_the_same(user)) {
            // Events of two CPUs may come in the wrong order; what is older is already known, or goes where it belongs.
            same.confirmed = same.confirmed.max(news.at);
        } else {
            let place = socket.uses.partition_point(|used| used.from <= user.since);
            socket.uses.insert(place, Use::new(news, user));
        }
        socket.cut_uses(news.at);
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
        if let Some(known) = holds.iter_mut().find(|hold| hold.socket == Some(news.cookie)) {
            known.confirmed = known.confirmed.max(news.at);
            known.from = known.from.min(news.at);
            return;
        }
        let mut here = holds.iter_mut().filter(|hold| hold.netns == news.netns);
        let accepted = match here.next_back() {
            Some(last) if last.doubt != Doubt::None && last.is_accepted_by(news) => {
                here.find(|hold| hold.doubt != Doubt::None && hold.is_accepted_by(news)).or(Some(last))
            }
            last => last.filter(|last| last.is_accepted_by(news)),
        };
        match accepted {
            Some(accepted) => {
                accepted.socket = Some(news.cookie);
                accepted.accepted = news.user.map_or(news.at, |user| user.since);
                accepted.confirmed = accepted.confirmed.max(news.at);
                if accepted.doubt != Doubt::None {
                    order_accepted(holds, news.netns);
                }
            }
            None => insert_hold(holds, Hold::new(news, None, Some(news.cookie))),
        }
    }

    fn learn_opening(&mut self, news: &SocketNews) {
        let holds = self.flows.entry(news.flow).or_default();
        let mut new = Hold::new(news, Some(news.cookie), None);
        let waits = |hold: &&mut Hold| hold.netns == news.netns && hold.socket.is_none();
        // One more may wait to be accepted whose SYN is not known of.
        let may_be_older = news.at < self.known_since.plus(QUEUE_SLACK)
            && self.crowded.contains(&(news.netns, news.flow.local.port));
        if may_be_older || lost_since(&self.losses, news.at.minus(QUEUE_SLACK), news.at) {
            new.doubt = Doubt::Lost;
        }
        if let Some(last) = holds.iter_mut().rfind(waits) {
            let is_in_order =
                last.listener == new.listener && new.doubt == Doubt::None && last.doubt != Doubt::Lasting;
            if !last.is_repeated_by(news) {
                new.doubt = if is_in_order { Doubt::UntilAccepted } else { Doubt::Lasting };
                holds.iter_mut().filter(waits).for_each(|hold| hold.doubt = new.doubt);
            } else if !lost_since(&self.losses, last.confirmed, news.at) {
                last.confirmed = last.confirmed.max(news.at);
                return;
            }
        }
        insert_hold(holds, new);
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

    /// Who was this end of the flow at that time?
    pub fn ask(&self, question: &Question) -> Answer {
        let holds = self.flows.get(&question.flow).map_or(&[][..], Vec::as_slice);
        let mut answer: Option<Answer> = None;
        let mut asked_namespaces: [Option<NetNs>; 4] = [None; 4];
        let mut answered = [None; 4];
        for hold in holds {
            if question.only_netns.is_some_and(|only| hold.netns != NetNs(0) && only != hold.netns) {
                continue;
            }
            if asked_namespaces.contains(&Some(hold.netns)) {
                continue;
            }
            let Some(free) = asked_namespaces.iter_mut().find(|asked| asked.is_none()) else {
                return Answer::None(Reason::Ambiguous);
            };
            *free = Some(hold.netns);
            let mut here = self.ask_in_netns(holds, hold.netns, question);
            if here != Answer::None(Reason::NoSocket)
                && let Some(free) = answered.iter_mut().find(|answered| answered.is_none())
            {
                *free = Some(hold.netns);
            }
            // A rival that is known from other times may be there now.
            if here == Answer::None(Reason::NoSocket) && self.is_in_shadow(question.at) {
                here = Answer::None(Reason::EventsLost);
            }
            answer = Some(match answer {
                None => here,
                Some(before) => merge(before, here),
            });
        }
        let nobody = Answer::None(Reason::NoSocket);
        match merge(answer.unwrap_or(nobody), self.ask_bound(question, &answered)) {
            answer if answer == nobody => self.nobody(question),
            Answer::Owner(..) if question.at < self.known_since => Answer::None(Reason::Ambiguous),
            answer => answer,
        }
    }

    /// Until when the answers about both ends of the flow stay what they are at `at`, if nothing new is learnt: the next
    /// of the times that any answer is compared with.
    pub fn stands_until(&self, flow: &Flow, at: MonoTime) -> MonoTime {
        let mut until = if self.known_since > at { self.known_since } else { MonoTime::from_ns(u64::MAX) };
        let mut consider = |time: MonoTime| {
            if time > at {
                until = until.min(time);
            }
        };
        let ends = [*flow, flow.reversed()];
        let holds = ends.iter().filter_map(|flow| self.flows.get(flow)).flatten();
        let bound = ends.iter().flat_map(|flow| self.bound.at(*flow));
        for hold in holds.clone() {
            let begins = [SLACK, HOOK_SLACK, HANDSHAKE_ERROR].map(|time| hold.from.minus(time));
            begins.into_iter().chain([hold.from, hold.confirmed]).for_each(&mut consider);
            hold.reopened.into_iter().for_each(&mut consider);
        }
        bound.clone().for_each(|bound| bound.consider(&mut consider));
        let of_holds = holds.flat_map(|hold| [hold.socket, hold.listener]).flatten();
        let cookies = of_holds.chain(bound.map(|bound| bound.cookie));
        for socket in cookies.filter_map(|cookie| self.sockets.get(&cookie)) {
            if socket.is_between_users(at) {
                return at;
            }
            socket.consider(at, &mut consider);
        }
        // In order: what is over for longer than this has no say any more, nor has what was before it.
        for (from, to) in self.losses.iter().rev().take_while(|(_, to)| to.plus(LOSS_SHADOW) >= at) {
            let times = [from.minus(SLACK), from.minus(HOOK_SLACK), *from, *to, to.plus(LOSS_SHADOW)];
            times.into_iter().for_each(|time| {
                consider(time);
                consider(time.plus(Duration::from_nanos(1)));
            });
        }
        until
    }

    /// No socket is known. That may be the truth, or not known yet, or the fault of a loss.
    fn nobody(&self, question: &Question) -> Answer {
        if self.is_in_shadow(question.at) {
            Answer::None(Reason::EventsLost)
        } else if question.waited < SLACK && (!question.sent || question.waited.is_zero()) {
            Answer::None(Reason::TooLate)
        } else {
            Answer::None(Reason::NoSocket)
        }
    }

    /// Whether a SYN was seen in the midst of the connection, and what it opened may have been lost: in another namespace,
    /// or here, if a reset had ended the connection before its socket was closed.
    fn may_have_rival(&self, hold: &Hold) -> bool {
        hold.reopened.is_some_and(|syn| syn > hold.from.plus(HOOK_SLACK) && self.is_in_shadow(syn))
    }

    /// Whether nothing tells when this connection began, and another one of the flow was open: one of them was reset while
    /// it waited to be accepted, and which of them was the first is not known.
    fn has_twin<'a>(&self, hold: &Hold, mut others: impl Iterator<Item = &'a Hold>) -> bool {
        let is_older = |other: &Hold| other.socket != hold.socket && other.from <= hold.from;
        let was_open = |other: &Hold| closed_at(&self.sockets, other).is_none_or(|closed| closed > hold.from);
        // Of what was seen again and again it is known how long it was there.
        let is_told = self.scanned == MonoTime::default();
        is_told && hold.is_of_unknown_age() && others.any(|other| is_older(other) && was_open(other))
    }

    fn is_in_shadow(&self, at: MonoTime) -> bool {
        last_loss(&self.losses, at.plus(SLACK)).is_some_and(|end| end >= at.minus(LOSS_SHADOW))
    }

    fn ask_in_netns(&self, holds: &[Hold], netns: NetNs, question: &Question) -> Answer {
        let mut holds = holds.iter().filter(|hold| hold.netns == netns);
        if question.flow.protocol == Protocol::TCP {
            let twins = holds.clone();
            let some_wait = holds.clone().any(|hold| hold.doubt != Doubt::None && hold.socket.is_none());
            return match self.connection_at(holds.clone(), question) {
                Some(hold) if hold.doubt == Doubt::Lost => Answer::None(Reason::EventsLost),
                Some(hold) if hold.is_doubtful(some_wait) => Answer::None(Reason::Ambiguous),
                Some(hold) if self.may_have_rival(hold) => Answer::None(Reason::EventsLost),
                Some(hold) if self.has_twin(hold, twins) => Answer::None(Reason::Ambiguous),
                Some(hold) => self.owner_of(hold, question),
                // Over, by its socket: which may be the socket of another one, that is not.
                None if holds.any(|hold| hold.from <= question.at && hold.is_doubtful(some_wait)) => {
                    Answer::None(Reason::Ambiguous)
                }
                None => Answer::None(Reason::NoSocket),
            };
        }
        // Several sockets may share a flow (SO_REUSEPORT in change, multicast): then they have to agree.
        let owner = |hold| self.owner_of(hold, question);
        let active = holds.clone().filter(|hold| self.is_active(hold, question));
        active.map(owner).reduce(merge).unwrap_or_else(|| {
            let late = holds.filter(|hold| hold.is_told_late(question));
            late.map(owner).reduce(merge).unwrap_or(Answer::None(Reason::NoSocket))
        })
    }

    /// The connection that a TCP packet of this time belongs to. Connections of one flow follow each other.
    fn connection_at<'a>(
        &self,
        holds: impl Iterator<Item = &'a Hold>,
        question: &Question,
    ) -> Option<&'a Hold> {
        let mut before: Option<&Hold> = None;
        let mut after: Option<&Hold> = None;
        let mut told_late: Option<&Hold> = None;
        for hold in holds {
            if hold.from <= question.at {
                before = Some(hold);
            } else if hold.can_precede(question.at) && hold.begins_with(question) && after.is_none() {
                after = Some(hold);
            } else if question.opens && hold.is_told_late(question) && told_late.is_none() {
                told_late = Some(hold);
            }
        }
        let Some(current) = before else { return after.or(told_late) };
        // Its event comes right behind the SYN, even if the older connection was reset and is not closed yet.
        let opened =
            after.filter(|next| question.opens && !question.sent && next.opens_right_after(question.at));
        if opened.is_some() {
            return opened;
        }
        let closed = closed_at(&self.sockets, current).filter(|closed| *closed <= question.at);
        if let (Some(closed), Some(reopened)) = (closed, current.reopened)
            && closed <= reopened
            && reopened <= question.at
        {
            return after;
        }
        match (closed, question.opens) {
            // The connection is open, or its last packets are still under way.
            (None, _) => Some(current),
            (Some(closed), false) if question.at <= closed.plus(TCP_LINGER) => Some(current),
            // A new SYN ends the old connection; its event follows within microseconds, or nobody listens.
            _ => after,
        }
    }

    /// Whether this socket without connections could send or receive this packet.
    fn is_active(&self, hold: &Hold, question: &Question) -> bool {
        if hold.from > question.at && !hold.can_precede(question.at) {
            return false;
        }
        match closed_at(&self.sockets, hold) {
            None => true,
            // What was sent may stand in a queue; nothing is received any more.
            Some(closed) if question.sent => {
                let socket = hold.socket.and_then(|cookie| self.sockets.get(&cookie));
                question.at <= socket.map_or(closed, |socket| socket.last_sent)
            }
            Some(closed) => question.at <= closed,
        }
    }

    fn owner_of(&self, hold: &Hold, question: &Question) -> Answer {
        if question.waited < HOOK_SLACK {
            return Answer::None(Reason::TooLate);
        }
        if self.lost_since(hold.confirmed, question.at) || self.lost_before(hold.from, question.at) {
            return Answer::None(Reason::EventsLost);
        }
        if let Some(cookie) = hold.socket
            && let Some(socket) = self.sockets.get(&cookie)
            && let Some(used) = socket.use_at(question.at)
        {
            // The first user speaks for what came before it: the handshake of the connection that it accepted. Unless an
            // earlier one was lost.
            let is_doubtful = if question.at >= used.from {
                self.lost_since(used.confirmed, question.at)
            } else if hold.is_of_unknown_age() {
                last_loss(&self.losses, used.from).is_some()
            } else {
                self.lost_before(used.from, question.at.min(hold.from))
            };
            if is_doubtful {
                return Answer::None(Reason::EventsLost);
            }
            return socket.turn_at(&used, question);
        }
        if question.waited < SLACK {
            return Answer::None(Reason::TooLate);
        }
        match hold.listener {
            Some(listener) => self.owner_of_listener(listener, question.at),
            None => Answer::None(Reason::NoSocket),
        }
    }

    /// Nobody has accepted the connection. If only one process ever used the listener, it is that one's.
    fn owner_of_listener(&self, listener: Cookie, at: MonoTime) -> Answer {
        let Some(socket) = self.sockets.get(&listener) else { return Answer::None(Reason::NoSocket) };
        match socket.uses.as_slice() {
            // What waited to be accepted ended with it; what has the same flow now may be nobody's.
            _ if socket.is_cut || socket.closed.is_some_and(|closed| closed <= at) => {
                Answer::None(Reason::Ambiguous)
            }
            [] => Answer::None(Reason::NoSocket),
            [only, ..] if only.process == ONE_OF_SEVERAL => Answer::None(Reason::Ambiguous),
            [only, others @ ..] if others.iter().all(|other| other.process == only.process) => {
                if self.lost_since(only.confirmed.max(socket.last_confirmed()), at) {
                    return Answer::None(Reason::EventsLost);
                }
                Answer::Owner(only.process, 0, Found::Listener)
            }
            _ => Answer::None(Reason::Ambiguous),
        }
    }

    fn lost_since(&self, confirmed: MonoTime, at: MonoTime) -> bool {
        lost_since(&self.losses, confirmed, at)
    }

    /// Whether something was lost between the packet and the later time from which on it is known who has what.
    fn lost_before(&self, known_from: MonoTime, at: MonoTime) -> bool {
        at < known_from && last_loss(&self.losses, known_from).is_some_and(|end| end >= at)
    }
}

/// Whether what was last heard at one time may have changed until the packet, by an event that was lost. The event can
/// be later than its packet.
fn lost_since(losses: &VecDeque<(MonoTime, MonoTime)>, confirmed: MonoTime, at: MonoTime) -> bool {
    last_loss(losses, at.plus(HOOK_SLACK)).is_some_and(|end| end > confirmed)
}

/// The end of the last loss that began by this time. Losses are in order, so that all earlier ones ended before.
fn last_loss(losses: &VecDeque<(MonoTime, MonoTime)>, by: MonoTime) -> Option<MonoTime> {
    let begun = losses.partition_point(|(from, _)| *from <= by);
    losses.get(begun.checked_sub(1)?).map(|(_, to)| *to)
}

fn closed_at(sockets: &HashMap<Cookie, SocketState>, hold: &Hold) -> Option<MonoTime> {
    let cookie = hold.socket?;
    // A socket that is not remembered has been closed long ago.
    sockets.get(&cookie).map_or(Some(hold.confirmed), |socket| socket.closed)
}

/// Whether both ends are known: not so for an unconnected socket, nor for one that a reset has taken its port from.
const fn is_whole(flow: Flow) -> bool {
    flow.local.port != 0 && flow.remote.port != 0
}

impl SocketState {
    /// Who used the socket at this time; the first user for all times before it.
    fn use_at(&self, at: MonoTime) -> Option<Use> {
        let after = self.uses.partition_point(|used| used.from <= at);
        if after == 0 && self.is_cut {
            return None;
        }
        let current = *self.uses.get(after.saturating_sub(1))?;
        let next = self.uses.get(after).filter(|next| next.from.since(at) <= HOOK_SLACK);
        Some(match next {
            // Which of several it was shows when its call returns.
            Some(next) if current.process == ONE_OF_SEVERAL => *next,
            // Nothing is kept of an older socket, so that its user is not told before its first packet.
            Some(next) if current.found == Found::Snapshot && next.process != current.process => {
                Use { process: ONE_OF_SEVERAL, ..current }
            }
            _ => current,
        })
    }

    /// A process was seen to have it open. That is nothing new where it is known who uses it.
    fn see_holder(&mut self, holder: Holder, scan: &Scan) {
        let process = match holder {
            Holder::Nobody => return,
            Holder::One(process) => process,
            Holder::Unclear => ONE_OF_SEVERAL,
        };
        let seen = Use {
            process,
            tid: 0,
            from: scan.ended,
            confirmed: scan.began,
            handover: None,
            found: scan.found,
        };
        match self.uses.last_mut() {
            None => self.uses.push(seen),
            Some(last) if scan.found == Found::Procfs && last.process == process => {
                last.confirmed = scan.began
            }
            Some(_) if scan.found == Found::Procfs => self.uses.push(seen),
            Some(_) => {
                // It was used since. By whom before, is known only if there was nobody else.
                if let Some(first) = self.uses.first().filter(|first| first.from > scan.ended) {
                    let process = if first.process == process { process } else { ONE_OF_SEVERAL };
                    self.uses.insert(0, Use { process, ..seen });
                }
            }
        }
        self.cut_uses(scan.began);
    }

    /// The times after `at` that an answer about this socket depends on.
    fn consider(&self, at: MonoTime, consider: &mut impl FnMut(MonoTime)) {
        let next_use = self.uses.partition_point(|used| used.from <= at);
        for used in self.uses.get(next_use).into_iter() {
            [used.from, used.from.minus(HOOK_SLACK), used.from.minus(SLACK)]
                .into_iter()
                .for_each(&mut *consider);
            let received = used.handover.map(|handover| handover.former_received);
            received.into_iter().for_each(|time| consider(time.plus(Duration::from_nanos(1))));
        }
        let ends = self.closed.map(|closed| [closed, closed.plus(TCP_LINGER), self.last_sent]);
        for end in ends.into_iter().flatten() {
            consider(end);
            // What is asked about includes this very moment.
            consider(end.plus(Duration::from_nanos(1)));
        }
    }

    /// Whose the packet is at this time of this use. What comes in after the user's last receive and before another process
    /// first receives is read by that one, which may have waited for it all the time: then it is that one's, if it had
    /// the socket by then; else it cannot be told which of the two had it. What the user itself sends is its own.
    fn turn_at(&self, used: &Use, question: &Question) -> Answer {
        let mine = used.answer();
        if question.sent && question.by_call || question.at < used.from {
            return mine;
        }
        if question.waited < SLACK && self.is_shared() {
            return Answer::None(Reason::TooLate);
        }
        if question.flow.protocol != Protocol::TCP && self.is_pool() && self.changes_soon(used, question.at) {
            return Answer::None(Reason::Ambiguous);
        }
        match self.handover_after(question.at) {
            Some((next, _)) if next.process == used.process => mine,
            Some((next, handover)) if self.waited_at(question.at, handover) => next.answer(),
            Some(_) => Answer::None(Reason::Ambiguous),
            None => mine,
        }
    }

    /// The next use, if it begins so soon that what comes in at this time may be its, by all that is known of the user
    /// before it.
    fn handover_after(&self, at: MonoTime) -> Option<(&Use, Handover)> {
        let next = self.uses.get(self.uses.partition_point(|used| used.from <= at))?;
        let handover = next.handover?;
        (handover.former_received < at && next.from <= at.plus(SLACK)).then_some((next, handover))
    }

    /// Whether the later process can have waited for this packet: its parent had used the socket before it was forked, so
    /// that it was born with it.
    fn waited_at(&self, at: MonoTime, handover: Handover) -> bool {
        let is_parents = |used: &Use, began| used.process.pid() == handover.parent_pid && used.from <= began;
        handover.began.is_some_and(|began| {
            began.plus(STARTING) <= at && self.uses.iter().any(|used| is_parents(used, began))
        })
    }

    /// Whether more than two processes have used it: they may all wait on it at the same time, and each takes the datagram
    /// that is at the head of the queue, which need not be the one that woke it.
    fn is_pool(&self) -> bool {
        let first = self.uses.first().map(|used| used.process);
        let mut others = self.uses.iter().map(|used| used.process).filter(|process| Some(*process) != first);
        let second = others.next();
        second.is_some() && others.any(|process| Some(process) != second)
    }

    fn changes_soon(&self, used: &Use, at: MonoTime) -> bool {
        let after = self.uses.partition_point(|other| other.from <= at);
        let soon = self.uses[after..].iter().take_while(|other| other.from <= at.plus(SLACK));
        soon.into_iter().any(|other| other.process != used.process)
    }

    /// Whether what is sent at this time and what comes in, or is acknowledged, may have different owners: then no answer stands.
    fn is_between_users(&self, at: MonoTime) -> bool {
        let changes_soon = || self.use_at(at).is_some_and(|used| self.changes_soon(&used, at));
        self.handover_after(at).is_some() || self.is_pool() && changes_soon()
    }

    fn is_shared(&self) -> bool {
        self.uses.windows(2).any(|pair| pair[0].process != pair[1].process)
    }

    /// A socket that processes take turns in has no end of uses; those that ended long ago are not asked for.
    fn cut_uses(&mut self, now: MonoTime) {
        if self.uses.len() > MOST_USES && self.uses.len().is_power_of_two() {
            let current = self.uses.partition_point(|used| used.from.plus(LINGER) <= now);
            self.is_cut |= current > 1;
            self.uses.drain(..current.saturating_sub(1));
        }
    }

    fn last_confirmed(&self) -> MonoTime {
        self.uses.iter().map(|used| used.confirmed).max().unwrap_or_default()
    }
}

impl Use {
    fn new(news: &SocketNews, user: User) -> Self {
        let User { process, tid, since, handover } = user;
        Self { process, tid, from: since, confirmed: news.at, handover, found: Found::Socket }
    }

    /// Whether it was only seen who had the socket open, at a time of which it is told now who used it.
    fn is_superseded_by(&self, news: &SocketNews, user: User) -> bool {
        self.found != Found::Socket && user.since <= self.from && self.from <= news.at
    }

    const fn answer(&self) -> Answer {
        match self.process {
            ONE_OF_SEVERAL => Answer::None(Reason::Ambiguous),
            process => Answer::Owner(process, self.tid, self.found),
        }
    }

    fn is_the_same(&self, user: User) -> bool {
        self.process == user.process && self.from == user.since
    }
}

impl Hold {
    fn new(news: &SocketNews, listener: Option<Cookie>, socket: Option<Cookie>) -> Self {
        Self {
            netns: news.netns,
            from: news.at,
            existed: news.existed,
            confirmed: news.at,
            listener,
            socket,
            accepted: news.at,
            doubt: Doubt::None,
            reopened: None,
            fades: false,
        }
    }

    /// Of a socket that was seen with its flow. The kernel side tells of each TCP connection that begins: one that it did
    /// not tell of is older than the scan.
    fn seen(sighting: &Sighting, scan: &Scan) -> Self {
        let Sighting { cookie, netns, flow, .. } = *sighting;
        let is_older = scan.found == Found::Snapshot && flow.protocol == Protocol::TCP;
        let from = if is_older { scan.began } else { scan.ended };
        Self {
            netns,
            from,
            existed: MonoTime::default(),
            confirmed: scan.began,
            listener: None,
            socket: Some(cookie),
            accepted: from,
            doubt: Doubt::None,
            reopened: None,
            fades: false,
        }
    }

    /// Whether a packet of a time before the flow was first heard of can be the one by which it was heard of.
    fn can_precede(&self, at: MonoTime) -> bool {
        self.from.since(at) <= HOOK_SLACK && self.existed <= at
    }

    /// Whether a packet that arrived can be the one by which the flow was heard of, though the hook ran long after the tap:
    /// on a busy machine packets stand in a queue between the two.
    fn is_told_late(&self, question: &Question) -> bool {
        let delay = self.from.since(question.at);
        let is_final = question.waited >= SLACK;
        !question.sent && is_final && delay > HOOK_SLACK && delay <= SLACK && self.existed <= question.at
    }

    /// Whether a packet before the first event of an incoming connection can be its own: that event tells of a SYN, and what
    /// else comes before it, but for the error of the clocks, is the end of an older one.
    fn begins_with(&self, question: &Question) -> bool {
        let is_syn = question.opens && !question.sent;
        self.listener.is_none() || is_syn || self.from.since(question.at) <= HANDSHAKE_ERROR
    }

    /// Whether nothing tells when it began: any loss may have been of its former user.
    fn is_of_unknown_age(&self) -> bool {
        self.listener.is_none() && self.existed == MonoTime::default()
    }

    /// Whether this is the connection that a SYN of this time opens at a listening socket.
    fn opens_right_after(&self, at: MonoTime) -> bool {
        self.listener.is_some() && self.from.since(at) <= HOOK_SLACK
    }

    /// Whether this is news of the socket that somebody accepted the connection as: not of an older one.
    fn is_accepted_by(&self, news: &SocketNews) -> bool {
        self.socket.is_none()
            && self.listener.is_some()
            && !news.dead
            && news.user.is_none_or(|user| user.since >= self.from)
    }

    /// Whether it may be another connection's socket, if some connection of the flow still waits to be accepted.
    fn is_doubtful(&self, some_wait: bool) -> bool {
        match self.doubt {
            Doubt::None => false,
            Doubt::UntilAccepted => some_wait,
            Doubt::Lasting | Doubt::Lost => true,
        }
    }

    /// Whether this is news of the same SYN: nobody accepted yet, and the pause is that of a repetition.
    fn is_repeated_by(&self, news: &SocketNews) -> bool {
        let is_late = news.at.since(self.confirmed) >= REPEATED_OPENING;
        is_late && self.doubt == Doubt::None && self.listener == Some(news.cookie)
    }
}

/// Connections are accepted in the order in which they began; the news of it may come in another one.
fn order_accepted(holds: &mut [Hold], netns: NetNs) {
    let doubtful =
        |hold: &&mut Hold| hold.netns == netns && hold.doubt != Doubt::None && hold.socket.is_some();
    let mut sockets: Vec<_> =
        holds.iter_mut().filter(doubtful).map(|hold| (hold.accepted, hold.socket, hold.confirmed)).collect();
    sockets.sort_unstable();
    for (hold, socket) in holds.iter_mut().filter(doubtful).zip(sockets) {
        (hold.accepted, hold.socket, hold.confirmed) = socket;
    }
}

/// Holds stand in the order of their beginning.
fn insert_hold(holds: &mut Vec<Hold>, hold: Hold) {
    if holds.is_empty() {
        // Most flows have one; a vector that grows by itself begins with four.
        holds.reserve_exact(1);
    }
    let place = holds.partition_point(|other| other.from <= hold.from);
    holds.insert(place, hold);
}

/// Two answers to one question: what both say, or what the one says that knows something, or nobody.
fn merge(a: Answer, b: Answer) -> Answer {
    match (a, b) {
        (Answer::Owner(process, tid, found), Answer::Owner(other, other_tid, other_found))
            if process == other =>
        {
            Answer::Owner(process, if tid == other_tid { tid } else { 0 }, found.max(other_found))
        }
        (Answer::Owner(..), Answer::Owner(..)) => Answer::None(Reason::Ambiguous),
        (answer, Answer::None(Reason::NoSocket)) | (Answer::None(Reason::NoSocket), answer) => answer,
        // One candidate is known, another one exists and is not: that is no answer.
        (Answer::Owner(..), Answer::None(reason)) | (Answer::None(reason), _) => Answer::None(reason),
    }
}

mod bound;
#[cfg(test)]
mod simulator;
#[cfg(test)]
mod tests;
