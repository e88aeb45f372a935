//! Runs a recording: knows all stages, their order and their clocks, and does the work of none.
//!
//! One thread does everything. A packet waits in the mapped ring until the events that tell its owner are known; then it
//! goes through attribution into the file's buffer in one step, without a queue or a copy between.

mod afterwards;
mod again;
mod command;
mod files;
#[cfg(target_os = "linux")]
mod forgetting;
mod helper;
#[cfg(target_os = "linux")]
mod keeping;
#[cfg(target_os = "linux")]
mod recording;
#[cfg(target_os = "linux")]
mod restriction;
#[cfg(target_os = "linux")]
mod scans;
mod section;
mod starter;
mod stop;
#[cfg(any(test, target_os = "macos"))]
mod told;
#[cfg(target_os = "linux")]
mod translating;
#[cfg(target_os = "linux")]
mod witness;

use std::ffi::OsString;
use std::io;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

#[cfg(target_os = "linux")]
use crate::attribution::linux::ebpf::{EbpfError, Report};
#[cfg(target_os = "linux")]
use crate::attribution::linux::procfs::{Hidden, ScanError};
use crate::model::{Attribution, Owner, ProcessIndex, ProcessTable, Statistics};
use crate::output::{Compression, CreateError};
use crate::pcapng::Annotate;
#[cfg(target_os = "linux")]
use crate::sandbox;
use crate::selection::Expr;
use crate::source::{self, CaptureOptions};

pub use again::{Again, AgainError, AttributedAgain};
pub use command::{Invoker, describe};
#[cfg(target_os = "linux")]
pub use recording::record;
#[cfg(target_os = "linux")]
pub use restriction::folder;
pub use stop::{Signals, Why};
#[cfg(target_os = "macos")]
pub use told::record;

/// How owners are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttributionMode {
    /// By eBPF where it works; else by what /proc shows, and the recording says why.
    Auto,
    /// By eBPF, or the recording fails.
    Ebpf,
    /// By what sock_diag and /proc show, or the recording fails.
    Procfs,
    /// Not at all.
    None,
}

/// Everything a recording needs to know; nothing is asked for later.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What to capture.
    pub capture: CaptureOptions,
    /// How owners are found.
    pub attribution: AttributionMode,
    /// Whose packets to write; everybody's and nobody's if not given.
    pub processes: Option<Expr>,
    /// Whether process records hold the arguments.
    pub with_arguments: bool,
    /// The size of the kernel's ring for socket events.
    pub event_buffer_bytes: u32,
    /// Whether to store what the attribution is told, so that it can be done again.
    pub keep_events: bool,
    /// Which annotations to write.
    pub annotate: Annotate,
    /// Where to write; `-` is standard output. With rotation each file has a name made from this.
    pub path: PathBuf,
    /// How files are compressed, if they are.
    pub compression: Option<Compression>,
    /// When the next file begins; none writes one file.
    pub rotation: Option<Rotation>,
    /// The program to run for each file when it is done, with the path as its argument.
    pub after_file: Option<OsString>,
    /// Whether to replace a file that is there.
    pub force: bool,
    /// The user who called sudo: owns the file, runs the command.
    pub invoker: Option<Invoker>,
    /// What the user says about the recording.
    pub comments: Vec<String>,
    /// When to stop by itself.
    pub limits: Limits,
    /// The command to record; empty to record everybody.
    pub command: Vec<OsString>,
    /// Whether to give up, once all is open, what is not needed any more.
    #[cfg(target_os = "linux")]
    pub sandbox: sandbox::Mode,
}

/// When to stop by itself. What is not given does not stop it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// After this many packets.
    pub packets: Option<u64>,
    /// After this time.
    pub duration: Option<Duration>,
    /// When the file has at least this many bytes; with rotation the next file begins.
    pub file_bytes: Option<u64>,
    /// When this many files are full.
    pub files: Option<u64>,
}

/// When the next file begins, besides [`Limits::file_bytes`]. What is not given does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// After this many packets.
    pub packets: Option<u64>,
    /// After this time; never zero.
    pub duration: Option<Duration>,
    /// When the time since 1970 is a multiple of this; never zero.
    pub interval: Option<Duration>,
    /// How many files are kept; all if this is not given.
    pub keep: Option<NonZeroU32>,
}

/// What a recording has done so far.
#[derive(Debug)]
pub struct Progress<'a> {
    /// Packets written.
    pub packets: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// The counters as they stand.
    pub statistics: &'a Statistics,
    /// Packets by process.
    pub by_process: &'a [u64],
    /// The processes.
    pub processes: &'a ProcessTable,
    /// How many flows and sockets are remembered to find owners.
    pub remembered: (usize, usize),
}

impl Progress<'_> {
    /// The processes with the most packets, busiest first.
    pub fn busiest(&self, count: usize) -> Vec<(ProcessIndex, u64)> {
        busiest(self.by_process, count)
    }
}

/// Counts a packet for the processes at its ends.
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

fn busiest(by_process: &[u64], count: usize) -> Vec<(ProcessIndex, u64)> {
    let numbered =
        by_process.iter().enumerate().map(|(index, packets)| (ProcessIndex(index as u32), *packets));
    let mut busiest: Vec<_> = numbered.filter(|(_, packets)| *packets > 0).collect();
    busiest.sort_by_key(|(index, packets)| (std::cmp::Reverse(*packets), *index));
    busiest.truncate(count);
    busiest
}

