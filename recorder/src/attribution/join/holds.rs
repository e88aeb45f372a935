//! Stretches of time in which a flow belonged to a socket.

use super::{FINE_CLOCK_ERROR, HOOK_SLACK, Question, SLACK};
use crate::attribution::event::{Cookie, NetNs, Scan, Sighting, SocketNews};
use crate::model::{Found, MonoTime, Protocol};

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
    /// TCP: the initial sequence number of the remote end, if the connection came in through a listening socket.
    pub(super) remote_isn: u32,
    /// When a SYN was seen that began another connection, if this one was closed by then.
    pub(super) reopened: Option<MonoTime>,
    /// Whether it waits to be forgotten.
    pub(super) fades: bool,
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
            remote_isn: news.remote_isn,
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
            remote_isn: 0,
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
        self.listener.is_none() || is_syn || self.from.since(question.at) <= FINE_CLOCK_ERROR
    }

    /// Whether nothing tells when it began: any loss may have been of its former user.
    pub(super) fn is_of_unknown_age(&self) -> bool {
        self.listener.is_none() && self.existed == MonoTime::default()
    }

    /// Whether this is the connection that a SYN of this time opens at a listening socket.
    pub(super) fn opens_right_after(&self, at: MonoTime) -> bool {
        self.listener.is_some() && self.from.since(at) <= HOOK_SLACK
    }

    /// Whether this may be news of the socket that somebody accepted the connection as: it is, if the number is known.
    pub(super) fn may_be_accepted_by(&self, news: &SocketNews) -> bool {
        let is_number = news.remote_isn == 0 || self.remote_isn == news.remote_isn;
        self.socket.is_none() && self.netns == news.netns && is_number
    }

    /// Whether this is news of the same SYN.
    pub(super) fn is_repeated_by(&self, news: &SocketNews) -> bool {
        self.listener == Some(news.cookie) && self.netns == news.netns && self.remote_isn == news.remote_isn
    }
}

/// This one is there at a time, and from another one on, if that is earlier than it was known to be.
pub(super) fn confirm_hold(holds: &mut Vec<Hold>, place: usize, from: MonoTime, at: MonoTime) {
    let known = &mut holds[place];
    known.confirmed = known.confirmed.max(at);
    if from < known.from {
        let earlier = Hold { from, ..holds.remove(place) };
        insert_hold(holds, earlier);
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
