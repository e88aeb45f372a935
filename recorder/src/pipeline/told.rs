//! The loop where each packet tells its own process, as on macOS: there are no events, so no packet waits for any.

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::afterwards::Afterwards;
use super::files::{Ending, Files, First};
use super::section::section;
use super::{
    Attributing, AttributionMode, Error, Finished, Observer, Plan, Progress, Signals, Why, count_by_process,
};
use crate::attribution::clock::ClockOffset;
use crate::attribution::told::Told;
use crate::model::{Attribution, InterfaceCounts, MonoTime, RealTime, Reason, Statistics};
use crate::selection::ProcessFilter;
use crate::source::pktap::{self, Named, Queue};

/// How often the screen is told, and what is in the buffer goes to the file.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// What packets come from.
pub(super) trait Live {
    /// Waits for packets, for a short time, and takes in what there is; false if no more can come.
    fn wait(&mut self) -> io::Result<bool>;
    /// What was taken in.
    fn queue(&mut self) -> &mut Queue;
    /// Packets that the system dropped.
    fn dropped(&mut self) -> io::Result<u64>;
}

#[cfg(target_os = "macos")]
impl Live for crate::source::Capture {
    fn wait(&mut self) -> io::Result<bool> {
        Self::wait(self).map(|()| true)
    }

    fn queue(&mut self) -> &mut Queue {
        Self::queue(self)
    }

    fn dropped(&mut self) -> io::Result<u64> {
        Self::dropped(self)
    }
}

/// Runs a recording from beginning to end.
///
/// # Errors
/// If nothing could be recorded, or something is asked for that there is not here. What goes wrong later is in
/// [`Finished::failure`], and a file exists.
#[cfg(target_os = "macos")]
pub fn record(plan: &Plan, signals: &Signals, observer: &mut dyn Observer) -> Result<Finished, Error> {
    refuse(plan)?;
    let capture = crate::source::Capture::open(&plan.capture)?;
    capture.notes().iter().for_each(|note| observer.note(note));
    record_from(capture, plan, signals, observer)
}

/// What is asked for, and cannot be done.
pub(super) fn refuse(plan: &Plan) -> Result<(), Error> {
    let what = if !plan.command.is_empty() {
        "record a command: its descendants are not to be known"
    } else if matches!(plan.attribution, AttributionMode::Ebpf | AttributionMode::Procfs) {
        "find owners in this way: here each packet tells its own process"
    } else if plan.with_arguments {
        "store command lines: a packet tells the name of its process only"
    } else if plan.keep_events {
        "keep events: there are none, each packet tells its own process"
    } else {
        return Ok(());
    };
    Err(Error::NotHere { what })
}

pub(super) fn record_from(
    live: impl Live,
    plan: &Plan,
    signals: &Signals,
    observer: &mut dyn Observer,
) -> Result<Finished, Error> {
    let attributing = match plan.attribution {
        AttributionMode::None => Attributing::Off,
        _ => Attributing::Pktap,
    };
    let begin = Instant::now();
    let opened = now();
    let afterwards = Afterwards::prepare(plan)
        .map_err(|source| Error::System { what: "start a process that starts others", source })?;
    let first = First::create(plan, signals)?;
    let section = section(plan, &attributing, None);
    let files = Files::begin(plan, first, section, opened, (opened, MonoTime::default()));
    observer.ready(&plan.capture.interfaces.to_string(), &attributing);
    let mut recording = Recording {
        plan,
        live,
        files,
        told: Told::default(),
        processes: plan.processes.clone().map(ProcessFilter::new),
        statistics: Statistics { start: opened, ..Statistics::default() },
        by_process: Vec::new(),
        written: 0,
        afterwards,
        clock: ClockOffset::new((opened, MonoTime::default())),
        begin,
        told_at: MonoTime::default(),
        is_complete: false,
        problems: 0,
        failure: None,
    };
    let why = recording.run(signals, observer);
    Ok(recording.end(why, signals, observer))
}

