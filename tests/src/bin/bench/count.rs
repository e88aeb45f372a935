//! Counts the packets of a capture file without keeping them, so that the figures do not rest on what a tool says of
//! itself.

use std::fs::File;
use std::io::{BufReader, Read};

const PCAP_HEADER: u64 = 24;
const ENHANCED_PACKET: u32 = 6;
const INTERFACE_STATISTICS: u32 = 5;
const IF_DROP: u16 = 5;
const OS_DROP: u16 = 7;

/// What is in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) packets: u64,
    /// What the statistics at the end of a pcapng file say was dropped.
    pub(crate) dropped: u64,
}

/// Counts a little-endian file, pcap or pcapng. It ends where the file ends, or is cut.
pub(crate) fn count(path: &str) -> Count {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path).expect("cannot open the capture file"));
    let mut count = Count::default();
    let Some(first) = read_u32(&mut file) else { return count };
    if first == 0x0a0d_0d0a {
        let mut kind = Some(first);
        while let Some(block) = kind {
            if read_block(&mut file, block, &mut count).is_none() {
                break;
            }
            kind = read_u32(&mut file);
        }
        return count;
    }
    let mut more = skip(&mut file, PCAP_HEADER - 4);
    while more.is_some() {
        more = read_record(&mut file);
        count.packets += u64::from(more.is_some());
    }
    count
}

fn read_record(file: &mut impl Read) -> Option<()> {
    skip(file, 8)?;
    let captured = read_u32(file)?;
    skip(file, 4 + u64::from(captured))
}

fn read_block(file: &mut impl Read, kind: u32, count: &mut Count) -> Option<()> {
    let length = read_u32(file)?;
    let body = u64::from(length.checked_sub(12)?);
    match kind {
        ENHANCED_PACKET => count.packets += 1,
        INTERFACE_STATISTICS => {
            let mut bytes = vec![0; body as usize];
            file.read_exact(&mut bytes).ok()?;
            count.dropped += dropped(&bytes);
            return skip(file, 4);
        }
        _ => {}
    }
    skip(file, body + 4)
}

fn dropped(block: &[u8]) -> u64 {
    let mut options = block.get(12..).unwrap_or_default();
    let mut sum = 0;
    while let [code_low, code_high, length_low, length_high, rest @ ..] = options {
        let code = u16::from_le_bytes([*code_low, *code_high]);
        let length = usize::from(u16::from_le_bytes([*length_low, *length_high]));
        if let (IF_DROP | OS_DROP, Some(value)) = (code, rest.first_chunk::<8>()) {
            sum += u64::from_le_bytes(*value);
        }
        options = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    sum
}

fn read_u32(file: &mut impl Read) -> Option<u32> {
    let mut bytes = [0; 4];
    file.read_exact(&mut bytes).ok()?;
    Some(u32::from_le_bytes(bytes))
}

fn skip(file: &mut impl Read, bytes: u64) -> Option<()> {
    let skipped = std::io::copy(&mut file.take(bytes), &mut std::io::sink()).ok()?;
    (skipped == bytes).then_some(())
}
