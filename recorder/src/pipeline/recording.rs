//! The loop: events in, packets out.

use std::io;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use super::clock::ClockOffset;
use super::scans::Scans;
use super::{Attributing, AttributionMode, Error, Finished, Observer, Plan, Progress, Signals, Why, command};
use crate::attribution::event::{Event as SocketEvent, Scan};
use crate::attribution::linux::ebpf::{KernelSide, State, Wanted};
use crate::attribution::linux::process::ProcessDetails;
use crate::attribution::linux::procfs::{Hidden, ScanError, Scanner};
use crate::attribution::linux::{now, own_netns};
use crate::attribution::{Attributor, Context, join};
use crate::model::{
    Attribution, Found, Interface, InterfaceCounts, LinkType, MonoTime, Owner, Packet, RealTime, Reason,
    Statistics,
};
use crate::output::Output;
use crate::pcapng::{SectionInfo, Writer};
use crate::source::{self, Capture, Event, InterfaceOrigin, SETTLING, Selection};

/// The longest wait between two looks at the events and the signals.
const ROUND: Duration = Duration::from_millis(20);
/// The shortest: below it the loop would cost more than it saves.
const SHORTEST_ROUND: Duration = Duration::from_millis(5);
/// The most packets written between two looks at the events, so that their ring does not overflow meanwhile.
const MOST_AT_ONCE: usize = 8192;
/// How full the ring may be before packets are held back for a shorter time than the join would like.
const PRESSURE: f32 = 0.4;
/// The hold-back under pressure with one ring: enough for the tap to be ahead of the hook behind it.
const SHORT_SLACK: Duration = Duration::from_millis(4);
/// How often the screen is told.
const TELL_EVERY: Duration = Duration::from_millis(250);
/// How often what is in the buffer goes to the file, so that others can read along and little is lost with us.
const FLUSH_EVERY: Duration = Duration::from_millis(500);
/// How often addresses are read anew, counters fetched (they are of 32 bits), and old flows forgotten.
const CARE_EVERY: Duration = Duration::from_secs(1);
/// How often a loss may have everything announced anew.
const MEND_EVERY: Duration = Duration::from_millis(100);
/// How long after a scan the events from before its end are there for certain.
const SCAN_SETTLES: Duration = Duration::from_millis(2);
/// How long packets may come after the command has ended: its last acknowledgements.
const AFTERMATH: Duration = Duration::from_millis(200);
/// How long a command that was told to stop is waited for.
const COMMAND_STOPS: Duration = Duration::from_secs(1);
/// How long the packets that are in the rings at the end may take to be written.
const LAST_PACKETS: Duration = Duration::from_secs(10);

/// Runs a recording from beginning to end.
///
/// # Errors
/// If nothing could be recorded. What goes wrong later is in [`Finished::failure`], and a file exists.
pub fn record(plan: &Plan, signals: &Signals, observer: &mut dyn Observer) -> Result<Finished, Error> {
    let capture = Capture::open(&plan.capture)?;
    let (witness, scan, attributing) = attach(plan)?;
    let owner = plan.invoker.as_ref().map(|invoker| (invoker.uid, invoker.gid));
    let output = Output::create(&plan.path, plan.force, owner)?;
    for note in capture.notes() {
        observer.note(note);
    }
    observer.ready(&interfaces_in_words(&plan.capture.interfaces), &attributing);
    let mut recording = Recording::new(plan, capture, witness, output, &attributing);
    recording.expect(scan);
    recording.start_command()?;
    let why = recording.run(signals, observer);
    recording.end(why, observer)
}

/// Who tells which process has which socket.
enum Witness {
    /// The kernel side, as it happens.
    Ebpf(Box<KernelSide>),
    /// /proc, as it is looked at.
    Procfs(Scans),
    Nobody,
}

