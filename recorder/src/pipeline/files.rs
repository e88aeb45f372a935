//! The files of a recording: one, or one after the other. Each stands alone: its own section, interfaces, process records and
//! statistics.

use std::io;
use std::path::{Path, PathBuf};

use super::{Plan, Signals};
use crate::attribution::clock::ClockOffset;
use crate::model::{
    Attribution, Interface, InterfaceCounts, InterfaceId, MonoTime, Packet, ProcessTable, RealTime,
    Statistics,
};
use crate::output::{CreateError, Manner, Output, Series};
use crate::pcapng::{SectionInfo, Writer};
use crate::source::Selection;

/// How many bytes gather before compression is made to show how large the file has become: less would compress badly.
const SMALLEST_FLUSH: u64 = 32 << 10;

/// Where the packets of a recording go.
pub(super) struct Files<'a> {
    plan: &'a Plan,
    section: SectionInfo,
    /// The names, if there are several files.
    series: Option<Series>,
    writer: Writer<Output>,
    /// The number that each interface of the recording has in the current file.
    numbers: Vec<Option<InterfaceId>>,
    /// The interfaces of the current file.
    interfaces: Vec<usize>,
    /// Packets in the current file.
    packets: u64,
    began: MonoTime,
    /// The next full interval.
    interval_ends: Option<RealTime>,
    /// What the files before tell already; begins where the current file does.
    told: Statistics,
    /// Bytes of the files before.
    bytes_before: u64,
    /// Nothing more can be written to the current file.
    is_broken: bool,
}

/// What the recording knows when a file ends.
pub(super) struct Ending<'a> {
    /// When, on the packets' clock; the next file begins here.
    pub(super) at: RealTime,
    /// All that was counted since the recording began.
    pub(super) totals: &'a Statistics,
    /// The interfaces of the recording.
    pub(super) interfaces: &'a [Interface],
    /// Its processes.
    pub(super) processes: &'a ProcessTable,
}

/// A file is done, and the next one has begun.
pub(super) struct Switched {
    /// The file that is done.
    pub(super) done: PathBuf,
    /// Why the oldest file could not be removed, if so.
    pub(super) not_removed: Option<String>,
}

/// What has been written.
#[derive(Debug)]
pub(super) struct Written {
    /// The last file that was written to.
    pub(super) last: PathBuf,
    /// How many files were written.
    pub(super) count: u64,
    /// Those that are there.
    pub(super) remaining: Vec<PathBuf>,
    /// The bytes of all.
    pub(super) bytes: u64,
    /// What went wrong at the end.
    pub(super) failure: Option<io::Error>,
}

impl<'a> Files<'a> {
    /// Creates the first file. Its duration begins at this time; packets have been captured since the capture was opened.
    pub(super) fn begin(
        plan: &'a Plan,
        section: SectionInfo,
        signals: &Signals,
        opened: RealTime,
        (real, mono): (RealTime, MonoTime),
    ) -> Result<Self, CreateError> {
        let mut series = plan.rotation.as_ref().map(|rotation| Series::new(&plan.path, rotation.keep));
        let path = series.as_ref().map_or_else(|| plan.path.clone(), Series::next_path);
        let output = Output::create(&path, &manner(plan), &|| signals.stop().is_none())?;
        if let Some(series) = &mut series {
            // Of one file none is too many.
            series.created(path);
        }
        let mut files = Self {
            plan,
            writer: Writer::new(output, plan.annotate, &section),
            section,
            series,
            numbers: Vec::new(),
            interfaces: Vec::new(),
            packets: 0,
            began: mono,
            interval_ends: None,
            told: Statistics { start: opened, ..Statistics::default() },
            bytes_before: 0,
            is_broken: false,
        };
        files.interval_ends = files.end_of_interval(real);
        Ok(files)
    }

    /// Named interfaces stand in each file, even if they never see a packet. (On macOS a packet tells what its interface is.)
    pub(super) fn add_named(&mut self, interfaces: &[Interface]) -> io::Result<()> {
        match self.plan.capture.interfaces {
            Selection::Any => Ok(()),
            Selection::Named(_) => {
                (0..interfaces.len()).try_for_each(|index| self.number(index, interfaces).map(drop))
            }
        }
    }

    /// Writes a packet; `interfaces` are those of the recording.
    #[inline]
    pub(super) fn packet(
        &mut self,
        packet: &Packet<'_>,
        interfaces: &[Interface],
        attribution: &Attribution,
        processes: &ProcessTable,
    ) -> io::Result<()> {
        let interface = self.number(packet.interface.0 as usize, interfaces)?;
        let result = self.writer.packet(&Packet { interface, ..*packet }, attribution, processes);
        self.packets += 1;
        self.noted(result)
    }

