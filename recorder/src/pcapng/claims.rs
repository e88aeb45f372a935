//! What the options of a packet say about it, and a memory of that: packets of one process and direction have the same
//! options, byte for byte.

use super::annotation::{self, Line};
use super::foreign::{self, Foreign};
use super::option as code;
use super::process::{Options, number};
use crate::model::{Attribution, Direction, Reason, Reception};

/// What the options of one packet say about its owners.
#[derive(Debug, Default)]
pub(super) struct Claim {
    /// The comment.
    pub(super) line: Option<Line>,
    /// Option 8: process and thread.
    pub(super) ids: Option<(u32, u32)>,
    /// Option 0x8001.
    pub(super) darwin: Option<u32>,
    /// The comments of another program.
    pub(super) foreign: Option<Foreign>,
}

/// What the options of one packet say in the end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) direction: Direction,
    pub(super) reception: Reception,
    pub(super) attribution: Attribution,
}

impl Told {
    /// What a packet without options says.
    pub(super) const NOTHING: Self = Self {
        direction: Direction::Unknown,
        reception: Reception::Unknown,
        attribution: Attribution::Unknown(Reason::Off),
    };
}

/// The options of a packet.
pub(super) fn read(options: &[u8], is_big_endian: bool) -> (Direction, Reception, Claim) {
    let (mut direction, mut reception) = (Direction::Unknown, Reception::Unknown);
    let mut claim = Claim::default();
    for (option, value) in Options::new(options, is_big_endian) {
        match (option, value) {
            (code::COMMENT, _) => read_comment(value, &mut claim),
            (code::EPB_FLAGS, &[a, b, c, d]) => {
                (direction, reception) = flags(number([a, b, c, d], is_big_endian));
            }
            (code::EPB_PROCESSID_THREADID, &[a, b, c, d, e, f, g, h]) => {
                let pid = number([a, b, c, d], is_big_endian);
                let tid = number([e, f, g, h], is_big_endian);
                // The draft: 0 stands for "not known".
                claim.ids = (pid != 0).then_some((pid, tid));
            }
            (code::EPB_DARWIN_PROCESS, &[a, b, c, d]) => {
                claim.darwin = Some(number([a, b, c, d], is_big_endian));
            }
            _ => {}
        }
    }
    if let (Direction::Unknown, Some(foreign)) = (direction, &claim.foreign) {
        direction = foreign.direction;
    }
    (direction, reception, claim)
}

/// Others comment too, before or after ours; the first that is one of ours counts. One of ours is nobody else's, whatever the
/// name in it looks like.
fn read_comment(value: &[u8], claim: &mut Claim) {
    let Ok(comment) = std::str::from_utf8(value) else { return };
    match annotation::parse(comment) {
        Some(line) => _ = claim.line.get_or_insert(line),
        None if annotation::parse_effective(comment).is_some() => {}
        None => foreign::read(comment, &mut claim.foreign),
    }
}

fn flags(flags: u32) -> (Direction, Reception) {
    let direction = match flags & 3 {
        1 => Direction::Inbound,
        2 => Direction::Outbound,
        _ => Direction::Unknown,
    };
    let reception = match flags >> 2 & 7 {
        1 => Reception::Unicast,
        2 => Reception::Multicast,
        3 => Reception::Broadcast,
        4 => Reception::Promiscuous,
        _ => Reception::Unknown,
    };
    (direction, reception)
}

/// Remembers what options say, for as long as no record of a process comes between. Bounded: a place for each value of a
/// hash, where the last one stays.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// None as long as there are no options.
    places: Vec<Place>,
    /// Counts how often all was forgotten.
    generation: u64,
}

#[derive(Clone, Debug)]
struct Place {
    generation: u64,
    options: Vec<u8>,
    told: Told,
}

impl Memory {
    const PLACES: usize = 4096;
    /// The longest list of options that is remembered, in bytes: 4 MiB for all.
    const LONGEST: usize = 1024;

    /// What these options say, if that is remembered.
    #[inline]
    pub(super) fn get(&self, options: &[u8]) -> Option<Told> {
        let place = self.places.get(index(options))?;
        let is_it = place.generation == self.generation && place.options == options;
        is_it.then_some(place.told)
    }

    pub(super) fn put(&mut self, options: &[u8], told: Told) {
        if options.len() > Self::LONGEST {
            return;
        }
        if self.places.is_empty() {
            self.generation += 1;
            let free = Place { generation: 0, options: Vec::new(), told: Told::NOTHING };
            self.places = vec![free; Self::PLACES];
        }
        let Some(place) = self.places.get_mut(index(options)) else { return };
        place.generation = self.generation;
        place.options.clear();
        place.options.extend_from_slice(options);
        place.told = told;
    }

    /// From now on the same options may say something else.
    pub(super) fn forget(&mut self) {
        self.generation += 1;
    }
}

/// Eight bytes at a time, multiplied by 2^64 divided by the golden ratio and folded; whoever makes them collide costs himself
/// time, and nothing else.
#[inline]
fn index(options: &[u8]) -> usize {
    const FACTOR: u128 = 0x9e37_79b9_7f4a_7c15;
    let fold = |hash: u64, word: u64| {
        let product = u128::from(hash.rotate_left(23) ^ word) * FACTOR;
        (product >> 64) as u64 ^ product as u64
    };
    let (words, rest) = options.as_chunks::<8>();
    let hash = rest.iter().fold(options.len() as u64, |hash, byte| hash << 8 | u64::from(*byte));
    let hash = words.iter().fold(hash, |hash, word| fold(hash, u64::from_le_bytes(*word)));
    fold(hash, 0) as usize % Memory::PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_looks_like_the_comment_of_another_program_says_nothing_of_another_process_or_direction() {
        for name in ["PID=1 TID=2", "PID=1 TID=2 x", "rustnet process=a pid=1 x", "proc a:1, in, x"] {
            let name = name.as_bytes();
            for comment in [
                annotation::one(name, 42),
                annotation::two(Some((name, 42)), None),
                annotation::effective(name, 42),
            ] {
                let mut options =
                    [code::COMMENT.to_le_bytes(), (comment.len() as u16).to_le_bytes()].concat();
                options.extend(comment.as_bytes());
                options.resize(options.len().next_multiple_of(4) + 4, 0);
                let (direction, _, claim) = read(&options, false);
                assert_eq!((direction, &claim.foreign), (Direction::Unknown, &None), "{comment}");
                assert_eq!(claim.line, annotation::parse(&comment), "{comment}");
            }
        }
    }

    #[test]
    fn the_options_of_some_processes_seldom_share_a_place() {
        let mut places = std::collections::HashSet::new();
        for pid in 0..400_u32 {
            let mut options = annotation::one(b"curl", pid).into_bytes();
            options.extend(pid.to_le_bytes());
            options.resize(options.len().next_multiple_of(4) + 8, 0);
            places.insert(index(&options));
        }
        // 400 stones thrown at 4096 places hit some 381.
        assert!(places.len() > 360, "{}", places.len());
    }
}
