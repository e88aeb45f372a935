//! The commands: arguments in, text and exit codes out.

pub mod again;
pub mod annotate;
pub mod color;
pub mod doctor;
pub mod extcap;
pub mod filter;
pub mod interfaces;
pub mod manual;
pub mod moment;
#[cfg(target_os = "linux")]
mod reading;
pub mod record;
#[cfg(target_os = "linux")]
pub mod replay;
pub mod report;
pub mod selection;
pub mod show;
pub mod size;
pub mod status;
pub mod summary;
pub mod text;

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
#[cfg(target_os = "linux")]
use nix::unistd::Uid;

use self::selection::SelectionArgs;
use crate::output::{self, CreateError};
use crate::pcapng::{ReadError, Reader};
use crate::pipeline::AgainError;
#[cfg(target_os = "linux")]
use crate::sandbox;
use crate::selection::ProcessFilter;
use crate::source::{self, TransmitError};

/// Records packets, each with the process that sent or received it.
#[derive(Debug, Parser)]
#[command(name = "recorder", version, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Capture packets, find their processes, write pcapng
    Record(Box<record::RecordArgs>),
    /// Print the packets of a recording with their processes, one line each
    Show(show::ShowArgs),
    /// Print packets and bytes by process, user, unit, container or connection, and how complete the attribution is
    Summary(summary::SummaryArgs),
    /// Copy a recording with the packets of some processes only, or what a libpcap filter lets through
    Filter(filter::FilterArgs),
    /// Give a capture its processes: from PKTAP headers, from a log of connections, or in another form
    Annotate(annotate::AnnotateArgs),
    /// Send the packets of a recording with their timing, those of some processes only, or with other addresses
    #[cfg(target_os = "linux")]
    Replay(replay::ReplayArgs),
    /// List what can be recorded here
    Interfaces(interfaces::Args),
    /// Tell what works on this machine, what does not, why, and what to do about it
    Doctor(doctor::DoctorArgs),
    /// Have Wireshark capture with processes by itself
    Extcap(extcap::FolderArgs),
    /// Print a page of the manual: recorder man record | man -l -
    Man(manual::ManArgs),
    /// Print a script that has a shell complete commands and options
    Completions(manual::CompletionsArgs),
}

/// Does what the arguments say.
pub fn run(cli: Cli) -> ExitCode {
    if let Err(error) = restrict(&cli.command) {
        let _ = writeln!(io::stderr(), "recorder: cannot give up capabilities: {error}");
        return ExitCode::from(2);
    }
    let mut out = io::stdout().lock();
    let result = match cli.command {
        Command::Record(args) => {
            drop(out);
            return record::run(*args);
        }
        Command::Show(args) => show::run(&args, &mut out),
        Command::Summary(args) => summary::run(&args, &mut out, terminal_width()),
        Command::Filter(args) => {
            drop(out);
            filter::run(&args)
        }
        Command::Annotate(args) => {
            drop(out);
            annotate::run(&args)
        }
        #[cfg(target_os = "linux")]
        Command::Replay(args) => {
            drop(out);
            replay::run(&args)
        }
        Command::Interfaces(args) => {
            ignore_broken_pipe(interfaces::run(&args, &mut out)).map(|()| ExitCode::SUCCESS)
        }
        Command::Man(args) => ignore_broken_pipe(manual::man(&args, &mut out)).map(|()| ExitCode::SUCCESS),
        Command::Completions(args) => {
            ignore_broken_pipe(manual::completions(&args, &mut out)).map(|()| ExitCode::SUCCESS)
        }
        Command::Doctor(args) => match doctor::run(&args, &mut out) {
            Ok(code) => Ok(code),
            Err(error) => ignore_broken_pipe(Err(error)).map(|()| ExitCode::SUCCESS),
        },
        Command::Extcap(args) => {
            extcap::run_folder(&args, &mut out).map(|()| ExitCode::SUCCESS).map_err(Error::from)
        }
    };
    result.unwrap_or_else(|error| {
        // Nobody can be told that standard error is closed.
        let _ = writeln!(io::stderr(), "recorder: {}", text::message(&error.to_string()));
        ExitCode::from(error.exit_code())
    })
}

/// Only Linux has capabilities.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "on Linux it can fail")]
fn restrict(_: &Command) -> io::Result<()> {
    Ok(())
}

/// Leaves each command what it needs: recording restricts itself when all is open, and what reads files from strangers now.
#[cfg(target_os = "linux")]
fn restrict(command: &Command) -> io::Result<()> {
    let is_root = Uid::effective().is_root();
    match command {
        Command::Record(_) | Command::Doctor(_) | Command::Extcap(_) | Command::Replay(_) if is_root => {}
        Command::Record(_) | Command::Doctor(_) | Command::Extcap(_) => sandbox::keep_for_recording()?,
        Command::Show(args) => reading::begin(&[&args.file], None),
        Command::Summary(args) => reading::begin(&[&args.file], args.html.as_deref()),
        Command::Filter(args) => reading::begin(&[&args.file], Some(&args.write)),
        Command::Annotate(args) => {
            let files: Vec<&Path> =
                [&args.file].into_iter().chain(&args.from_log).map(PathBuf::as_path).collect();
            reading::begin(&files, Some(&args.write));
        }
        Command::Replay(_) | Command::Interfaces(_) | Command::Man(_) | Command::Completions(_) => {
            sandbox::give_up_capabilities()?;
        }
    }
    Ok(())
}