fn now() -> RealTime {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    RealTime::from_ns(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

struct Recording<'a, L: Live> {
    plan: &'a Plan,
    live: L,
    files: Files<'a>,
    told: Told,
    /// Whose packets are written, if not all.
    processes: Option<ProcessFilter>,
    statistics: Statistics,
    by_process: Vec<u64>,
    written: u64,
    /// What is done with files that are done.
    afterwards: Afterwards,
    clock: ClockOffset,
    /// The beginning of the monotonic clock.
    begin: Instant,
    /// When the screen was told.
    told_at: MonoTime,
    /// The last file has all that it is to have.
    is_complete: bool,
    /// How often something went wrong that does not end the recording.
    problems: u64,
    failure: Option<io::Error>,
}

/// Why no more packets are written for now.
enum Stopped {
    /// None is there that belongs into this file.
    Nothing,
    /// The file is full; the time of its last packet.
    Full(RealTime),
    /// All that were asked for have been written, or writing failed.
    Done,
}

impl<L: Live> Recording<'_, L> {
    fn run(&mut self, signals: &Signals, observer: &mut dyn Observer) -> Why {
        self.flush();
        loop {
            let more = self.live.wait();
            self.clock.measure((now(), self.mono()));
            self.write_files(observer);
            self.tell(observer);
            self.afterwards.look(observer);
            if signals.take_report() {
                observer.asked(&self.progress());
            }
            match (&self.failure, more) {
                (Some(error), _) if error.kind() == io::ErrorKind::BrokenPipe => return Why::ReaderGone,
                (Some(_), _) => return Why::Failure,
                (None, Ok(true)) => {}
                (None, Ok(false)) => return Why::InterfacesGone,
                (None, Err(error)) => {
                    self.failure = Some(error);
                    return Why::Failure;
                }
            }
            if let Some(signal) = signals.stop() {
                return Why::Signal(signal);
            }
            if self.is_done() || self.plan.limits.duration.is_some_and(|most| self.begin.elapsed() >= most) {
                return Why::Limit;
            }
        }
    }

    fn mono(&self) -> MonoTime {
        MonoTime::default().plus(self.begin.elapsed())
    }

    /// Whether all packets or bytes that were asked for are written.
    fn is_done(&self) -> bool {
        self.is_complete || self.plan.limits.packets.is_some_and(|most| self.written >= most)
    }

    /// Writes what came in, each packet into the file that its time or size puts it in.
    fn write_files(&mut self, observer: &mut dyn Observer) {
        loop {
            let present = now();
            let ends = self.files.ends_at(&self.clock, present).filter(|ends| *ends <= present);
            let until = ends.map_or(u64::MAX, |ends| ends.as_ns().saturating_sub(1));
            match (self.write_until(RealTime::from_ns(until)), ends) {
                (Stopped::Full(at), _) => self.switch(at, observer),
                (Stopped::Nothing, Some(ends)) => {
                    let next = self.live.queue().next_time().map_or(present, |next| next.min(present));
                    self.switch(self.files.next_begins_at(ends, next), observer);
                }
                (Stopped::Nothing, None) | (Stopped::Done, _) => return,
            }
        }
    }

    /// Goes on in the next file, which begins at this time; or there is none, and this is the end.
    fn switch(&mut self, at: RealTime, observer: &mut dyn Observer) {
        if !self.files.may_go_on() || self.is_done() {
            self.is_complete = true;
            return;
        }
        self.count();
        let interfaces = self.live.queue().interfaces();
        let ending = Ending { at, totals: &self.statistics, interfaces, processes: self.told.processes() };
        match self.files.switch(&ending, self.clock.mono(at)) {
            Ok(done) => {
                self.afterwards.add(done);
                self.flush();
            }
            Err(error) => self.failure = Some(error),
        }
        self.problems += observer.problems(&self.files.take_problems());
    }

    /// Writes what came in up to this time into the current file.
    fn write_until(&mut self, until: RealTime) -> Stopped {
        while self.failure.is_none() && !self.is_done() {
            let Some(told) = self.live.queue().next(until) else { return Stopped::Nothing };
            let pktap::Told { arrival, process } = told;
            let id = arrival.packet.interface.0 as usize;
            let Some(interface) = arrival.interfaces.get(id) else { continue };
            let attribution = if self.plan.attribution == AttributionMode::None {
                Attribution::Unknown(Reason::Off)
            } else {
                let process = process.as_ref().map(Named::borrowed);
                self.told.attribute(&arrival.packet, interface.link_type, process)
            };
            let processes = self.told.processes();
            if !self.processes.as_mut().is_none_or(|filter| filter.keeps(&attribution, processes)) {
                self.statistics.not_selected.count(&attribution);
                continue;
            }
            let taken = self.files.packet(&arrival.packet, arrival.interfaces, &attribution, processes);
            let time = arrival.packet.time;
            self.written += 1;
            self.statistics.interface(id).written += 1;
            self.statistics.attribution.count(&attribution);
            count_by_process(&mut self.by_process, &attribution);
            match taken.and_then(|()| self.files.is_full()) {
                Ok(false) => {}
                Ok(true) => return Stopped::Full(time),
                Err(error) => self.failure = Some(error),
            }
        }
        Stopped::Done
    }

    fn tell(&mut self, observer: &mut dyn Observer) {
        let mono = self.mono();
        let is_due = mono >= self.told_at.plus(TELL_EVERY);
        if is_due || self.files.is_read_live() {
            self.flush();
        }
        self.problems += observer.problems(&self.files.take_problems());
        if is_due {
            self.told_at = mono;
            self.count();
            observer.progress(&self.progress());
        }
    }

    fn flush(&mut self) {
        if let (None, Err(error)) = (&self.failure, self.files.flush()) {
            self.failure = Some(error);
        }
    }

    fn count(&mut self) {
        match self.live.dropped() {
            Ok(dropped) => self.statistics.dropped_by_kernel = dropped,
            Err(error) => _ = self.failure.get_or_insert(error),
        }
        let received = self.live.queue().counts();
        self.statistics.interfaces.resize(received.len(), InterfaceCounts::default());
        for (ours, theirs) in self.statistics.interfaces.iter_mut().zip(received) {
            ours.received = theirs.received;
        }
    }

    fn progress(&self) -> Progress<'_> {
        Progress {
            packets: self.written,
            bytes: self.files.bytes(),
            statistics: &self.statistics,
            by_process: &self.by_process,
            processes: self.told.processes(),
            remembered: (0, 0),
        }
    }

    /// Writes what has come in until now, and ends the file.
    fn end(mut self, why: Why, signals: &Signals, observer: &mut dyn Observer) -> Finished {
        if matches!(why, Why::Signal(_))
            && let Err(error) = self.live.wait()
        {
            self.failure.get_or_insert(error);
        }
        self.write_files(observer);
        self.count();
        let damaged = self.live.queue().damaged();
        if damaged > 0 {
            let text = format!(
                "{damaged} packets are lost: macOS gave them without a PKTAP header that makes sense"
            );
            self.failure.get_or_insert_with(|| io::Error::other(text));
        }
        self.live.queue().notes().iter().for_each(|note| observer.note(note));
        self.statistics.end = now();
        let interfaces = self.live.queue().interfaces().to_vec();
        let written = self.files.finish(&mut self.statistics, &interfaces, self.told.processes());
        let problems = self.problems + observer.problems(&written.problems);
        if let Some(last) = written.remaining.last() {
            self.afterwards.add(last.clone());
        }
        Finished {
            path: written.last,
            bytes: written.bytes,
            files_written: written.count,
            files: written.remaining,
            problems: problems + self.afterwards.finish(signals, observer),
            is_gone: written.is_gone,
            statistics: self.statistics,
            interfaces: interfaces.into_iter().map(|interface| interface.name).collect(),
            by_process: self.by_process,
            processes: self.told.into_processes(),
            why,
            command: None,
            failure: self.failure.or(written.failure),
            #[cfg(target_os = "linux")]
            sandbox: crate::sandbox::Status::off(),
        }
    }
}

#[cfg(test)]
mod tests;
