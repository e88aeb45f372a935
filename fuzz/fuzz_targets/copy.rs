//! A capture file that is copied, and one that is written anew with its processes in all forms: both read the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use recorder::model::{Attribution, ProcessTable};
use recorder::pcapng::{Annotate, Copier, Known, Reader, Record, Rewriter};

/// Pid and name.
type Name = (u32, Vec<u8>);

/// What there is of a packet: time, lengths, bytes, and who sent and received it.
type Packet = (u64, u32, Vec<u8>, [Option<Name>; 2]);

fuzz_target!(|file: &[u8]| {
    let Some(original) = read(file) else { return };
    let copied = read(&copy(file)).expect("a copy is a capture file");
    assert_same(&original, &copied);
    let has_pktap = Known::read(Reader::new(file).expect("it was read")).has_pktap;
    let rewritten = read(&rewrite(file)).expect("what is written anew is a capture file");
    if !has_pktap {
        let bare = |(time, length, data, _): &Packet| (*time, *length, data.clone());
        assert_eq!(
            rewritten.iter().map(bare).collect::<Vec<_>>(),
            original.iter().map(bare).collect::<Vec<_>>()
        );
    }
    assert_eq!(rewritten.len(), original.len());
});

fn assert_same(original: &[Packet], copied: &[Packet]) {
    assert_eq!(original.len(), copied.len());
    original.iter().zip(copied).for_each(|(original, copied)| assert_eq!(original, copied));
}

fn read(file: &[u8]) -> Option<Vec<Packet>> {
    let mut reader = Reader::new(file).ok()?;
    let mut packets = Vec::new();
    while let Ok(Some(record)) = reader.next_packet() {
        packets.push(packet(&record));
    }
    Some(packets)
}

fn packet(record: &Record<'_>) -> Packet {
    let owners = match record.attribution {
        Attribution::Known { sender, receiver, .. } => [sender, receiver],
        Attribution::Unknown(_) => [None, None],
    };
    let owners = owners.map(|owner| name(record.processes, owner?.process.0));
    let packet = &record.packet;
    (packet.time.as_ns(), packet.original_length, packet.data.to_vec(), owners)
}

fn name(processes: &ProcessTable, index: u32) -> Option<Name> {
    let process = processes.get(recorder::model::ProcessIndex(index))?;
    Some((process.pid, process.name.clone()))
}

fn copy(file: &[u8]) -> Vec<u8> {
    let reader = Reader::new(file).expect("it was read");
    let mut copier = Copier::new(reader, Vec::new(), "copied".to_owned()).expect("memory can be written");
    while let Ok(Some(_)) = copier.next_packet() {
        copier.keep().expect("memory can be written");
    }
    let (_, _, mut copies) = copier.finish().expect("memory can be written");
    copies.pop().expect("there is one copy")
}

fn rewrite(file: &[u8]) -> Vec<u8> {
    let reader = || Reader::new(file).expect("it was read");
    let mut rewriter =
        Rewriter::new(reader(), Vec::new(), Annotate::ALL, Known::read(reader()), Some("written anew"));
    while let Ok(Some(_)) = rewriter.next_packet() {
        rewriter.keep(None).expect("memory can be written");
    }
    rewriter.finish().expect("memory can be written").1
}