/// Why a command that reads a file could not do all of its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be read, or not to its end. What could be read has been printed.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why, where, and what to do about it.
        source: ReadError,
    },
    /// The libpcap filter makes no sense.
    #[error("{0}\n  {remedy}", remedy = .0.remedy().unwrap_or_default())]
    Filter(#[from] source::Error),
    /// The log of connections cannot be used.
    #[error(transparent)]
    Log(#[from] annotate::LogError),
    /// The file for the result cannot be created.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The packets of the file cannot be attributed again: nothing is written.
    #[error("cannot attribute {} again: {source}", path.display())]
    NotAgain {
        /// Which file.
        path: PathBuf,
        /// Why, and what to do about it.
        source: AgainError,
    },
    /// Not all packets of the file can be attributed again. Those that can be are written.
    #[error("cannot attribute all of {} again: {source}", path.display())]
    PartlyAgain {
        /// Which file.
        path: PathBuf,
        /// Why, and what to do about it.
        source: AgainError,
    },
    /// What processes are stands behind their packets, so that some were taken for what they are not.
    #[error(
        "of {processes} processes {} tells only behind their packets that they are selected, or are not\n  give it by \
         its name, so that it can be read twice; or select by pid", path.display()
    )]
    Late {
        /// Which file.
        path: PathBuf,
        /// How many processes.
        processes: usize,
    },
    /// The result cannot be written. A broken pipe is never told this way: that the reader left is no error.
    #[error("cannot write the result: {0}")]
    Write(#[from] io::Error),
    /// Packets cannot be sent, or no more of them.
    #[error("{source}")]
    Transmit {
        /// Why.
        source: TransmitError,
        /// How many were sent.
        packets: u64,
    },
    /// Standard input is to be sent several times.
    #[error(
        "standard input is too large to be kept in memory, and cannot be read again\n  give the recording by its name"
    )]
    Again,
    /// Signals cannot be waited for.
    #[error("cannot install signal handlers: {0}")]
    Signals(io::Error),
    /// Wireshark's folder cannot be changed.
    #[error(transparent)]
    Extcap(#[from] extcap::FolderError),
}

impl Error {
    /// The exit code of the command: 1 if a part of the work was done, 2 if nothing usable was.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Read { source: ReadError::NotCapture { .. }, .. }
            | Self::NotAgain { .. }
            | Self::Open { .. }
            | Self::Filter(_)
            | Self::Log(_)
            | Self::Create(_)
            | Self::Transmit { packets: 0, .. }
            | Self::Signals(_)
            | Self::Extcap(_) => 2,
            Self::Transmit { .. }
            | Self::Again
            | Self::Read { .. }
            | Self::PartlyAgain { .. }
            | Self::Late { .. }
            | Self::Write(_) => 1,
        }
    }
}

/// What a file is read from.
type FileReader = Reader<Box<dyn Read>>;

/// Opens a recording, compressed by zstd or gzip or not at all; `-` is standard input.
fn open(path: &Path) -> Result<FileReader, Error> {
    let from = output::open(path).map_err(|source| Error::Open { path: path.to_owned(), source })?;
    Reader::new(from).map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// Opens a recording, and makes the filter for its packets. What a file tells of its processes may stand behind their packets
/// (other programs save it so), so a file that can be read twice is.
fn open_selected(
    path: &Path,
    selection: &SelectionArgs,
) -> Result<(FileReader, Option<ProcessFilter>), Error> {
    let mut filter = selection.expr().map(ProcessFilter::new);
    if let Some(filter) = &mut filter
        && path.metadata().is_ok_and(|there| there.is_file())
    {
        let mut reader = open(path)?;
        // What is wrong with it is told when its packets are read.
        while let Ok(Some(_)) = reader.next_packet() {}
        filter.learn(reader.processes());
    }
    Ok((open(path)?, filter))
}

/// Whether all processes of a file were judged by what the file tells of them in the end.
fn late(path: &Path, processes: usize) -> Result<(), Error> {
    if processes == 0 { Ok(()) } else { Err(Error::Late { path: path.to_owned(), processes }) }
}

/// How many columns the terminal has that standard output is; none if it is something else.
fn terminal_width() -> Option<usize> {
    terminal_size::terminal_size_of(io::stdout())
        .map(|(terminal_size::Width(columns), _)| usize::from(columns))
}

/// Lets a broken pipe pass: whoever read our output has seen enough.
fn ignore_broken_pipe(result: io::Result<()>) -> Result<(), Error> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}
