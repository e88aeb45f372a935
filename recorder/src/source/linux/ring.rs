//! One packet socket with its ring, and the cursor that walks it.
//!
//! The cursor stands on the oldest packet that has not been taken. A block goes back to the kernel when the cursor is
//! moved beyond its last packet, which needs `&mut Ring`: whoever still borrows a packet keeps the block.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::frame::{Frame, Shape, Walk};
use super::mapping::{Geometry, Mapping};
use super::sys;
use crate::model::{LinkType, RealTime};

/// How long the kernel keeps an unfilled block before it hands it over, in milliseconds.
const RETIRE_MS: u32 = 10;

/// The kernel wants frame sizes even for version 3, where frames have none; only the products must fit.
const FRAME_BYTES: usize = 2048;

const LARGEST_BLOCK: usize = 256 << 10;
/// The smallest one: a loopback packet of 64 KiB must fit with its headers.
const SMALLEST_BLOCK: usize = 128 << 10;
const FEWEST_BLOCKS: usize = 2;

/// How to open a ring.
#[derive(Debug)]
pub(super) struct RingOptions<'a> {
    /// The interface to bind to; 0 for all.
    pub(super) ifindex: i32,
    pub(super) buffer_bytes: usize,
    pub(super) promiscuous: bool,
    /// Whether outgoing packets are wanted; not so on the loopback interface, where each comes in as well.
    pub(super) outgoing: bool,
    pub(super) filter: &'a [libc::sock_filter],
}

/// What opening found out.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The kernel does not take this filter: it is too long, or takes more memory than it allows.
    Filter,
    /// Anything else: the step, and the answer.
    Other(&'static str, io::Error),
}

/// Shorthand: an error with the step that it came from.
fn at(step: &'static str) -> impl Fn(io::Error) -> Refusal {
    move |error| Refusal::Other(step, error)
}

/// A socket, its ring and the cursor.
#[derive(Debug)]
pub(super) struct Ring {
    socket: OwnedFd,
    mapping: Mapping,
    current: usize,
    walk: Option<Walk>,
    /// The time of the oldest packet. The rest of its frame is read when it is taken: kept here, it would be written and
    /// read back once per packet, in pieces of other sizes, which is what processors are slow at.
    head: Option<RealTime>,
    received: u64,
    dropped: u64,
    damaged: u64,
}

