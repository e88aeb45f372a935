//! Attributes the packets of a file again, by the events that were kept beside them: the same answers, or better ones after a
//! fix of the join. Needs no machine but this file.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::slice;

use crate::attribution::Attributor;
use crate::attribution::event::{Event, ProcessId, ProcessNews};
use crate::attribution::journal::{self, Entry};
use crate::attribution::news::News;
use crate::model::{
    Attribution, AttributionCounts, InterfaceId, Owner, ProcessKey, ProcessTable, Statistics,
};
use crate::pcapng::{Annotate, Item, Kept, ReadError, Reader, Record, Writer};

/// The most bytes of events that may go on from block to block: those of a scan of a million sockets.
const MOST_BYTES: usize = 128 << 20;
/// The most flows, sockets or processes that are remembered at a time. A recording has far fewer; a file may say anything.
const MOST_REMEMBERED: usize = 1 << 20;
/// The most bytes of names, paths, cgroups and arguments of all processes: 256 for each of so many. What is made of them takes a few
/// times as much.
const MOST_TEXT_BYTES: usize = 256 << 20;

/// Why packets cannot be attributed again, or not all of them.
#[derive(Debug, thiserror::Error)]
pub enum AgainError {
    /// The file was recorded without them.
    #[error(
        "it has no events to attribute packets by\n  record with --keep-events; programs that save a recording again, and \
         `recorder filter`, leave events out"
    )]
    NoEvents,
    /// Another version of this program kept them.
    #[error(
        "its events are of version {0}, and this recorder knows version {known}\n  use the recorder that recorded it",
        known = journal::VERSION
    )]
    Version(u16),
    /// They make no sense. All packets before them have been attributed.
    #[error("its events are damaged before byte {offset}; everything before them is good")]
    Damaged {
        /// Where the block with them ends.
        offset: u64,
    },
    /// They tell of more at a time than any recording does.
    #[error(
        "its events before byte {offset} tell of more than {MOST_REMEMBERED} flows, sockets or processes at a time; \
         everything before them is good"
    )]
    TooMuch {
        /// Where the block with them ends.
        offset: u64,
    },
    /// They tell more about processes than any recording does.
    #[error(
        "the names, paths, cgroups and arguments of processes in its events before byte {offset} have more than {} MiB; everything \
         before them is good",
        MOST_TEXT_BYTES >> 20
    )]
    TooMuchText {
        /// Where the block with them ends.
        offset: u64,
    },
    /// Several recordings were joined: events of one tell nothing of another.
    #[error(
        "another section begins before byte {offset}, whose packets have other events; everything before it is good\n  \
         take the recordings apart"
    )]
    AnotherSection {
        /// Where its section header ends.
        offset: u64,
    },
    /// The file cannot be read, or not to its end.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The result cannot be written.
    #[error("cannot write: {0}")]
    Write(#[source] io::Error),
}

/// What became of a file.
#[derive(Debug)]
pub struct AttributedAgain<W> {
    /// Its packets.
    pub packets: u64,
    /// Those of which at least one end is known.
    pub attributed: u64,
    /// Those that have other owners than the file said.
    pub changed: u64,
    /// Why the rest of the file is missing, if some of it is.
    pub failure: Option<AgainError>,
    /// What was written to, flushed.
    pub out: W,
}

/// A file whose packets are to be attributed again.
#[derive(Debug)]
pub struct Again<R: Read> {
    reader: Reader<R>,
    attributor: Attributor,
    /// How the packets of the file are annotated.
    annotate: Annotate,
    /// The loopback interface, by its number in the file.
    loopbacks: Vec<InterfaceId>,
    has_begun: bool,
    /// Events that go on in the next block.
    unfinished: Vec<u8>,
    /// What was read until the first events were whole, in order: how many interfaces, and the events.
    begun: (usize, Vec<u8>),
    /// The processes that events told of.
    told: Told,
    most_text_bytes: usize,
}

