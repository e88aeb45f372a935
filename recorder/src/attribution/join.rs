//! Who held this flow at that time: socket events on one side, packets on the other.
//!
//! A pure state machine: no clock, no I/O. Time comes in with events and questions. What it knows has two layers,
//! because the kernel tells them apart: which socket had a flow when (`flows`), and which process used a socket when
//! (`sockets`). Both are intervals, so that a late question gets the answer for its own time.
//!
//! The rule above all: a wrong name is worse than none. Two candidates that differ give none; and after events were lost
//! nothing is believed that was not confirmed since.

use std::collections::VecDeque;
use std::time::Duration;

use foldhash::HashMap;

use super::event::{Cookie, Happening, NetNs, ProcessId, SocketNews, User};
use crate::model::{Flow, Found, MonoTime, Protocol, Reason};

/// How long a packet may precede the event that explains it: the tap runs microseconds before the hook behind it, and
/// an accept some milliseconds after the SYN. A question that waited this long gets its final answer.
pub const SLACK: Duration = Duration::from_millis(50);
/// How long a closed TCP connection is remembered: the kernel still answers for it (TIME_WAIT, 60 s, and the last
/// retransmissions before it).
const TCP_LINGER: Duration = Duration::from_secs(120);
/// How long another closed flow is remembered: its last packets may stand in a queue of the network layer.
const LINGER: Duration = Duration::from_secs(2);
/// How long a connection that nobody accepts is remembered.
const UNACCEPTED_LINGER: Duration = Duration::from_secs(10);
/// The most flows remembered; beyond, the oldest ones are forgotten and the loss is told.
const MOST_FLOWS: usize = 400_000;
/// How long after a loss a flow that nobody knows may owe that to the loss.
const LOSS_SHADOW: Duration = Duration::from_secs(1);

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
    /// Only sockets of this network namespace count (loopback); none if any may.
    pub only_netns: Option<NetNs>,
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
}

/// What is known of a socket.
#[derive(Debug, Default)]
struct SocketState {
    uses: Vec<Use>,
    closed: Option<MonoTime>,
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
}

/// The join.
#[derive(Debug, Default)]
pub struct Join {
    flows: HashMap<Flow, Vec<Hold>>,
    sockets: HashMap<Cookie, SocketState>,
    /// What to forget, and when: closed sockets, with their flow, and connections that nobody accepted.
    fading: VecDeque<(MonoTime, Cookie, Flow)>,
    fading_unaccepted: VecDeque<(MonoTime, Flow)>,
    /// Between these times events were lost. Merged, oldest first.
    losses: VecDeque<(MonoTime, MonoTime)>,
}

impl Join {
    /// Takes one event.
    pub fn event(&mut self, news: &SocketNews) {
        if let Some(user) = news.user {
            self.learn_use(news, user);
        }
        match news.happening {
            Happening::HasFlow => self.learn_flow(news),
            Happening::IsUsed if news.flow.remote.port != 0 => self.learn_flow(news),
            Happening::IsUsed => {}
            Happening::IsOpened => self.learn_opening(news),
            Happening::IsClosed => self.learn_close(news),
        }
    }

    /// TEMP
    pub fn note_opening(&mut self, _flow: Flow, _at: MonoTime) {}

    /// Events that happened between these times are not all known.
    pub fn lost_between(&mut self, from: MonoTime, to: MonoTime) {
        match self.losses.back_mut() {
            Some((_, last)) if *last >= from => *last = to,
            _ => self.losses.push_back((from, to)),
        }
    }

    /// Forgets what no packet at or after `now` can ask for.
    pub fn forget(&mut self, now: MonoTime) {
        while let Some(&(until, cookie, flow)) = self.fading.front() {
            if until > now && self.flows.len() <= MOST_FLOWS {
                break;
            }
            self.fading.pop_front();
            self.forget_socket(cookie, flow);
        }
        while let Some(&(until, flow)) = self.fading_unaccepted.front() {
            if until > now && self.flows.len() <= MOST_FLOWS {
                break;
            }
            self.fading_unaccepted.pop_front();
            self.retain_holds(flow, |hold| hold.socket.is_some() || hold.from.plus(UNACCEPTED_LINGER) > until);
        }
        while self.losses.front().is_some_and(|(_, to)| to.plus(TCP_LINGER) < now && self.losses.len() > 64) {
            self.losses.pop_front();
        }
    }

