//! The answers for flows that were asked for just before.
//!
//! An answer stands until something new is learnt or its time is over; both are known, so it is given again as long as
//! that takes. What is remembered is bounded: two flows that meet in one place take turns.

use std::time::Duration;

use super::join;
use crate::decode::Plain;
use crate::model::{Attribution, MonoTime, Reason};

const SLOTS: usize = 1024;

/// What an answer depends on besides the flow and the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Circumstances {
    /// How much was known: grows with everything that is learnt.
    pub(super) knowledge: u64,
    pub(super) is_loopback: bool,
    /// Whether it waited long enough to be final.
    pub(super) is_final: bool,
}

impl Circumstances {
    /// None for a packet that waited too short a time for any answer to be given twice.
    pub(super) fn new(knowledge: u64, is_loopback: bool, waited: Duration) -> Option<Self> {
        let is_final = waited >= join::SLACK;
        (waited >= join::HOOK_SLACK).then_some(Self { knowledge, is_loopback, is_final })
    }
}

/// An answer, and what it holds for.
#[derive(Clone, Copy, Debug)]
struct Slot {
    plain: Plain,
    circumstances: Circumstances,
    from: MonoTime,
    until: MonoTime,
    attribution: Attribution,
}

/// The remembered answers.
#[derive(Debug)]
pub(super) struct Memo {
    slots: Vec<Slot>,
}

impl Default for Memo {
    fn default() -> Self {
        let nothing = Slot {
            plain: Plain::default(),
            circumstances: Circumstances { knowledge: 0, is_loopback: false, is_final: false },
            from: MonoTime::default(),
            until: MonoTime::default(),
            attribution: Attribution::Unknown(Reason::Off),
        };
        Self { slots: vec![nothing; SLOTS] }
    }
}

impl Memo {
    /// The answer for this flow at this time, if it is known to be the same as one given before.
    #[inline]
    pub(super) fn find(
        &self,
        plain: &Plain,
        circumstances: &Circumstances,
        at: MonoTime,
    ) -> Option<Attribution> {
        let slot = self.slots.get(place(plain))?;
        let stands = slot.plain == *plain
            && slot.circumstances == *circumstances
            && slot.from <= at
            && at < slot.until;
        stands.then_some(slot.attribution)
    }

    /// Remembers an answer that stands from `from` on until before `until`.
    pub(super) fn put(
        &mut self,
        plain: Plain,
        circumstances: Circumstances,
        (from, until): (MonoTime, MonoTime),
        attribution: Attribution,
    ) {
        if let Some(slot) = self.slots.get_mut(place(&plain)) {
            *slot = Slot { plain, circumstances, from, until, attribution };
        }
    }
}

#[inline]
fn place(plain: &Plain) -> usize {
    (plain.hash() >> (64 - SLOTS.trailing_zeros())) as usize
}
