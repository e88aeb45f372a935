//! Bytes over time: as many bins as a picture has room for, whatever the capture's length.

use std::collections::HashMap;

use crate::model::{ProcessIndex, RealTime};

/// A picture is some 1200 pixels wide; between half as many bins as this and this many are used.
pub(super) const MOST_BINS: u64 = 360;

/// So many pairs of a process and a bin, unless there are more processes.
const MOST_ENTRIES: usize = 200_000;

/// Bytes of one process in one bin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bytes {
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Its part in a picture of all: of a packet between two known processes each has a half, so that it is there once.
    pub(super) share: u64,
}

impl Bytes {
    const fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.share += other.share;
    }
}

/// The bytes of each process by time; without a process: of packets that have none.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    bytes: HashMap<(Option<ProcessIndex>, u64), Bytes>,
    /// A bin is 2 to the power of this many nanoseconds long, and begins at a multiple of that.
    power: u32,
    /// The first and the last bin with a packet.
    range: Option<(u64, u64)>,
}

impl Timeline {
    /// Counts bytes of a process.
    pub(super) fn count(&mut self, process: Option<ProcessIndex>, at: RealTime, bytes: Bytes) {
        let bin = at.as_ns() >> self.power;
        let (first, last) = self.range.map_or((bin, bin), |(first, last)| (first.min(bin), last.max(bin)));
        self.range = Some((first, last));
        self.bytes.entry((process, bin)).or_default().add(bytes);
        while self.is_too_fine() {
            self.coarsen();
        }
    }

    /// The first bin, how many there are, and how many nanoseconds each is long.
    pub(super) fn bins(&self) -> (RealTime, u64, u64) {
        let (first, last) = self.range.unwrap_or_default();
        (RealTime::from_ns(first << self.power), last - first + 1, 1 << self.power)
    }

    /// What each process did, by the number of the bin; in order.
    pub(super) fn series(&self) -> HashMap<Option<ProcessIndex>, Vec<(u64, Bytes)>> {
        let first = self.range.unwrap_or_default().0;
        let mut series: HashMap<Option<ProcessIndex>, Vec<(u64, Bytes)>> = HashMap::new();
        for ((process, bin), bytes) in &self.bytes {
            series.entry(*process).or_default().push((bin - first, *bytes));
        }
        for bins in series.values_mut() {
            bins.sort_unstable_by_key(|(bin, _)| *bin);
        }
        series
    }

    fn is_too_fine(&self) -> bool {
        let Some((first, last)) = self.range else { return false };
        // With two bins no more can be gained: the rest is the number of processes.
        last - first >= MOST_BINS || self.bytes.len() > MOST_ENTRIES && last - first > 1
    }

    fn coarsen(&mut self) {
        self.power += 1;
        self.range = self.range.map(|(first, last)| (first >> 1, last >> 1));
        let finer = std::mem::take(&mut self.bytes);
        self.bytes.reserve(finer.len() / 2);
        for ((process, bin), bytes) in finer {
            self.bytes.entry((process, bin >> 1)).or_default().add(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: Bytes = Bytes { sent: 10, received: 0, share: 10 };

    #[test]
    fn every_byte_stays_in_the_bin_of_its_time_however_long_the_capture_is() {
        let start = 1_700_000_000_000_000_000;
        for step in [1, 1_000, 7_777_777, 60_000_000_000] {
            let mut timeline = Timeline::default();
            for number in 0..1000 {
                let at = RealTime::from_ns(start + number * step);
                timeline.count(Some(ProcessIndex((number % 3) as u32)), at, SENT);
            }
            let (first, bins, length) = timeline.bins();
            assert!(bins <= MOST_BINS && bins > MOST_BINS / 2 - 2, "{bins} bins for a step of {step} ns");
            let series = timeline.series();
            let mut expected: HashMap<u64, u64> = HashMap::new();
            for number in (0..1000).filter(|number| number % 3 == 1) {
                *expected.entry((start + number * step - first.as_ns()) / length).or_default() += 10;
            }
            let got: HashMap<u64, u64> =
                series[&Some(ProcessIndex(1))].iter().map(|(bin, bytes)| (*bin, bytes.sent)).collect();
            assert_eq!(got, expected);
        }
    }

    #[test]
    fn packets_out_of_order_and_from_the_beginning_and_the_end_of_time_have_their_bins() {
        let mut timeline = Timeline::default();
        for at in [1_700_000_000_000_000_000, u64::MAX, 0, 1_600_000_000_000_000_000] {
            timeline.count(None, RealTime::from_ns(at), SENT);
        }
        let (first, bins, _) = timeline.bins();
        assert_eq!(first.as_ns(), 0);
        assert!(bins <= MOST_BINS);
        assert_eq!(timeline.series()[&None].iter().map(|(_, bytes)| bytes.share).sum::<u64>(), 40);
    }

    #[test]
    fn many_processes_share_the_room() {
        let mut timeline = Timeline::default();
        for number in 0..300_000_u32 {
            let at = RealTime::from_ns(u64::from(number % 300));
            timeline.count(Some(ProcessIndex(number / 300)), at, SENT);
        }
        assert!(timeline.bytes.len() <= MOST_ENTRIES, "{}", timeline.bytes.len());
        let mut timeline = Timeline::default();
        for number in 0..300_000 {
            timeline.count(Some(ProcessIndex(number)), RealTime::from_ns(u64::from(number)), SENT);
        }
        assert_eq!(timeline.series().len(), 300_000, "each process has a bin at least");
    }
}
