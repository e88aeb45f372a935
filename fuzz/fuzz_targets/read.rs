//! A capture file: pcapng or legacy pcap, plain or compressed.
#![no_main]

use std::io::{Cursor, Read};

use libfuzzer_sys::fuzz_target;
use recorder::output::decompressed;
use recorder::pcapng::{Item, Reader};

/// Compressed bytes may be very many; so many are read.
const MOST: u64 = 4 << 20;

fuzz_target!(|file: &[u8]| {
    let Ok(bytes) = decompressed(Cursor::new(file.to_vec())) else { return };
    let Ok(mut reader) = Reader::new(bytes.take(MOST)) else { return };
    loop {
        let before = reader.offset();
        let is_packet = match reader.next_item() {
            Ok(Some(Item::Packet(record))) => {
                assert!(record.packet.original_length as usize >= record.packet.data.len());
                true
            }
            Ok(Some(_)) => false,
            Ok(None) | Err(_) => break,
        };
        assert!(!is_packet || reader.offset() > before, "a packet has a block of its own");
    }
    assert!(reader.offset() <= MOST);
    assert!(matches!(reader.next_packet(), Ok(None)), "nothing comes after the end");
    reader.statistics();
});