impl Ring {
    /// Opens a ring; from its return on every packet that passes the filter is in the ring or counted as dropped.
    pub(super) fn open(options: &RingOptions<'_>) -> Result<Self, Refusal> {
        // Protocol 0 keeps the socket deaf until the ring and the filter are in place; binding turns it on. Otherwise
        // unfiltered packets could arrive first, and be lost besides. See packet(7).
        let socket = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0).map_err(at("packet socket"))?;
        let set = |name, value| sys::set_number(&socket, libc::SOL_PACKET, name, value);
        set(libc::PACKET_VERSION, libc::tpacket_versions::TPACKET_V3 as i32).map_err(at("TPACKET_V3"))?;
        // Room in front of each packet for the VLAN tag that the kernel took out, as libpcap does.
        set(libc::PACKET_RESERVE, 4).map_err(at("PACKET_RESERVE"))?;
        if !options.outgoing {
            // Since Linux 4.20; saves the kernel a copy. Where it is refused the filter does the same.
            let _ = set(libc::PACKET_IGNORE_OUTGOING, 1);
        }
        let geometry = geometry(options.buffer_bytes);
        sys::set_ring(&socket, &request(geometry)).map_err(at("packet ring"))?;
        let mapping = Mapping::new(&socket, geometry).map_err(at("packet ring"))?;
        set_filter(&socket, options.filter)?;
        if options.promiscuous && options.ifindex != 0 {
            sys::set_promiscuous(&socket, options.ifindex).map_err(at("promiscuous mode"))?;
        }
        sys::bind_packet(&socket, options.ifindex, libc::ETH_P_ALL).map_err(at("bind"))?;
        Ok(Self { socket, mapping, current: 0, walk: None, head: None, received: 0, dropped: 0, damaged: 0 })
    }

    /// Lets nothing further in. What is in the ring stays.
    pub(super) fn stop(&self) -> io::Result<()> {
        sys::set_filter(
            &self.socket,
            &[libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 }],
        )
    }

    /// The time of the oldest packet that has not been taken; none while the kernel has the block.
    ///
    /// Gives the block behind the cursor back when its last packet has been taken.
    #[inline]
    pub(super) fn head(&mut self) -> Option<RealTime> {
        if self.head.is_none() {
            self.advance();
        }
        self.head
    }

    #[inline]
    fn advance(&mut self) {
        while self.head.is_none() {
            let Some(block) = self.mapping.block(self.current) else { return };
            let walk = match self.walk {
                Some(walk) => walk,
                None => match Walk::begin(block) {
                    Ok(walk) => walk,
                    Err(damage) => return self.give_up_block(damage.lost),
                },
            };
            match walk.frame(block) {
                Ok(Some(frame)) => {
                    self.walk = Some(walk);
                    self.head = Some(frame.time);
                }
                Ok(None) => self.release(),
                Err(damage) => return self.give_up_block(damage.lost),
            }
        }
    }

    /// A block without sense counts as one loss at least.
    #[cold]
    fn give_up_block(&mut self, lost: u32) {
        self.damaged += u64::from(lost.max(1));
        self.release();
    }

    #[cold]
    fn release(&mut self) {
        self.mapping.release(self.current);
        self.current = (self.current + 1) % self.mapping.geometry().blocks;
        self.walk = None;
    }

    /// The frame under the cursor, after `head` has found one.
    #[inline]
    pub(super) fn frame(&mut self) -> Option<Frame> {
        let block = self.mapping.block(self.current)?;
        self.walk?.frame(block).ok()?
    }

    /// Takes the packet under the cursor, brought into the form of `link_type`. Its block stays until the next `head`.
    #[inline]
    pub(super) fn take(&mut self, frame: &Frame, link_type: LinkType) -> Option<Shape> {
        self.head = None;
        let block = self.mapping.block(self.current)?;
        let shape = frame.shape(block, link_type);
        let step = self.walk.as_mut()?.step(block);
        self.damaged +=
            u64::from(shape.is_none()) + step.map_or_else(|damage| u64::from(damage.lost), |()| 0);
        shape
    }

    /// Bytes of the block of the packet that was taken last.
    #[inline]
    pub(super) fn bytes(&mut self, range: Range<usize>) -> Option<&[u8]> {
        self.mapping.block(self.current)?.get(range)
    }

    /// Whether a block is ours that still has packets to take.
    pub(super) fn is_holding(&self) -> bool {
        self.mapping.is_ours(self.current)
    }

    /// How many blocks are ours. They follow each other from the cursor on, so halving finds the first that is not.
    pub(super) fn blocks_held(&self) -> (usize, usize) {
        let blocks = self.mapping.geometry().blocks;
        let (mut held, mut beyond) = (0, blocks);
        while held < beyond {
            let middle = held + (beyond - held) / 2;
            if self.mapping.is_ours(self.current + middle) {
                held = middle + 1;
            } else {
                beyond = middle;
            }
        }
        (held, blocks)
    }

    /// Brings the totals up to date; the kernel's own begin at 0 after each reading.
    pub(super) fn update_totals(&mut self) -> io::Result<()> {
        let (received, dropped) = sys::take_statistics(&self.socket)?;
        self.received += u64::from(received);
        self.dropped += u64::from(dropped);
        Ok(())
    }

    /// Packets that passed the kernel's filter, dropped ones included, at the last update.
    pub(super) const fn received(&self) -> u64 {
        self.received
    }

    /// Packets dropped because the ring was full, at the last update.
    pub(super) const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Packets lost to damage.
    pub(super) const fn damaged(&self) -> u64 {
        self.damaged
    }

    /// The descriptor to wait for.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads and clears the error that poll reports (ENETDOWN when the interface goes down), or poll would return at once
    /// for ever.
    pub(super) fn clear_error(&self) {
        let _ = sys::take_error(&self.socket);
    }
}

fn set_filter(socket: &OwnedFd, filter: &[libc::sock_filter]) -> Result<(), Refusal> {
    match sys::set_filter(socket, filter) {
        Ok(()) => Ok(()),
        // EINVAL: more than 4096 instructions. ENOMEM: more than net.core.optmem_max, which was 20 KiB for long, and is
        // reached with some hundred instructions.
        Err(error) => match error.kind() {
            io::ErrorKind::InvalidInput | io::ErrorKind::OutOfMemory => Err(Refusal::Filter),
            _ => Err(Refusal::Other("filter", error)),
        },
    }
}

/// Blocks large enough to be handed over rarely, small enough that many are left while some wait for their owners:
/// the kernel hands a block over after 10 to 20 ms even if it is nearly empty, so at low rates a ring lasts its number of
/// blocks times that (64 MiB: some 4 s), whatever its size.
fn geometry(buffer_bytes: usize) -> Geometry {
    let block_bytes =
        (buffer_bytes / 16).clamp(1, LARGEST_BLOCK).next_power_of_two().clamp(SMALLEST_BLOCK, LARGEST_BLOCK);
    Geometry { block_bytes, blocks: (buffer_bytes / block_bytes).max(FEWEST_BLOCKS) }
}

fn request(geometry: Geometry) -> libc::tpacket_req3 {
    let Geometry { block_bytes, blocks } = geometry;
    libc::tpacket_req3 {
        tp_block_size: block_bytes as u32,
        tp_block_nr: blocks as u32,
        tp_frame_size: FRAME_BYTES as u32,
        tp_frame_nr: (block_bytes / FRAME_BYTES * blocks) as u32,
        tp_retire_blk_tov: RETIRE_MS,
        tp_sizeof_priv: 0,
        tp_feature_req_word: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_small_only_where_the_ring_is() {
        let sizes = |mib: usize| {
            let Geometry { block_bytes, blocks } = geometry(mib << 20);
            (block_bytes >> 10, blocks)
        };
        assert_eq!(sizes(0), (128, 2));
        assert_eq!(sizes(1), (128, 8));
        assert_eq!(sizes(4), (256, 16));
        assert_eq!(sizes(64), (256, 256));
        assert_eq!(sizes(1024), (256, 4096));
    }
}