/// Loads the kernel side, or finds out why not and what else works; then looks at the sockets that are there.
fn attach(plan: &Plan) -> Result<(Witness, Option<Scan>, Attributing), Error> {
    let with_command = !plan.command.is_empty();
    match plan.attribution {
        AttributionMode::None => return Ok((Witness::Nobody, None, Attributing::Off)),
        AttributionMode::Procfs => {
            let (scans, scan) = Scans::begin()?;
            let hidden = scans.hidden();
            return Ok((Witness::Procfs(scans), Some(scan), Attributing::Procfs { refused: None, hidden }));
        }
        AttributionMode::Auto | AttributionMode::Ebpf => {}
    }
    let wanted = Wanted {
        descendants: with_command,
        arguments: plan.with_arguments,
        event_bytes: plan.event_buffer_bytes,
    };
    match KernelSide::attach(wanted) {
        Ok(kernel_side) => {
            let reports = kernel_side.reports().to_vec();
            let (scan, snapshot) = take_snapshot()
                .map_or_else(|error| (None, Err(error)), |(scan, hidden)| (Some(scan), Ok(hidden)));
            Ok((Witness::Ebpf(Box::new(kernel_side)), scan, Attributing::Ebpf { reports, snapshot }))
        }
        // Without owners nobody knows which packets are the command's.
        Err(error) if plan.attribution == AttributionMode::Ebpf || with_command => Err(error.into()),
        Err(error) => Ok(match Scans::begin() {
            Ok((scans, scan)) => {
                let hidden = scans.hidden();
                (Witness::Procfs(scans), Some(scan), Attributing::Procfs { refused: Some(error), hidden })
            }
            Err(lookup) => (Witness::Nobody, None, Attributing::Unavailable(error, lookup)),
        }),
    }
}

/// The sockets that are older than the hooks. Looked up when these are attached, so that nothing falls between.
fn take_snapshot() -> Result<(Scan, Hidden), ScanError> {
    let mut scanner = Scanner::default();
    let scan = scanner.scan(Found::Snapshot)?;
    Ok((scan, scanner.hidden()))
}

fn interfaces_in_words(selection: &Selection) -> String {
    match selection {
        Selection::Any => "any".to_owned(),
        Selection::Named(names) => names.join(", "),
    }
}

struct Recording<'a> {
    plan: &'a Plan,
    capture: Capture,
    witness: Witness,
    /// What was seen and is not handed on yet, because events from before may be on their way.
    scan: Option<Scan>,
    attributor: Attributor,
    writer: Writer<Output>,
    path: PathBuf,
    command: Option<Child>,
    clock: ClockOffset,
    /// What was taken out of the kernel's ring; empty between two rounds.
    events: Vec<SocketEvent>,
    statistics: Statistics,
    by_process: Vec<u64>,
    written: u64,
    not_selected: u64,
    /// How many interfaces the file has.
    interfaces: usize,
    /// When events were last taken out of the ring: all that happened before are known.
    watermark: MonoTime,
    started: MonoTime,
    told: MonoTime,
    flushed: MonoTime,
    cared: MonoTime,
    mended: MonoTime,
    /// The last round ended with packets left that were due.
    is_behind: bool,
    /// A scan failed, and the user was told.
    is_blind: bool,
    /// A loss was seen, and not everything has been announced anew since.
    to_mend: bool,
    failure: Option<io::Error>,
}

impl<'a> Recording<'a> {
    fn new(
        plan: &'a Plan,
        capture: Capture,
        witness: Witness,
        output: Output,
        attributing: &Attributing,
    ) -> Self {
        let (real, mono) = now();
        let path = output.path().to_owned();
        Self {
            plan,
            capture,
            witness,
            scan: None,
            attributor: Attributor::new(own_netns(), ProcessDetails::new()),
            writer: Writer::new(output, plan.annotate, &section(plan, attributing)),
            path,
            command: None,
            clock: ClockOffset::new((real, mono)),
            events: Vec::new(),
            statistics: Statistics { start: real, ..Statistics::default() },
            by_process: Vec::new(),
            written: 0,
            not_selected: 0,
            interfaces: 0,
            watermark: mono,
            started: mono,
            told: mono,
            flushed: mono,
            cared: MonoTime::default(),
            mended: mono,
            is_behind: false,
            is_blind: false,
            to_mend: false,
            failure: None,
        }
    }

