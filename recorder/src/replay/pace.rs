//! When each packet is due. Pure: times go in, a time comes out.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::model::RealTime;

const NS_PER_SECOND: u128 = 1_000_000_000;

/// How fast packets follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As they were recorded, or so many times faster; positive and finite.
    Recorded(f64),
    /// So many in a second, evenly.
    Packets(NonZeroU64),
    /// So many bits in a second, link headers included, and what only the wire has (preamble, checksum, gap) not.
    Bits(NonZeroU64),
    /// As fast as they are taken.
    TopSpeed,
}

/// The times at which packets are due, counted from the first one. Each is reckoned from the beginning, so errors do not add up.
#[derive(Debug)]
pub struct Schedule {
    pace: Pace,
    /// When this pass over the recording began.
    pass: Duration,
    /// The recorded time of the first packet of this pass.
    first: Option<RealTime>,
    last: Duration,
    packets: u64,
    bits: u64,
}

impl Schedule {
    /// Before the first packet.
    pub const fn new(pace: Pace) -> Self {
        Self { pace, pass: Duration::ZERO, first: None, last: Duration::ZERO, packets: 0, bits: 0 }
    }

    /// When the next packet is due, which was recorded at `time` and is `bytes` long. Never before the one that went before it:
    /// what the clock of the recording did when it was set back does not change the order.
    pub fn due(&mut self, time: RealTime, bytes: usize) -> Duration {
        let due = match self.pace {
            Pace::Recorded(speed) => {
                let offset = time.since(*self.first.get_or_insert(time));
                self.pass + faster(offset, speed)
            }
            Pace::Packets(rate) => at(self.packets, rate),
            Pace::Bits(rate) => at(self.bits, rate),
            Pace::TopSpeed => Duration::ZERO,
        };
        self.packets += 1;
        self.bits += 8 * bytes as u64;
        self.last = self.last.max(due);
        self.last
    }

    /// The recording begins again, with the last packet.
    pub const fn begin_again(&mut self) {
        self.pass = self.last;
        self.first = None;
    }

    /// Whether packets wait for their time at all.
    pub const fn waits(&self) -> bool {
        !matches!(self.pace, Pace::TopSpeed)
    }
}

fn faster(offset: Duration, speed: f64) -> Duration {
    // Exact where nothing is to be reckoned: a number of nanoseconds has more digits than a f64.
    if speed.to_bits() == 1.0_f64.to_bits() {
        return offset;
    }
    Duration::try_from_secs_f64(offset.as_secs_f64() / speed).unwrap_or(Duration::MAX / 2)
}

fn at(count: u64, rate: NonZeroU64) -> Duration {
    let ns = u128::from(count) * NS_PER_SECOND / u128::from(rate.get());
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_700_000_000_123_456_789;

    fn dues(pace: Pace, offsets: &[i64]) -> Vec<u64> {
        let mut schedule = Schedule::new(pace);
        let due = |offset: &i64| schedule.due(RealTime::from_ns(START.wrapping_add_signed(*offset)), 125);
        offsets.iter().map(due).map(|due| due.as_nanos() as u64).collect()
    }

    #[test]
    fn the_recorded_distance_is_kept_to_the_nanosecond() {
        let day = 86_400_000_000_000;
        assert_eq!(
            dues(Pace::Recorded(1.0), &[0, 1, 1001, 365 * day + 1]),
            [0, 1, 1001, 365 * day as u64 + 1]
        );
    }

    #[test]
    fn a_factor_shrinks_all_distances() {
        assert_eq!(dues(Pace::Recorded(2.0), &[0, 1000, 5000]), [0, 500, 2500]);
        assert_eq!(dues(Pace::Recorded(0.5), &[0, 1000, 5000]), [0, 2000, 10_000]);
    }

    #[test]
    fn a_clock_that_was_set_back_delays_nothing_and_reorders_nothing() {
        assert_eq!(dues(Pace::Recorded(1.0), &[0, 500, -900, 400, 600]), [0, 500, 500, 500, 600]);
    }

    #[test]
    fn a_rate_counts_packets_or_bits() {
        let rate = |number| NonZeroU64::new(number).unwrap();
        assert_eq!(dues(Pace::Packets(rate(3)), &[0, 0, 0, 0]), [0, 333_333_333, 666_666_666, 1_000_000_000]);
        assert_eq!(dues(Pace::Bits(rate(1_000_000)), &[0, 9, 0]), [0, 1_000_000, 2_000_000]);
        assert_eq!(dues(Pace::TopSpeed, &[0, 1_000_000_000]), [0, 0]);
    }

    #[test]
    fn the_next_pass_begins_with_the_end_of_the_last() {
        let mut schedule = Schedule::new(Pace::Recorded(1.0));
        let mut due = |offset| schedule.due(RealTime::from_ns(START + offset), 1).as_nanos();
        assert_eq!((due(0), due(70)), (0, 70));
        schedule.begin_again();
        let mut due = |offset| schedule.due(RealTime::from_ns(START + offset), 1).as_nanos();
        assert_eq!((due(0), due(70)), (70, 140));
    }

    #[test]
    fn an_absurd_factor_ends_at_the_end_of_time() {
        assert!(dues(Pace::Recorded(f64::MIN_POSITIVE), &[0, 1])[1] > 1 << 60);
    }
}
