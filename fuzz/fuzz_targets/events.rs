//! Events kept for replay: a file that is attributed again by them, or the bytes of events alone.
#![no_main]

use libfuzzer_sys::fuzz_target;
use recorder::attribution::Attributor;
use recorder::attribution::event::NetNs;
use recorder::attribution::journal::{Entry, entries};
use recorder::attribution::news::Origin;
use recorder::model::{Attribution, Direction, InterfaceId, LinkType, Packet, RealTime, Reception};
use recorder::pcapng::Reader;
use recorder::pipeline::Again;

fuzz_target!(|bytes: &[u8]| {
    match Reader::new(bytes) {
        Ok(reader) => file(reader),
        Err(_) => alone(bytes),
    }
});

fn file(reader: Reader<&[u8]>) {
    let Ok(again) = Again::new(reader) else { return };
    let Ok(first) = again.write(Vec::new(), None) else { return };
    // The result has the same events, so it attributes itself to itself, byte for byte.
    let reader = Reader::new(first.out.as_slice()).expect("the result is a capture");
    let Ok(again) = Again::new(reader) else { return };
    let second = again.write(Vec::new(), None).expect("memory can be written");
    if first.failure.is_none() && second.failure.is_none() {
        assert_eq!(second.changed, 0, "the same events give the same owners");
        assert!(second.out == first.out, "and the same file");
    }
}

fn alone(bytes: &[u8]) {
    let origin = Origin { netns: NetNs(1), boot: RealTime::from_ns(0) };
    let mut attributor = Attributor::new(origin, None);
    attributor.keep_journal();
    for (number, entry) in entries(bytes).enumerate() {
        match entry {
            Some(Entry::News(news)) => attributor.learn(news),
            Some(_) => {}
            None => break,
        }
        let data = packet(bytes, number);
        let time = RealTime::from_ns(number as u64 * 1_000_000);
        let packet = Packet {
            interface: InterfaceId(0),
            time,
            direction: Direction::Inbound,
            reception: Reception::Unicast,
            original_length: data.len() as u32,
            data: &data,
        };
        if let Attribution::Known { sender, receiver, .. } =
            attributor.attribute(&packet, LinkType::RAW_IP, false)
        {
            let owners = [sender, receiver].into_iter().flatten();
            owners.for_each(|owner| {
                assert!(attributor.processes().get(owner.process).is_some(), "it is in the table")
            });
        }
    }
}

/// A TCP packet between addresses that the events may well have.
fn packet(bytes: &[u8], number: usize) -> [u8; 40] {
    let byte = |at: usize| bytes.get(number * 7 + at).copied().unwrap_or(0);
    let mut packet = [0; 40];
    packet[..20].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet[9] = if byte(0) & 1 == 0 { 6 } else { 17 };
    packet[20..24].copy_from_slice(&[0, byte(1), 0, byte(2)]);
    packet[33] = byte(3);
    packet
}