    /// Starts the command, if there is one; whatever it forks is known to the kernel side from its first moment.
    fn start_command(&mut self) -> Result<(), Error> {
        let (Witness::Ebpf(kernel_side), false) = (&mut self.witness, self.plan.command.is_empty()) else {
            return Ok(());
        };
        kernel_side.track_children()?;
        let child = command::start(&self.plan.command, self.plan.invoker.as_ref());
        kernel_side.stop_tracking_children()?;
        let name =
            || self.plan.command.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        match child {
            Ok(child) => self.command = Some(child),
            Err(source) => {
                // Nothing is in it yet; an empty file would look like a recording.
                if self.path != *"standard output" {
                    let _ = std::fs::remove_file(&self.path);
                }
                return Err(Error::Command { command: name(), source });
            }
        }
        Ok(())
    }

    /// Goes on until something ends it; says what.
    fn run(&mut self, signals: &Signals, observer: &mut dyn Observer) -> Why {
        self.add_named_interfaces();
        // At once, so that a reader of standard output sees a file before the first packet.
        self.flush(MonoTime::default());
        loop {
            self.round(observer);
            if signals.take_report() {
                self.count();
                observer.asked(&self.progress());
            }
            if let Some(why) = self.ended(signals) {
                return why;
            }
        }
    }

    /// Why to stop now, if at all.
    fn ended(&mut self, signals: &Signals) -> Option<Why> {
        if let Some(failure) = &self.failure {
            return Some(if failure.kind() == io::ErrorKind::BrokenPipe {
                Why::ReaderGone
            } else {
                Why::Failure
            });
        }
        if let Some(signal) = signals.stop() {
            if let Some(child) = &self.command {
                command::stop(child, signal);
            }
            return Some(Why::Signal(signal));
        }
        if let Some(child) = &mut self.command
            && matches!(child.try_wait(), Ok(Some(_)))
        {
            return Some(Why::CommandEnded);
        }
        let limits = &self.plan.limits;
        let reached = limits.packets.is_some_and(|most| self.written >= most)
            || limits.bytes.is_some_and(|most| self.writer.bytes() >= most)
            || limits.duration.is_some_and(|longest| self.watermark.since(self.started) >= longest);
        if reached {
            return Some(Why::Limit);
        }
        self.capture.all_gone().then_some(Why::InterfacesGone)
    }

    /// One round: wait, take the events, write the packets whose owners are now certain, look after the rest.
    fn round(&mut self, observer: &mut dyn Observer) {
        let timeout = self.time_to_wait();
        if let Err(error) = self.capture.wait(timeout, &[]) {
            self.failure.get_or_insert(error);
        }
        let real = self.take_events();
        self.look(observer);
        self.write_until(RealTime::from_ns(real.as_ns().saturating_sub(self.hold_back().as_nanos() as u64)));
        self.tell(observer);
        self.flush(self.flushed.plus(self.flush_interval()));
        self.care(observer);
    }

    /// Until the oldest waiting packet is due, within bounds. Those that became due during the last round have to wait
    /// too: under load some always have, and a round for a handful of packets costs more than the packets.
    fn time_to_wait(&mut self) -> Duration {
        let (real, _) = now();
        let hold_back = self.hold_back();
        match self.capture.next_time() {
            // Some were due already when the last round began.
            Some(_) if self.is_behind => Duration::ZERO,
            Some(oldest) => {
                // Waiting for a scan is over when it is due: a packet's own time does not tell.
                let scan = match &self.witness {
                    Witness::Procfs(scans) => scans.due(true).since(now().1),
                    Witness::Ebpf(_) | Witness::Nobody => hold_back.saturating_sub(real.since(oldest)),
                };
                scan.clamp(SHORTEST_ROUND, ROUND)
            }
            None => ROUND,
        }
    }

    /// How long packets wait for events. Less when the ring runs full, since a lost packet is worse than one without
    /// an owner; the join is told, and gives no answer that more waiting could have changed.
    fn hold_back(&self) -> Duration {
        let one_ring = match &self.plan.capture.interfaces {
            Selection::Any => true,
            Selection::Named(names) => names.len() == 1,
        };
        match (&self.witness, one_ring) {
            // Nothing to wait for but the order of several rings.
            (Witness::Nobody, true) => Duration::ZERO,
            (Witness::Nobody, false) => SETTLING,
            (_, true) if self.capture.fill() > PRESSURE => SHORT_SLACK,
            (_, false) if self.capture.fill() > PRESSURE => SETTLING,
            (Witness::Ebpf(_), _) => join::SLACK.max(SETTLING),
            (Witness::Procfs(scans), _) => scans.hold_back(now().1).max(SETTLING),
        }
    }

