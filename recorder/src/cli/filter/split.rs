//! `recorder filter --split-by`: a file for each process, container or connection.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufWriter, IntoInnerError, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{BUFFER, FilterArgs, Filters, comment, create, refuse_to_replace, say};
use crate::cli::{Error, FileReader, ignore_broken_pipe, late, open, open_selected, text};
use crate::decode::{self, Decoded};
use crate::model::{Attribution, Flow, ProcessIndex, ProcessTable};
use crate::output::{CreateError, Output, beside, is_stdout};
use crate::pcapng::{Copier, CopyError, ReadError, Record};

/// So many files are open at once. For more, the recording is read again.
const MOST_OPEN: usize = 128;
/// So many files there can be.
const MOST_FILES: usize = 16_384;
/// The most bytes of a name that come from the file.
const LONGEST_LABEL: usize = 80;

/// What has a file of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SplitBy {
    /// Each process; a packet between two of this host is in both
    Process,
    /// Each container
    Container,
    /// Each connection: protocol and both endpoints
    Connection,
}

/// What a file is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Group {
    Process(ProcessIndex),
    Container(String),
    /// As the end with the lower address sees it.
    Connection(Flow),
    /// What is of none.
    Without,
}

/// The files, in the order in which their first packets stand.
#[derive(Default)]
struct Files {
    numbers: HashMap<Group, usize>,
    names: HashSet<String>,
}

/// Copies a recording into several files, and prints their names on standard output.
///
/// # Errors
/// As without `--split-by`; and if there would be too many files.
pub(super) fn run(args: &FilterArgs, by: SplitBy) -> Result<ExitCode, Error> {
    if is_stdout(&args.write) {
        return Err(Error::Create(CreateError {
            path: args.write.clone(),
            why: "several files do not fit into standard output".to_owned(),
            remedy: "give a name; that of each file is made from it",
            source: None,
        }));
    }
    let (reader, processes) = open_selected(&args.file, &args.selection)?;
    let mut filters = Filters::new(args, processes)?;
    let can_reread = args.file.metadata().is_ok_and(|there| there.is_file());
    // Names and containers may stand behind the packets.
    let table = if can_reread { read_processes(open(&args.file)?) } else { ProcessTable::default() };
    let mut files = Files::default();
    let mut reader = Some(reader);
    let mut open_now = 0..MOST_OPEN;
    loop {
        let from = reader.take().map_or_else(|| open(&args.file), Ok)?;
        let pass = Pass { args, by, table: &table, files: &mut files, open_now: open_now.clone() };
        let (counts, processes, failure) =
            pass.copy(from, &mut filters).map_err(|error| error.of(&args.file))?;
        let is_last = files.numbers.len() <= open_now.end;
        if is_last || !can_reread {
            say(&format!("{} packets in {} files, {} left out\n", counts.0, files.names.len(), counts.1));
            filters.say_notes();
        }
        if !is_last && !can_reread {
            return Err(Error::Write(io::Error::other(format!(
                "there are {} of them, and standard input can be read once only: {MOST_OPEN} files are written\n  give \
                 the recording by its name",
                files.numbers.len()
            ))));
        }
        if is_last {
            failure.map_or(Ok(()), |source| Err(Error::Read { path: args.file.clone(), source }))?;
            late(&args.file, filters.misjudged(&processes))?;
            return Ok(ExitCode::SUCCESS);
        }
        open_now = open_now.end..open_now.end + MOST_OPEN;
    }
}

/// All processes that a file tells of, as far as it can be read.
fn read_processes(mut reader: FileReader) -> ProcessTable {
    while let Ok(Some(_)) = reader.next_packet() {}
    reader.into_processes()
}

/// One reading of the recording.
struct Pass<'a> {
    args: &'a FilterArgs,
    by: SplitBy,
    table: &'a ProcessTable,
    files: &'a mut Files,
    /// The numbers of the files that are written now.
    open_now: Range<usize>,
}

enum PassError {
    Own(Error),
    Copy(CopyError),
}

impl PassError {
    fn of(self, file: &Path) -> Error {
        match self {
            Self::Own(error) => error,
            Self::Copy(CopyError::Write(error)) => Error::Write(error),
            Self::Copy(CopyError::Read(source)) => Error::Read { path: file.to_owned(), source },
        }
    }
}

impl From<io::Error> for PassError {
    fn from(error: io::Error) -> Self {
        Self::Copy(error.into())
    }
}

/// Packets kept and left out; all processes; and why the recording cannot be read on, if so.
type Done = ((u64, u64), ProcessTable, Option<ReadError>);

