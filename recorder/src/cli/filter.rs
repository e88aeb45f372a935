//! `recorder filter FILE -w OUT`: a copy with some of the packets, and all that belongs to them; or several.

mod split;

use std::io::{self, BufWriter, IntoInnerError, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::moment::Moment;
use super::record::compression_by_name;
use super::selection::{AFTER_HELP, SelectionArgs};
use super::{Error, ignore_broken_pipe, late, open_selected, text};
use crate::model::{ProcessTable, RealTime};
use crate::output::{CreateError, Manner, Output};
use crate::pcapng::{Copied, Copier, CopyError, ReadError, Record};
use crate::pipeline::Invoker;
use crate::selection::ProcessFilter;
use crate::source::PacketFilter;

pub use split::SplitBy;
#[cfg(fuzzing)]
#[doc(hidden)]
pub use split::file_of;

/// How much gathers before it is written.
pub(super) const BUFFER: usize = 256 << 10;

/// Arguments of `recorder filter`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct FilterArgs {
    /// The recording; `-` is standard input
    pub file: PathBuf,
    /// Write to this file, compressed by zstd if its name ends in .zst; `-` is standard output
    #[arg(short, long, value_name = "OUT")]
    pub write: PathBuf,
    /// Replace OUT if it is there
    #[arg(long)]
    pub force: bool,
    /// Keep only packets that this libpcap filter lets through; see pcap-filter(7)
    #[arg(short, long, value_name = "EXPR")]
    pub filter: Option<String>,
    /// Keep only packets at this time or later: RFC 3339, local date and time, or since the first packet of the file (+10s)
    #[arg(long, value_name = "TIME")]
    pub after: Option<Moment>,
    /// Keep only packets before this time
    #[arg(long, value_name = "TIME")]
    pub before: Option<Moment>,
    /// Write a file for each process, container or connection: OUT_NAME-PID.pcapng and so on for OUT.pcapng. Their names are
    /// printed
    #[arg(long, value_enum, value_name = "WHAT")]
    pub split_by: Option<SplitBy>,
    /// Whose packets to keep.
    #[command(flatten)]
    pub selection: SelectionArgs,
}

/// What decides about a packet.
struct Filters {
    processes: Option<ProcessFilter>,
    packets: Option<PacketFilter>,
    after: Option<Moment>,
    before: Option<Moment>,
    /// The time of the first packet, once it is known.
    first: Option<RealTime>,
}

/// Copies a recording without the packets that are not asked for, and says on standard error how many there were.
///
/// # Errors
/// If the filter makes no sense, the file cannot be opened, or OUT not created: then there is no OUT. If the file cannot be
/// read to its end (everything before that is in the copy), or the copy not be written.
pub fn run(args: &FilterArgs) -> Result<ExitCode, Error> {
    // What makes no sense is told before a file is read twice.
    args.filter.as_deref().map(PacketFilter::new).transpose()?;
    if let Some(by) = args.split_by {
        return split::run(args, by);
    }
    let (reader, processes) = open_selected(&args.file, &args.selection)?;
    let mut filters = Filters::new(args, processes)?;
    refuse_to_replace(&args.file, &args.write)?;
    let output = create(&args.write, args.force)?;
    let out = output.path().to_owned();
    let copied = Copier::new(reader, BufWriter::with_capacity(BUFFER, output), comment(args))
        .map_err(CopyError::from)
        .and_then(|copier| filters.copy(copier));
    match copied {
        Ok((copied, misjudged, failure)) => {
            tell(&out, &copied);
            filters.say_notes();
            failure.map_or(Ok(()), |source| Err(Error::Read { path: args.file.clone(), source }))?;
            late(&args.file, misjudged).map(|()| ExitCode::SUCCESS)
        }
        // Whoever read the copy has seen enough.
        Err(CopyError::Write(error)) => ignore_broken_pipe(Err(error)).map(|()| ExitCode::SUCCESS),
        Err(CopyError::Read(source)) => Err(Error::Read { path: args.file.clone(), source }),
    }
}

