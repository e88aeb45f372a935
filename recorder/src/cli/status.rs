//! What the user sees of a recording, all of it on standard error: one live line on a terminal, a summary at the end.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::Path;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::{report, text};
#[cfg(target_os = "linux")]
use crate::attribution::linux::ebpf::State;
use crate::model::{AttributionCounts, Found, Reason, Statistics};
#[cfg(target_os = "linux")]
use crate::pipeline::ebpf_remedy;
use crate::pipeline::{Attributing, Finished, Observer, Progress, Why, describe};
#[cfg(target_os = "linux")]
use crate::sandbox::{Mode, Status};

/// How many processes the live line names.
const BUSIEST: usize = 3;

/// Tells the user how the recording goes.
pub struct Screen {
    quiet: bool,
    json: bool,
    silent: bool,
    live: Option<ProgressBar>,
}

impl Screen {
    /// With `quiet` there is no live line and no note: only errors, the line that says it has begun, and the summary.
    /// With `json` this is one line of JSON.
    pub fn new(quiet: bool, json: bool) -> Self {
        let live = (!quiet && std::io::stderr().is_terminal()).then(ProgressBar::new_spinner);
        if let Some(live) = &live
            && let Ok(style) = ProgressStyle::with_template("{wide_msg}")
        {
            live.set_style(style);
        }
        Self { quiet, json, silent: false, live }
    }

    /// Only errors, and the summary if something was lost: for who takes all that is said for an error.
    pub const fn silent() -> Self {
        Self { quiet: true, json: false, silent: true, live: None }
    }

    /// Prints an error in two lines: what failed, on what, why; and what to do about it.
    pub fn error(&mut self, message: &str, remedy: Option<&str>) {
        let remedy = remedy.map(|remedy| format!("\n  {remedy}")).unwrap_or_default();
        self.print(&format!("recorder: {message}{remedy}"));
    }

    /// Prints the final summary, in text or JSON; `exit_code` is what the recorder ends with.
    pub fn finished(&mut self, finished: &Finished, exit_code: u8) {
        if self.silent && exit_code == 0 {
            return;
        }
        if let Some(live) = self.live.take() {
            live.finish_and_clear();
        }
        if !self.json {
            self.print(summary(finished).trim_end());
        }
        if let Some(error) = &finished.failure
            && finished.why != Why::ReaderGone
        {
            self.error(&error.to_string(), None);
        }
        if finished.why == Why::InterfacesGone {
            let text = format!("no interface is left: {} is gone", finished.interfaces.join(", "));
            self.error(
                &text,
                Some("start again when it is back, or record on any, which goes on whatever comes and goes"),
            );
        }
        // Last of all, so that the last line is the report whatever else was said.
        if self.json {
            match report::line(finished, exit_code) {
                Ok(line) => self.print(&line),
                Err(error) => self.error(&format!("cannot write the report: {error}"), None),
            }
        }
    }

    fn print(&self, text: &str) {
        match &self.live {
            Some(live) => live.suspend(|| print_line(text)),
            None => print_line(text),
        }
    }

    /// What is known about owners here, and what is not.
    #[cfg(target_os = "linux")]
    fn restrictions(&mut self, attribution: &Attributing) {
        let doctor = Some("`recorder doctor` tells what to do about it");
        match attribution {
            Attributing::Unavailable(error, lookup) => {
                self.error(&format!("packets get no owner: {error}; {lookup}"), doctor);
            }
            Attributing::Procfs { refused: Some(error), .. } => {
                let text = "owners are looked up in /proc, which misses what is short-lived, because eBPF is refused";
                self.error(&format!("{text}: {error}"), Some(&ebpf_remedy(error)));
            }
            Attributing::Ebpf { snapshot: Err(error), .. } => {
                self.note(&format!(
                    "sockets from before the start are not known until they are used: {error}"
                ));
            }
            _ => {}
        }
        if let Attributing::Procfs { hidden, .. } | Attributing::Ebpf { snapshot: Ok(hidden), .. } =
            attribution
        {
            hidden.in_words().iter().for_each(|words| self.note(words));
        }
        // A missing hook that follows sockets makes attribution less exact, which is worth a line each.
        if let Attributing::Ebpf { reports, .. } = attribution
            && !self.quiet
        {
            let refused = reports.iter().filter(|report| matches!(report.state, State::Refused(_)));
            let names: Vec<_> = refused.map(|report| report.hook.hook).collect();
            if !names.is_empty() {
                self.print(&format!("works without {} (see `recorder doctor`)", names.join(", ")));
            }
        }
    }
}

/// Nobody can be told that standard error is closed.
fn print_line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", text::message(text));
}

impl Observer for Screen {
    fn ready(&mut self, interfaces: &str, attribution: &Attributing) {
        #[cfg(target_os = "linux")]
        self.restrictions(attribution);
        let by = match attribution {
            #[cfg(target_os = "linux")]
            Attributing::Ebpf { .. } => "owners by eBPF",
            #[cfg(target_os = "linux")]
            Attributing::Procfs { .. } => "owners by /proc",
            Attributing::Pktap => "owners by PKTAP",
            #[cfg(target_os = "linux")]
            Attributing::Unavailable(..) => "without owners",
            Attributing::Off => "without owners",
        };
        // Also with --quiet: scripts wait for this line.
        if !self.silent {
            self.print(&format!("recording on {interfaces}, {by}"));
        }
    }

