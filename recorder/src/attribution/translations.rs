//! What network address translation (NAT) made of a connection's addresses: asked once, and remembered for a while.
//!
//! A socket knows its connection as its program sees it; behind a masquerading or port-forwarding rule the same packets
//! carry other addresses. Whoever translates keeps both, and is asked by what a packet carries. A pair of addresses is not
//! given to another connection before the entry of the last one is gone, which takes ten seconds at least: so an answer that
//! is a little late is still right.

use std::time::Duration;

use foldhash::HashMap;

use super::journal::Journal;
use super::news::News;
use crate::model::{Flow, MonoTime};

/// How long an answer is believed.
const STANDS: Duration = Duration::from_secs(1);
/// The most questions in a second, some 10 µs each: a flood of strange flows must not keep us from the packets.
const MOST_QUESTIONS: u32 = 5_000;

/// Who translates, and can be asked.
pub trait Translator: std::fmt::Debug {
    /// Whether connections are tracked here, so that [`Self::translate`] may have an answer.
    fn is_tracking(&mut self) -> bool;

    /// What `flow`, as a packet carries it from its sender, is on the other side of the translation; none if nothing
    /// translates it, or that is not known.
    fn translate(&mut self, flow: &Flow) -> Option<Flow>;
}

/// An answer, and until when packets of the flow get the same one; none if nothing limits that.
pub(super) type Translated = (Option<Flow>, Option<MonoTime>);

/// The answers; and who is asked, in a recording. Without one there is what was learnt from a journal.
#[derive(Debug, Default)]
pub(super) struct Translations {
    translator: Option<Box<dyn Translator>>,
    is_tracking: bool,
    /// When it was last looked whether connections are tracked.
    looked: MonoTime,
    known: HashMap<Flow, (MonoTime, Option<Flow>)>,
    questions: u32,
}

impl Translations {
    pub(super) fn new(translator: Option<Box<dyn Translator>>) -> Self {
        Self { translator, ..Self::default() }
    }

    /// Forgets old answers. Called about once a second.
    pub(super) fn forget(&mut self, now: MonoTime) {
        self.questions = 0;
        self.known.retain(|_, (at, _)| at.plus(STANDS) > now);
    }

    /// Learns whether connections are tracked.
    pub(super) const fn learn_tracking(&mut self, is_tracking: bool) {
        self.is_tracking = is_tracking;
    }

    /// Learns what was answered for a packet of this time.
    pub(super) fn learn(&mut self, flow: Flow, at: MonoTime, answer: Option<Flow>) {
        self.known.insert(flow, (at, answer));
    }

    /// Looks whether connections are tracked, if a packet of this time wants to know and it is not known for that time. Whether
    /// something has changed.
    pub(super) fn look(&mut self, at: MonoTime, now: MonoTime, journal: Option<&mut Journal>) -> bool {
        // A packet that was captured before the last look was tracked by then, if it is tracked at all.
        let Some(translator) = self.translator.as_mut().filter(|_| at > self.looked) else { return false };
        let is_tracking = translator.is_tracking();
        self.looked = now;
        if is_tracking == self.is_tracking {
            return false;
        }
        self.is_tracking = is_tracking;
        if let Some(journal) = journal {
            journal.news(&News::Tracking(is_tracking));
        }
        true
    }

    /// What `flow`, as a packet of the time `at` carries it from its sender, is on the other side of the translation.
    pub(super) fn translated(
        &mut self,
        flow: &Flow,
        at: MonoTime,
        journal: Option<&mut Journal>,
    ) -> Translated {
        if !self.is_tracking {
            return (None, None);
        }
        if let Some((asked, answer)) = self.known.get(flow)
            && asked.plus(STANDS) > at
        {
            return (*answer, Some(asked.plus(STANDS)));
        }
        let Some(translator) = self.translator.as_mut().filter(|_| self.questions < MOST_QUESTIONS) else {
            return (None, Some(at));
        };
        self.questions += 1;
        let answer = translator.translate(flow);
        self.known.insert(*flow, (at, answer));
        if let Some(journal) = journal {
            journal.news(&News::Translation { flow: *flow, at, answer });
        }
        (answer, Some(at.plus(STANDS)))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use crate::model::{Endpoint, Protocol};

    /// Translates a flow into its reverse, and counts how often it was asked.
    #[derive(Debug)]
    struct Reverses(Rc<Cell<u32>>);

    impl Translator for Reverses {
        fn is_tracking(&mut self) -> bool {
            true
        }

        fn translate(&mut self, flow: &Flow) -> Option<Flow> {
            self.0.set(self.0.get() + 1);
            Some(flow.reversed())
        }
    }

    fn flow(port: u16) -> Flow {
        let end = |port| Endpoint::new([10, 0, 0, 1].into(), port);
        Flow { protocol: Protocol::TCP, local: end(port), remote: end(80) }
    }

    fn at(ms: u64) -> MonoTime {
        MonoTime::from_ns(ms * 1_000_000)
    }

    #[test]
    fn an_answer_is_given_again_for_a_second_and_then_asked_for_anew() {
        let asked = Rc::default();
        let mut translations = Translations::new(Some(Box::new(Reverses(Rc::clone(&asked)))));
        translations.look(at(1), at(1), None);
        let answer = (Some(flow(1).reversed()), Some(at(1001)));
        assert_eq!(translations.translated(&flow(1), at(1), None), answer);
        assert_eq!(translations.translated(&flow(1), at(1000), None), answer);
        assert_eq!(asked.get(), 1);
        assert_eq!(translations.translated(&flow(1), at(1001), None).1, Some(at(2001)));
        assert_eq!(asked.get(), 2);
    }

    #[test]
    fn a_flood_of_strange_flows_is_not_asked_for_without_end() {
        let asked = Rc::default();
        let mut translations = Translations::new(Some(Box::new(Reverses(Rc::clone(&asked)))));
        translations.look(at(1), at(1), None);
        for port in 0..u16::MAX {
            translations.translated(&flow(port), at(1), None);
        }
        assert_eq!(asked.get(), MOST_QUESTIONS);
        assert_eq!(
            translations.translated(&flow(u16::MAX), at(1), None),
            (None, Some(at(1))),
            "stands for nobody"
        );
    }

    #[test]
    fn what_a_journal_tells_is_answered_without_asking() {
        let mut translations = Translations::new(None);
        translations.learn(flow(1), at(1), Some(flow(2)));
        assert_eq!(translations.translated(&flow(1), at(1), None), (None, None), "nothing is tracked yet");
        translations.learn_tracking(true);
        assert_eq!(translations.translated(&flow(1), at(1), None).0, Some(flow(2)));
        assert_eq!(translations.translated(&flow(3), at(1), None).0, None);
    }
}
