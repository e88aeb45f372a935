//! The file as a whole: exact bytes, and the way through writer and reader.

mod copying;
mod legacy;
mod reading;
mod rewriting;
mod writing;

use super::*;
use crate::model::*;

/// A read buffer for files of a few hundred bytes; the tests open thousands.
const SMALL: usize = 1 << 14;

const START: u64 = 1_700_000_000_000_000_000;

fn process(pid: u32, name: &str) -> Process {
    Process {
        pid,
        name: name.into(),
        path: Some(format!("/usr/bin/{name}").into_bytes()),
        parent_pid: Some(1),
        uid: Some(1000),
        start: Some(RealTime::from_ns(START)),
        cgroup: None,
        container: None,
        unit: None,
        command_line: None,
        uuid: None,
    }
}

fn interface(name: &str) -> Interface {
    Interface {
        name: name.to_owned(),
        description: None,
        link_type: LinkType::ETHERNET,
        mac: None,
        snap_length: 262_144,
        filter: None,
    }
}

fn packet(data: &[u8]) -> Packet<'_> {
    Packet {
        interface: InterfaceId(0),
        time: RealTime::from_ns(START + 5),
        direction: Direction::Outbound,
        reception: Reception::Unknown,
        original_length: data.len() as u32,
        data,
    }
}

fn owner(index: ProcessIndex, tid: u32) -> Option<Owner> {
    Some(Owner { process: index, tid })
}

fn known(sender: Option<Owner>, receiver: Option<Owner>, both_local: bool) -> Attribution {
    Attribution::Known { sender, receiver, both_local, found: Found::Socket }
}

fn writer(annotate: Annotate) -> Writer<Vec<u8>> {
    let mut writer = Writer::new(Vec::new(), annotate, &SectionInfo::default());
    writer.add_interface(&interface("eth0")).unwrap();
    writer
}

/// A packet as it came back, with its owners spelled out.
#[derive(Debug, PartialEq)]
struct ReadBack {
    interface: u32,
    time: u64,
    direction: Direction,
    reception: Reception,
    original_length: u32,
    data: Vec<u8>,
    sender: Option<(Process, u32)>,
    receiver: Option<(Process, u32)>,
    both_local: bool,
}

fn read_all(file: &[u8]) -> (Vec<ReadBack>, Reader<&[u8]>) {
    let mut reader = Reader::with_buffer(file, SMALL).unwrap();
    let mut packets = Vec::new();
    while let Some(record) = reader.next_packet().unwrap() {
        let (sender, receiver, both_local) = match record.attribution {
            Attribution::Known { sender, receiver, both_local, .. } => (sender, receiver, both_local),
            Attribution::Unknown(_) => (None, None, false),
        };
        let spelled =
            |owner: Option<Owner>| owner.map(|o| (record.processes.get(o.process).unwrap().clone(), o.tid));
        packets.push(ReadBack {
            interface: record.packet.interface.0,
            time: record.packet.time.as_ns(),
            direction: record.packet.direction,
            reception: record.packet.reception,
            original_length: record.packet.original_length,
            data: record.packet.data.to_vec(),
            sender: spelled(sender),
            receiver: spelled(receiver),
            both_local,
        });
    }
    (packets, reader)
}

/// The blocks of a little-endian file: type, and all bytes.
fn blocks(mut file: &[u8]) -> Vec<(u32, &[u8])> {
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let mut blocks = Vec::new();
    while !file.is_empty() {
        let length = word(file, 4) as usize;
        assert_eq!(length % 4, 0);
        assert_eq!(word(file, length - 4) as usize, length, "both lengths agree");
        blocks.push((word(file, 0), &file[..length]));
        file = &file[length..];
    }
    blocks
}

fn types(file: &[u8]) -> Vec<u32> {
    blocks(file).into_iter().map(|(block_type, _)| block_type).collect()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
