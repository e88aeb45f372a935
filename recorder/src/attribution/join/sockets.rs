//! Which process used a socket when.

use std::time::Duration;

use super::{Answer, FINE_CLOCK_ERROR, HOOK_SLACK, LINGER, Question, SLACK, TCP_LINGER};
use crate::attribution::event::{Handover, Holder, ProcessId, Scan, SocketNews, User};
use crate::model::{Flow, Found, MonoTime, Protocol, Reason};

/// How long after exec a program may not wait for packets yet: it is being linked, or has no processor. On two busy cores that
/// took more than 5 ms for one program in some hundred.
const STARTING: Duration = Duration::from_millis(20);
/// The most uses of one socket remembered, unless they all are recent.
const MOST_USES: usize = 256;
/// Stands for whoever it is: of several holders of a socket, or of its user and the one who closed it.
pub(super) const ONE_OF_SEVERAL: ProcessId = ProcessId(0);

/// What is known of a socket.
#[derive(Debug, Default)]
pub(super) struct SocketState {
    pub(super) uses: Vec<Use>,
    /// Whether earlier uses were forgotten.
    pub(super) is_cut: bool,
    pub(super) closed: Option<MonoTime>,
    /// When the last packet that it sent, unless over TCP, may have passed the tap.
    pub(super) last_sent: MonoTime,
    /// The flow that the kernel side will not tell again before another one or a new epoch.
    pub(super) flow: Option<Flow>,
    /// When it was last heard of.
    pub(super) heard: MonoTime,
    /// Whether it was seen without a remote end; then `bound` knows it by this protocol and port.
    pub(super) bound: Option<(Protocol, u16)>,
}

/// A stretch of time in which a process used a socket; it ends where the next one begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    pub(super) process: ProcessId,
    pub(super) tid: u32,
    pub(super) from: MonoTime,
    /// The last time at which this was heard.
    pub(super) confirmed: MonoTime,
    /// How the socket came to it from the one before, as far as that is known.
    /// When it was first told to send or receive.
    pub(super) moved_data: Option<MonoTime>,
    pub(super) handover: Option<Handover>,
    pub(super) found: Found,
}

