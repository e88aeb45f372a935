//! Sockets without a remote end that were seen in the kernel's tables: they take what comes to their port.
//!
//! Needed where the kernel side has not told of a socket yet (it is older than the recording and was not used since), or
//! where there is no kernel side. A socket that the kernel side knows tells each of its flows, and those come first.

use std::time::Duration;

use foldhash::HashMap;

use super::asking::merge;
use super::{Answer, Join, Question};
use crate::attribution::event::{Cookie, NetNs, Reach, Scan, Sighting};
use crate::model::{Endpoint, Flow, Found, MonoTime, Protocol, Reason};

const NOBODY: Answer = Answer::None(Reason::NoSocket);

/// By protocol and port.
#[derive(Debug, Default)]
pub(super) struct BoundSockets {
    by_port: HashMap<(Protocol, u16), Vec<Bound>>,
}

/// A stretch of time in which a socket was bound to an address and a port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub(super) cookie: Cookie,
    netns: NetNs,
    local: Endpoint,
    reach: Reach,
    from: MonoTime,
    /// The last time at which this was seen.
    confirmed: MonoTime,
    /// When it was not there any more.
    gone: Option<MonoTime>,
    found: Found,
}

impl BoundSockets {
    /// The socket was seen.
    pub(super) fn see(&mut self, sighting: &Sighting, scan: &Scan) {
        let Sighting { cookie, netns, flow, reach, .. } = *sighting;
        let here = self.by_port.entry((flow.protocol, flow.local.port)).or_default();
        let is_same =
            |bound: &&mut Bound| bound.cookie == cookie && bound.local == flow.local && bound.gone.is_none();
        match here.iter_mut().find(is_same) {
            Some(known) => known.confirmed = scan.began,
            None => here.push(Bound {
                cookie,
                netns,
                local: flow.local,
                reach,
                from: scan.ended,
                confirmed: scan.began,
                gone: None,
                found: scan.found,
            }),
        }
    }

    /// What was not seen in this scan was gone when it ended.
    pub(super) fn end_scan(&mut self, scan: &Scan) {
        for bound in self.by_port.values_mut().flatten().filter(|bound| bound.confirmed < scan.began) {
            bound.gone.get_or_insert(scan.ended);
        }
    }

    /// The socket got a remote end.
    pub(super) fn leave(&mut self, key: (Protocol, u16), cookie: Cookie, at: MonoTime) {
        for bound in self.by_port.get_mut(&key).into_iter().flatten().filter(|bound| bound.cookie == cookie) {
            bound.gone.get_or_insert(at);
        }
    }

    /// The socket is closed, and that long ago.
    pub(super) fn forget(&mut self, key: (Protocol, u16), cookie: Cookie) {
        if let Some(here) = self.by_port.get_mut(&key) {
            here.retain(|bound| bound.cookie != cookie);
            if here.is_empty() {
                self.by_port.remove(&key);
            }
        }
    }

    /// Forgets what was not seen since a loss.
    pub(super) fn sweep(&mut self, loss_end: MonoTime) {
        self.by_port.retain(|_, here| {
            here.retain(|bound| bound.confirmed >= loss_end);
            !here.is_empty()
        });
    }

    /// Those that take what comes to this end of a flow, if they take any of it.
    pub(super) fn at(&self, flow: Flow) -> impl Iterator<Item = &Bound> + Clone {
        self.by_port.get(&(flow.protocol, flow.local.port)).into_iter().flatten()
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.by_port.values().map(Vec::len).sum()
    }
}

impl Bound {
    /// Whether it takes packets for this end, by address.
    fn reaches(&self, question: &Question) -> bool {
        let end = question.flow.local;
        if self.has_address() {
            return self.local == end;
        }
        let takes_family = if end.ip().is_ipv4() { self.reach.v4 } else { self.reach.v6 };
        takes_family && question.home == Some(self.netns)
    }

    fn has_address(&self) -> bool {
        !self.local.ip().is_unspecified()
    }

    /// The times that an answer about it depends on.
    pub(super) fn consider(&self, consider: &mut impl FnMut(MonoTime)) {
        consider(self.from);
        for end in [Some(self.confirmed), self.gone].into_iter().flatten() {
            consider(end);
            consider(end.plus(Duration::from_nanos(1)));
        }
    }
}

impl Join {
    /// Who takes what comes to this end, where no flow tells: in each network namespace but those that `answered` already,
    /// because there the kernel side knows the socket that has the flow.
    pub(super) fn ask_bound(&self, question: &Question, answered: &[Option<NetNs>]) -> Answer {
        let mut answer = NOBODY;
        let mut asked: Vec<NetNs> = Vec::new();
        for bound in self.bound.at(question.flow).filter(|bound| self.counts(bound, question)) {
            let is_told = bound.found != Found::Procfs && answered.contains(&Some(bound.netns));
            if !is_told && !asked.contains(&bound.netns) {
                asked.push(bound.netns);
                answer = merge(answer, self.ask_bound_in(bound.netns, question));
            }
        }
        answer
    }

    /// Whether the socket may have to do with the packet.
    fn counts(&self, bound: &Bound, question: &Question) -> bool {
        // The kernel side tells of a socket before it sends.
        if question.sent && bound.found != Found::Procfs {
            return false;
        }
        let is_elsewhere = question.only_netns.is_some_and(|only| bound.netns != only);
        let closed = self.sockets.get(&bound.cookie).and_then(|socket| socket.closed);
        let is_over = [bound.gone, closed].into_iter().flatten().any(|end| end < question.at);
        !is_elsewhere && !is_over && bound.reaches(question)
    }

    fn ask_bound_in(&self, netns: NetNs, question: &Question) -> Answer {
        let here = || {
            let at_port = self.bound.at(question.flow).filter(|bound| bound.netns == netns);
            at_port.filter(|bound| self.counts(bound, question))
        };
        // A socket with the very address comes first (`udp4_lib_lookup` of net/ipv4/udp.c).
        let has_address = here().any(Bound::has_address);
        let mut answer: Option<Answer> = None;
        for bound in here().filter(|bound| bound.has_address() == has_address) {
            let owner = self.owner_of_bound(bound, question);
            answer = Some(match answer {
                None => owner,
                Some(Answer::Owner(..)) if owner == NOBODY => Answer::None(Reason::Ambiguous),
                Some(NOBODY) if owner != NOBODY => Answer::None(Reason::Ambiguous),
                Some(before) => merge(before, owner),
            });
        }
        answer.unwrap_or(NOBODY)
    }

    fn owner_of_bound(&self, bound: &Bound, question: &Question) -> Answer {
        if question.waited < super::HOOK_SLACK {
            return Answer::None(Reason::TooLate);
        }
        if self.losses.any_since(bound.confirmed, question.at)
            || self.losses.any_before(bound.from, question.at)
        {
            return Answer::None(Reason::EventsLost);
        }
        let used = self.sockets.get(&bound.cookie).and_then(|socket| socket.use_at(question.at));
        match used {
            // Before it was seen the port may have been another one's.
            _ if question.at < bound.from => NOBODY,
            // Which device the packet came by is not asked for.
            _ if bound.reach.one_device => Answer::None(Reason::Ambiguous),
            Some(used) if self.losses.any_since(used.confirmed, question.at) => {
                Answer::None(Reason::EventsLost)
            }
            Some(used) if question.at < used.from => Answer::None(Reason::Ambiguous),
            Some(used) => used.answer(),
            // The kernel's own, or nobody's at the moment.
            None => NOBODY,
        }
    }
}
