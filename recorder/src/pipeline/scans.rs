//! Looking sockets up again and again, where the kernel does not tell: how often, and how long packets wait for it.

use std::time::Duration;

use crate::attribution::event::Scan;
use crate::attribution::linux::procfs::{Hidden, ScanError, Scanner};
use crate::model::{Found, MonoTime};

/// The pause between two scans while packets wait for the next one.
const BUSY: Duration = Duration::from_millis(20);
/// The pause while there are none: what will be named was seen before its packet.
const IDLE: Duration = Duration::from_secs(1);
/// A pause is at least so many times as long as the scan before it: four times is a fifth of one core.
const PAUSE_PER_SCAN: u32 = 4;
/// How long before a scan a packet must have been captured to be between that scan and the one before: two clocks are
/// compared, and the join gives no answer for less than a millisecond.
const MARGIN: Duration = Duration::from_millis(2);
/// How long packets wait for a scan at most.
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// The scans of a recording without the kernel side.
#[derive(Debug)]
pub(super) struct Scans {
    scanner: Scanner,
    began: MonoTime,
    ended: MonoTime,
    cost: Duration,
}

impl Scans {
    /// Takes the first look.
    ///
    /// # Errors
    /// If sockets or processes cannot be listed.
    pub(super) fn begin() -> Result<(Self, Scan), ScanError> {
        let mut scanner = Scanner::default();
        let scan = scanner.scan(Found::Procfs)?;
        let (began, ended) = (scan.began, scan.ended);
        Ok((Self { scanner, began, ended, cost: ended.since(began) }, scan))
    }

    /// What could not be looked into.
    pub(super) const fn hidden(&self) -> Hidden {
        self.scanner.hidden()
    }

    /// All that there was to be seen before this time is known.
    pub(super) const fn known_until(&self) -> MonoTime {
        self.began
    }

    /// When the next look is due.
    pub(super) fn due(&self, packets_wait: bool) -> MonoTime {
        let pause = if packets_wait { BUSY } else { IDLE };
        self.ended.plus(pause.max(self.cost * PAUSE_PER_SCAN))
    }

    /// Looks again, if it is time.
    pub(super) fn look(&mut self, now: MonoTime, packets_wait: bool) -> Option<Result<Scan, ScanError>> {
        if now < self.due(packets_wait) {
            return None;
        }
        let result = self.scanner.scan(Found::Procfs);
        match &result {
            Ok(scan) => {
                (self.began, self.ended) = (scan.began, scan.ended);
                self.cost = scan.ended.since(scan.began);
            }
            // Tried again after the same pause.
            Err(_) => self.ended = now,
        }
        Some(result)
    }

    /// How long packets wait, seen from `now`: until a scan has begun after them.
    pub(super) fn hold_back(&self, now: MonoTime) -> Duration {
        (now.since(self.began) + MARGIN).min(LONGEST_WAIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scans(began_ms: u64, ended_ms: u64) -> Scans {
        let at = |ms| MonoTime::from_ns(ms * 1_000_000);
        let (began, ended) = (at(began_ms), at(ended_ms));
        Scans { scanner: Scanner::default(), began, ended, cost: ended.since(began) }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_dear_scan_is_followed_by_a_long_pause() {
        assert_eq!(scans(1000, 1001).due(true), MonoTime::from_ns(1_021_000_000));
        assert_eq!(scans(1000, 1050).due(true), MonoTime::from_ns(1_250_000_000));
        assert_eq!(scans(1000, 1001).due(false), MonoTime::from_ns(2_001_000_000));
    }

    #[test]
    fn packets_wait_until_a_scan_began_after_them_but_not_for_ever() {
        let scans = scans(1000, 1001);
        assert_eq!(scans.hold_back(MonoTime::from_ns(1_030_000_000)), ms(32));
        assert_eq!(scans.hold_back(MonoTime::from_ns(90_000_000_000)), ms(3000));
    }
}