impl<R: Read> Again<R> {
    /// Reads the first events, which stand before the first packet.
    ///
    /// # Errors
    /// If there are none, or none that can be understood.
    pub fn new(mut reader: Reader<R>) -> Result<Self, AgainError> {
        let mut unfinished = Vec::new();
        let (annotate, events) = loop {
            match reader.next_item()? {
                Some(Item::Interface(_)) => {}
                Some(Item::Kept(kept)) => {
                    let annotate = kept.annotate;
                    let whole = gather(&mut unfinished, &kept);
                    if let Some(events) = whole.map_err(|why| why.at(reader.offset()))? {
                        break (annotate, events);
                    }
                }
                Some(Item::Packet(_) | Item::Section) | None => return Err(AgainError::NoEvents),
            }
        };
        let Some(Some(Entry::Began(origin))) = journal::entries(&events).next() else {
            return Err(AgainError::Damaged { offset: reader.offset() });
        };
        let begun = (reader.interfaces().len(), events);
        Ok(Self {
            reader,
            attributor: Attributor::new(origin, None),
            annotate,
            loopbacks: Vec::new(),
            has_begun: false,
            unfinished,
            begun,
            told: Told::default(),
            most_text_bytes: MOST_TEXT_BYTES,
        })
    }

    /// Writes the file with the owners that are found now; annotated as it was, if nothing else is asked for. Events stay in it.
    ///
    /// # Errors
    /// If the result cannot be written. Why the file cannot be read to its end is in [`AttributedAgain::failure`]; then what
    /// came before that is written as a whole file.
    pub fn write<W: Write>(
        mut self,
        out: W,
        annotate: Option<Annotate>,
    ) -> Result<AttributedAgain<W>, AgainError> {
        let mut writer = Writer::new(out, annotate.unwrap_or(self.annotate), self.reader.section());
        let mut counts = Counts::default();
        let failure = match self.write_packets(&mut writer, &mut counts) {
            Ok(()) => None,
            Err(AgainError::Write(error)) => return Err(AgainError::Write(error)),
            Err(error) => Some(error),
        };
        let statistics = self.reader.statistics();
        let statistics = statistics
            .map(|statistics| Statistics { attribution: counts.attribution, ..statistics })
            .unwrap_or_default();
        let out = writer.finish(&statistics, self.attributor.processes()).map_err(AgainError::Write)?;
        Ok(AttributedAgain {
            packets: counts.attribution.total(),
            attributed: counts.attribution.attributed(),
            changed: counts.changed,
            failure,
            out,
        })
    }

    fn write_packets<W: Write>(
        &mut self,
        writer: &mut Writer<W>,
        counts: &mut Counts,
    ) -> Result<(), AgainError> {
        let (interfaces, events) = std::mem::take(&mut self.begun);
        for interface in self.reader.interfaces().iter().take(interfaces) {
            writer.add_interface(interface).map_err(AgainError::Write)?;
        }
        self.learn(&events, writer)?;
        loop {
            let Self { reader, attributor, loopbacks, unfinished, .. } = self;
            match reader.next_item()? {
                Some(Item::Interface(interface)) => {
                    writer.add_interface(interface).map_err(AgainError::Write)?;
                }
                Some(Item::Kept(kept)) => {
                    let whole = gather(unfinished, &kept);
                    if let Some(events) = whole.map_err(|why| why.at(reader.offset()))? {
                        self.learn(&events, writer)?;
                    }
                }
                Some(Item::Packet(record)) => {
                    let is_loopback = loopbacks.contains(&record.packet.interface);
                    let link_type = record.interface.link_type;
                    let attribution = attributor.attribute(&record.packet, link_type, is_loopback);
                    counts.count(&record, &attribution, attributor.processes());
                    writer
                        .packet(&record.packet, &attribution, attributor.processes())
                        .map_err(AgainError::Write)?;
                }
                Some(Item::Section) => return Err(AgainError::AnotherSection { offset: reader.offset() }),
                None => return Ok(()),
            }
        }
    }

