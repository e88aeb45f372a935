//! The files of a recording: one, or one after the other. Each stands alone: its own section, interfaces, process records and
//! statistics.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Plan, Signals};
use crate::attribution::clock::ClockOffset;
use crate::model::{
    Attribution, Interface, InterfaceCounts, InterfaceId, MonoTime, Packet, ProcessTable, RealTime,
    Statistics,
};
use crate::output::{self, CreateError, Manner, Output, Series};
use crate::pcapng::{SectionInfo, Writer};
use crate::source::Selection;

/// How much of a file's end may be given up for the blocks that tell its counters, besides what these need: a packet of the longest
/// kind stands in the way with all of its bytes.
const CUT_BYTES: u64 = 1 << 20;
/// What an interface takes that is added at the end, at most.
const INTERFACE_BYTES: u64 = 1 << 10;

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
    /// Those of a compressed one, by interface, and how many of them were there when it was flushed last.
    by_interface: Vec<[u64; 2]>,
    began: MonoTime,
    /// The next full interval.
    interval_ends: Option<RealTime>,
    /// What the files before tell already; begins where the current file does.
    told: Statistics,
    /// Bytes of the files before.
    bytes_before: u64,
    /// Why nothing more can be written to the current file.
    broken: Option<io::ErrorKind>,
    /// What has gone wrong and does not end the recording, to be told.
    problems: Vec<String>,
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

/// What has been written.
#[derive(Debug)]
pub(super) struct Written {
    /// The last file that was written to.
    pub(super) last: PathBuf,
    /// How many files were written.
    pub(super) count: u64,
    /// Those that are there.
    pub(super) remaining: Vec<PathBuf>,
    /// None is there, though there should be one.
    pub(super) is_gone: bool,
    /// The bytes of all.
    pub(super) bytes: u64,
    /// What went wrong at the end.
    pub(super) failure: Option<io::Error>,
    /// What went wrong there, and nothing is lost by it.
    pub(super) problems: Vec<String>,
}

/// The first file, with nothing in it.
pub(super) struct First {
    output: Output,
    series: Option<Series>,
}

impl First {
    /// Creates it.
    pub(super) fn create(plan: &Plan, signals: &Signals) -> Result<Self, CreateError> {
        let mut series = plan.rotation.as_ref().map(|rotation| Series::new(&plan.path, rotation.keep));
        let path = series.as_ref().map_or_else(|| plan.path.clone(), Series::next_path);
        let output = Output::create(&path, &manner(plan), &|| signals.stop().is_none())?;
        if let Some(series) = &mut series {
            // Of one file none is too many.
            series.created(path);
        }
        Ok(Self { output, series })
    }

    /// Removes it.
    #[cfg(target_os = "linux")]
    pub(super) fn discard(self) {
        discard(&self.output);
    }
}

/// Removes a file with nothing in it, which would look like a recording. Best effort: there is something else to tell.
fn discard(output: &Output) {
    if !output.is_stream() {
        let _ = std::fs::remove_file(output.path());
    }
}