    /// Takes all events that there are. What happened before the time that comes back is known then, less what was lost.
    fn take_events(&mut self) -> RealTime {
        let measured = now();
        self.clock.measure(measured);
        let (real, mono) = measured;
        let Witness::Ebpf(kernel_side) = &mut self.witness else {
            self.watermark = mono;
            return real;
        };
        kernel_side.drain(|event| self.events.push(event));
        // That some were lost is told first: it says how far the others can be believed.
        match kernel_side.lost() {
            Ok(lost) if lost > self.statistics.events_lost => {
                self.statistics.events_lost = lost;
                self.attributor.lost_between(self.watermark, now().1);
                self.to_mend = true;
            }
            Ok(_) => {}
            Err(error) => {
                self.failure.get_or_insert(io::Error::other(error));
            }
        }
        self.events.drain(..).for_each(|event| self.attributor.event(event));
        if self.to_mend && mono >= self.mended.plus(MEND_EVERY) {
            if let Err(error) = kernel_side.announce_anew() {
                self.failure.get_or_insert(io::Error::other(error));
            }
            self.mended = mono;
            self.to_mend = false;
        }
        self.watermark = mono;
        real
    }

    /// Takes the first look at the sockets, to hand it on when all events from before are there.
    fn expect(&mut self, scan: Option<Scan>) {
        if scan.as_ref().is_some_and(|scan| scan.found == Found::Snapshot) {
            self.attributor.expect_snapshot();
        }
        self.scan = scan;
    }

    /// Looks at the sockets, if nobody tells of them; hands on what was seen.
    fn look(&mut self, observer: &mut dyn Observer) {
        if let Witness::Procfs(scans) = &mut self.witness {
            match scans.look(self.watermark, self.capture.next_time().is_some()) {
                Some(Ok(scan)) => self.attributor.scanned(scan),
                Some(Err(error)) if !self.is_blind => {
                    self.is_blind = true;
                    observer.note(&format!("packets get no owner for now: {error}"));
                }
                Some(Err(_)) | None => {}
            }
        }
        if let Some(scan) = self.scan.take_if(|scan| scan.ended.plus(SCAN_SETTLES) <= self.watermark) {
            self.attributor.scanned(scan);
        }
    }

    /// All that happened before this time is known, less what was lost.
    fn known_until(&self) -> MonoTime {
        match &self.witness {
            Witness::Procfs(scans) => scans.known_until(),
            Witness::Ebpf(_) | Witness::Nobody => self.watermark,
        }
    }

    /// Writes the packets up to `deadline`, or the first [`MOST_AT_ONCE`] of them.
    fn write_until(&mut self, deadline: RealTime) {
        self.is_behind = false;
        let known_until = self.known_until();
        for _ in 0..MOST_AT_ONCE {
            if self.failure.is_some() || self.is_full() {
                return;
            }
            let Some(arrival) = self.capture.next(deadline) else { return };
            let source::Arrival { packet, interfaces, origins } = arrival;
            if let Err(error) = add_interfaces(&mut self.writer, &mut self.interfaces, interfaces) {
                self.failure = Some(error);
                return;
            }
            let id = packet.interface.0 as usize;
            let (Some(interface), Some(origin)) = (interfaces.get(id), origins.get(id)) else { continue };
            let (link_type, origin) = (interface.link_type, *origin);
            let attribution = match &self.witness {
                Witness::Ebpf(_) | Witness::Procfs(_) => {
                    let context = context(&self.clock, known_until, &packet, link_type, origin);
                    self.attributor.attribute(&packet, &context)
                }
                Witness::Nobody => Attribution::Unknown(Reason::Off),
            };
            if id >= self.statistics.interfaces.len() {
                self.statistics.interfaces.resize(id + 1, InterfaceCounts::default());
            }
            if !self.plan.command.is_empty() && !self.attributor.is_tracked(&attribution) {
                self.not_selected += 1;
                continue;
            }
            match self.writer.packet(&packet, &attribution, self.attributor.processes()) {
                Ok(()) => {
                    self.written += 1;
                    self.statistics.interfaces[id].written += 1;
                    self.statistics.attribution.count(&attribution);
                    count_by_process(&mut self.by_process, &attribution);
                }
                Err(error) => self.failure = Some(error),
            }
        }
        self.is_behind = true;
    }

