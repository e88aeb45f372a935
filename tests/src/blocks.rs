//! The blocks of a pcapng file, as the crate pcap-parser (not ours) reads them.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use pcap_parser::pcapng::PcapNGSlice;
use pcap_parser::{Block, EnhancedPacketBlock, OptionCode, PcapBlockOwned, PcapNGOption, nom};

const COMMENT: u16 = 1;
const PROCESS_NAME: u16 = 2;
const PROCESS_ID_THREAD_ID: u16 = 8;
const PROCESS_INDEX: u16 = 0x8001;
const FILTER_ACCEPTED: u16 = 6;

/// One packet's annotations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its comments.
    pub comments: Vec<String>,
    /// Process and thread id (`epb_processid_threadid`).
    pub ids: Option<(u32, u32)>,
    /// Position among the Darwin process blocks (option 0x8001).
    pub process_index: Option<u32>,
}

/// One block of the file, as far as the tests look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A packet.
    Packet(Packet),
    /// A Darwin process block: process id, name.
    Process(u32, String),
    /// A custom block: private enterprise number.
    Custom(u32),
    /// Interface statistics.
    Statistics,
    /// Another block, by its type.
    Other(u32),
}

/// All blocks of a file, in their order.
pub fn read(file: &Path) -> Vec<Kind> {
    each(file, kind)
}

/// What the statistics say was received by the filter, on all interfaces together (`isb_filteraccept`).
pub fn received(file: &Path) -> u64 {
    let of_interface = |block: &Block<'_>| {
        let Block::InterfaceStatistics(statistics) = block else { return 0 };
        let accepted = statistics.options.iter().find(|option| option.code == OptionCode(FILTER_ACCEPTED));
        let accepted = accepted.unwrap_or_else(|| panic!("no isb_filteraccept: {statistics:?}"));
        u64::from_le_bytes(
            bytes(accepted).try_into().unwrap_or_else(|_| panic!("not eight bytes: {accepted:?}")),
        )
    };
    each(file, of_interface).into_iter().sum()
}

fn each<T>(file: &Path, what: impl Fn(&Block<'_>) -> T) -> Vec<T> {
    let mut all = Vec::new();
    let ending = walk(file, |block| all.push(what(block)));
    assert_eq!(ending, Ending::Whole, "{} ends within a block", file.display());
    all
}

/// How a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With a block.
    Whole,
    /// Within a block: its writer was killed, or it was cut.
    Cut,
}

/// Gives all blocks of a file to `see`, in their order.
pub fn walk(file: &Path, see: impl FnMut(&Block<'_>)) -> Ending {
    walk_bytes(&fs::read(file).unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display())), see)
}

/// The same of what was read from one.
pub fn walk_bytes(bytes: &[u8], mut see: impl FnMut(&Block<'_>)) -> Ending {
    let blocks = PcapNGSlice::from_slice(bytes).unwrap_or_else(|error| panic!("not pcapng: {error:?}"));
    for block in blocks {
        match block {
            Ok(PcapBlockOwned::NG(block)) => see(&block),
            Ok(_) => panic!("a block of another format"),
            Err(nom::Err::Incomplete(_)) => return Ending::Cut,
            Err(error) => panic!("damaged block: {error:?}"),
        }
    }
    Ending::Whole
}

/// The value of an option, without padding.
pub fn bytes<'a>(option: &'a PcapNGOption<'_>) -> &'a [u8] {
    option.as_bytes().unwrap_or_else(|error| panic!("damaged option: {error}"))
}

fn kind(block: &Block<'_>) -> Kind {
    match block {
        Block::EnhancedPacket(packet) => Kind::Packet(annotations(packet)),
        Block::ProcessInformation(process) => Kind::Process(process.process_id, name(&process.options)),
        Block::Custom(custom) => Kind::Custom(custom.pen),
        Block::InterfaceStatistics(_) => Kind::Statistics,
        other => Kind::Other(other.magic()),
    }
}

fn name(options: &[PcapNGOption<'_>]) -> String {
    // The first option, or Wireshark 4.6 does not see it.
    let first = options.first().filter(|option| option.code == OptionCode(PROCESS_NAME));
    let first = first.unwrap_or_else(|| panic!("the first option of a process is not its name: {options:?}"));
    String::from_utf8_lossy(bytes(first)).into_owned()
}

fn annotations(packet: &EnhancedPacketBlock<'_>) -> Packet {
    let all = |code| packet.options.iter().filter(move |option| option.code == OptionCode(code));
    let one = |code| all(code).next();
    Packet {
        comments: all(COMMENT).map(|option| String::from_utf8_lossy(bytes(option)).into_owned()).collect(),
        ids: one(PROCESS_ID_THREAD_ID).map(process_and_thread),
        process_index: one(PROCESS_INDEX).map(|option| number(bytes(option))),
    }
}

fn process_and_thread(option: &PcapNGOption<'_>) -> (u32, u32) {
    assert_eq!(
        option.len, 8,
        "epb_processid_threadid has a length other than 8: Wireshark 4.6 rejects the file"
    );
    let (pid, tid) = bytes(option).split_at(4);
    (number(pid), number(tid))
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().unwrap_or_else(|_| panic!("not four bytes: {bytes:?}")))
}

/// Panics unless the forms of annotation agree with each other, in every packet (see [`disagreements`]); records come
/// before their packets, and custom blocks after the last one, so that no frame number moves.
pub fn assert_consistent(file: &Path) {
    let blocks = read(file);
    let last_packet = blocks.iter().rposition(|block| matches!(block, Kind::Packet(_)));
    let first_custom = blocks.iter().position(|block| matches!(block, Kind::Custom(_)));
    if let (Some(packet), Some(custom)) = (last_packet, first_custom) {
        assert!(packet < custom, "block {packet}: a packet after a custom block, so its frame number moved");
    }
    let disagreements = disagreements_in(blocks);
    assert!(disagreements.is_empty(), "the annotations disagree: {disagreements:#?}");
}

/// Process and thread id of each packet, in the order of the file.
pub fn ids(file: &Path) -> Vec<Option<(u32, u32)>> {
    let packet = |block| if let Kind::Packet(packet) = block { Some(packet.ids) } else { None };
    read(file).into_iter().filter_map(packet).collect()
}

/// Where the forms of annotation do not agree with each other, by frame number (from 1): the process of the ids and of
/// the record is the sender that the comment names, or the receiver where the sender is not known.
pub fn disagreements(file: &Path) -> HashMap<u32, String> {
    disagreements_in(read(file))
}

fn disagreements_in(blocks: Vec<Kind>) -> HashMap<u32, String> {
    let mut processes = Vec::new();
    let mut found = HashMap::new();
    let mut frame = 0;
    for block in blocks {
        match block {
            Kind::Process(pid, name) => processes.push(format!("{name}[{pid}]")),
            Kind::Packet(packet) => {
                frame += 1;
                if !agrees(&packet, &processes) {
                    found.insert(frame, format!("{packet:?}"));
                }
            }
            Kind::Custom(_) | Kind::Statistics | Kind::Other(_) => {}
        }
    }
    found
}

fn agrees(packet: &Packet, processes: &[String]) -> bool {
    let Packet { comments, ids, process_index } = packet;
    let Some(comment) = comments.first() else { return ids.is_none() && process_index.is_none() };
    let local = comment.split(" > ").find(|end| *end != "?").unwrap_or("?");
    let record = process_index.and_then(|index| processes.get(index as usize));
    let pid = ids.map(|(pid, _)| format!("[{pid}]"));
    record.is_some_and(|record| record == local) && pid.is_some_and(|pid| local.ends_with(&pid))
}