impl Pass<'_> {
    fn copy(self, reader: FileReader, filters: &mut Filters) -> Result<Done, PassError> {
        let comment = format!("{}; split by {}", comment(self.args), self.word());
        let mut copier: Copier<_, BufWriter<Output>> = Copier::split(reader, comment);
        let mut paths = Vec::new();
        let (mut kept, mut left_out) = (0, 0);
        let failure = loop {
            let groups = match copier.next_packet() {
                Ok(Some(record)) if filters.keeps(&record) => self.groups(&record),
                Ok(Some(_)) => {
                    left_out += 1;
                    continue;
                }
                Ok(None) => break None,
                Err(CopyError::Read(error)) => break Some(error),
                Err(error) => return Err(PassError::Copy(error)),
            };
            kept += 1;
            for (group, label) in groups {
                let number = self.files.number(group).map_err(PassError::Own)?;
                if !self.open_now.contains(&number) {
                    continue;
                }
                let part = number - self.open_now.start;
                if part == paths.len() {
                    let path = self.files.path(&self.args.write, &label);
                    let output = self.create(&path).map_err(|error| PassError::Own(error.into()))?;
                    copier.add_part(BufWriter::with_capacity(BUFFER / 8, output))?;
                    paths.push(path);
                }
                copier.keep_in(part)?;
            }
        };
        let (_, processes, outs) = copier.finish()?;
        for out in outs {
            out.into_inner().map_err(IntoInnerError::into_error)?.finish()?;
        }
        print(&paths).map_err(PassError::Own)?;
        Ok(((kept, left_out), processes, failure))
    }

    fn create(&self, path: &Path) -> Result<Output, CreateError> {
        refuse_to_replace(&self.args.file, path)?;
        create(path, self.args.force)
    }

    const fn word(&self) -> &'static str {
        match self.by {
            SplitBy::Process => "process",
            SplitBy::Container => "container",
            SplitBy::Connection => "connection",
        }
    }

    /// The files that a packet belongs to, each with what its name tells.
    fn groups(&self, record: &Record<'_>) -> Vec<(Group, String)> {
        let process = |index: ProcessIndex| self.table.get(index).or_else(|| record.processes.get(index));
        let mut ends: Vec<ProcessIndex> = match record.attribution {
            Attribution::Known { sender, receiver, .. } => {
                [sender, receiver].into_iter().flatten().map(|owner| owner.process).collect()
            }
            Attribution::Unknown(_) => Vec::new(),
        };
        ends.dedup();
        let mut groups: Vec<(Group, String)> = match self.by {
            SplitBy::Process => ends
                .into_iter()
                .filter_map(|index| {
                    let process = process(index)?;
                    let label = format!("{}-{}", String::from_utf8_lossy(&process.name), process.pid);
                    Some((Group::Process(index), label))
                })
                .collect(),
            SplitBy::Container => {
                let container = |index| process(index)?.container.clone();
                ends.into_iter()
                    .filter_map(container)
                    .map(|name| (Group::Container(name.clone()), name))
                    .collect()
            }
            SplitBy::Connection => connection(record).into_iter().collect(),
        };
        groups.dedup();
        if groups.is_empty() {
            groups.push((Group::Without, format!("without-{}", self.word())));
        }
        groups
    }
}

fn connection(record: &Record<'_>) -> Option<(Group, String)> {
    let decoded = decode::packet(record.interface.link_type, record.packet.data);
    let Decoded::Ip(packet) = decoded else { return None };
    let flow = packet.flow.min(packet.flow.reversed());
    let label = format!("{}-{}-{}", flow.protocol, flow.local, flow.remote);
    Some((Group::Connection(flow), label))
}

impl Files {
    /// The number of the file for a group; a new one, if it has none.
    fn number(&mut self, group: Group) -> Result<usize, Error> {
        let next = self.numbers.len();
        let number = *self.numbers.entry(group).or_insert(next);
        if number < MOST_FILES {
            return Ok(number);
        }
        Err(Error::Write(io::Error::other(format!(
            "there would be more than {MOST_FILES} files\n  choose fewer packets, with a filter or an expression"
        ))))
    }

    /// A name that no other file has: letters, digits, `.`, `-` and `_` of the label.
    fn path(&mut self, write: &Path, label: &str) -> PathBuf {
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_');
        let plain: String = label
            .chars()
            .map(|letter| if is_plain(letter) { letter } else { '_' })
            .take(LONGEST_LABEL)
            .collect();
        let mut name = plain.clone();
        let mut number = 2;
        while !self.names.insert(name.clone()) {
            name = format!("{plain}_{number}");
            number += 1;
        }
        beside(write, &name)
    }
}

/// The name of the file for what has this label, for the fuzz target `text`.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn file_of(write: &Path, label: &str) -> PathBuf {
    Files::default().path(write, label)
}

/// The names, one a line.
fn print(paths: &[PathBuf]) -> Result<(), Error> {
    let lines: String = paths.iter().map(|path| text::safe(&path.to_string_lossy()) + "\n").collect();
    ignore_broken_pipe(io::stdout().write_all(lines.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out_of_its_folder_and_none_is_given_twice() {
        let mut files = Files::default();
        for (label, expected) in [
            ("curl-42", "/tmp/a_curl-42.pcapng"),
            ("curl-42", "/tmp/a_curl-42_2.pcapng"),
            ("../../etc/passwd-1", "/tmp/a_.._.._etc_passwd-1.pcapng"),
            ("a\0b\n\u{202e}-1", "/tmp/a_a_b__-1.pcapng"),
            ("TCP-[2001:db8::1]:443-10.0.0.1:5", "/tmp/a_TCP-_2001_db8__1__443-10.0.0.1_5.pcapng"),
            ("", "/tmp/a_.pcapng"),
        ] {
            assert_eq!(files.path(Path::new("/tmp/a.pcapng"), label), Path::new(expected));
        }
        let long = files.path(Path::new("a.pcapng.zst"), &"x".repeat(500));
        assert_eq!(long, PathBuf::from(format!("a_{}.pcapng.zst", "x".repeat(LONGEST_LABEL))));
    }
}
