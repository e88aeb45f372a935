//! The block of events kept for replay: what the attribution was told before the packets behind it. What the events are is not
//! known here.
//!
//! ```text
//!  0  u32  0x80524543
//!  4  u32  total length
//!  8  8 bytes: rec-evts
//! 16  u16  version of the events
//! 18  u16  bit 0: the events go on in the next block of this kind
//!          bits 1-4: how the packets of the file are annotated: comment, ids, darwin, custom
//! 20  u32  bytes of events, without padding
//! 24  events, padding, u32 total length
//! ```

use super::encode::{begin_block, end_block};
use super::{Annotate, block};

/// Local types of blocks are anybody's; this tells ours.
const MAGIC: [u8; 8] = *b"rec-evts";
const GOES_ON: u16 = 1;
/// The most bytes of events in one block: whoever reads a file may have little room for one.
const MOST_BYTES: usize = 256 << 10;

/// A block of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept<'a> {
    /// The version of the events.
    pub version: u16,
    /// Whether the events go on in the next block, perhaps in the midst of one.
    pub goes_on: bool,
    /// How the packets of the file are annotated.
    pub annotate: Annotate,
    /// The events.
    pub bytes: &'a [u8],
}

/// Adds the blocks for these events.
pub(super) fn blocks(buffer: &mut Vec<u8>, version: u16, annotate: Annotate, events: &[u8]) {
    let mut chunks = events.chunks(MOST_BYTES).peekable();
    while let Some(bytes) = chunks.next() {
        let start = begin_block(buffer, block::KEPT_EVENTS);
        let goes_on = if chunks.peek().is_some() { GOES_ON } else { 0 };
        let flags = goes_on | (annotate_bits(annotate) << 1);
        buffer.extend_from_slice(&MAGIC);
        buffer.extend_from_slice(&version.to_le_bytes());
        buffer.extend_from_slice(&flags.to_le_bytes());
        buffer.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        buffer.extend_from_slice(bytes);
        end_block(buffer, start);
    }
}

/// What stands between the two lengths of a block, if it is one of ours.
pub(super) fn read(body: &[u8]) -> Option<Kept<'_>> {
    let rest = body.strip_prefix(&MAGIC)?;
    let ([version, more_version, flags, more_flags], rest) = rest.split_first_chunk::<4>()?;
    let (length, bytes) = rest.split_first_chunk::<4>()?;
    let flags = u16::from_le_bytes([*flags, *more_flags]);
    let bit = |number: u16| flags >> number & 1 != 0;
    Some(Kept {
        version: u16::from_le_bytes([*version, *more_version]),
        goes_on: flags & GOES_ON != 0,
        annotate: Annotate { comment: bit(1), ids: bit(2), darwin: bit(3), custom: bit(4) },
        bytes: bytes.get(..u32::from_le_bytes(*length) as usize)?,
    })
}

fn annotate_bits(annotate: Annotate) -> u16 {
    let Annotate { comment, ids, darwin, custom } = annotate;
    u16::from(comment) | (u16::from(ids) << 1) | (u16::from(darwin) << 2) | (u16::from(custom) << 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(events: &[u8]) -> Vec<Vec<u8>> {
        let mut buffer = Vec::new();
        let annotate = Annotate { comment: true, ids: false, darwin: false, custom: true };
        blocks(&mut buffer, 7, annotate, events);
        let mut bodies = Vec::new();
        let mut rest = buffer.as_slice();
        while let Some((header, _)) = rest.split_first_chunk::<8>() {
            let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
            assert_eq!((header[..4].to_vec(), length % 4), (block::KEPT_EVENTS.to_le_bytes().to_vec(), 0));
            bodies.push(rest[8..length - 4].to_vec());
            rest = &rest[length..];
        }
        bodies
    }

    #[test]
    fn events_are_read_back_as_they_were_written() {
        let bodies = kept(&[1, 2, 3, 4, 5]);
        let annotate = Annotate { comment: true, ids: false, darwin: false, custom: true };
        let expected = Kept { version: 7, goes_on: false, annotate, bytes: &[1, 2, 3, 4, 5] };
        assert_eq!(bodies.iter().map(|body| read(body)).collect::<Vec<_>>(), [Some(expected)]);
    }

    #[test]
    fn many_events_go_on_in_the_next_block() {
        let events = vec![9; 2 * MOST_BYTES + 1];
        let bodies = kept(&events);
        let read: Vec<_> = bodies.iter().map(|body| read(body).unwrap()).collect();
        assert_eq!(read.iter().map(|kept| kept.goes_on).collect::<Vec<_>>(), [true, true, false]);
        let bytes: Vec<u8> = read.iter().flat_map(|kept| kept.bytes).copied().collect();
        assert!(bytes == events);
    }

    #[test]
    fn a_local_block_of_others_is_none_of_ours() {
        assert_eq!(read(b"rec-evtt\x01\0\0\0\0\0\0\0"), None);
        assert_eq!(read(b"rec-evts\x01\0\0\0\xff\xff\xff\xff"), None, "longer than the block");
        assert_eq!(read(b"rec-evts\x01\0"), None);
    }
}
