//! Blocks of big-endian sections as little-endian ones. Pure: from the body of a block to another one of the same length, in
//! which everything stands at the same place.

use super::encode::padding;
use super::{block, option as code};

/// Blocks that only this file has to do with.
const NAME_RESOLUTION: u32 = 4;
const JOURNAL: u32 = 9;
const SECRETS: u32 = 10;

/// Options whose value begins with an enterprise number, in any block: the rest of it has an order of its own.
const CUSTOM: [u16; 4] = [2988, 2989, 19372, 19373];

/// The body of a big-endian block in little-endian order. `None` for a block whose numbers stand nobody knows where.
pub(super) fn little_endian(kind: u32, body: &[u8]) -> Option<Vec<u8>> {
    let mut body = body.to_vec();
    let options_at = match kind {
        block::SECTION_HEADER => turn(&mut body, &[4, 2, 2, 8]),
        block::INTERFACE_DESCRIPTION => turn(&mut body, &[2, 2, 4]),
        block::INTERFACE_STATISTICS => turn(&mut body, &[4, 4, 4]),
        block::PACKET => behind(turn(&mut body, &[2, 2, 4, 4, 4, 4]), word(&body, 12)),
        block::ENHANCED_PACKET => behind(turn(&mut body, &[4; 5]), word(&body, 12)),
        block::SIMPLE_PACKET => {
            turn(&mut body, &[4]);
            body.len()
        }
        NAME_RESOLUTION => names(&mut body),
        SECRETS => behind(turn(&mut body, &[4, 4]), word(&body, 4)),
        JOURNAL => body.len(),
        _ => return None,
    };
    turn_options(kind, body.get_mut(options_at..).unwrap_or_default());
    Some(body)
}

/// Turns numbers of so many bytes, one behind the other. Where they end.
fn turn(body: &mut [u8], sizes: &[usize]) -> usize {
    let mut at = 0;
    for size in sizes {
        if let Some(number) = body.get_mut(at..at + size) {
            number.reverse();
        }
        at += size;
    }
    at
}

/// The number at `at`, which has been turned.
fn word(body: &[u8], at: usize) -> usize {
    let bytes = body.get(at..).and_then(|rest| rest.first_chunk::<4>());
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize)
}

fn behind(at: usize, length: usize) -> usize {
    at.saturating_add(length).saturating_add(padding(length))
}

/// Turns the records of names. Where the options begin.
fn names(body: &mut [u8]) -> usize {
    let mut at = 0;
    while let Some(header) = body.get_mut(at..at + 4) {
        turn(header, &[2, 2]);
        let (kind, length) = (u16::from_le_bytes([header[0], header[1]]), [header[2], header[3]]);
        at = behind(at + 4, usize::from(u16::from_le_bytes(length)));
        if kind == 0 {
            break;
        }
    }
    at
}