    /// Writes what the attribution was told, to be told again.
    #[cfg(target_os = "linux")]
    pub(super) fn kept_events(&mut self, events: &[u8]) -> io::Result<()> {
        let result = self.writer.kept_events(crate::attribution::journal::VERSION, events);
        self.noted(result)
    }

    /// Whether the current file has the packets or bytes that it is to have. Of a compressed file the bytes on disk count.
    #[inline]
    pub(super) fn is_full(&mut self) -> io::Result<bool> {
        let most_packets = self.plan.rotation.as_ref().and_then(|rotation| rotation.packets);
        if most_packets.is_some_and(|most| self.packets >= most) {
            return Ok(true);
        }
        let Some(most) = self.plan.limits.file_bytes else { return Ok(false) };
        if !self.writer.get_ref().is_compressed() {
            return Ok(self.writer.bytes() >= most);
        }
        let written = self.writer.get_ref().written();
        let on_the_way = self.writer.get_ref().on_the_way() + self.writer.buffered();
        // It may not be full though all of that came out as large as it went in.
        if written < most && written + on_the_way >= most && on_the_way >= SMALLEST_FLUSH {
            self.flush()?;
        }
        Ok(self.writer.get_ref().written() >= most)
    }

    /// When the current file ends by its duration or interval: packets of this time belong to the next one.
    pub(super) fn ends_at(&self, clock: &ClockOffset) -> Option<RealTime> {
        let duration = self.plan.rotation.as_ref().and_then(|rotation| rotation.duration);
        let by_duration = duration.map(|duration| clock.real(self.began.plus(duration)));
        by_duration.into_iter().chain(self.interval_ends).min()
    }

    /// When the next file begins if the current one ends then, and this is the time of the next packet, or the present.
    /// After a standstill (SIGSTOP, a sleeping machine) no file is made for each interval that has passed.
    pub(super) fn next_begins_at(&self, ends: RealTime, next: RealTime) -> RealTime {
        let Some(rotation) = &self.plan.rotation else { return ends };
        let shortest = rotation.duration.into_iter().chain(rotation.interval).min();
        if shortest.is_some_and(|shortest| next.since(ends) >= shortest) { next } else { ends }
    }

    /// Whether another file may follow the current one.
    pub(super) fn may_go_on(&self) -> bool {
        self.series
            .as_ref()
            .is_some_and(|series| self.plan.limits.files.is_none_or(|most| series.count() < most))
    }

    /// Ends the current file and begins the next one. If that cannot be created, the current one stays as it is.
    pub(super) fn switch(&mut self, ending: &Ending<'_>, began: MonoTime) -> io::Result<Switched> {
        let Some(path) = self.series.as_ref().map(Series::next_path) else {
            return Err(io::Error::other("there is only one file"));
        };
        let output = Output::create(&path, &manner(self.plan), &|| false)
            .map_err(|error| io::Error::other(format!("the recording ends here: {error}")))?;
        let next = Writer::new(output, self.plan.annotate, &self.section);
        let done = self.writer.get_ref().path().to_owned();
        let finished = self.complete(ending).and_then(|statistics| {
            let old = std::mem::replace(&mut self.writer, next);
            old.finish(&statistics, ending.processes).and_then(Output::finish)
        });
        match finished {
            Ok(bytes) => self.bytes_before += bytes,
            Err(error) => {
                self.is_broken = true;
                // Nothing is in it; an empty file would look like a recording.
                let _ = std::fs::remove_file(&path);
                return Err(error);
            }
        }
        self.forget_file(ending.at, began);
        let result = self.add_named(ending.interfaces);
        self.noted(result)?;
        let oldest = self.series.as_mut().and_then(|series| series.created(path));
        Ok(Switched { done, not_removed: oldest.and_then(|oldest| remove(&oldest)) })
    }

