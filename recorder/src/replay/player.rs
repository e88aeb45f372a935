//! The loop that sends.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::batch::{Batch, Prepared};
use super::pace::Schedule;
use crate::source::{TransmitError, Transmitter, wake_in_time};

/// How many batches are read ahead: some 20 MiB, so that neither thread waits for the other on a busy machine.
const AHEAD: usize = 64;
/// A recording that takes no more memory than this is read once, however often it is sent.
const MOST_KEPT: usize = 256 << 20;
/// So long before its time a packet is waited for without sleeping: a sleeper wakes some microseconds late, and on a virtual machine now
/// and then a millisecond.
const SPIN: Duration = Duration::from_millis(1);
/// Who does not sleep, and has a real-time priority, is put to sleep for 50 ms of each second (`sched_rt_runtime_us`, since Linux 6.12
/// the fair server). So it rests for so long: when it has been awake for [`TIRED`] and there is time, or for [`EXHAUSTED`] in any case.
const REST: Duration = Duration::from_micros(100);
const TIRED: Duration = Duration::from_micros(500);
const EXHAUSTED: Duration = Duration::from_millis(1);
/// How often a signal is looked for while nothing is due.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What was sent, and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Packets that the kernel took.
    pub packets: u64,
    /// Their bytes, link headers included.
    pub bytes: u64,
    /// From the first packet to the last.
    pub duration: Duration,
    /// How much later than its time the latest packet was sent.
    pub latest: Duration,
    /// How many of the packets were sent as short as the recording has them.
    pub cut: u64,
    /// Packets that were not sent because they are longer than the interface takes.
    pub too_long: u64,
    /// The longest of these, in bytes.
    pub longest: usize,
    /// Packets that were not sent because they are shorter than a link header.
    pub too_short: u64,
    /// Packets that were not sent because of how they begin, by link type.
    pub unfit: BTreeMap<u16, u64>,
    /// Packets that the kernel did not take before it refused to go on.
    pub refused: u64,
    /// How many times the recording was sent to its end.
    pub passes: u64,
}

impl Report {
    /// Packets that should have been sent, and were not.
    pub fn failed(&self) -> u64 {
        self.too_long + self.too_short + self.refused + self.unfit.values().sum::<u64>()
    }
}

/// How it ended.
#[derive(Debug)]
pub struct Played<E> {
    /// What was sent.
    pub report: Report,
    /// Why the recording could not be read to its end, if it could not.
    pub unread: Option<E>,
    /// Why no more could be sent, if so.
    pub unsent: Option<TransmitError>,
}

/// Takes a batch; gives an empty one, or none if no more are wanted.
pub type Sink<'a> = &'a mut dyn FnMut(Batch) -> Option<Batch>;

/// What the reading thread tells.
enum Message<E> {
    Batch(Batch),
    /// The end of the recording, or where it cannot be read on.
    End(Result<(), E>),
}

/// Sends a recording so many times (for ever if `passes` is none), or until `stop` says so.
///
/// `read` reads the recording from its beginning to its end, and hands over batches; each time it gets an empty one for what follows,
/// or none, and then it is to stop. It runs in a thread of its own, which is not waited for: it may hang in a pipe. It is called
/// again for each pass, unless memory holds the packets.
pub fn play<E: Send + 'static>(
    transmitter: Transmitter,
    schedule: Schedule,
    passes: Option<NonZeroU64>,
    stop: &dyn Fn() -> bool,
    read: impl FnMut(Sink<'_>) -> Result<(), E> + Send + 'static,
) -> Played<E> {
    let (sender, receiver) = sync_channel(AHEAD);
    let (empty, emptied) = channel();
    thread::spawn(move || read_ahead(read, passes, &sender, &emptied));
    if schedule.waits() {
        wake_in_time();
    }
    let (begin, slept, report) = (None, Instant::now(), Report::default());
    let mut player = Player { transmitter, schedule, stop, empty, begin, slept, report };
    let mut unread = None;
    let result = player.run(&receiver, passes, &mut unread);
    let flushed = player.transmitter.flush();
    let mut report = player.report;
    report.duration = player.begin.map(|begin| begin.elapsed()).unwrap_or_default();
    let (packets, bytes) = player.transmitter.left();
    (report.packets, report.bytes, report.refused) =
        (report.packets - packets, report.bytes - bytes, packets);
    Played { report, unread, unsent: result.and(flushed).err() }
}

