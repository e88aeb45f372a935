//! Where a file can end that can be written to no further: behind a whole block, with room for what stands at the end of a file.

use super::block;

/// What is given up of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Where the file is to end: so many bytes from its beginning, behind a whole block. 0 if not even its first block is whole.
    pub at: u64,
    /// Packets that are given up, by the number of their interface in the file.
    pub packets: Vec<u64>,
    /// How many interfaces are given up: the last ones.
    pub(super) interfaces: usize,
}

/// A block that we wrote.
#[derive(Clone, Copy, Debug)]
struct Placed {
    /// Where it ends in the file.
    end: u64,
    kind: u32,
    /// The first word of its body: of a packet, its interface.
    first: u32,
}

/// Finds the place. A block begins at byte `boundary`: `before` is what stands in the file right before it, `gathered` what was to be
/// written from there on, and the first `arrived` bytes of all that are in the file. `room` bytes are wanted.
pub(super) fn find(before: &[u8], gathered: &[u8], boundary: u64, arrived: u64, room: u64) -> Cut {
    let mut blocks = backwards(before, boundary);
    blocks.extend(forwards(gathered, boundary));
    // What follows is the end of a file that did not come through.
    blocks.truncate(blocks.iter().position(is_statistics).unwrap_or(blocks.len()));
    let ends = || blocks.iter().map(|placed| placed.end).chain([boundary]);
    let last = |most: u64| ends().filter(|end| *end > 0 && *end <= most).max();
    let at = last(arrived.saturating_sub(room)).or_else(|| last(arrived)).unwrap_or(0);
    let mut cut = Cut { at, ..Cut::default() };
    for placed in blocks.iter().filter(|placed| placed.end > at) {
        match placed.kind {
            block::ENHANCED_PACKET => {
                let interface = placed.first as usize;
                if cut.packets.len() <= interface {
                    cut.packets.resize(interface + 1, 0);
                }
                cut.packets[interface] += 1;
            }
            block::INTERFACE_DESCRIPTION => cut.interfaces += 1,
            _ => {}
        }
    }
    cut
}

const fn is_statistics(placed: &Placed) -> bool {
    placed.kind == block::INTERFACE_STATISTICS
}

/// The blocks of which these bytes are the end, the oldest first: each tells its length in its last word, too.
fn backwards(bytes: &[u8], end: u64) -> Vec<Placed> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while let Some(length) = rest.last_chunk().map(|word| u32::from_le_bytes(*word) as usize)
        && let Some(start) = rest.len().checked_sub(length)
        && let Some(placed) = placed(&rest[start..], end - (bytes.len() - rest.len()) as u64)
    {
        found.push(placed);
        rest = &rest[..start];
    }
    found.reverse();
    found
}

/// The blocks with which these bytes begin.
fn forwards(bytes: &[u8], start: u64) -> Vec<Placed> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while let Some(length) = word(rest, 4)
        && let Some((whole, after)) = rest.split_at_checked(length as usize)
        && let Some(placed) = placed(whole, start + (bytes.len() - after.len()) as u64)
    {
        found.push(placed);
        rest = after;
    }
    found
}

/// A whole block that ends there; nothing if the bytes are none.
fn placed(whole: &[u8], end: u64) -> Option<Placed> {
    (whole.len() >= 12).then_some(Placed { end, kind: word(whole, 0)?, first: word(whole, 8)? })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block of 16 bytes.
    fn small(kind: u32, first: u32) -> Vec<u8> {
        [kind, 16, first, 16].iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn packets(count: u32) -> Vec<u8> {
        (0..count).flat_map(|number| small(block::ENHANCED_PACKET, number % 2)).collect()
    }

    #[test]
    fn a_file_ends_behind_the_last_block_that_arrived_whole() {
        let gathered = packets(4);
        for (arrived, at, lost) in
            [(64, 64, vec![]), (63, 48, vec![0, 1]), (48, 48, vec![0, 1]), (15, 0, vec![2, 2])]
        {
            let cut = find(&[], &gathered, 0, arrived, 0);
            assert_eq!((cut.at, cut.packets), (at, lost), "{arrived} bytes arrived");
        }
    }

    #[test]
    fn room_is_made_where_there_is_some_also_in_what_was_written_before() {
        let (before, gathered) = (packets(6), packets(4));
        // They stand behind 1000 other bytes.
        let cut = |room| find(&before, &gathered, 1096, 1096 + 20, room).at;
        assert_eq!(cut(0), 1112);
        assert_eq!(cut(4), 1112);
        assert_eq!(cut(5), 1096);
        assert_eq!(cut(60), 1048);
        assert_eq!(find(&before, &gathered, 1096, 1116, 60).packets, [3, 4]);
        // More than can be seen: then nothing but what is cut within a block.
        assert_eq!(cut(5000), 1112);
    }

    #[test]
    fn no_counters_stay_that_were_to_be_the_end() {
        let gathered = [packets(2), small(block::INTERFACE_STATISTICS, 0)].concat();
        assert_eq!(find(&[], &gathered, 0, 48, 0), Cut { at: 32, ..Cut::default() });
    }

    #[test]
    fn interfaces_that_are_given_up_are_counted() {
        let gathered = [packets(1), small(block::INTERFACE_DESCRIPTION, 0), packets(1)].concat();
        let cut = find(&[], &gathered, 500, 516, 0);
        assert_eq!(cut, Cut { at: 516, packets: vec![1], interfaces: 1 });
    }

    #[test]
    fn bytes_that_are_no_blocks_are_looked_at_no_further() {
        for bytes in [vec![], vec![0; 3], vec![0; 64], vec![0xff; 64]] {
            assert_eq!(find(&bytes, &bytes, 100, 120, 0), Cut { at: 100, ..Cut::default() });
        }
    }
}
