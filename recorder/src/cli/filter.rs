//! `recorder filter FILE -w OUT`: a copy with some of the packets, and all that belongs to them.

use std::io::{self, BufWriter, IntoInnerError, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::record::compression_by_name;
use super::selection::{AFTER_HELP, SelectionArgs};
use super::{Error, ignore_broken_pipe, late, open_selected, text};
use crate::output::{CreateError, Manner, Output};
use crate::pcapng::{Copied, Copier, CopyError, ReadError, Record};
use crate::pipeline::Invoker;
use crate::selection::{Expr, ProcessFilter};
use crate::source::PacketFilter;

/// How much gathers before it is written.
const BUFFER: usize = 256 << 10;

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
    /// Whose packets to keep.
    #[command(flatten)]
    pub selection: SelectionArgs,
}

/// What decides about a packet.
struct Filters {
    processes: Option<ProcessFilter>,
    packets: Option<PacketFilter>,
}

/// Copies a recording without the packets that are not asked for, and says on standard error how many there were.
///
/// # Errors
/// If the filter makes no sense, the file cannot be opened, or OUT not created: then there is no OUT. If the file cannot be
/// read to its end (everything before that is in the copy), or the copy not be written.
pub fn run(args: &FilterArgs) -> Result<ExitCode, Error> {
    let comment = comment(args.selection.expr().as_ref(), args.filter.as_deref());
    let packets = args.filter.as_deref().map(PacketFilter::new).transpose()?;
    let (reader, processes) = open_selected(&args.file, &args.selection)?;
    let mut filters = Filters { processes, packets };
    refuse_to_replace(&args.file, &args.write)?;
    let output = create(&args.write, args.force)?;
    let out = output.path().to_owned();
    let copied = Copier::new(reader, BufWriter::with_capacity(BUFFER, output), comment)
        .map_err(CopyError::from)
        .and_then(|copier| filters.copy(copier));
    match copied {
        Ok((copied, misjudged, failure)) => {
            tell(&out, &copied, &filters);
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
    fn keeps(&mut self, record: &Record<'_>) -> bool {
        let Self { processes, packets } = self;
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
        let (copied, processes, out) = copier.finish()?;
        out.into_inner().map_err(IntoInnerError::into_error)?.finish()?;
        let misjudged = self.processes.as_ref().map_or(0, |filter| filter.misjudged(&processes));
        Ok((copied, misjudged, failure))
    }
}

/// What the copy says of itself.
fn comment(processes: Option<&Expr>, packets: Option<&str>) -> String {
    let mut text = concat!("filtered by recorder ", env!("CARGO_PKG_VERSION")).to_owned();
    if let Some(expr) = processes {
        text += &format!("; processes: {expr}");
    }
    if let Some(expr) = packets {
        text += &format!("; packets: {expr}");
    }
    text
}

fn tell(out: &Path, copied: &Copied, filters: &Filters) {
    let Copied { kept, left_out, not_to_be_copied } = copied;
    let mut text = format!("{kept} packets in {}, {left_out} left out\n", text::safe(&out.to_string_lossy()));
    if *not_to_be_copied > 0 {
        text +=
            &format!("recorder: {not_to_be_copied} custom blocks are not in it: they forbid to be copied\n");
    }
    for note in filters.packets.iter().flat_map(PacketFilter::notes) {
        text += &format!("recorder: {note}\n");
    }
    // Nobody can be told that standard error is closed.
    let _ = io::stderr().write_all(text.as_bytes());
}