/// Ends when nobody listens any more.
fn read_ahead<E>(
    mut read: impl FnMut(Sink<'_>) -> Result<(), E>,
    passes: Option<NonZeroU64>,
    sender: &SyncSender<Message<E>>,
    emptied: &Receiver<Batch>,
) {
    let mut left = passes.map(NonZeroU64::get);
    while left != Some(0) {
        left = left.map(|left| left - 1);
        let result = read(&mut |batch| {
            sender.send(Message::Batch(batch)).ok()?;
            Some(emptied.try_recv().unwrap_or_default())
        });
        let is_over = result.is_err();
        if sender.send(Message::End(result)).is_err() || is_over {
            return;
        }
    }
}

struct Player<'a> {
    transmitter: Transmitter,
    schedule: Schedule,
    stop: &'a dyn Fn() -> bool,
    /// Where batches go that are sent, to be filled again.
    empty: Sender<Batch>,
    /// When the first packet was due.
    begin: Option<Instant>,
    /// When it slept last.
    slept: Instant,
    report: Report,
}

impl Player<'_> {
    fn run<E>(
        &mut self,
        receiver: &Receiver<Message<E>>,
        passes: Option<NonZeroU64>,
        unread: &mut Option<E>,
    ) -> Result<(), TransmitError> {
        let is_last = |done: u64| passes.is_some_and(|passes| passes.get() <= done);
        let mut kept = (!is_last(1)).then(Vec::new);
        let mut size = 0;
        while let Some(message) = self.receive(receiver)? {
            match message {
                Message::Batch(batch) => {
                    if !self.send(&batch)? {
                        return Ok(());
                    }
                    size += batch.size();
                    kept = kept.filter(|_| size <= MOST_KEPT);
                    match &mut kept {
                        Some(kept) => kept.push(batch),
                        // The reader may have read all by now.
                        None => drop(self.empty.send(batch.emptied())),
                    }
                }
                Message::End(Err(error)) => {
                    *unread = Some(error);
                    return Ok(());
                }
                Message::End(Ok(())) => {
                    self.pass_done();
                    if is_last(self.report.passes) || self.report.packets == 0 {
                        return Ok(());
                    }
                    if let Some(kept) = kept {
                        return self.send_again(&kept, is_last);
                    }
                }
            }
        }
        Ok(())
    }

    fn send_again(&mut self, kept: &[Batch], is_last: impl Fn(u64) -> bool) -> Result<(), TransmitError> {
        while !is_last(self.report.passes) {
            for batch in kept {
                if !self.send(batch)? {
                    return Ok(());
                }
            }
            self.pass_done();
        }
        Ok(())
    }

    const fn pass_done(&mut self) {
        self.schedule.begin_again();
        self.report.passes += 1;
    }

    /// What comes next; nothing if it is to stop. Nothing waits in the ring for the file.
    fn receive<E>(&mut self, receiver: &Receiver<Message<E>>) -> Result<Option<Message<E>>, TransmitError> {
        match receiver.try_recv() {
            Ok(message) => return Ok(Some(message)),
            Err(TryRecvError::Empty) => self.transmitter.flush()?,
            Err(TryRecvError::Disconnected) => return Ok(None),
        }
        loop {
            match receiver.recv_timeout(LOOK_EVERY) {
                Ok(message) => return Ok(Some(message)),
                Err(RecvTimeoutError::Timeout) if !(self.stop)() => {}
                Err(_) => return Ok(None),
            }
        }
    }

    /// Sends a batch; false if it is to stop.
    fn send(&mut self, batch: &Batch) -> Result<bool, TransmitError> {
        for (link_type, count) in batch.unfit() {
            *self.report.unfit.entry(*link_type).or_default() += count;
        }
        for packet in batch.packets() {
            let length = packet.bytes.len();
            if length < self.transmitter.shortest() {
                self.report.too_short += 1;
            } else if length > self.transmitter.longest(packet.bytes) {
                self.report.too_long += 1;
                self.report.longest = self.report.longest.max(length);
            } else if !self.send_one(packet)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn send_one(&mut self, packet: Prepared<'_>) -> Result<bool, TransmitError> {
        let due = self.schedule.due(packet.time, packet.bytes.len());
        let begin = *self.begin.get_or_insert_with(Instant::now);
        if (self.stop)() || self.schedule.waits() && !self.wait(begin, due)? {
            return Ok(false);
        }
        self.transmitter.push(packet.bytes)?;
        self.report.packets += 1;
        self.report.bytes += packet.bytes.len() as u64;
        self.report.cut += u64::from(packet.is_cut);
        Ok(true)
    }

    /// Waits until a packet is due; what is in the ring goes out before. False if it is to stop.
    fn wait(&mut self, begin: Instant, due: Duration) -> Result<bool, TransmitError> {
        // A time that no clock reaches is waited for as any other.
        let left = || due.checked_sub(begin.elapsed());
        if left().is_some_and(|left| !left.is_zero()) {
            self.transmitter.flush()?;
        }
        while let Some(left) = left().filter(|left| !left.is_zero()) {
            let rest = rest(left, self.slept.elapsed());
            if rest.is_zero() {
                std::hint::spin_loop();
            } else if (self.stop)() {
                return Ok(false);
            } else {
                thread::sleep(rest);
                self.slept = Instant::now();
            }
        }
        self.report.latest = self.report.latest.max(begin.elapsed().saturating_sub(due));
        Ok(true)
    }
}

/// For how long to sleep, if `left` is left until the next packet is due, by one who has been awake for so long; zero for not at all.
fn rest(left: Duration, awake: Duration) -> Duration {
    match left.saturating_sub(SPIN) {
        long if long >= REST => long.min(LOOK_EVERY),
        _ if awake >= EXHAUSTED || awake >= TIRED && left >= 2 * REST => REST,
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much of the time somebody is awake who waits for packets that follow each other at this distance.
    fn awake(distance: Duration) -> f64 {
        let step = Duration::from_micros(1);
        let (mut slept, mut awake, mut left) = (Duration::ZERO, Duration::ZERO, distance);
        let whole = Duration::from_secs(1);
        let mut now = Duration::ZERO;
        while now < whole {
            let rest = rest(left, awake);
            slept += rest;
            awake = if rest.is_zero() { awake + step } else { Duration::ZERO };
            let passed = rest.max(step);
            now += passed;
            left = left.checked_sub(passed).filter(|left| !left.is_zero()).unwrap_or(distance);
        }
        1.0 - slept.as_secs_f64() / now.as_secs_f64()
    }

    #[test]
    fn who_waits_is_never_awake_for_so_long_that_the_kernel_puts_it_to_sleep() {
        for distance in [1, 10, 33, 99, 150, 200, 250, 500, 999, 1000, 1100, 1500, 5000, 100_000] {
            let awake = awake(Duration::from_micros(distance));
            assert!(awake < 0.92, "{distance} us between packets: awake for {awake} of the time");
        }
    }

    #[test]
    fn the_last_millisecond_before_a_packet_is_spent_awake_but_for_a_rest_that_ends_in_time() {
        let ms = Duration::from_millis;
        assert_eq!(rest(ms(1000), ms(0)), LOOK_EVERY, "a signal is looked for");
        assert_eq!(rest(ms(5), ms(0)), ms(4));
        assert_eq!(rest(ms(1), ms(0)), Duration::ZERO);
        assert_eq!(rest(2 * REST, TIRED), REST);
        assert_eq!(rest(2 * REST - Duration::from_micros(1), TIRED), Duration::ZERO);
    }
}