/// Creates the file for a copy, or opens what stands for one.
pub(super) fn create(path: &Path, force: bool) -> Result<Output, CreateError> {
    let manner = Manner {
        force,
        owner: Invoker::from_sudo().map(|invoker| (invoker.uid, invoker.gid)),
        compression: compression_by_name(path),
    };
    Output::create(path, &manner, &|| true)
}

/// A copy that replaced its original would leave nothing if it failed.
pub(super) fn refuse_to_replace(file: &Path, copy: &Path) -> Result<(), CreateError> {
    match (file.canonicalize(), copy.canonicalize()) {
        (Ok(file), Ok(copy)) if file == copy => Err(CreateError {
            path: copy,
            why: "it is the file that is read".to_owned(),
            remedy: "choose another name",
            source: None,
        }),
        _ => Ok(()),
    }
}

impl Filters {
    fn new(args: &FilterArgs, processes: Option<ProcessFilter>) -> Result<Self, Error> {
        let packets = args.filter.as_deref().map(PacketFilter::new).transpose()?;
        Ok(Self { processes, packets, after: args.after, before: args.before, first: None })
    }

    fn keeps(&mut self, record: &Record<'_>) -> bool {
        let Self { processes, packets, after, before, first } = self;
        let time = record.packet.time;
        let first = *first.get_or_insert(time);
        let is_in_time = after.is_none_or(|after| after.time(first) <= time)
            && before.is_none_or(|before| time < before.time(first));
        if !is_in_time {
            return false;
        }
        processes.as_mut().is_none_or(|filter| filter.keeps(&record.attribution, record.processes))
            && packets.as_mut().is_none_or(|filter| filter.passes(&record.packet, record.interface.link_type))
    }

    /// Copies to the end, or to where the file cannot be read on, with the reason. Of so many processes the file told too late
    /// what they are.
    fn copy<R: Read>(
        &mut self,
        mut copier: Copier<R, BufWriter<Output>>,
    ) -> Result<(Copied, usize, Option<ReadError>), CopyError> {
        let failure = loop {
            match copier.next_packet() {
                Ok(Some(record)) if !self.keeps(&record) => continue,
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(CopyError::Read(error)) => break Some(error),
                Err(error) => return Err(error),
            }
            copier.keep()?;
        };
        let (copied, processes, outs) = copier.finish()?;
        for out in outs {
            out.into_inner().map_err(IntoInnerError::into_error)?.finish()?;
        }
        Ok((copied, self.misjudged(&processes), failure))
    }

    /// Of so many processes the file told too late what they are.
    fn misjudged(&self, processes: &ProcessTable) -> usize {
        self.processes.as_ref().map_or(0, |filter| filter.misjudged(processes))
    }

    fn say_notes(&self) {
        for note in self.packets.iter().flat_map(PacketFilter::notes) {
            say(&format!("recorder: {note}\n"));
        }
    }
}

/// What the copy says of itself.
fn comment(args: &FilterArgs) -> String {
    let mut text = concat!("filtered by recorder ", env!("CARGO_PKG_VERSION")).to_owned();
    let FilterArgs { filter, after, before, selection, .. } = args;
    if let Some(expr) = selection.expr() {
        text += &format!("; processes: {expr}");
    }
    if let Some(expr) = filter {
        text += &format!("; packets: {expr}");
    }
    for (word, moment) in [("after", after), ("before", before)] {
        if let Some(moment) = moment {
            text += &format!("; {word}: {moment}");
        }
    }
    text
}

fn tell(out: &Path, copied: &Copied) {
    let Copied { kept, left_out, not_to_be_copied, events_left_out } = copied;
    say(&format!("{kept} packets in {}, {left_out} left out\n", text::safe(&out.to_string_lossy())));
    if *events_left_out {
        say("recorder: the events kept for replay are not in it: they are of no use without all packets\n");
    }
    if *not_to_be_copied > 0 {
        say(&format!("recorder: {not_to_be_copied} custom blocks are not in it: they forbid to be copied\n"));
    }
}

fn say(text: &str) {
    // Nobody can be told that standard error is closed.
    let _ = io::stderr().write_all(text.as_bytes());
}