    #[cfg(target_os = "linux")]
    fn restricted(&mut self, mode: Mode, status: &Status) {
        // What was asked for, and all that there is, needs no line.
        if mode == Mode::Auto && !status.missing().is_empty() {
            self.note(&format!("the recorder is restricted in part: {status} (see `recorder doctor`)"));
        }
    }

    fn note(&mut self, text: &str) {
        if !self.quiet {
            self.print(&format!("recorder: {text}"));
        }
    }

    fn problem(&mut self, text: &str) {
        self.error(text, None);
    }

    fn progress(&mut self, progress: &Progress<'_>) {
        if let Some(live) = &self.live {
            live.set_message(line(progress));
            live.tick();
        }
    }

    fn asked(&mut self, progress: &Progress<'_>) {
        let (flows, sockets) = progress.remembered;
        self.print(&format!("{}; remembers {flows} flows of {sockets} sockets", line(progress)));
    }
}

fn line(progress: &Progress<'_>) -> String {
    let mut line = format!(
        "{} packets, {}, {} dropped, {} attributed",
        progress.packets,
        HumanBytes(progress.bytes),
        progress.statistics.dropped_by_kernel,
        share(progress.statistics.attribution.attributed(), progress.statistics.attribution.total()),
    );
    let left_out = progress.statistics.not_selected.total();
    if left_out > 0 {
        // Writing to a string cannot fail.
        let _ = write!(line, ", {left_out} left out");
    }
    for (index, packets) in progress.busiest(BUSIEST) {
        if let Some(process) = progress.processes.get(index) {
            let _ = write!(line, "  {} {packets}", text::process(process));
        }
    }
    line
}

fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "0 %".to_owned() } else { format!("{:.1} %", part as f64 * 100.0 / whole as f64) }
}

/// `1 packet`, `2 packets`.
fn packets(count: u64) -> String {
    format!("{count} packet{}", if count == 1 { "" } else { "s" })
}

fn summary(finished: &Finished) -> String {
    let Finished {
        path,
        bytes,
        files_written,
        files,
        problems: _,
        is_gone: _,
        statistics,
        interfaces: _,
        by_process: _,
        processes: _,
        why,
        command,
        failure: _,
        #[cfg(target_os = "linux")]
        sandbox,
    } = finished;
    let written: u64 = statistics.interfaces.iter().map(|counts| counts.written).sum();
    let received: u64 = statistics.interfaces.iter().map(|counts| counts.received).sum();
    let mut text = String::new();
    if let Some(status) = command {
        let _ = writeln!(text, "the command ended with {}", describe(*status));
    }
    match why {
        Why::ReaderGone => text.push_str("stopped: nobody reads the output any more\n"),
        Why::Signal(_) | Why::CommandEnded | Why::Limit | Why::InterfacesGone | Why::Failure => {}
    }
    // tcpdump's closing lines to the letter, for those who look for them.
    let _ = writeln!(text, "{} captured", packets(written));
    let _ = writeln!(text, "{} received by filter", packets(received.max(written)));
    let _ = writeln!(text, "{} dropped by kernel", packets(statistics.dropped_by_kernel));
    let dropped_by_us: u64 = statistics.interfaces.iter().map(|counts| counts.dropped_by_us).sum();
    if dropped_by_us > 0 {
        let _ = writeln!(text, "{} dropped by recorder", packets(dropped_by_us));
    }
    left_out(&mut text, &statistics.not_selected);
    attribution(&mut text, statistics);
    if statistics.events_lost > 0 {
        let _ = writeln!(text, "{} socket events lost", statistics.events_lost);
    }
    #[cfg(target_os = "linux")]
    let _ = writeln!(text, "sandbox: {sandbox}");
    let bytes = HumanBytes(*bytes);
    let _ = match files.first() {
        Some(first) if *files_written > 1 => {
            let kept = files.len();
            writeln!(
                text,
                "{bytes} in {files_written} files, {kept} kept: {} to {}",
                shown(first),
                shown(path)
            )
        }
        _ => writeln!(text, "{bytes} in {}", shown(path)),
    };
    text
}

fn shown(path: &Path) -> String {
    text::safe(&path.to_string_lossy())
}

/// Packets of others than the command or the processes that were asked for.
fn left_out(text: &mut String, counts: &AttributionCounts) {
    if counts.total() == 0 {
        return;
    }
    let _ = writeln!(text, "{} packets left out: they are not known as those asked for", counts.total());
    for reason in Reason::ALL {
        if counts.without(reason) > 0 {
            let _ =
                writeln!(text, "  of these without an owner, {}: {}", reason.name(), counts.without(reason));
        }
    }
}

fn attribution(text: &mut String, statistics: &Statistics) {
    let counts: &AttributionCounts = &statistics.attribution;
    let total = counts.total();
    if total == 0 || counts.without(Reason::Off) == total {
        return;
    }
    let _ =
        writeln!(text, "{} packets attributed ({})", counts.attributed(), share(counts.attributed(), total));
    for (found, how) in [
        (Found::Snapshot, "by a socket from before the start"),
        (Found::Listener, "by their listening socket"),
        (Found::Procfs, "by what /proc showed before and after them"),
    ] {
        if counts.found(found) > 0 {
            let _ = writeln!(text, "  of these {how}: {}", counts.found(found));
        }
    }
    for reason in Reason::ALL {
        if counts.without(reason) > 0 {
            let _ = writeln!(text, "  without an owner, {}: {}", reason.name(), counts.without(reason));
        }
    }
}