impl SocketState {
    /// Who used the socket at this time; the first user for all times before it.
    pub(super) fn use_at(&self, at: MonoTime) -> Option<Use> {
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

    /// Takes who used it, from when.
    pub(super) fn learn_use(&mut self, news: &SocketNews, user: User) {
        // Who has it open says less than who uses it. The one use that a snapshot tells of is the first.
        if self.uses.first().is_some_and(|seen| seen.is_superseded_by(news, user)) {
            self.uses.remove(0);
        }
        let Some(last) = self.uses.last_mut() else {
            // Most sockets have one; a vector that grows by itself begins with four.
            self.uses.reserve_exact(1);
            self.uses.push(Use::new(news, user));
            return;
        };
        if last.process == user.process && last.from <= user.since {
            if news.moves_data() {
                let moved = last.moved_data.unwrap_or(news.at);
                last.moved_data = Some(moved.min(news.at));
            }
            last.tid = if last.tid == user.tid { last.tid } else { 0 };
            // Confirmed only if it used the socket all the time since; otherwise another one may have in between.
            if user.since <= last.from || user.since <= last.confirmed {
                last.confirmed = last.confirmed.max(news.at);
            } else {
                self.uses.push(Use::new(news, user));
            }
        } else if user.since >= last.from {
            self.uses.push(Use::new(news, user));
        } else if let Some(same) = self.uses.iter_mut().rev().find(|used| used.is_the_same(user)) {
            // Events of two CPUs may come in the wrong order; what is older is already known, or goes where it belongs.
            same.confirmed = same.confirmed.max(news.at);
        } else {
            let place = self.uses.partition_point(|used| used.from <= user.since);
            self.uses.insert(place, Use::new(news, user));
        }
        self.cut_uses(news.at);
    }

    /// A process was seen to have it open. That is nothing new where it is known who uses it.
    pub(super) fn see_holder(&mut self, holder: Holder, scan: &Scan) {
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
            moved_data: None,
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
    pub(super) fn consider(&self, at: MonoTime, consider: &mut impl FnMut(MonoTime)) {
        let next_use = self.uses.partition_point(|used| used.from <= at);
        for used in self.uses.get(next_use).into_iter() {
            [used.from, used.from.minus(HOOK_SLACK), used.from.minus(SLACK)]
                .into_iter()
                .for_each(&mut *consider);
            let received = used.handover.map(|handover| handover.former_received);
            received.into_iter().for_each(|time| consider(time.plus(Duration::from_nanos(1))));
        }
        [self.first_data(), self.closed].iter().flatten().for_each(|touched| consider(touched.minus(SLACK)));
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
    ///
    /// `came_in`: through a listening socket. Who accepts such a connection may do so for others, as an inetd does.
    pub(super) fn turn_at(&self, used: &Use, question: &Question, came_in: bool) -> Answer {
        let mine = used.answer();
        if question.sent && question.by_call || question.at < used.from {
            return mine;
        }
        if came_in && self.is_untouched(question.at) {
            let is_final = question.waited >= SLACK;
            return Answer::None(if is_final { Reason::Ambiguous } else { Reason::TooLate });
        }
        if question.waited < SLACK && self.is_shared() {
            return Answer::None(Reason::TooLate);
        }
        if question.flow.protocol != Protocol::TCP && self.is_pool() && self.changes_soon(used, question.at) {
            return Answer::None(Reason::Ambiguous);
        }
        match self.handover_after(question.at) {
            Some((next, _)) if next.process == used.process => mine,
            // The program that reads it did not run yet.
            Some((_, Handover { began: Some(began), .. })) if question.at.plus(FINE_CLOCK_ERROR) < began => {
                mine
            }
            Some((next, handover)) if self.waited_at(question.at, handover) => next.answer(),
            Some(_) => Answer::None(Reason::Ambiguous),
            None => mine,
        }
    }

    /// Whether nobody moves data over it, nor its user closes it, until so long after this time that whoever waits for a
    /// packet has got it: then it is not known who does.
    fn is_untouched(&self, at: MonoTime) -> bool {
        let until = at.plus(SLACK);
        let is_closed = self.closed.is_some_and(|closed| closed <= until)
            && self.uses.last().is_some_and(|last| last.process != ONE_OF_SEVERAL);
        !is_closed && self.first_data().is_none_or(|moved| moved > until)
    }

    pub(super) fn first_data(&self) -> Option<MonoTime> {
        self.uses.iter().filter_map(|used| used.moved_data).min()
    }

    /// The next use, if it begins so soon that what comes in at this time may be its, by all that is known of the user
    /// before it.
    pub(super) fn handover_after(&self, at: MonoTime) -> Option<(&Use, Handover)> {
        let next = self.uses.get(self.uses.partition_point(|used| used.from <= at))?;
        let handover = next.handover?;
        (handover.former_received < at && next.from <= at.plus(SLACK)).then_some((next, handover))
    }

    /// Whether the later process had the socket when this packet came, and can have waited for it: its parent had used the
    /// socket before it was forked, so that it was born with it. A fork alone goes on where its parent was; what it reads
    /// later is its own from its first moment.
    pub(super) fn waited_at(&self, at: MonoTime, handover: Handover) -> bool {
        let (Some(began), Some(parent)) = (handover.began, handover.parent_pid) else { return false };
        let is_parents = |used: &Use| used.process.pid() == parent && used.from <= began;
        let ready = began.plus(if handover.executed { STARTING } else { FINE_CLOCK_ERROR });
        ready <= at && self.uses.iter().any(is_parents)
    }

    /// Whether more than two processes have used it: they may all wait on it at the same time, and each takes the datagram
    /// that is at the head of the queue, which need not be the one that woke it.
    pub(super) fn is_pool(&self) -> bool {
        let first = self.uses.first().map(|used| used.process);
        let mut others = self.uses.iter().map(|used| used.process).filter(|process| Some(*process) != first);
        let second = others.next();
        second.is_some() && others.any(|process| Some(process) != second)
    }

    pub(super) fn changes_soon(&self, used: &Use, at: MonoTime) -> bool {
        let after = self.uses.partition_point(|other| other.from <= at);
        let soon = self.uses[after..].iter().take_while(|other| other.from <= at.plus(SLACK));
        soon.into_iter().any(|other| other.process != used.process)
    }

    /// Whether what is sent at this time and what comes in, or is acknowledged, may have different owners: then no answer stands.
    pub(super) fn is_between_users(&self, at: MonoTime) -> bool {
        let changes_soon = || self.use_at(at).is_some_and(|used| self.changes_soon(&used, at));
        self.handover_after(at).is_some() || self.is_pool() && changes_soon()
    }

    pub(super) fn is_shared(&self) -> bool {
        self.uses.windows(2).any(|pair| pair[0].process != pair[1].process)
    }

    /// A socket that processes take turns in has no end of uses; those that ended long ago are not asked for.
    pub(super) fn cut_uses(&mut self, now: MonoTime) {
        if self.uses.len() > MOST_USES && self.uses.len().is_power_of_two() {
            let current = self.uses.partition_point(|used| used.from.plus(LINGER) <= now);
            self.is_cut |= current > 1;
            self.uses.drain(..current.saturating_sub(1));
        }
    }

    pub(super) fn last_confirmed(&self) -> MonoTime {
        self.uses.iter().map(|used| used.confirmed).max().unwrap_or_default()
    }
}

impl Use {
    pub(super) fn new(news: &SocketNews, user: User) -> Self {
        let User { process, tid, since, handover } = user;
        let moved_data = news.moves_data().then_some(news.at);
        Self { process, tid, from: since, confirmed: news.at, moved_data, handover, found: Found::Socket }
    }

    /// Whether it was only seen who had the socket open, at a time of which it is told now who used it.
    pub(super) fn is_superseded_by(&self, news: &SocketNews, user: User) -> bool {
        self.found != Found::Socket && user.since <= self.from && self.from <= news.at
    }

    pub(super) const fn answer(&self) -> Answer {
        match self.process {
            ONE_OF_SEVERAL => Answer::None(Reason::Ambiguous),
            process => Answer::Owner(process, self.tid, self.found),
        }
    }

    pub(super) fn is_the_same(&self, user: User) -> bool {
        self.process == user.process && self.from == user.since
    }
}
