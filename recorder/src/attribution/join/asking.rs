//! The answers: who had a flow at a time, by what the join knows.

use super::holds::Hold;
use super::sockets::ONE_OF_SEVERAL;
use super::{
    Answer, CLOCK_ERROR, FINE_CLOCK_ERROR, HOOK_SLACK, Join, Question, SLACK, TCP_LINGER, UNACCEPTED_LINGER,
    closed_at,
};
use crate::attribution::event::{Cookie, NetNs};
use crate::model::{Flow, Found, MonoTime, Protocol, Reason};

impl Join {
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
            if here == Answer::None(Reason::NoSocket) && self.losses.cast_shadow(question.at) {
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
            let begins = [SLACK, HOOK_SLACK, FINE_CLOCK_ERROR].map(|time| hold.from.minus(time));
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
        self.losses.consider(at, &mut consider);
        until
    }

    /// No socket is known. That may be the truth, or not known yet, or the fault of a loss.
    fn nobody(&self, question: &Question) -> Answer {
        if self.losses.cast_shadow(question.at) {
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
        // Its own SYN is before the event of it, unless it left from here and stood in a queue.
        let own = if hold.listener.is_some() { CLOCK_ERROR } else { HOOK_SLACK };
        hold.reopened.is_some_and(|syn| syn > hold.from.plus(own) && self.losses.cast_shadow(syn))
    }

    /// Whether of a connection that came in only the accept is known, since the SYN was lost. A reset may have ended it while it
    /// waited, and the next one of its flow, whose SYN was lost too, may wait behind it. Data that was moved tells that it lives.
    fn may_be_dead(&self, hold: &Hold) -> bool {
        if hold.listener.is_some() || hold.remote_isn == 0 {
            return false;
        }
        let lost = self.losses.end_of_last(hold.from);
        let socket = hold.socket.and_then(|cookie| self.sockets.get(&cookie));
        lost.is_some_and(|end| end >= hold.from.minus(UNACCEPTED_LINGER))
            && socket.is_some_and(|socket| socket.first_data().is_none())
    }

    /// Whether another connection of the flow was open when this one was heard of, and nothing tells which of them goes on:
    /// of this one only a SYN is known, which the other one may have refused before it was accepted; or only that it was
    /// there by then.
    fn has_twin<'a>(&self, hold: &Hold, mut others: impl Iterator<Item = &'a Hold>) -> bool {
        let is_older = |other: &Hold| !std::ptr::eq(other, hold) && other.from <= hold.from;
        let was_open = |other: &Hold| closed_at(&self.sockets, other).is_none_or(|closed| closed > hold.from);
        if hold.socket.is_none() {
            return others
                .any(|other| is_older(other) && was_open(other) && !self.was_accepted(other, hold.from));
        }
        // Of what was seen again and again it is known how long it was there.
        let is_told = self.scanned == MonoTime::default();
        is_told && hold.is_of_unknown_age() && others.any(|other| is_older(other) && was_open(other))
    }

    fn was_accepted(&self, hold: &Hold, by: MonoTime) -> bool {
        let socket = hold.socket.and_then(|cookie| self.sockets.get(&cookie));
        socket.and_then(|socket| socket.uses.first()).is_some_and(|first| first.from <= by)
    }

    fn ask_in_netns(&self, holds: &[Hold], netns: NetNs, question: &Question) -> Answer {
        let holds = holds.iter().filter(|hold| hold.netns == netns);
        if question.flow.protocol == Protocol::TCP {
            return match self.connection_at(holds.clone(), question) {
                Some(hold) if self.may_have_rival(hold) || self.may_be_dead(hold) => {
                    Answer::None(Reason::EventsLost)
                }
                Some(hold) if self.has_twin(hold, holds) => Answer::None(Reason::Ambiguous),
                Some(hold) => self.owner_of(hold, question),
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
        if self.losses.any_since(hold.confirmed, question.at)
            || self.losses.any_before(hold.from, question.at)
        {
            return Answer::None(Reason::EventsLost);
        }
        if let Some(cookie) = hold.socket
            && let Some(socket) = self.sockets.get(&cookie)
            && let Some(used) = socket.use_at(question.at)
        {
            // The first user speaks for what came before it: the handshake of the connection that it accepted. Unless an
            // earlier one was lost.
            let is_doubtful = if question.at >= used.from {
                self.losses.any_since(used.confirmed, question.at)
            } else if hold.is_of_unknown_age() {
                self.losses.end_of_last(used.from).is_some()
            } else {
                self.losses.any_before(used.from, question.at.min(hold.from))
            };
            if is_doubtful {
                return Answer::None(Reason::EventsLost);
            }
            return socket.turn_at(&used, question, hold.listener.is_some());
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
                if self.losses.any_since(only.confirmed.max(socket.last_confirmed()), at) {
                    return Answer::None(Reason::EventsLost);
                }
                Answer::Owner(only.process, 0, Found::Listener)
            }
            _ => Answer::None(Reason::Ambiguous),
        }
    }
}

/// Two answers to one question: what both say, or what the one says that knows something, or nobody.
pub(super) fn merge(a: Answer, b: Answer) -> Answer {
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
