//! The loop: events in, packets out.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use super::afterwards::Afterwards;
use super::files::{Ending, Files, First};
use super::forgetting::Forgetting;
use super::keeping::Keeper;
use super::section::section;
use super::starter::{Answer, Starter};
use super::translating::Translating;
use super::witness::{Witness, attach};
use super::{
    AttributionMode, Error, Finished, Observer, Plan, Progress, Signals, Why, command, count_by_process,
    restriction,
};
use crate::attribution::clock::ClockOffset;
use crate::attribution::event::{Event as SocketEvent, Scan};
use crate::attribution::linux::conntrack::Conntrack;
use crate::attribution::linux::process::{Lifetimes, OlderCgroups, boot_time};
use crate::attribution::linux::{now, own_netns};
use crate::attribution::news::{Moment, News, Origin};
use crate::attribution::translations::Translator;
use crate::attribution::{Attributor, join};
use crate::model::{Attribution, Found, InterfaceCounts, MonoTime, RealTime, Reason, Statistics};
use crate::sandbox::{Mode, Status};
use crate::selection::ProcessFilter;
use crate::source::{self, Capture, Event, SETTLING, Selection};

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
    // What is wrong with interfaces and filter is told before anything is loaded.
    source::check(&plan.capture)?;
    let helpers = Helpers::fork(plan)?;
    let (mut witness, scan, attributing) = attach(plan)?;
    // Whatever the command forks is known to the kernel side from its first moment.
    if let (Witness::Ebpf(kernel_side), Some(starter)) = (&mut witness, &helpers.command) {
        kernel_side.track_children_of(starter.pid())?;
    }
    let (older_cgroups, lifetimes) = (OlderCgroups::new(), Lifetimes::new());
    let needs = restriction::needs(plan, &witness, older_cgroups);
    restriction::check(plan, &needs)?;
    // Not before the hooks are in place: nobody would know whose the packets from before are.
    let capture = Capture::open(&plan.capture)?;
    let began = now();
    let workers = restriction::start_workers(plan);
    let first = First::create(plan, signals)?;
    let attributor = attributor(plan, &witness, helpers.translator);
    let restricted = match restriction::enter(plan, workers, needs, &capture) {
        Ok(status) => status,
        Err(error) => {
            first.discard();
            return Err(error);
        }
    };
    let section = section(plan, &attributing, Some(format!("sandbox: {restricted}")));
    let files = Files::begin(plan, first, section, began.0, began);
    for note in capture.notes() {
        observer.note(note);
    }
    observer.restricted(plan.sandbox, &restricted);
    observer.ready(&plan.capture.interfaces.to_string(), &attributing);
    let forgetting = Forgetting::new(move |pid| lifetimes.has_ended(pid));
    let afterwards = helpers.afterwards;
    let stages = Stages { capture, witness, older_cgroups, attributor, forgetting, files, afterwards };
    let mut recording = Recording::new(plan, stages, began);
    recording.expect(scan);
    recording.start_command(helpers.command)?;
    let why = recording.run(signals, observer);
    Ok(recording.end(why, restricted, signals, observer))
}

/// The processes beside the recording.
struct Helpers {
    /// What starts the command; none if there is none.
    command: Option<Starter>,
    afterwards: Afterwards,
    /// Who is asked for translated addresses.
    translator: Option<Box<dyn Translator>>,
}

impl Helpers {
    /// Forks them, before anything is open that they have no use for.
    fn fork(plan: &Plan) -> Result<Self, Error> {
        let start = |source| Error::System { what: "start a process beside the recorder", source };
        let starter = || {
            let settle = || command::settle(plan.invoker.as_ref());
            Starter::fork(settle, |_| command::start(&plan.command))
        };
        let translator: Option<Box<dyn Translator>> = match (plan.attribution, plan.sandbox) {
            (AttributionMode::None, _) => None,
            (_, Mode::Off) => Some(Box::new(Conntrack::default())),
            _ => Some(Box::new(Translating::fork().map_err(start)?)),
        };
        let command = (!plan.command.is_empty()).then(starter).transpose().map_err(start)?;
        Ok(Self { command, afterwards: Afterwards::prepare(plan).map_err(start)?, translator })
    }
}

/// What a recording consists of.
struct Stages<'a> {
    capture: Capture,
    witness: Witness,
    older_cgroups: OlderCgroups,
    attributor: Attributor,
    forgetting: Forgetting,
    files: Files<'a>,
    afterwards: Afterwards,
}