/// Who is told how the recording goes.
pub trait Observer {
    /// Everything is in place: from now on nothing is missed.
    fn ready(&mut self, interfaces: &str, attribution: &Attributing);
    /// This is what holds the recorder back from now on.
    #[cfg(target_os = "linux")]
    fn restricted(&mut self, mode: sandbox::Mode, status: &sandbox::Status);
    /// Something the user should know.
    fn note(&mut self, text: &str);
    /// Something went wrong, and the recording goes on.
    fn problem(&mut self, text: &str);
    /// The same of all of these; gives how many there are.
    fn problems(&mut self, texts: &[String]) -> u64 {
        texts.iter().for_each(|text| self.problem(text));
        texts.len() as u64
    }
    /// Comes a few times a second.
    fn progress(&mut self, progress: &Progress<'_>);
    /// The user asked for the numbers (SIGUSR1).
    fn asked(&mut self, progress: &Progress<'_>);
}

/// How owners are found in this recording.
#[derive(Debug)]
pub enum Attributing {
    /// By eBPF.
    #[cfg(target_os = "linux")]
    Ebpf {
        /// What became of each hook.
        reports: Vec<Report>,
        /// What the scan for older sockets could not look into, or why there was none.
        snapshot: Result<Hidden, ScanError>,
    },
    /// By what sock_diag and /proc show.
    #[cfg(target_os = "linux")]
    Procfs {
        /// Why not by eBPF; none if that was not asked for.
        refused: Option<EbpfError>,
        /// What cannot be looked into.
        hidden: Hidden,
    },
    /// By what macOS writes before each packet.
    Pktap,
    /// Not at all, because that was asked for.
    Off,
    /// Not at all, because neither works here.
    #[cfg(target_os = "linux")]
    Unavailable(EbpfError, ScanError),
}

/// A finished recording.
#[derive(Debug)]
pub struct Finished {
    /// Where it is: the last file, or `standard output`.
    pub path: PathBuf,
    /// Bytes written, in all files.
    pub bytes: u64,
    /// How many files were written.
    pub files_written: u64,
    /// Those that are there, the oldest first: all of them, or those that `Rotation::keep` left. None of a pipe.
    pub files: Vec<PathBuf>,
    /// How often something went wrong that did not end the recording: a file that was removed before its time or could not be, a command
    /// after a file.
    pub problems: u64,
    /// Nothing of the recording is left: its files were deleted, or not even the beginning of one could be written.
    pub is_gone: bool,
    /// The counters.
    pub statistics: Statistics,
    /// The names of the interfaces, in the order of their counters.
    pub interfaces: Vec<String>,
    /// Packets by process.
    pub by_process: Vec<u64>,
    /// The processes.
    pub processes: ProcessTable,
    /// Why it ended.
    pub why: Why,
    /// How the command ended, if there was one.
    pub command: Option<ExitStatus>,
    /// What went wrong while writing, if something did: what was written before is there.
    pub failure: Option<io::Error>,
    /// What held the recorder back.
    #[cfg(target_os = "linux")]
    pub sandbox: sandbox::Status,
}

impl Finished {
    /// The processes with the most packets, busiest first.
    pub fn busiest(&self, count: usize) -> Vec<(ProcessIndex, u64)> {
        busiest(&self.by_process, count)
    }
}

/// Why there is no recording.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Packets cannot be captured.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// Owners cannot be found in the way that was asked for, or that is needed.
    #[cfg(target_os = "linux")]
    #[error("cannot find the owners of packets: {0}")]
    Attribution(#[from] EbpfError),
    /// Owners cannot be found in /proc, as was asked for.
    #[cfg(target_os = "linux")]
    #[error("cannot find the owners of packets: {0}")]
    Scan(#[from] ScanError),
    /// This system cannot do it.
    #[error("cannot {what}")]
    NotHere {
        /// What, and why not.
        what: &'static str,
    },
    /// The file cannot be created.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The recorder cannot give up as much as was asked for.
    #[cfg(target_os = "linux")]
    #[error("cannot restrict the recorder as --sandbox strict asks for: it would have {0}")]
    Sandbox(sandbox::Status),
    /// The command cannot be started.
    #[error("cannot run {command}: {source}")]
    Command {
        /// Its name.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// Something that works everywhere did not work here.
    #[error("cannot {what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    /// What to do about it: the second line of the message.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Source(error) => error.remedy(),
            #[cfg(target_os = "linux")]
            Self::Attribution(error) => Some(ebpf_remedy(error)),
            #[cfg(target_os = "linux")]
            Self::Scan(_) => Some(ScanError::REMEDY.into()),
            #[cfg(target_os = "linux")]
            Self::Sandbox(status) => {
                let remedies = status.missing().iter().map(|(layer, _)| layer.remedy());
                Some(
                    remedies
                        .chain(["or take what there is with --sandbox auto"])
                        .collect::<Vec<_>>()
                        .join("\n  "),
                )
            }
            Self::NotHere { .. } => Some("leave it out; docs/LIMITS.md has what works on macOS".into()),
            Self::System { source, .. } if source::is_out_of_descriptors(source) => {
                Some(source::MORE_DESCRIPTORS.into())
            }
            Self::Create(_) | Self::System { .. } => None,
            Self::Command { .. } => Some("nothing was recorded".into()),
        }
    }
}

/// What to do where eBPF is refused.
#[cfg(target_os = "linux")]
pub fn ebpf_remedy(error: &EbpfError) -> String {
    format!("{}; `recorder doctor` tells what is missing", error.remedy())
}
