//! The option lists that packets end with, encoded once for each distinct owner and direction.
//!
//! A fixed number of slots, each at the place that a hash of its key gives; a newcomer replaces what lies
//! there, and takes over its memory. So it is bounded, and an unlucky pair of keys costs time but nothing
//! else.

use crate::model::{Attribution, Direction, Owner, Reception};

/// Far more than the threads that use sockets at the same time on most hosts.
const SLOTS: usize = 4096;

/// What the option list of a packet depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// The process indexes of sender and receiver; `NOBODY` if unknown.
    sender: u32,
    receiver: u32,
    /// The thread that option 8 tells: of the sender if known, else of the receiver.
    tid: u32,
    /// Direction, reception, and whether both ends are local.
    bits: u32,
}

/// No process: a table with so many does not fit into memory.
const NOBODY: u32 = u32::MAX;

impl Key {
    #[inline]
    pub(super) fn new(attribution: &Attribution, direction: Direction, reception: Reception) -> Self {
        let bits = direction as u32 | (reception as u32) << 8;
        match *attribution {
            Attribution::Unknown(_) => Self { sender: NOBODY, receiver: NOBODY, tid: 0, bits },
            Attribution::Known { sender, receiver, both_local, found: _ } => {
                let index = |owner: Option<Owner>| owner.map_or(NOBODY, |owner| owner.process.0);
                Self {
                    sender: index(sender),
                    receiver: index(receiver),
                    tid: sender.or(receiver).map_or(0, |owner| owner.tid),
                    bits: bits | u32::from(both_local) << 16,
                }
            }
        }
    }

    #[inline]
    fn slot(&self) -> usize {
        let low = u64::from(self.sender) | u64::from(self.receiver) << 32;
        let high = u64::from(self.tid) | u64::from(self.bits) << 32;
        // Multiplying by 2^64 divided by the golden ratio spreads neighbours; the upper bits are the good
        // ones.
        let hash = (low ^ high.rotate_left(23)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (hash >> (64 - SLOTS.trailing_zeros())) as usize
    }
}

/// The encoded option lists.
#[derive(Debug)]
pub(super) struct Suffixes {
    keys: Vec<Option<Key>>,
    suffixes: Vec<Vec<u8>>,
    /// The key and the slot that were used last: packets come in trains.
    last: Option<(Key, usize)>,
}

impl Default for Suffixes {
    fn default() -> Self {
        Self { keys: vec![None; SLOTS], suffixes: vec![Vec::new(); SLOTS], last: None }
    }
}

impl Suffixes {
    /// The slot of the list for this key, if it is there.
    #[inline]
    pub(super) fn find(&mut self, key: &Key) -> Option<usize> {
        if let Some((last, slot)) = &self.last
            && last == key
        {
            return Some(*slot);
        }
        let slot = key.slot();
        if self.keys[slot] != Some(*key) {
            return None;
        }
        self.last = Some((*key, slot));
        Some(slot)
    }

    /// The list in this slot.
    #[inline]
    pub(super) fn get(&self, slot: usize) -> &[u8] {
        &self.suffixes[slot]
    }

    /// An empty list for this key, and its slot.
    pub(super) fn replace(&mut self, key: Key) -> (usize, &mut Vec<u8>) {
        let slot = key.slot();
        self.keys[slot] = Some(key);
        self.last = Some((key, slot));
        let suffix = &mut self.suffixes[slot];
        suffix.clear();
        (slot, suffix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Found, ProcessIndex};

    fn key(process: u32, tid: u32) -> Key {
        let owner = Owner { process: ProcessIndex(process), tid };
        let attribution = Attribution::Known {
            sender: Some(owner),
            receiver: None,
            both_local: false,
            found: Found::Socket,
        };
        Key::new(&attribution, Direction::Outbound, Reception::Unknown)
    }

    #[test]
    fn it_never_grows_and_never_gives_the_list_of_another() {
        let mut suffixes = Suffixes::default();
        for process in 0..10 * SLOTS as u32 {
            assert_eq!(suffixes.find(&key(process, 0)), None);
            suffixes.replace(key(process, 0)).1.extend(process.to_le_bytes());
            let slot = suffixes.find(&key(process, 0)).unwrap();
            assert_eq!(suffixes.get(slot), process.to_le_bytes());
        }
        assert_eq!(suffixes.suffixes.len(), SLOTS);
        let mut kept = 0;
        for process in 0..10 * SLOTS as u32 {
            if let Some(slot) = suffixes.find(&key(process, 0)) {
                assert_eq!(suffixes.get(slot), process.to_le_bytes());
                kept += 1;
            }
        }
        assert!(kept > SLOTS / 2, "the hash spreads: {kept} of {SLOTS} slots are used");
    }

    #[test]
    fn small_keys_seldom_meet() {
        let mut slots: Vec<usize> =
            (0..32).flat_map(|process| (0..16).map(move |tid| key(process, 1000 + tid).slot())).collect();
        slots.sort_unstable();
        slots.dedup();
        assert!(slots.len() > 420, "{} distinct slots for 512 keys", slots.len());
    }
}