    fn is_full(&self) -> bool {
        self.plan.limits.packets.is_some_and(|most| self.written >= most)
            || self.plan.limits.bytes.is_some_and(|most| self.writer.bytes() >= most)
    }

    /// Named interfaces stand in the file even if they never see a packet.
    fn add_named_interfaces(&mut self) {
        let known = self.capture.interfaces();
        if let Err(error) = add_interfaces(&mut self.writer, &mut self.interfaces, known) {
            self.failure = Some(error);
        }
    }

    /// Readers of standard output wait for each packet; a file is read now and then.
    fn flush_interval(&self) -> Duration {
        if self.writer.get_ref().is_stdout() { Duration::ZERO } else { FLUSH_EVERY }
    }

    fn flush(&mut self, due: MonoTime) {
        if self.failure.is_none() && self.watermark >= due {
            if let Err(error) = self.writer.flush() {
                self.failure = Some(error);
            }
            self.flushed = self.watermark;
        }
    }

    fn tell(&mut self, observer: &mut dyn Observer) {
        if self.watermark >= self.told.plus(TELL_EVERY) {
            observer.progress(&self.progress());
            self.told = self.watermark;
        }
        for event in self.capture.take_events() {
            observer.note(&match event {
                Event::InterfaceDown { name } => {
                    format!("{name} is down; recording goes on when it comes up again")
                }
                Event::InterfaceUp { name } => format!("{name} is up again"),
                Event::InterfaceGone { name } => format!("{name} is gone"),
            });
        }
    }

    /// What has to be done now and then.
    fn care(&mut self, observer: &mut dyn Observer) {
        if self.watermark < self.cared.plus(CARE_EVERY) {
            return;
        }
        self.cared = self.watermark;
        match source::local_addresses() {
            Ok(addresses) => self.attributor.set_local_addresses(addresses),
            Err(error) => observer.note(&format!("cannot read the addresses of this host: {error}")),
        }
        self.attributor.forget(self.watermark.minus(join::SLACK));
        self.count();
    }

    /// Fetches the kernel's counters.
    fn count(&mut self) {
        let counts = match self.capture.counts() {
            Ok(counts) => counts,
            Err(error) => {
                self.failure.get_or_insert(error);
                return;
            }
        };
        if counts.damaged > 0 {
            let text = format!("the kernel's ring is damaged: {} packets are lost", counts.damaged);
            self.failure.get_or_insert_with(|| io::Error::other(text));
        }
        self.statistics.dropped_by_kernel = counts.dropped_by_kernel;
        self.statistics.interfaces.resize(counts.interfaces.len(), InterfaceCounts::default());
        for (ours, theirs) in self.statistics.interfaces.iter_mut().zip(&counts.interfaces) {
            *ours = InterfaceCounts { written: ours.written, dropped_by_us: ours.dropped_by_us, ..*theirs };
        }
    }

    fn progress(&self) -> Progress<'_> {
        Progress {
            packets: self.written,
            bytes: self.writer.bytes(),
            not_selected: self.not_selected,
            statistics: &self.statistics,
            by_process: &self.by_process,
            processes: self.attributor.processes(),
            remembered: self.attributor.remembered(),
        }
    }

    /// Lets nothing further in, writes what is in the rings, ends the file.
    fn end(mut self, why: Why, observer: &mut dyn Observer) -> Result<Finished, Error> {
        let began = now().1;
        let mut command = self.reap();
        if matches!(why, Why::Signal(_)) && self.command.is_some() {
            while command.is_none() && self.failure.is_none() && self.watermark < began.plus(COMMAND_STOPS) {
                self.round(observer);
                command = self.reap();
            }
        }
        let aftermath = if why == Why::CommandEnded { AFTERMATH } else { Duration::ZERO };
        while self.failure.is_none() && self.watermark < began.plus(aftermath) {
            self.round(observer);
        }
        if let Err(error) = self.capture.stop() {
            self.failure.get_or_insert(error);
        }
        self.drain_rings(observer);
        self.count();
        self.statistics.end = now().0;
        let statistics = self.statistics;
        let bytes = self.writer.bytes();
        let mut failure = self.failure;
        let finished = match &failure {
            None => {
                self.writer.finish(&statistics, self.attributor.processes()).map(|output| output.written())
            }
            Some(_) => Ok(self.writer.get_ref().written()),
        };
        let bytes = finished.unwrap_or_else(|error| {
            failure = Some(error);
            bytes
        });
        Ok(Finished {
            path: self.path,
            bytes,
            not_selected: self.not_selected,
            statistics,
            by_process: self.by_process,
            processes: self.attributor.into_processes(),
            why,
            command,
            failure,
        })
    }

    /// What is in the rings waits for its owners as everything before did.
    fn drain_rings(&mut self, observer: &mut dyn Observer) {
        let give_up = now().1.plus(LAST_PACKETS);
        while self.failure.is_none() && !self.is_full() {
            self.round(observer);
            match self.capture.counts() {
                Ok(counts) if counts.waiting == 0 => return,
                Ok(counts) if self.watermark >= give_up => {
                    let text = format!("{} packets were still in the ring at the end", counts.waiting);
                    self.failure = Some(io::Error::other(text));
                }
                Ok(_) => {}
                Err(error) => self.failure = Some(error),
            }
        }
    }

    fn reap(&mut self) -> Option<ExitStatus> {
        self.command.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }
}