    /// How many flows and sockets are remembered.
    pub fn size(&self) -> (usize, usize) {
        (self.flows.len(), self.sockets.len())
    }

    fn forget_socket(&mut self, cookie: Cookie, flow: Flow) {
        self.sockets.remove(&cookie);
        self.retain_holds(flow, |hold| hold.socket != Some(cookie));
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
        let Some(last) = socket.uses.last_mut() else {
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
        } else if let Some(same) = socket.uses.iter_mut().find(|used| used.process == user.process) {
            // Events of two CPUs may come in the wrong order; what is older is already known, or goes where it belongs.
            same.confirmed = same.confirmed.max(news.at);
        } else {
            let place = socket.uses.partition_point(|used| used.from <= user.since);
            socket.uses.insert(place, Use::new(news, user));
        }
    }

    fn learn_flow(&mut self, news: &SocketNews) {
        let holds = self.flows.entry(news.flow).or_default();
        if let Some(known) = holds.iter_mut().find(|hold| hold.socket == Some(news.cookie)) {
            known.confirmed = known.confirmed.max(news.at);
            known.from = known.from.min(news.at);
            return;
        }
        let accepted = holds
            .iter_mut()
            .rev()
            .find(|hold| hold.netns == news.netns)
            .filter(|hold| hold.socket.is_none() && hold.listener.is_some());
        if let Some(accepted) = accepted {
            accepted.socket = Some(news.cookie);
            accepted.confirmed = accepted.confirmed.max(news.at);
            return;
        }
        insert_hold(holds, Hold::new(news, None, Some(news.cookie)));
    }

    fn learn_opening(&mut self, news: &SocketNews) {
        let holds = self.flows.entry(news.flow).or_default();
        let repeated = holds.iter_mut().rev().find(|hold| {
            hold.netns == news.netns && hold.socket.is_none() && hold.listener == Some(news.cookie)
        });
        match repeated {
            // The same SYN once more.
            Some(hold) => hold.confirmed = hold.confirmed.max(news.at),
            None => {
                insert_hold(holds, Hold::new(news, Some(news.cookie), None));
                self.fading_unaccepted.push_back((news.at.plus(UNACCEPTED_LINGER), news.flow));
            }
        }
    }

    fn learn_close(&mut self, news: &SocketNews) {
        let socket = self.sockets.entry(news.cookie).or_default();
        socket.closed = Some(news.at);
        let linger = if news.flow.protocol == Protocol::TCP { TCP_LINGER } else { LINGER };
        let until = news.at.plus(linger);
        // A socket with one flow says it in its last event. The flows of the others are found by the socket's absence.
        self.fading.push_back((until, news.cookie, news.flow));
        if news.flow.remote.port != 0 {
            self.learn_flow(news);
        }
    }

