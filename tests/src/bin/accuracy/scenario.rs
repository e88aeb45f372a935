//! A scenario, what came of it, and whether that is what was expected.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;

use recorder_tests::judge::{Judged, Judgement, Verdict};

use crate::plan::{Mode, Plan};

/// How many packets that are not as expected are shown.
const SHOWN: usize = 8;

/// How much is shown of why a scenario could not be played.
const EVIDENCE_LINES: usize = 40;

/// One scenario.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) expected: Expected,
    pub(crate) play: fn(&Plan) -> Take,
}

/// What is expected besides that no name is wrong.
#[derive(Clone, Copy)]
pub(crate) enum Expected {
    /// Every end that has an owner is named, on every packet.
    AllRight,
    /// The same, but for these packets, which may be without an owner; docs/LIMITS.md holds these words, and says why.
    But { limits: &'static str, may_lack: fn(&Judged) -> bool },
}

/// What came of playing a scenario.
#[derive(Default)]
pub(crate) struct Take {
    pub(crate) judgement: Judgement,
    /// Packets of the file without any owner, by reason, as the file tells.
    pub(crate) reasons: BTreeMap<String, u64>,
    /// Packets dropped by the kernel, as the file tells.
    pub(crate) dropped: u64,
    /// What else is worth telling.
    pub(crate) notes: Vec<String>,
    /// What is not as it must be.
    pub(crate) failures: Vec<String>,
}

impl Take {
    /// Holds that there are so many packets: what was not recorded cannot be wrong.
    pub(crate) fn at_least(mut self, packets: usize) -> Self {
        let count = self.judgement.packets.len();
        self.must(count >= packets, || format!("{count} packets, expected at least {packets}"));
        self
    }

    /// Holds something else.
    pub(crate) fn must(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.failures.push(otherwise());
        }
    }

    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }
}

/// One row of the table.
pub(crate) struct Row {
    pub(crate) scenario: &'static str,
    pub(crate) what: &'static str,
    pub(crate) limits: Option<&'static str>,
    pub(crate) mode: Mode,
    pub(crate) packets: usize,
    pub(crate) right: usize,
    pub(crate) wrong: usize,
    pub(crate) unattributed: usize,
    pub(crate) both_named: usize,
    pub(crate) reasons: BTreeMap<String, u64>,
    pub(crate) notes: Vec<String>,
    pub(crate) failures: Vec<String>,
}

impl Row {
    pub(crate) fn new(scenario: &Scenario, mode: Mode, take: Take) -> Self {
        let Take { judgement, reasons, notes, mut failures, dropped: _ } = take;
        let count = |verdict| judgement.count(verdict);
        let wrong = count(Verdict::Wrong);
        let unexpected: Vec<&Judged> = judgement
            .packets
            .iter()
            .filter(|judged| is_unexpected(judged, scenario.expected, mode))
            .collect();
        if !unexpected.is_empty() {
            let shown = unexpected.iter().take(SHOWN).map(|judged| format!("\n{judged}"));
            failures.push(format!(
                "{} packets are not as expected:{}",
                unexpected.len(),
                shown.collect::<String>()
            ));
        }
        let limits = match scenario.expected {
            Expected::AllRight => None,
            Expected::But { limits, .. } => Some(limits),
        };
        if let Some(words) = limits.filter(|words| !crate::report::limits_say(words)) {
            failures.push(format!("docs/LIMITS.md does not say \"{words}\""));
        }
        Self {
            scenario: scenario.name,
            what: scenario.what,
            limits,
            mode,
            packets: judgement.packets.len(),
            right: count(Verdict::Right),
            wrong,
            // Nobody said it was theirs, and the file says the same: it has no owner either way.
            unattributed: count(Verdict::Unattributed) + count(Verdict::Nobodys),
            both_named: judgement.packets.iter().filter(|judged| judged.names_both()).count(),
            reasons,
            notes,
            failures,
        }
    }

    /// A scenario that panicked: all its evidence is in the message.
    pub(crate) fn not_played(scenario: &Scenario, mode: Mode, panic: &Box<dyn Any + Send>) -> Self {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
        let mut row = Self::new(scenario, mode, Take::default());
        let lines =
            text.lines().take(EVIDENCE_LINES).map(|line| line.chars().take(300).collect::<String>() + "\n");
        row.failures.push(format!("could not be played: {}", lines.collect::<String>()));
        row
    }
}

fn is_unexpected(judged: &Judged, expected: Expected, mode: Mode) -> bool {
    match (judged.verdict, expected) {
        (Verdict::Right, _) => false,
        (Verdict::Wrong, _) => true,
        // What is not attributed by polling is counted, and only that.
        _ if mode == Mode::Procfs => false,
        (_, Expected::AllRight) => true,
        (_, Expected::But { may_lack, .. }) => !may_lack(judged),
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, mode, packets, right, wrong, unattributed, both_named, .. } = self;
        let result = if self.failures.is_empty() { "as expected" } else { "NOT AS EXPECTED" };
        write!(
            f,
            "{scenario} ({}): {packets} packets: {right} right, {wrong} wrong, {unattributed} unattributed, \
             {both_named} with both ends; {result}",
            mode.name()
        )?;
        for (reason, count) in &self.reasons {
            write!(f, "; {reason} {count}")?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "\n  {note}"))?;
        self.failures.iter().try_for_each(|failure| write!(f, "\n  ! {}", failure.replace('\n', "\n    ")))
    }
}