    /// Tells the attribution what these events say, and keeps them.
    fn learn<W: Write>(&mut self, events: &[u8], writer: &mut Writer<W>) -> Result<(), AgainError> {
        let (offset, interfaces) = (self.reader.offset(), self.reader.interfaces().len());
        for entry in journal::entries(events) {
            match entry {
                Some(Entry::Began(_)) if !self.has_begun => self.has_begun = true,
                // Told once, of an interface that stands in the file by then.
                Some(Entry::Loopback(interface))
                    if (interface.0 as usize) < interfaces && !self.loopbacks.contains(&interface) =>
                {
                    self.loopbacks.push(interface);
                }
                Some(Entry::News(news)) => {
                    self.told.add(&news);
                    self.attributor.learn(news);
                }
                Some(Entry::Began(_) | Entry::Loopback(_)) | None => {
                    return Err(AgainError::Damaged { offset });
                }
            }
            let (flows, sockets) = self.attributor.remembered();
            if flows.max(sockets).max(self.told.processes.len()) > MOST_REMEMBERED {
                return Err(AgainError::TooMuch { offset });
            }
            if self.told.text_bytes > self.most_text_bytes {
                return Err(AgainError::TooMuchText { offset });
            }
        }
        writer.kept_events(journal::VERSION, events).map_err(AgainError::Write)
    }
}

/// The processes that events told of. What is remembered of processes grows with them, and not when one is told of again.
#[derive(Debug, Default)]
struct Told {
    /// Each with the bytes of its texts.
    processes: HashMap<(ProcessId, ProcessKey), usize>,
    /// The sum of these.
    text_bytes: usize,
}

impl Told {
    fn add(&mut self, news: &News) {
        let processes = match news {
            News::Event(Event::Process(process)) => slice::from_ref(process),
            News::Scan(scan) => &scan.processes,
            _ => return,
        };
        for process in processes {
            let known = self.processes.entry((process.id, process.key())).or_default();
            let more = text_bytes(process).saturating_sub(*known);
            *known += more;
            self.text_bytes += more;
        }
    }
}

fn text_bytes(process: &ProcessNews) -> usize {
    let ProcessNews { cgroup, older_cgroups, comm, path, arguments, .. } = process;
    let older: usize = older_cgroups.iter().map(|cgroup| cgroup.path.len()).sum();
    let arguments = arguments.as_ref().map_or(0, |arguments| arguments.bytes.len());
    comm.len() + path.len() + cgroup.len() + older + arguments
}

/// Why a block of events cannot be used.
enum Unusable {
    Version(u16),
    Damaged,
}

impl Unusable {
    const fn at(self, offset: u64) -> AgainError {
        match self {
            Self::Version(version) => AgainError::Version(version),
            Self::Damaged => AgainError::Damaged { offset },
        }
    }
}

/// The events of this block and those before that go on in it; none if they go on further.
fn gather(unfinished: &mut Vec<u8>, kept: &Kept<'_>) -> Result<Option<Vec<u8>>, Unusable> {
    if kept.version != journal::VERSION {
        return Err(Unusable::Version(kept.version));
    }
    if unfinished.len() + kept.bytes.len() > MOST_BYTES {
        return Err(Unusable::Damaged);
    }
    unfinished.extend_from_slice(kept.bytes);
    Ok((!kept.goes_on).then(|| std::mem::take(unfinished)))
}

/// What was found.
#[derive(Debug, Default)]
struct Counts {
    attribution: AttributionCounts,
    changed: u64,
}

impl Counts {
    fn count(&mut self, record: &Record<'_>, attribution: &Attribution, processes: &ProcessTable) {
        self.attribution.count(attribution);
        let before = named(&record.attribution, record.processes);
        self.changed += u64::from(before != named(attribution, processes));
    }
}

/// Both ends as a file names them.
fn named<'a>(attribution: &Attribution, processes: &'a ProcessTable) -> [Option<(u32, &'a [u8])>; 2] {
    let Attribution::Known { sender, receiver, .. } = attribution else { return [None, None] };
    let name = |owner: &Owner| {
        let process = processes.get(owner.process)?;
        Some((process.pid, process.name.as_slice()))
    };
    [sender, receiver].map(|owner| owner.as_ref().and_then(name))
}

#[cfg(test)]
mod tests;
