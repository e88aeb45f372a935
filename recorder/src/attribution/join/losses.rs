//! The times of which not all events are known.

use std::collections::VecDeque;
use std::time::Duration;

use super::{HOOK_SLACK, SLACK, TCP_LINGER};
use crate::model::MonoTime;

/// How long after a loss a flow that nobody knows may owe that to the loss.
const LOSS_SHADOW: Duration = Duration::from_secs(1);
/// So many are remembered however old they are.
const FEW: usize = 64;

/// Between these times events were lost: merged, oldest first, so that of two the earlier one ended before.
#[derive(Debug, Default)]
pub(super) struct Losses(VecDeque<(MonoTime, MonoTime)>);

impl Losses {
    pub(super) fn add(&mut self, from: MonoTime, to: MonoTime) {
        match self.0.back_mut() {
            Some((_, last)) if *last >= from => *last = to.max(*last),
            _ => self.0.push_back((from, to)),
        }
    }

    /// Forgets what no packet at or after `now` can owe anything to.
    pub(super) fn forget(&mut self, now: MonoTime) {
        while self.0.front().is_some_and(|(_, to)| to.plus(TCP_LINGER) < now && self.0.len() > FEW) {
            self.0.pop_front();
        }
    }

    /// The end of the last of all.
    pub(super) fn last_end(&self) -> Option<MonoTime> {
        self.0.back().map(|(_, to)| *to)
    }

    /// The end of the last one that began by this time.
    pub(super) fn end_of_last(&self, by: MonoTime) -> Option<MonoTime> {
        let begun = self.0.partition_point(|(from, _)| *from <= by);
        self.0.get(begun.checked_sub(1)?).map(|(_, to)| *to)
    }

    /// Whether what was last heard at one time may have changed until the packet, by an event that was lost. The event can
    /// be later than its packet.
    pub(super) fn any_since(&self, confirmed: MonoTime, at: MonoTime) -> bool {
        self.end_of_last(at.plus(HOOK_SLACK)).is_some_and(|end| end > confirmed)
    }

    /// Whether something was lost between the packet and the later time from which on it is known who has what.
    pub(super) fn any_before(&self, known_from: MonoTime, at: MonoTime) -> bool {
        at < known_from && self.end_of_last(known_from).is_some_and(|end| end >= at)
    }

    /// Whether that nobody is known at this time may be the fault of a loss.
    pub(super) fn cast_shadow(&self, at: MonoTime) -> bool {
        self.end_of_last(at.plus(SLACK)).is_some_and(|end| end >= at.minus(LOSS_SHADOW))
    }

    /// The times that answers about packets after `at` are compared with.
    pub(super) fn consider(&self, at: MonoTime, consider: &mut impl FnMut(MonoTime)) {
        // In order: what is over for longer than this has no say any more, nor has what was before it.
        for (from, to) in self.0.iter().rev().take_while(|(_, to)| to.plus(LOSS_SHADOW) >= at) {
            let times = [from.minus(SLACK), from.minus(HOOK_SLACK), *from, *to, to.plus(LOSS_SHADOW)];
            times.into_iter().for_each(|time| {
                consider(time);
                consider(time.plus(Duration::from_nanos(1)));
            });
        }
    }
}
