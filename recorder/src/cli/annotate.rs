//! `recorder annotate FILE -w OUT`: a capture with its processes in the forms that are asked for, or with processes that it did
//! not have.

mod log;

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::filter::{create, refuse_to_replace};
use super::{Error, again, ignore_broken_pipe, open, text};
use crate::model::{Attribution, Reason};
use crate::output::Output;
use crate::pcapng::{Annotate, CopyError, Known, ReadError, Rewriter, Rewritten};

pub use log::LogError;
#[cfg(fuzzing)]
#[doc(hidden)]
pub use log::owners;

/// Behind the help of the command.
const AFTER_HELP: &str = "\
Where the processes come from:
  A PKTAP capture of macOS names the process in front of each packet: the packets are taken out of these headers, each onto \
the interface that its header names. A log of connections (--from-log) names those of packets that have none: RustNet's \
NAME.connections.jsonl, or JSON lines as docs/FORMAT.md describes them. Otherwise the processes that the file tells of are \
written in the forms of --annotate, whoever wrote them.

  A recording that was made with `recorder record --keep-events` holds all that its processes were found by: with \
--from-events they are found again, by this version of the recorder.

  A log names a process where protocol, both endpoints and the time are those of an entry. Where two entries that fit name \
different processes, nobody is named.";

/// Arguments of `recorder annotate`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct AnnotateArgs {
    /// The capture; `-` is standard input
    pub file: PathBuf,
    /// Write to this file, compressed by zstd if its name ends in .zst; `-` is standard output
    #[arg(short, long, value_name = "OUT")]
    pub write: PathBuf,
    /// Replace OUT if it is there
    #[arg(long)]
    pub force: bool,
    /// How processes are written: a list of comment, ids, darwin, custom; or one of all, none [default: all; with --from-events
    /// as in FILE]
    #[arg(long, value_name = "LIST")]
    pub annotate: Option<Annotate>,
    /// Take the processes of packets that have none from this log of connections
    #[arg(long, value_name = "LOG")]
    pub from_log: Option<PathBuf>,
    /// Find the processes again by the events that `recorder record --keep-events` stored in FILE
    #[arg(long, conflicts_with = "from_log")]
    pub from_events: bool,
}

/// Where the owners of packets come from.
enum Source {
    /// The capture itself.
    File,
    Log(Box<log::Log>),
}

/// Writes a capture anew, and says on standard error what was found.
///
/// # Errors
/// If a file cannot be opened, the log not be understood, or OUT not created: then there is no OUT. If the capture cannot be read
/// to its end (everything before that is in OUT), or OUT not be written.
pub fn run(args: &AnnotateArgs) -> Result<ExitCode, Error> {
    if args.from_events {
        return again::run(&args.file, &args.write, args.force, args.annotate);
    }
    let source = match &args.from_log {
        Some(path) => Source::Log(Box::new(log::read(path)?)),
        None => Source::File,
    };
    let reader = open(&args.file)?;
    refuse_to_replace(&args.file, &args.write)?;
    let output = create(&args.write, args.force)?;
    let out = output.path().to_owned();
    // What a file tells of its processes may stand behind their packets, so one that can be read twice is.
    let is_file = args.file.metadata().is_ok_and(|there| there.is_file());
    let known = if is_file { Known::read(open(&args.file)?) } else { Known::default() };
    let comment = source.comment(known.has_pktap);
    let rewriter =
        Rewriter::new(reader, output, args.annotate.unwrap_or_default(), known, comment.as_deref());
    match source.annotate(rewriter) {
        Ok((rewritten, failure)) => {
            tell(&out, &rewritten);
            failure.map_or(Ok(()), |source| Err(Error::Read { path: args.file.clone(), source }))?;
            Ok(ExitCode::SUCCESS)
        }
        // Whoever read the result has seen enough.
        Err(CopyError::Write(error)) => ignore_broken_pipe(Err(error)).map(|()| ExitCode::SUCCESS),
        Err(CopyError::Read(source)) => Err(Error::Read { path: args.file.clone(), source }),
    }
}

impl Source {
    /// What the new file says of itself, where it tells more than the old one.
    fn comment(&self, has_pktap: bool) -> Option<String> {
        let by = concat!("annotated by recorder ", env!("CARGO_PKG_VERSION"));
        match self {
            Self::File => has_pktap.then(|| format!("{by}; processes: from PKTAP headers")),
            Self::Log(log) => Some(format!("{by}; processes: from the log {}", text::safe(log.name()))),
        }
    }

    /// Writes all packets, or those before the place where the capture cannot be read on, with the reason.
    fn annotate<R: Read>(
        mut self,
        mut rewriter: Rewriter<R, Output>,
    ) -> Result<(Rewritten, Option<ReadError>), CopyError> {
        let failure = loop {
            let record = match rewriter.next_packet() {
                Ok(Some(record)) => record,
                Ok(None) => break None,
                Err(CopyError::Read(error)) => break Some(error),
                Err(error) => return Err(error),
            };
            let owners = match (&mut self, record.attribution) {
                (Self::File, _) | (_, Attribution::Known { .. }) => None,
                (Self::Log(log), Attribution::Unknown(_)) => Some(log.attribute(&record)),
            };
            let owners = match (&mut self, owners) {
                (Self::Log(log), Some(owners)) => Some(log.in_table_of(&mut rewriter, &owners)),
                _ => None,
            };
            rewriter.keep(owners.as_ref())?;
        };
        let (rewritten, output) = rewriter.finish()?;
        output.finish()?;
        Ok((rewritten, failure))
    }
}

fn tell(out: &Path, rewritten: &Rewritten) {
    let Rewritten { packets, attribution, .. } = rewritten;
    let mut lines = vec![format!(
        "{packets} packets in {}, {} with a process",
        text::safe(&out.to_string_lossy()),
        attribution.attributed()
    )];
    // `attribution off`: the file has none for them, and does not say why.
    for reason in Reason::ALL.into_iter().filter(|reason| *reason != Reason::Off) {
        if attribution.without(reason) > 0 {
            lines.push(format!("  without a process, {}: {}", reason.name(), attribution.without(reason)));
        }
    }
    for (count, what) in [
        (rewritten.not_pktap, "packets of a PKTAP link type have no such header, and are as they were"),
        (rewritten.not_to_be_copied, "custom blocks are not in it: they forbid to be copied"),
        (
            rewritten.events_left_out,
            "blocks of events kept for replay are not in it: --from-events keeps them",
        ),
        (rewritten.not_turned, "blocks are not in it: nobody but who wrote them can change their byte order"),
        (
            rewritten.sections_joined,
            "more sections are joined with the first; the texts of their headers are not in it",
        ),
        (rewritten.statistics_left_out, "statistics of interfaces that held PKTAP packets are not in it"),
    ] {
        if count > 0 {
            lines.push(format!("recorder: {count} {what}"));
        }
    }
    // Nobody can be told that standard error is closed.
    let _ = io::stderr().write_all((lines.join("\n") + "\n").as_bytes());
}
