//! Packet times are CLOCK_REALTIME, event times CLOCK_MONOTONIC. This turns the one into the other.

use crate::model::{MonoTime, RealTime};

/// A change of the offset by more than this is a step of the clock; less is slewing, or the error of measuring.
const STEP_NS: i64 = 1_000_000;

/// The offset between the clocks, measured anew in each round, and the one before the last step of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockOffset {
    /// Real less monotonic time. Nanoseconds since 1970 fit into 63 bits until 2262.
    pub(super) offset_ns: i64,
    /// The offset before the last step, and the last measurement that had it.
    pub(super) before_step: Option<(i64, MonoTime)>,
    pub(super) measured: MonoTime,
}

impl ClockOffset {
    /// Starts with one measurement: both clocks at the same moment.
    pub fn new((real, mono): (RealTime, MonoTime)) -> Self {
        Self { offset_ns: difference(real, mono), before_step: None, measured: mono }
    }

    /// Takes a new measurement.
    pub fn measure(&mut self, (real, mono): (RealTime, MonoTime)) {
        let offset_ns = difference(real, mono);
        if offset_ns.abs_diff(self.offset_ns) > STEP_NS.unsigned_abs() {
            self.before_step = Some((self.offset_ns, self.measured));
        }
        self.offset_ns = offset_ns;
        self.measured = mono;
    }

    /// When, on the clock of the events, a packet of this time was captured: never later than the last measurement,
    /// since a packet that was taken is not from the future. A time that the new offset puts before the step or into the
    /// future was taken from the clock as it stood before the step; if that puts it into the future too, there was an earlier step, and
    /// all that is known is that the packet came before the last one. So with time passing each packet becomes old.
    pub fn mono(&self, time: RealTime) -> MonoTime {
        // Of a file's offset anything may be expected.
        let by = |offset_ns: i64| (time.as_ns() as i64).saturating_sub(offset_ns);
        let latest = i64::try_from(self.measured.as_ns()).unwrap_or(i64::MAX);
        let is_future = |ns: i64| ns.saturating_sub(latest) > STEP_NS;
        let mut ns = by(self.offset_ns);
        if let Some((offset_ns, last)) = self.before_step {
            let last = i64::try_from(last.as_ns()).unwrap_or(i64::MAX);
            if is_future(ns) || ns < last {
                ns = by(offset_ns);
            }
            if is_future(ns) {
                ns = last;
            }
        }
        MonoTime::from_ns(u64::try_from(ns.clamp(0, latest)).unwrap_or(0))
    }

    /// What the clock of the packets shows at this time, or will if nobody sets it.
    pub fn real(&self, time: MonoTime) -> RealTime {
        RealTime::from_ns(time.as_ns().saturating_add_signed(self.offset_ns))
    }
}

fn difference(real: RealTime, mono: MonoTime) -> i64 {
    real.as_ns() as i64 - mono.as_ns() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(real_s: u64, mono_s: u64) -> (RealTime, MonoTime) {
        (RealTime::from_ns(real_s * SECOND), MonoTime::from_ns(mono_s * SECOND))
    }

    #[test]
    fn a_packets_time_is_moved_by_the_measured_offset() {
        let mut clock = ClockOffset::new(at(1000, 10));
        clock.measure(at(1002, 12));
        assert_eq!(clock.mono(RealTime::from_ns(1001 * SECOND)), MonoTime::from_ns(11 * SECOND));
    }

    #[test]
    fn a_time_moved_there_and_back_is_the_same() {
        let mut clock = ClockOffset::new(at(1000, 10));
        clock.measure(at(1002, 12));
        let time = RealTime::from_ns(1001 * SECOND + 5);
        assert_eq!(clock.real(clock.mono(time)), time);
    }

    #[test]
    fn a_packet_from_before_a_step_backward_keeps_its_place() {
        let mut clock = ClockOffset::new(at(1000, 10));
        clock.measure(at(903, 13));
        assert_eq!(clock.mono(RealTime::from_ns(1002 * SECOND)), MonoTime::from_ns(12 * SECOND));
        assert_eq!(clock.mono(RealTime::from_ns(902 * SECOND)), MonoTime::from_ns(12 * SECOND));
    }

    #[test]
    fn a_packet_from_before_a_step_forward_keeps_its_place() {
        let mut clock = ClockOffset::new(at(1000, 10));
        clock.measure(at(1002, 12));
        clock.measure(at(5003, 13));
        assert_eq!(clock.mono(RealTime::from_ns(1001 * SECOND)), MonoTime::from_ns(11 * SECOND));
        assert_eq!(clock.mono(RealTime::from_ns(5003 * SECOND)), MonoTime::from_ns(13 * SECOND));
    }

    #[test]
    fn a_packet_from_before_two_steps_backward_is_from_before_the_last_one() {
        let mut clock = ClockOffset::new(at(10_000, 10));
        clock.measure(at(5001, 11));
        clock.measure(at(2, 12));
        for mono_s in [12, 20, 3000] {
            clock.measure(at(mono_s - 10, mono_s));
            assert_eq!(clock.mono(RealTime::from_ns(10_000 * SECOND)), MonoTime::from_ns(11 * SECOND));
        }
    }

    #[test]
    fn long_after_a_step_a_packet_that_seems_a_little_late_is_of_now() {
        let mut clock = ClockOffset::new(at(5000, 10));
        clock.measure(at(1, 11));
        clock.measure(at(2, 12));
        let late = RealTime::from_ns(2 * SECOND + 1000);
        assert_eq!(clock.mono(late), MonoTime::from_ns(12 * SECOND));
    }

    #[test]
    fn no_packet_is_from_the_future() {
        let clock = ClockOffset::new(at(1000, 10));
        assert_eq!(clock.mono(RealTime::from_ns(1005 * SECOND)), MonoTime::from_ns(10 * SECOND));
    }
}