    /// Hands everything so far to the file.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let result = self.writer.flush();
        self.noted(result)
    }

    /// Whether somebody may be waiting for each packet. Compression is worth nothing packet by packet.
    pub(super) fn is_read_live(&self) -> bool {
        let output = self.writer.get_ref();
        output.is_stream() && !output.is_compressed()
    }

    /// The bytes of all files so far.
    pub(super) fn bytes(&self) -> u64 {
        let output = self.writer.get_ref();
        let current = if output.is_compressed() { output.written() } else { self.writer.bytes() };
        self.bytes_before + current
    }

    /// Removes the file, in which there is nothing yet.
    #[cfg(target_os = "linux")]
    pub(super) fn discard(&self) {
        let output = self.writer.get_ref();
        if !output.is_stream() {
            // Best effort: there is something else to tell.
            let _ = std::fs::remove_file(output.path());
        }
    }

    /// Ends the last file.
    pub(super) fn finish(mut self, ending: &Ending<'_>) -> Written {
        let mut written = Written {
            last: self.writer.get_ref().path().to_owned(),
            count: self.series.as_ref().map_or(1, Series::count),
            remaining: Vec::new(),
            bytes: self.bytes_before + self.writer.get_ref().written(),
            failure: None,
        };
        if !self.writer.get_ref().is_stream() {
            let one = vec![written.last.clone()];
            written.remaining = self.series.take().map_or(one, Series::into_files);
        }
        if self.is_broken {
            // The next one, which would have been the last, is removed again.
            written.last = written.remaining.last().cloned().unwrap_or(written.last);
            return written;
        }
        let finished = self.complete(ending).and_then(|statistics| {
            self.writer.finish(&statistics, ending.processes).and_then(Output::finish)
        });
        match finished {
            Ok(bytes) => written.bytes = self.bytes_before + bytes,
            Err(error) => written.failure = Some(error),
        }
        written
    }

    /// The number of an interface in the current file, to which it is added if need be.
    #[inline]
    pub(super) fn number(&mut self, index: usize, interfaces: &[Interface]) -> io::Result<InterfaceId> {
        match self.numbers.get(index) {
            Some(Some(number)) => Ok(*number),
            _ => self.add(index, interfaces),
        }
    }

    #[cold]
    fn add(&mut self, index: usize, interfaces: &[Interface]) -> io::Result<InterfaceId> {
        let Some(interface) = interfaces.get(index) else {
            return Err(io::Error::other(format!("interface {index} is not known")));
        };
        let result = self.writer.add_interface(interface);
        let number = self.noted(result)?;
        if self.numbers.len() <= index {
            self.numbers.resize(index + 1, None);
        }
        self.numbers[index] = Some(number);
        self.interfaces.push(index);
        Ok(number)
    }

    /// The statistics of the current file: what was counted since the file before. An interface of which there is something to
    /// tell, and no packet, is added.
    fn complete(&mut self, ending: &Ending<'_>) -> io::Result<Statistics> {
        let Ending { at, totals, interfaces, .. } = *ending;
        self.told.interfaces.resize(totals.interfaces.len(), InterfaceCounts::default());
        for index in 0..totals.interfaces.len() {
            let new = totals.interfaces[index].since(&self.told.interfaces[index]);
            if new.received > 0 || new.dropped_by_kernel.is_some_and(|dropped| dropped > 0) {
                self.number(index, interfaces)?;
            }
        }
        let mut statistics = Statistics {
            start: self.told.start,
            end: at,
            interfaces: Vec::new(),
            dropped_by_kernel: totals.dropped_by_kernel.saturating_sub(self.told.dropped_by_kernel),
            attribution: totals.attribution.since(&self.told.attribution),
            events_lost: totals.events_lost.saturating_sub(self.told.events_lost),
            not_selected: totals.not_selected.since(&self.told.not_selected),
            filtered_out: 0,
        };
        for &index in &self.interfaces {
            let now = totals.interfaces.get(index).copied().unwrap_or_default();
            let before = self.told.interfaces.get(index).copied().unwrap_or_default();
            statistics.interfaces.push(now.since(&before));
        }
        self.told = Statistics { start: at, ..totals.clone() };
        Ok(statistics)
    }

    /// What is known of the current file is that of the one before.
    fn forget_file(&mut self, real: RealTime, mono: MonoTime) {
        self.numbers.clear();
        self.interfaces.clear();
        self.packets = 0;
        self.began = mono;
        self.interval_ends = self.end_of_interval(real);
    }

    /// Intervals are counted from 1970 on, as dumpcap does: one of 60 seconds ends with the minute.
    fn end_of_interval(&self, begin: RealTime) -> Option<RealTime> {
        let interval = self.plan.rotation.as_ref()?.interval?.as_nanos() as u64;
        let ends = (begin.as_ns() / interval + 1).saturating_mul(interval);
        Some(RealTime::from_ns(ends))
    }

    /// After an error nothing more can be written.
    fn noted<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        self.is_broken |= result.is_err();
        result
    }
}

fn manner(plan: &Plan) -> Manner {
    let owner = plan.invoker.as_ref().map(|invoker| (invoker.uid, invoker.gid));
    Manner { force: plan.force, owner, compression: plan.compression }
}

/// Removes the oldest file of a ring. That it is gone already is fine; why it cannot be removed is told.
fn remove(oldest: &Path) -> Option<String> {
    match std::fs::remove_file(oldest) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Some(format!("cannot remove {}, the oldest file of the ring: {error}", oldest.display()))
        }
        _ => None,
    }
}