impl<'a> Files<'a> {
    /// Begins the first file. Its duration begins at this time; packets have been captured since the capture was opened.
    pub(super) fn begin(
        plan: &'a Plan,
        First { output, series }: First,
        section: SectionInfo,
        opened: RealTime,
        (real, mono): (RealTime, MonoTime),
    ) -> Self {
        let mut files = Self {
            plan,
            writer: Writer::new(output, plan.annotate, &section),
            section,
            series,
            numbers: Vec::new(),
            interfaces: Vec::new(),
            packets: 0,
            by_interface: Vec::new(),
            began: mono,
            interval_ends: None,
            told: Statistics { start: opened, ..Statistics::default() },
            bytes_before: 0,
            broken: None,
            problems: Vec::new(),
        };
        files.interval_ends = files.end_of_interval(real);
        files
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
        if let Some([packets, _]) = self.by_interface.get_mut(interface.0 as usize) {
            *packets += 1;
        }
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
    pub(super) fn ends_at(&mut self, clock: &ClockOffset, present: RealTime) -> Option<RealTime> {
        if let (Some(ends), Some(interval)) = (&mut self.interval_ends, interval(self.plan)) {
            *ends = end_seen_from(present, *ends, interval);
        }
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

    /// Ends the current file and begins the next one; gives the path of the one that is done. If the next one cannot be created, the
    /// current one stays as it is.
    pub(super) fn switch(&mut self, ending: &Ending<'_>, began: MonoTime) -> io::Result<PathBuf> {
        let (path, output) = self
            .create_next()
            .map_err(|error| io::Error::other(format!("the recording ends here: {error}")))?;
        if let Err(error) = self.end_file(ending) {
            discard(&output);
            return Err(error);
        }
        self.told = Statistics { start: ending.at, ..ending.totals.clone() };
        self.bytes_before += self.writer.get_ref().written();
        let done = self.writer.get_ref().path().to_owned();
        self.writer = Writer::new(output, self.plan.annotate, &self.section);
        self.forget_file(ending.at, began);
        self.add_named(ending.interfaces)?;
        if let Some(oldest) = self.series.as_mut().and_then(|series| series.created(path))
            && let Err(error) = remove(&oldest)
        {
            self.problems
                .push(format!("cannot remove {}, the oldest file of the ring: {error}", oldest.display()));
        }
        Ok(done)
    }

    fn create_next(&mut self) -> Result<(PathBuf, Output), CreateError> {
        loop {
            let path = self.series.as_ref().map_or_else(|| self.plan.path.clone(), Series::next_path);
            match Output::create(&path, &manner(self.plan), &|| false) {
                Err(error) if error.source.as_ref().is_some_and(output::is_full) && self.make_room() => {}
                result => return result.map(|output| (path, output)),
            }
        }
    }

    /// Writes what stands at the end of the current file.
    fn end_file(&mut self, ending: &Ending<'_>) -> io::Result<()> {
        let statistics = self.complete(ending)?;
        self.writer.add_ending(&statistics, ending.processes);
        self.with_room(|writer| writer.flush())?;
        self.with_room(|writer| writer.get_mut().end())
    }

    /// Hands everything so far to the file.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.with_room(|writer| writer.flush())?;
        for [packets, flushed] in &mut self.by_interface {
            *flushed = *packets;
        }
        Ok(())
    }

    /// Does what may find the disk full. Then, if a ring of files is kept, the oldest one is removed and it goes on, as long as there
    /// is another one.
    fn with_room(&mut self, go_on: impl Fn(&mut Writer<Output>) -> io::Result<()>) -> io::Result<()> {
        loop {
            match go_on(&mut self.writer) {
                Err(error) if output::is_full(&error) && self.make_room() => {}
                result => {
                    self.broken = result.as_ref().err().map(io::Error::kind).or(self.broken);
                    return result;
                }
            }
        }
    }

    /// Removes the oldest file before its time, if there is one.
    fn make_room(&mut self) -> bool {
        let Some(oldest) = self.series.as_mut().and_then(Series::give_up_oldest) else { return false };
        let path = oldest.display();
        self.problems.push(match remove(&oldest) {
            Ok(()) => format!(
                "the disk is full: removed {path}, the oldest file of the ring, and goes on\n  \
                 make room, or keep fewer or smaller files: --ring-buffer files:N, filesize:KB"
            ),
            Err(error) => format!(
                "the disk is full, and {path}, the oldest file of the ring, cannot be removed: {error}"
            ),
        });
        true
    }

    /// What has gone wrong since the last call and does not end the recording.
    pub(super) fn take_problems(&mut self) -> Vec<String> {
        std::mem::take(&mut self.problems)
    }

    /// What to tell if somebody has deleted the current file.
    pub(super) fn deletion(&self) -> Option<io::Error> {
        let output = self.writer.get_ref();
        let text = || {
            format!(
                "{} was deleted while it was written to: the {} packets in it are lost\n  \
                 record into a folder that nobody clears, or move files away when they are done (-z)",
                output.path().display(),
                self.packets
            )
        };
        output.is_deleted().then(|| io::Error::new(io::ErrorKind::NotFound, text()))
    }

    /// Has the current file, which cannot be written to any further, end behind a whole block, with room for what stands at the end
    /// of a file if that is wanted, and the file system lets it be cut. Packets that were taken and are not in it were dropped. Of a
    /// compressed file these are all since it was flushed last: how many of them came through is not known.
    fn give_up(&mut self, ending: &Ending<'_>, wants_room: bool) -> Vec<(usize, u64)> {
        let room = if wants_room {
            self.writer.ending_bytes(&self.counted(ending), ending.processes)
                + INTERFACE_BYTES * (1 + ending.interfaces.len() as u64)
        } else {
            0
        };
        let before = self.writer.get_ref().before(self.writer.boundary(), room + CUT_BYTES);
        let mut cut = self.writer.find_cut(&before, room);
        if self.writer.get_mut().cut(cut.at).is_ok() {
            self.broken = None;
        } else {
            // It ends where it ends, perhaps within a block.
            cut = self.writer.find_cut(&[], 0);
        }
        let since_flush = || self.by_interface.iter().map(|[packets, flushed]| packets - flushed).collect();
        let lost = if self.writer.get_ref().is_compressed() { since_flush() } else { cut.packets.clone() };
        let lost = self.interfaces.iter().copied().zip(lost).collect();
        self.writer.cut(&cut);
        self.interfaces.truncate(self.writer.interfaces());
        for number in &mut self.numbers {
            *number = number.filter(|number| (number.0 as usize) < self.interfaces.len());
        }
        lost
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
        discard(self.writer.get_ref());
    }

    /// Ends the last file, and counts as dropped what was to be in it and is not.
    pub(super) fn finish(
        mut self,
        totals: &mut Statistics,
        interfaces: &[Interface],
        processes: &ProcessTable,
    ) -> Written {
        let mut failure = self.deletion();
        let mut end = |files: &mut Self, totals: &Statistics| {
            let result = files.end_file(&Ending { at: totals.end, totals, interfaces, processes });
            if let Err(error) = result {
                failure.get_or_insert(error);
            }
        };
        if self.broken.is_none() {
            end(&mut self, totals);
        }
        for wants_room in [true, false] {
            // Whoever left wanted no more.
            if self.broken.is_none_or(|why| why == io::ErrorKind::BrokenPipe) {
                break;
            }
            let lost = self.give_up(&Ending { at: totals.end, totals, interfaces, processes }, wants_room);
            for (index, packets) in lost {
                let counts = totals.interface(index);
                counts.written = counts.written.saturating_sub(packets);
                counts.dropped_by_us += packets;
            }
            if self.broken.is_some() {
                break;
            }
            if wants_room {
                end(&mut self, totals);
            }
        }
        self.written(failure)
    }

    fn written(mut self, failure: Option<io::Error>) -> Written {
        let output = self.writer.get_ref();
        let mut written = Written {
            last: output.path().to_owned(),
            count: self.series.as_ref().map_or(1, Series::count),
            remaining: Vec::new(),
            is_gone: false,
            bytes: self.bytes_before + output.written(),
            failure,
            problems: std::mem::take(&mut self.problems),
        };
        if output.is_stream() {
            return written;
        }
        let mut is_gone = output.is_deleted();
        if output.written() == 0 {
            discard(output);
            is_gone = true;
        }
        let one = vec![written.last.clone()];
        written.remaining = self.series.take().map_or(one, Series::into_files);
        written.remaining.retain(|path| path.symlink_metadata().is_ok());
        // Others may have been moved by the command that was called for them.
        written.is_gone = is_gone && written.remaining.is_empty() && self.plan.after_file.is_none();
        written.last = written.remaining.last().cloned().unwrap_or(written.last);
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
        // Numbers count from 0 in each file.
        let number = InterfaceId(self.interfaces.len() as u32);
        if self.numbers.len() <= index {
            self.numbers.resize(index + 1, None);
        }
        self.numbers[index] = Some(number);
        self.interfaces.push(index);
        if self.writer.get_ref().is_compressed() {
            self.by_interface.push([0, 0]);
        }
        // It stays in the buffer: an error shows again at the next write.
        let _ = self.writer.add_interface(interface);
        Ok(number)
    }

    /// The statistics of the current file: what was counted since the file before. An interface of which there is something to
    /// tell, and no packet, is added.
    fn complete(&mut self, ending: &Ending<'_>) -> io::Result<Statistics> {
        for index in 0..ending.totals.interfaces.len() {
            let new = self.new_of(index, ending.totals);
            if new.received > 0 || new.dropped_by_kernel.is_some_and(|dropped| dropped > 0) {
                self.number(index, ending.interfaces)?;
            }
        }
        Ok(self.counted(ending))
    }

    /// What was counted on an interface since the file before.
    fn new_of(&self, index: usize, totals: &Statistics) -> InterfaceCounts {
        let of = |statistics: &Statistics| statistics.interfaces.get(index).copied().unwrap_or_default();
        of(totals).since(&of(&self.told))
    }

    /// What was counted since the file before, of the interfaces that are in this one.
    fn counted(&self, ending: &Ending<'_>) -> Statistics {
        let Ending { at, totals, .. } = *ending;
        Statistics {
            start: self.told.start,
            end: at,
            interfaces: self.interfaces.iter().map(|index| self.new_of(*index, totals)).collect(),
            dropped_by_kernel: totals.dropped_by_kernel.saturating_sub(self.told.dropped_by_kernel),
            attribution: totals.attribution.since(&self.told.attribution),
            events_lost: totals.events_lost.saturating_sub(self.told.events_lost),
            not_selected: totals.not_selected.since(&self.told.not_selected),
            filtered_out: 0,
        }
    }

    /// What is known of the current file is that of the one before.
    fn forget_file(&mut self, real: RealTime, mono: MonoTime) {
        self.numbers.clear();
        self.interfaces.clear();
        self.by_interface.clear();
        self.packets = 0;
        self.began = mono;
        self.interval_ends = self.end_of_interval(real);
    }

    /// Intervals are counted from 1970 on, as dumpcap does: one of 60 seconds ends with the minute.
    fn end_of_interval(&self, begin: RealTime) -> Option<RealTime> {
        interval(self.plan).map(|interval| next_multiple(begin, interval))
    }

    /// What the writer says to something that it has taken in.
    #[inline]
    fn noted(&mut self, result: io::Result<()>) -> io::Result<()> {
        match result {
            Ok(()) => Ok(()),
            Err(error) => self.not_written(error),
        }
    }

    #[cold]
    fn not_written(&mut self, error: io::Error) -> io::Result<()> {
        if output::is_full(&error) {
            return self.with_room(|writer| writer.flush());
        }
        self.broken = Some(error.kind());
        Err(error)
    }
}

fn interval(plan: &Plan) -> Option<Duration> {
    plan.rotation.as_ref()?.interval
}

fn next_multiple(begin: RealTime, interval: Duration) -> RealTime {
    let interval = interval.as_nanos() as u64;
    RealTime::from_ns((begin.as_ns() / interval + 1).saturating_mul(interval))
}

/// The end of an interval that has begun. If it is further ahead than any can be, the clock was set back meanwhile: then the interval is
/// that of the present, or there would be no next file for as long as the step was.
fn end_seen_from(present: RealTime, ends: RealTime, interval: Duration) -> RealTime {
    let next = next_multiple(present, interval);
    // The present of the packets lags behind a little, and may be in the interval before.
    if ends.since(next) > interval { next } else { ends }
}

fn manner(plan: &Plan) -> Manner {
    let owner = plan.invoker.as_ref().map(|invoker| (invoker.uid, invoker.gid));
    Manner { force: plan.force, owner, compression: plan.compression }
}

/// Removes a file of the ring. That it is gone already is fine.
fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_the_clock_was_set_back_the_interval_is_that_of_the_present() {
        let minute = Duration::from_secs(60);
        let at = |seconds: u64| RealTime::from_ns(seconds * 1_000_000_000);
        let began = at(7203);
        let ends = next_multiple(began, minute);
        assert_eq!(ends, at(7260));
        for present in [7199, 7203, 7259, 7260, 9000] {
            assert_eq!(end_seen_from(at(present), ends, minute), ends, "seen from {present}");
        }
        assert_eq!(end_seen_from(at(3610), ends, minute), at(3660), "an hour back");
    }
}
