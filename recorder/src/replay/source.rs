//! A recording in the place of a live capture.

use std::io::{self, Read};
use std::thread;
use std::time::{Duration, Instant};

use super::pace::{Pace, Schedule};
use crate::model::{Attribution, Interface, Packet, ProcessTable, RealTime, Reason};
use crate::pcapng::{ReadError, Reader, Record};
use crate::source::{Arrival, InterfaceOrigin, Packets};

/// Gives the packets of a recording as a live capture gives its own, so that a test can feed them to the code that it tests.
///
/// Packets come in the order of the file, with their recorded times, each when its [`Pace`] says so. Besides, the owners that the
/// recording has for them are told.
#[derive(Debug)]
pub struct Source<R: Read> {
    reader: Reader<R>,
    schedule: Schedule,
    /// When the first packet was asked for.
    begin: Option<Instant>,
    /// The packet that comes next, and when it is due.
    next: Option<(Packet<'static>, Duration)>,
    /// Its bytes; those of the packet that was given out last, once it was.
    data: Vec<u8>,
    owners: Attribution,
    origins: Vec<InterfaceOrigin>,
    failure: Option<ReadError>,
    is_at_end: bool,
}

impl<R: Read> Source<R> {
    /// Begins to read; time runs from the first call of [`Packets::next`] or [`Packets::wait`] on.
    pub const fn new(reader: Reader<R>, pace: Pace) -> Self {
        Self {
            reader,
            schedule: Schedule::new(pace),
            begin: None,
            next: None,
            data: Vec::new(),
            owners: Attribution::Unknown(Reason::Off),
            origins: Vec::new(),
            failure: None,
            is_at_end: false,
        }
    }

    /// The owners of the packet that was given out last, as the recording has them.
    pub const fn owners(&self) -> &Attribution {
        &self.owners
    }

    /// The processes that the recording has told of so far.
    pub fn processes(&self) -> &ProcessTable {
        self.reader.processes()
    }

    /// Has the next packet at hand, if there is one; gives how long it is until it is due.
    fn look_ahead(&mut self) -> Option<Duration> {
        let begin = *self.begin.get_or_insert_with(Instant::now);
        if self.next.is_none() && !self.is_at_end {
            self.read();
        }
        let (_, due) = self.next.as_ref()?;
        Some(due.saturating_sub(begin.elapsed()))
    }

    fn read(&mut self) {
        match self.reader.next_packet() {
            Ok(Some(Record { packet, attribution, .. })) => {
                self.data.clear();
                self.data.extend_from_slice(packet.data);
                self.owners = attribution;
                let due = self.schedule.due(packet.time, packet.data.len());
                self.next = Some((Packet { data: &[], ..packet }, due));
            }
            Ok(None) => self.is_at_end = true,
            Err(error) => {
                self.failure = Some(error);
                self.is_at_end = true;
            }
        }
    }
}

impl<R: Read> Packets for Source<R> {
    fn next(&mut self, deadline: RealTime) -> Option<Arrival<'_>> {
        if !self.look_ahead()?.is_zero() {
            return None;
        }
        let (packet, _) = self.next.take_if(|(packet, _)| packet.time <= deadline)?;
        let interfaces: &[Interface] = self.reader.interfaces();
        // What the interfaces were to the machine that recorded is not in the file.
        self.origins.resize(interfaces.len(), InterfaceOrigin { ifindex: 0, is_loopback: false });
        Some(Arrival { packet: Packet { data: &self.data, ..packet }, interfaces, origins: &self.origins })
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let left = self.look_ahead();
        if let Some(error) = self.failure.take() {
            return Err(io::Error::other(error));
        }
        thread::sleep(left.unwrap_or_default().min(timeout));
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.is_at_end && self.next.is_none() && self.failure.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = include_bytes!("../../../samples/loopback.pcapng");
    const ALWAYS: RealTime = RealTime::from_ns(u64::MAX);

    fn source(bytes: &[u8], pace: Pace) -> Source<&[u8]> {
        Source::new(Reader::new(bytes).unwrap(), pace)
    }

    /// All packets, with their owners.
    fn all(mut source: Source<&[u8]>) -> Vec<(RealTime, Vec<u8>, Attribution)> {
        let mut all = Vec::new();
        while !source.is_over() {
            source.wait(Duration::from_secs(1)).unwrap();
            while let Some(arrival) = source.next(ALWAYS) {
                let packet = (arrival.packet.time, arrival.packet.data.to_vec());
                assert!(arrival.interfaces.len() == arrival.origins.len() && !arrival.interfaces.is_empty());
                all.push((packet.0, packet.1, *source.owners()));
            }
        }
        all
    }

    #[test]
    fn the_packets_of_the_recording_come_with_their_owners_at_any_pace() {
        let mut reader = Reader::new(SAMPLE).unwrap();
        let mut expected = Vec::new();
        while let Some(record) = reader.next_packet().unwrap() {
            expected.push((record.packet.time, record.packet.data.to_vec(), record.attribution));
        }
        assert!(expected.len() > 10);
        for pace in [Pace::TopSpeed, Pace::Recorded(1.0)] {
            assert_eq!(all(source(SAMPLE, pace)), expected);
        }
    }

    #[test]
    fn a_packet_does_not_come_before_its_time() {
        let mut slow = source(SAMPLE, Pace::Recorded(1e-6));
        assert!(slow.next(ALWAYS).is_some());
        assert!(slow.next(ALWAYS).is_none() && !slow.is_over());
        slow.wait(Duration::from_millis(1)).unwrap();
        assert!(slow.next(ALWAYS).is_none());
    }

    #[test]
    fn what_is_later_than_the_deadline_stays() {
        let mut source = source(SAMPLE, Pace::TopSpeed);
        assert!(source.next(RealTime::default()).is_none());
        let first = source.next(ALWAYS).unwrap().packet.time;
        assert!(source.next(first).is_none_or(|arrival| arrival.packet.time == first));
        assert!(source.next(ALWAYS).is_some());
    }

    #[test]
    fn a_cut_recording_fails_after_its_last_packet() {
        let mut source = source(&SAMPLE[..SAMPLE.len() / 2], Pace::TopSpeed);
        while source.next(ALWAYS).is_some() {}
        assert!(!source.is_over());
        let error = source.wait(Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("the file ends inside the block"), "{error}");
        assert!(source.is_over());
    }
}