fn turn_options(kind: u32, options: &mut [u8]) {
    let mut at = 0;
    while let Some(header) = options.get_mut(at..at + 4) {
        turn(header, &[2, 2]);
        let option = u16::from_le_bytes([header[0], header[1]]);
        let length = usize::from(u16::from_le_bytes([header[2], header[3]]));
        if option == 0 {
            return;
        }
        let Some(value) = options.get_mut(at + 4..at + 4 + length) else { return };
        if CUSTOM.contains(&option) {
            turn(value, &[4]);
        } else if let Some(size) = number_size(kind, option) {
            value.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        at = behind(at + 4, length);
    }
}

/// Of how many bytes the numbers are that an option holds; `None` for texts and bytes.
const fn number_size(kind: u32, option: u16) -> Option<usize> {
    match (kind, option) {
        // if_speed, if_tsoffset, if_txspeed, if_rxspeed; if_tzone, and Apple's effective interface.
        (block::INTERFACE_DESCRIPTION, 8 | 14 | 16 | 17) => Some(8),
        (block::INTERFACE_DESCRIPTION, 10 | 0x8001) => Some(4),
        // epb_dropcount, epb_packetid; flags, queue, ids, and Apple's.
        (block::ENHANCED_PACKET, 4 | 5) => Some(8),
        (block::ENHANCED_PACKET, 0x8006 | 0x8008) => Some(2),
        (block::ENHANCED_PACKET, code::EPB_FLAGS | 6 | code::EPB_PROCESSID_THREADID) => Some(4),
        (block::ENHANCED_PACKET, 0x8001..=0x8005 | 0x8007 | 0x800a) => Some(4),
        (block::PACKET, 2) => Some(4),
        // Two times of two halves; counters.
        (block::INTERFACE_STATISTICS, 2 | 3) => Some(4),
        (block::INTERFACE_STATISTICS, 4..=8) => Some(8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_block_is_the_same_in_the_other_order() {
        let big = [
            &[0, 0, 0, 1][..],
            &[1, 2, 3, 4, 5, 6, 7, 8],
            &[0, 0, 0, 3, 0, 0, 0, 9, b'a', b'b', b'c', 0],
            &[0, 1, 0, 2, b'h', b'i', 0, 0],
            &[0, 2, 0, 4, 0, 0, 0, 2],
            &[0, 5, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0, 8, 0, 8, 0, 0, 0x10, 0x92, 0, 0, 0, 7],
            &[0x0b, 0xac, 0, 5, 0, 0, 0, 1, b'x', 0, 0, 0],
            &[0x80, 6, 0, 2, 0, 5, 0, 0],
            &[0, 0, 0, 0],
        ]
        .concat();
        let little = [
            &[1, 0, 0, 0][..],
            &[4, 3, 2, 1, 8, 7, 6, 5],
            &[3, 0, 0, 0, 9, 0, 0, 0, b'a', b'b', b'c', 0],
            &[1, 0, 2, 0, b'h', b'i', 0, 0],
            &[2, 0, 4, 0, 2, 0, 0, 0],
            &[5, 0, 8, 0, 8, 7, 6, 5, 4, 3, 2, 1],
            &[8, 0, 8, 0, 0x92, 0x10, 0, 0, 7, 0, 0, 0],
            &[0xac, 0x0b, 5, 0, 1, 0, 0, 0, b'x', 0, 0, 0],
            &[6, 0x80, 2, 0, 5, 0, 0, 0],
            &[0, 0, 0, 0],
        ]
        .concat();
        assert_eq!(little_endian(block::ENHANCED_PACKET, &big).unwrap(), little);
    }

    #[test]
    fn of_other_blocks_too_every_number_is_turned_and_no_text() {
        for (kind, big, little) in [
            (
                block::INTERFACE_DESCRIPTION,
                vec![0, 101, 0, 0, 0, 4, 0, 0, 0, 2, 0, 2, b'l', b'o', 0, 0, 0, 9, 0, 1, 6, 0, 0, 0],
                vec![101, 0, 0, 0, 0, 0, 4, 0, 2, 0, 2, 0, b'l', b'o', 0, 0, 9, 0, 1, 0, 6, 0, 0, 0],
            ),
            (
                NAME_RESOLUTION,
                vec![0, 1, 0, 7, 127, 0, 0, 1, b'm', b'e', 0, 0, 0, 0, 0, 0, 0, 2, 0, 1, b'n', 0, 0, 0],
                vec![1, 0, 7, 0, 127, 0, 0, 1, b'm', b'e', 0, 0, 0, 0, 0, 0, 2, 0, 1, 0, b'n', 0, 0, 0],
            ),
            (
                block::INTERFACE_STATISTICS,
                vec![0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 4, 0, 8, 0, 0, 0, 0, 0, 0, 0, 9],
                vec![1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 8, 0, 9, 0, 0, 0, 0, 0, 0, 0],
            ),
        ] {
            assert_eq!(little_endian(kind, &big), Some(little), "block {kind}");
        }
        assert_eq!(little_endian(block::CUSTOM, &[0; 8]), None, "only its owner knows it");
    }

    #[test]
    fn cut_and_absurd_blocks_do_not_make_it_panic() {
        for kind in [1, 2, 3, 4, 5, 6, 9, 10, block::SECTION_HEADER] {
            for length in 0..64 {
                for byte in [0, 1, 0x7f, 0xff] {
                    let turned = little_endian(kind, &vec![byte; length]).unwrap();
                    assert_eq!(turned.len(), length);
                }
            }
        }
    }
}