/// Adds the interfaces that the file does not have yet; `count` is how many it has.
fn add_interfaces(writer: &mut Writer<Output>, count: &mut usize, known: &[Interface]) -> io::Result<()> {
    for interface in known.iter().skip(*count) {
        writer.add_interface(interface)?;
        *count += 1;
    }
    Ok(())
}

/// What a packet's attribution depends on besides its bytes.
fn context(
    clock: &ClockOffset,
    known_until: MonoTime,
    packet: &Packet<'_>,
    link_type: LinkType,
    origin: InterfaceOrigin,
) -> Context {
    let at = clock.mono(packet.time);
    Context { link_type, is_loopback: origin.is_loopback, at, waited: known_until.since(at) }
}

fn count_by_process(by_process: &mut Vec<u64>, attribution: &Attribution) {
    let Attribution::Known { sender, receiver, .. } = attribution else { return };
    let mut count = |owner: &Owner| {
        let index = owner.process.0 as usize;
        if index >= by_process.len() {
            by_process.resize(index + 1, 0);
        }
        by_process[index] += 1;
    };
    match (sender, receiver) {
        // A process that talks to itself has one packet, not two.
        (Some(sender), Some(receiver)) if sender.process == receiver.process => count(sender),
        _ => [sender, receiver].into_iter().flatten().for_each(count),
    }
}

fn section(plan: &Plan, attributing: &Attributing) -> SectionInfo {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok();
    let mut comments = plan.comments.clone();
    comments.push(how_owners_are_found(attributing));
    SectionInfo {
        hardware: Some(std::env::consts::ARCH.to_owned()),
        os: release.map(|release| format!("Linux {}", release.trim_end())),
        application: Some(concat!("recorder ", env!("CARGO_PKG_VERSION")).to_owned()),
        comments,
    }
}

/// What the file says about it.
fn how_owners_are_found(attributing: &Attributing) -> String {
    let hidden = |hidden: &Hidden| {
        hidden.in_words().iter().fold(String::new(), |text, words| format!("{text}; {words}"))
    };
    match attributing {
        Attributing::Ebpf { reports, snapshot } => {
            let active = reports.iter().filter(|report| report.state == State::Active);
            let active: Vec<_> = active.map(|report| report.hook.hook).collect();
            let snapshot = match snapshot {
                Ok(seen) => hidden(seen),
                Err(error) => format!("; no snapshot: {error}"),
            };
            format!("attribution: ebpf; hooks: {}{snapshot}", active.join(" "))
        }
        Attributing::Procfs { refused: None, hidden: seen } => {
            format!("attribution: procfs, as asked for{}", hidden(seen))
        }
        Attributing::Procfs { refused: Some(error), hidden: seen } => {
            format!("attribution: procfs; ebpf is refused: {error}{}", hidden(seen))
        }
        Attributing::Off => "attribution: none, as asked for".to_owned(),
        Attributing::Unavailable(error, lookup) => {
            format!("attribution: none; ebpf is refused: {error}; procfs: {lookup}")
        }
    }
}