    /// Who was this end of the flow at that time?
    pub fn ask(&self, question: &Question) -> Answer {
        let Some(holds) = self.flows.get(&question.flow) else { return self.nobody(question) };
        let mut answer: Option<Answer> = None;
        let mut asked_namespaces: [Option<NetNs>; 4] = [None; 4];
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
            let here = self.ask_in_netns(holds, hold.netns, question);
            answer = Some(match answer {
                None => here,
                Some(before) => merge(before, here),
            });
        }
        match answer {
            None | Some(Answer::None(Reason::NoSocket)) => self.nobody(question),
            Some(answer) => answer,
        }
    }

    /// No socket is known. That may be the truth, or not known yet, or the fault of a loss.
    fn nobody(&self, question: &Question) -> Answer {
        let shadow = (question.at.minus(LOSS_SHADOW), question.at.plus(SLACK));
        if self.losses.iter().rev().any(|(from, to)| *from <= shadow.1 && *to >= shadow.0) {
            Answer::None(Reason::EventsLost)
        } else if question.waited < SLACK && !question.sent {
            Answer::None(Reason::TooLate)
        } else {
            Answer::None(Reason::NoSocket)
        }
    }

    fn ask_in_netns(&self, holds: &[Hold], netns: NetNs, question: &Question) -> Answer {
        let mut holds = holds.iter().filter(|hold| hold.netns == netns);
        if question.flow.protocol == Protocol::TCP {
            return match self.connection_at(holds, question) {
                Some(hold) => self.owner_of(hold, question),
                None => Answer::None(Reason::NoSocket),
            };
        }
        // Several sockets may share a flow (SO_REUSEPORT in change, multicast): then they have to agree.
        let first = holds.find(|hold| self.is_active(hold, question));
        let Some(first) = first else { return Answer::None(Reason::NoSocket) };
        let mut answer = self.owner_of(first, question);
        for hold in holds.filter(|hold| self.is_active(hold, question)) {
            answer = merge(answer, self.owner_of(hold, question));
        }
        answer
    }

    /// The connection that a TCP packet of this time belongs to. Connections of one flow follow each other.
    fn connection_at<'a>(&self, holds: impl Iterator<Item = &'a Hold>, question: &Question) -> Option<&'a Hold> {
        let mut before: Option<&Hold> = None;
        let mut after: Option<&Hold> = None;
        for hold in holds {
            if hold.from <= question.at {
                before = Some(hold);
            } else if hold.can_precede(question.at) && after.is_none() {
                after = Some(hold);
            }
        }
        let Some(current) = before else { return after };
        let closed = self.closed_at(current).filter(|closed| *closed <= question.at);
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
        match self.closed_at(hold) {
            None => true,
            // What was sent may stand in a queue; nothing is received any more.
            Some(closed) if question.sent => question.at <= closed.plus(LINGER),
            Some(closed) => question.at <= closed,
        }
    }

    fn closed_at(&self, hold: &Hold) -> Option<MonoTime> {
        let cookie = hold.socket?;
        // A socket that is not remembered has been closed long ago.
        self.sockets.get(&cookie).map_or(Some(hold.confirmed), |socket| socket.closed)
    }

    fn owner_of(&self, hold: &Hold, question: &Question) -> Answer {
        if self.lost_since(hold.confirmed, question.at) {
            return Answer::None(Reason::EventsLost);
        }
        if let Some(cookie) = hold.socket
            && let Some(socket) = self.sockets.get(&cookie)
            && let Some(used) = socket.use_at(question.at)
        {
            // The first user speaks for what came before it: the handshake of the connection that it accepted.
            if question.at >= used.from && self.lost_since(used.confirmed, question.at) {
                return Answer::None(Reason::EventsLost);
            }
            return Answer::Owner(used.process, used.tid, Found::Socket);
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
            [] => Answer::None(Reason::NoSocket),
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
        self.losses.iter().rev().any(|(from, to)| *from <= at && *to > confirmed)
    }
}

impl SocketState {
    /// Who used the socket at this time; the first user for all times before it.
    fn use_at(&self, at: MonoTime) -> Option<&Use> {
        let after = self.uses.partition_point(|used| used.from <= at);
        self.uses.get(after.saturating_sub(1))
    }

    fn last_confirmed(&self) -> MonoTime {
        self.uses.iter().map(|used| used.confirmed).max().unwrap_or_default()
    }
}

impl Use {
    fn new(news: &SocketNews, user: User) -> Self {
        Self { process: user.process, tid: user.tid, from: user.since, confirmed: news.at }
    }
}

impl Hold {
    fn new(news: &SocketNews, listener: Option<Cookie>, socket: Option<Cookie>) -> Self {
        Self { netns: news.netns, from: news.at, existed: news.existed, confirmed: news.at, listener, socket }
    }

    /// Whether a packet of a time before the flow was first heard of can be the one by which it was heard of.
    fn can_precede(&self, at: MonoTime) -> bool {
        self.from.since(at) <= SLACK && self.existed <= at
    }
}

/// Holds stand in the order of their beginning.
fn insert_hold(holds: &mut Vec<Hold>, hold: Hold) {
    let place = holds.partition_point(|other| other.from <= hold.from);
    holds.insert(place, hold);
}

/// Two answers to one question: what both say, or what the one says that knows something, or nobody.
fn merge(a: Answer, b: Answer) -> Answer {
    match (a, b) {
        (Answer::Owner(process, tid, found), Answer::Owner(other, other_tid, other_found)) if process == other => {
            Answer::Owner(process, if tid == other_tid { tid } else { 0 }, found.max(other_found))
        }
        (Answer::Owner(..), Answer::Owner(..)) => Answer::None(Reason::Ambiguous),
        (answer, Answer::None(Reason::NoSocket)) | (Answer::None(Reason::NoSocket), answer) => answer,
        // One candidate is known, another one exists and is not: that is no answer.
        (Answer::Owner(..), Answer::None(reason)) | (Answer::None(reason), _) => Answer::None(reason),
    }
}


#[cfg(test)]
mod tests;