struct Recording<'a> {
    plan: &'a Plan,
    capture: Capture,
    witness: Witness,
    /// What was seen and is not handed on yet, because events from before may be on their way.
    scan: Option<Scan>,
    attributor: Attributor,
    older_cgroups: OlderCgroups,
    forgetting: Forgetting,
    /// The addresses of this host that the attribution was told last.
    addresses: Vec<IpAddr>,
    keeper: Keeper,
    /// Whose packets are written, if not all.
    processes: Option<ProcessFilter>,
    files: Files<'a>,
    /// What is done with files that are done.
    afterwards: Afterwards,
    command: Option<Commanded>,
    clock: ClockOffset,
    /// What was taken out of the kernel's ring; empty between two rounds.
    events: Vec<SocketEvent>,
    statistics: Statistics,
    by_process: Vec<u64>,
    written: u64,
    /// The last file has all that it is to have.
    is_complete: bool,
    /// Only what is in the rings is still written; for that no file begins because time has passed.
    is_ending: bool,
    /// How often something went wrong that does not end the recording.
    problems: u64,
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
    fn new(plan: &'a Plan, stages: Stages<'a>, (opened, mono): (RealTime, MonoTime)) -> Self {
        let Stages { capture, witness, older_cgroups, attributor, forgetting, files, afterwards } = stages;
        Self {
            plan,
            capture,
            attributor,
            witness,
            scan: None,
            older_cgroups,
            forgetting,
            addresses: Vec::new(),
            keeper: Keeper::default(),
            processes: plan.processes.clone().map(ProcessFilter::new),
            files,
            afterwards,
            command: None,
            clock: ClockOffset::new(now()),
            events: Vec::new(),
            statistics: Statistics { start: opened, ..Statistics::default() },
            by_process: Vec::new(),
            written: 0,
            is_complete: false,
            is_ending: false,
            problems: 0,
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

    /// Has the command started, if there is one.
    fn start_command(&mut self, starter: Option<Starter>) -> Result<(), Error> {
        let Some(mut starter) = starter else { return Ok(()) };
        match starter.start(Path::new("")).and_then(|_| starter.wait()) {
            Ok(Answer::NotStarted(_, source)) | Err(source) => {
                self.files.discard();
                let name = self.plan.command.first().map(|name| name.to_string_lossy().into_owned());
                Err(Error::Command { command: name.unwrap_or_default(), source })
            }
            Ok(Answer::Started | Answer::Ended(..)) => {
                self.command = Some(Commanded { starter, status: None });
                Ok(())
            }
        }
    }

    /// Goes on until something ends it; says what.
    fn run(&mut self, signals: &Signals, observer: &mut dyn Observer) -> Why {
        // Named interfaces are known; of any none is, before its first packet.
        if let Err(error) = self.files.add_named(self.capture.interfaces()) {
            self.failure = Some(error);
        }
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
            // If nobody passes it on any more, that is told when the command's end is asked for.
            let _ = self.command.as_mut().map(|command| command.starter.signal(signal));
            return Some(Why::Signal(signal));
        }
        if self.reap().is_some() {
            return Some(Why::CommandEnded);
        }
        let limits = &self.plan.limits;
        let reached = self.is_full()
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
        self.take_events();
        self.look(observer);
        self.write_files_until(self.watermark.minus(self.hold_back()), observer);
        self.tell(observer);
        self.flush(self.flushed.plus(self.flush_interval()));
        self.afterwards.look(observer);
        self.care(observer);
    }

    /// Until the oldest waiting packet is due, within bounds. Those that became due during the last round have to wait
    /// too: under load some always have, and a round for a handful of packets costs more than the packets.
    fn time_to_wait(&mut self) -> Duration {
        let hold_back = self.hold_back();
        match self.capture.next_time() {
            // Some were due already when the last round began.
            Some(_) if self.is_behind => Duration::ZERO,
            Some(oldest) => {
                // Waiting for a scan is over when it is due: a packet's own time does not tell.
                let scan = match &self.witness {
                    Witness::Procfs(scans) => scans.due(true).since(now().1),
                    Witness::Ebpf(_) | Witness::Nobody => {
                        hold_back.saturating_sub(now().1.since(self.clock.mono(oldest)))
                    }
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

    /// Takes all events that there are. What happened before the watermark is known then, less what was lost.
    fn take_events(&mut self) {
        let measured = now();
        self.clock.measure(measured);
        let (_, mono) = measured;
        let Witness::Ebpf(kernel_side) = &mut self.witness else {
            self.watermark = mono;
            return;
        };
        kernel_side.drain(|event| self.events.push(event));
        // That some were lost is told first: it says how far the others can be believed.
        let lost = kernel_side.lost();
        if lost > self.statistics.events_lost {
            self.statistics.events_lost = lost;
            self.attributor.learn(News::Lost { from: self.watermark, to: now().1 });
            self.to_mend = true;
        }
        for mut event in self.events.drain(..) {
            if let SocketEvent::Process(news) = &mut event
                && self.older_cgroups.are_there()
                && self.attributor.processes().find(&news.key()).is_none()
            {
                self.older_cgroups.complete(news);
            }
            self.attributor.learn(News::Event(event));
        }
        if self.to_mend && mono >= self.mended.plus(MEND_EVERY) {
            kernel_side.announce_anew();
            self.mended = mono;
            self.to_mend = false;
        }
        self.watermark = mono;
    }

    /// Takes the first look at the sockets, to hand it on when all events from before are there.
    fn expect(&mut self, scan: Option<Scan>) {
        if scan.as_ref().is_some_and(|scan| scan.found == Found::Snapshot) {
            self.attributor.learn(News::SnapshotExpected);
        }
        self.scan = scan;
    }

    /// Looks at the sockets, if nobody tells of them; hands on what was seen.
    fn look(&mut self, observer: &mut dyn Observer) {
        // Before the next one, which is not due so soon: each scan is compared with the one before.
        if let Some(scan) = self.scan.take_if(|scan| scan.ended.plus(SCAN_SETTLES) <= self.watermark) {
            self.take_scan(scan);
        }
        if let Witness::Procfs(scans) = &mut self.witness {
            match scans.look(self.watermark, self.capture.next_time().is_some()) {
                Some(Ok(scan)) => self.take_scan(scan),
                Some(Err(error)) if !self.is_blind => {
                    self.is_blind = true;
                    observer.note(&format!("packets get no owner for now: {error}"));
                }
                Some(Err(_)) | None => {}
            }
        }
    }

    fn take_scan(&mut self, mut scan: Scan) {
        scan.processes.iter_mut().for_each(|news| self.older_cgroups.complete(news));
        self.attributor.learn(News::Scan(scan));
    }

    /// All that happened before this time is known, less what was lost.
    fn known_until(&self) -> MonoTime {
        match &self.witness {
            Witness::Procfs(scans) => scans.known_until(),
            Witness::Ebpf(_) | Witness::Nobody => self.watermark,
        }
    }

    /// Writes the packets that were captured up to `deadline`, each into the file that its time or size puts it in, or the first
    /// [`MOST_AT_ONCE`] of them.
    fn write_files_until(&mut self, deadline: MonoTime, observer: &mut dyn Observer) {
        self.is_behind = false;
        let mut left = MOST_AT_ONCE;
        let present = self.clock.real(deadline);
        while self.failure.is_none() && !self.is_full() {
            let ends = self.files.ends_at(&self.clock, present);
            let ends = ends.filter(|ends| *ends <= present && !self.is_ending);
            match (self.write_until(deadline, ends, &mut left), ends) {
                (Stopped::Full(at), _) => self.switch(at, observer),
                (Stopped::Nothing, Some(ends)) => {
                    let next = self.capture.next_time().map_or(present, |next| next.min(present));
                    // The clock was set forward: one of this file still waits for its owner.
                    if next < ends {
                        return;
                    }
                    self.switch(self.files.next_begins_at(ends, next), observer);
                }
                (Stopped::Nothing, None) => return,
                (Stopped::Behind, _) => {
                    self.is_behind = true;
                    return;
                }
            }
        }
    }

    /// Writes the packets that were captured up to `deadline` and whose time is before the file's end into the current file, at most `left`
    /// of them.
    fn write_until(&mut self, deadline: MonoTime, ends: Option<RealTime>, left: &mut usize) -> Stopped {
        // The clock of the packets may be set meanwhile: whether they have waited for long enough, and which of several rings has the
        // oldest, tells the other one.
        let clock = self.clock;
        let due = |time: RealTime| {
            let place = clock.mono(time);
            (place <= deadline && ends.is_none_or(|ends| time < ends)).then_some(place)
        };
        let mut moment = Some(Moment { clock: self.clock, known_until: self.known_until() });
        while *left > 0 && self.failure.is_none() && !self.is_full() {
            *left -= 1;
            let Some(arrival) = self.capture.next_due(due) else { return Stopped::Nothing };
            let source::Arrival { packet, interfaces, origins } = arrival;
            let id = packet.interface.0 as usize;
            let (Some(interface), Some(origin)) = (interfaces.get(id), origins.get(id)) else { continue };
            let (link_type, is_loopback) = (interface.link_type, origin.is_loopback);
            let attribution = match &self.witness {
                Witness::Ebpf(_) | Witness::Procfs(_) => {
                    if let Some(moment) = moment.take() {
                        self.attributor.learn(News::Moment(moment));
                    }
                    self.attributor.attribute(&packet, link_type, is_loopback)
                }
                Witness::Nobody => Attribution::Unknown(Reason::Off),
            };
            let is_of_command = self.plan.command.is_empty() || self.attributor.is_tracked(&attribution);
            let is_selected =
                |filter: &mut ProcessFilter| filter.keeps(&attribution, self.attributor.processes());
            if !is_of_command || !self.processes.as_mut().is_none_or(is_selected) {
                self.statistics.not_selected.count(&attribution);
                self.attributor.left_out();
                continue;
            }
            let of = (id, interfaces, is_loopback);
            let kept = self.keeper.before_packet(&mut self.attributor, &mut self.files, of);
            let processes = self.attributor.processes();
            let taken = self.files.packet(&packet, interfaces, &attribution, processes);
            // After an error too it has been taken; what of that is not in the file shows at the end.
            self.written += 1;
            self.statistics.interface(id).written += 1;
            self.statistics.attribution.count(&attribution);
            count_by_process(&mut self.by_process, &attribution);
            match kept.and(taken).and_then(|()| self.files.is_full()) {
                Ok(false) => {}
                Ok(true) => return Stopped::Full(packet.time),
                Err(error) => self.failure = Some(error),
            }
        }
        Stopped::Behind
    }

    /// Goes on in the next file, which begins at this time; or there is none, and this is the end.
    fn switch(&mut self, at: RealTime, observer: &mut dyn Observer) {
        if !self.files.may_go_on() || self.has_all_packets() {
            self.is_complete = true;
            return;
        }
        self.count();
        let began = self.clock.mono(at);
        let ending = Ending {
            at,
            totals: &self.statistics,
            interfaces: self.capture.interfaces(),
            processes: self.attributor.processes(),
        };
        match self.files.switch(&ending, began) {
            Ok(done) => {
                self.afterwards.add(done);
                self.flush(MonoTime::default());
                self.forget_processes();
            }
            Err(error) => self.failure = Some(error),
        }
        self.problems += observer.problems(&self.files.take_problems());
    }

    fn forget_processes(&mut self) {
        let times = (now().1, self.watermark);
        if self.forgetting.between_files(&mut self.attributor, &mut self.by_process, times) {
            // It has verdicts on processes by their indexes.
            self.processes = self.plan.processes.clone().map(ProcessFilter::new);
        }
    }

    /// Goes on in the next file if somebody has deleted the current one; or there is none, and this is the end.
    fn look_after_file(&mut self, observer: &mut dyn Observer) {
        let Some(error) = self.files.deletion() else { return };
        if self.files.may_go_on() {
            self.problems += 1;
            observer.problem(&error.to_string());
            self.switch(self.clock.real(self.watermark), observer);
        } else {
            self.failure.get_or_insert(error);
        }
    }

    fn is_full(&self) -> bool {
        self.is_complete || self.has_all_packets()
    }

    fn has_all_packets(&self) -> bool {
        self.plan.limits.packets.is_some_and(|most| self.written >= most)
    }

    /// Readers of a pipe wait for each packet; a file is read now and then.
    fn flush_interval(&self) -> Duration {
        if self.files.is_read_live() { Duration::ZERO } else { FLUSH_EVERY }
    }

    fn flush(&mut self, due: MonoTime) {
        if self.failure.is_none() && self.watermark >= due {
            let kept = Keeper::store(&mut self.attributor, &mut self.files);
            if let Err(error) = kept.and_then(|()| self.files.flush()) {
                self.failure = Some(error);
            }
            self.flushed = self.watermark;
        }
    }

    fn tell(&mut self, observer: &mut dyn Observer) {
        self.problems += observer.problems(&self.files.take_problems());
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
        match self.capture.local_addresses() {
            Ok(addresses) if addresses == self.addresses => {}
            Ok(addresses) => {
                self.addresses.clone_from(&addresses);
                self.attributor.learn(News::Addresses(addresses));
            }
            Err(error) => observer.note(&format!("cannot read the addresses of this host: {error}")),
        }
        self.attributor.learn(News::Forget(self.watermark.minus(join::SLACK)));
        self.count();
        self.look_after_file(observer);
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
            bytes: self.files.bytes(),
            statistics: &self.statistics,
            by_process: &self.by_process,
            processes: self.attributor.processes(),
            remembered: self.attributor.remembered(),
        }
    }

    /// Lets nothing further in, writes what is in the rings, ends the file.
    fn end(mut self, why: Why, sandbox: Status, signals: &Signals, observer: &mut dyn Observer) -> Finished {
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
        self.is_ending = true;
        if let Err(error) = self.capture.stop() {
            self.failure.get_or_insert(error);
        }
        self.drain_rings(observer);
        if self.failure.is_none() {
            self.failure = Keeper::store(&mut self.attributor, &mut self.files).err();
        }
        self.drop_what_waits();
        self.count();
        self.statistics.end = now().0;
        let mut statistics = self.statistics;
        let written =
            self.files.finish(&mut statistics, self.capture.interfaces(), self.attributor.processes());
        let problems = self.problems + observer.problems(&written.problems);
        if let Some(last) = written.remaining.last() {
            self.afterwards.add(last.clone());
        }
        let failed_afterwards = self.afterwards.finish(signals, observer);
        Finished {
            path: written.last,
            bytes: written.bytes,
            files_written: written.count,
            files: written.remaining,
            problems: problems + failed_afterwards,
            is_gone: written.is_gone,
            statistics,
            interfaces: self.capture.interfaces().iter().map(|interface| interface.name.clone()).collect(),
            by_process: self.by_process,
            processes: self.attributor.into_processes(),
            why,
            command,
            failure: self.failure.or(written.failure),
            sandbox,
        }
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

    /// What is in the rings when nothing can be written any more is lost. It is taken all the same: only so it is known on which
    /// interface it came.
    fn drop_what_waits(&mut self) {
        let Some(error) = self.failure.take_if(|error| error.kind() != io::ErrorKind::BrokenPipe) else {
            return;
        };
        let give_up = now().1.plus(LAST_PACKETS);
        let mut lost = 0;
        while let Ok(counts) = self.capture.counts()
            && counts.waiting > 0
            && now().1 < give_up
        {
            // What fails here has failed before.
            let _ = self.capture.wait(SHORTEST_ROUND, &[]);
            while let Some(arrival) = self.capture.next_due(|time| Some(self.clock.mono(time))) {
                let id = arrival.packet.interface.0 as usize;
                self.statistics.interface(id).dropped_by_us += 1;
                lost += 1;
            }
        }
        self.failure = Some(if lost == 0 {
            error
        } else {
            io::Error::new(
                error.kind(),
                format!("{error}\n  {lost} packets that were waiting in the ring are lost"),
            )
        });
    }

    /// How the command has ended, if it has.
    fn reap(&mut self) -> Option<ExitStatus> {
        let command = self.command.as_mut()?;
        while command.status.is_none() {
            match command.starter.answer() {
                Ok(Some(Answer::Ended(_, status))) => command.status = Some(status),
                Ok(Some(Answer::Started | Answer::NotStarted(..))) => {}
                Ok(None) => return None,
                Err(error) => {
                    self.failure.get_or_insert(error);
                    return None;
                }
            }
        }
        command.status
    }
}

/// The recorded command.
struct Commanded {
    starter: Starter,
    /// How it ended, if it has.
    status: Option<ExitStatus>,
}

/// Why no more packets are written for now.
enum Stopped {
    /// None is due.
    Nothing,
    /// The file is full; the time of its last packet.
    Full(RealTime),
    /// Enough were written for one round, all that were asked for have been, or writing failed.
    Behind,
}

fn attributor(plan: &Plan, witness: &Witness, translator: Option<Box<dyn Translator>>) -> Attributor {
    let origin = Origin { netns: own_netns(), boot: boot_time() };
    let mut attributor = Attributor::new(origin, translator);
    if plan.keep_events && !matches!(witness, Witness::Nobody) {
        attributor.keep_journal();
    }
    attributor
}
