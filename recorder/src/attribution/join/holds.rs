//! Stretches of time in which a flow belonged to a socket.

use std::time::Duration;

use super::{HANDSHAKE_ERROR, HOOK_SLACK, Question, SLACK};
use crate::attribution::event::{Cookie, NetNs, Scan, Sighting, SocketNews};
use crate::model::{Found, MonoTime, Protocol};

/// A SYN that comes so soon after another one is a new connection's; the same one is repeated after a second.
const REPEATED_OPENING: Duration = Duration::from_millis(900);

/// A stretch of time in which a flow belonged to a socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    pub(super) netns: NetNs,
    pub(super) from: MonoTime,
    /// Before this nothing could reach the socket.
    pub(super) existed: MonoTime,
    /// The last time at which this was heard.
    pub(super) confirmed: MonoTime,
    /// The listening socket that the connection came in through.
    pub(super) listener: Option<Cookie>,
    /// The socket itself; for an incoming connection only once somebody has accepted it.
    pub(super) socket: Option<Cookie>,
    /// When the socket was accepted.
    pub(super) accepted: MonoTime,
    /// Whether this may be another connection's socket.
    pub(super) doubt: Doubt,
    /// When a SYN was seen that began another connection, if this one was closed by then.
    pub(super) reopened: Option<MonoTime>,
    /// Whether it waits to be forgotten.
    pub(super) fades: bool,
}

/// News of an accept do not tell which of several connections of one flow was accepted: one that was reset while it
/// waited, or another one that followed it. One listener's connections are accepted in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    None,
    /// Until all of them are accepted.
    UntilAccepted,
    /// They came in through different listeners, and there is no order among these.
    Lasting,
    /// Events were lost: one more may have been waiting.
    Lost,
}

impl Hold {
    pub(super) fn new(news: &SocketNews, listener: Option<Cookie>, socket: Option<Cookie>) -> Self {
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
    pub(super) fn seen(sighting: &Sighting, scan: &Scan) -> Self {
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
    pub(super) fn can_precede(&self, at: MonoTime) -> bool {
        self.from.since(at) <= HOOK_SLACK && self.existed <= at
    }

    /// Whether a packet that arrived can be the one by which the flow was heard of, though the hook ran long after the tap:
    /// on a busy machine packets stand in a queue between the two.
    pub(super) fn is_told_late(&self, question: &Question) -> bool {
        let delay = self.from.since(question.at);
        let is_final = question.waited >= SLACK;
        !question.sent && is_final && delay > HOOK_SLACK && delay <= SLACK && self.existed <= question.at
    }

    /// Whether a packet before the first event of an incoming connection can be its own: that event tells of a SYN, and what
    /// else comes before it, but for the error of the clocks, is the end of an older one.
    pub(super) fn begins_with(&self, question: &Question) -> bool {
        let is_syn = question.opens && !question.sent;
        self.listener.is_none() || is_syn || self.from.since(question.at) <= HANDSHAKE_ERROR
    }

    /// Whether nothing tells when it began: any loss may have been of its former user.
    pub(super) fn is_of_unknown_age(&self) -> bool {
        self.listener.is_none() && self.existed == MonoTime::default()
    }

    /// Whether this is the connection that a SYN of this time opens at a listening socket.
    pub(super) fn opens_right_after(&self, at: MonoTime) -> bool {
        self.listener.is_some() && self.from.since(at) <= HOOK_SLACK
    }

    /// Whether this is news of the socket that somebody accepted the connection as: not of an older one.
    pub(super) fn is_accepted_by(&self, news: &SocketNews) -> bool {
        self.socket.is_none()
            && self.listener.is_some()
            && !news.dead
            && news.user.is_none_or(|user| user.since >= self.from)
    }

    /// Whether it may be another connection's socket, if some connection of the flow still waits to be accepted.
    pub(super) fn is_doubtful(&self, some_wait: bool) -> bool {
        match self.doubt {
            Doubt::None => false,
            Doubt::UntilAccepted => some_wait,
            Doubt::Lasting | Doubt::Lost => true,
        }
    }

    /// Whether this is news of the same SYN: nobody accepted yet, and the pause is that of a repetition.
    pub(super) fn is_repeated_by(&self, news: &SocketNews) -> bool {
        let is_late = news.at.since(self.confirmed) >= REPEATED_OPENING;
        is_late && self.doubt == Doubt::None && self.listener == Some(news.cookie)
    }
}

/// Connections are accepted in the order in which they began; the news of it may come in another one.
pub(super) fn order_accepted(holds: &mut [Hold], netns: NetNs) {
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
pub(super) fn insert_hold(holds: &mut Vec<Hold>, hold: Hold) {
    if holds.is_empty() {
        // Most flows have one; a vector that grows by itself begins with four.
        holds.reserve_exact(1);
    }
    let place = holds.partition_point(|other| other.from <= hold.from);
    holds.insert(place, hold);
}
