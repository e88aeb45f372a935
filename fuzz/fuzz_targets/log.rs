//! A log of connections: RustNet's JSON lines and ours.
#![no_main]

use libfuzzer_sys::fuzz_target;
use recorder::cli::annotate::owners;
use recorder::decode;
use recorder::model::{LinkType, RealTime};

/// From 10.0.0.1:40000 to 10.0.0.2:443, TCP, bare IP.
const PACKET: [u8; 40] = [
    0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, // IP
    0x9c, 0x40, 1, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0, // TCP
];

fuzz_target!(|log: &[u8]| {
    owners(log, &decode::packet(LinkType::RAW_IP, &PACKET), RealTime::from_ns(1_000_000_000));
});
