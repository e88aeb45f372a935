//! Captures that are made here, with times that are known, and how far others keep to them.

use std::fs;
use std::path::Path;

/// Link type of Ethernet.
pub const ETHERNET: u16 = 1;
/// Link type of bare IP.
pub const RAW_IP: u16 = 101;

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Nanoseconds since the epoch.
    pub time_ns: u64,
    /// Its length on the wire, in bytes.
    pub length: u32,
    /// What was captured of it.
    pub data: Vec<u8>,
}

impl Made {
    /// A packet that was captured whole.
    pub fn whole(time_ns: u64, data: Vec<u8>) -> Self {
        Self { time_ns, length: data.len() as u32, data }
    }
}

/// Writes a pcapng file with one interface and nanoseconds.
pub fn write(file: &Path, link_type: u16, packets: &[Made]) {
    let mut text = Vec::new();
    block(&mut text, 0x0a0d_0d0a, &[&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat());
    // if_tsresol is 9: nanoseconds.
    block(
        &mut text,
        1,
        &[&link_type.to_le_bytes()[..], &[0; 6], &[9, 0, 1, 0, 9, 0, 0, 0], &[0; 4]].concat(),
    );
    for Made { time_ns, length, data } in packets {
        let words = [0, (time_ns >> 32) as u32, *time_ns as u32, data.len() as u32, *length];
        let head: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        block(&mut text, 6, &[&head, &data[..]].concat());
    }
    fs::write(file, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
}

fn block(text: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let padded = body.len().next_multiple_of(4);
    let length = (12 + padded as u32).to_le_bytes();
    text.extend(kind.to_le_bytes());
    text.extend(length);
    text.extend(body);
    text.resize(text.len() + padded - body.len(), 0);
    text.extend(length);
}

/// A frame of no protocol that anybody answers to (IEEE 802.1 local experimental), with a number in it; of 18 bytes at least,
/// unless it is cut.
pub fn frame(number: u32, length: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
    frame.extend(number.to_be_bytes());
    frame.resize(length, number as u8);
    frame
}

/// Frames of all lengths in irregular steps of up to four milliseconds; some are at the same time.
pub fn irregular(count: u32) -> Vec<Made> {
    let mut time_ns = 1_700_000_000_123_456_789;
    let made = |number: u32| {
        time_ns += u64::from(number * number % 13) * 333_333;
        Made::whole(time_ns, frame(number, (18 + number * 37 % 1497) as usize))
    };
    (0..count).map(made).collect()
}

/// How far the steps between two times in one list differ from those in the other, in nanoseconds; the smallest difference first.
pub fn step_differences(one: &[u64], other: &[u64]) -> Vec<u64> {
    let steps =
        |times: &[u64]| times.windows(2).map(|two| two[1].saturating_sub(two[0])).collect::<Vec<u64>>();
    let mut differences: Vec<u64> =
        steps(one).into_iter().zip(steps(other)).map(|(one, other)| one.abs_diff(other)).collect();
    differences.sort_unstable();
    differences
}
