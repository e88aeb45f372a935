//! The memory of packet rings: blocks that the kernel and we hand to each other.
//!
//! Receiving (TPACKET_V3) a block belongs to us from the moment its status says so until we write the status back; in between the
//! kernel does not touch it (prb_dispatch_next_block in net/packet/af_packet.c freezes the queue rather than do so). Sending
//! (TPACKET_V2) a block holds one frame, which is ours until we write the status, and again when the kernel has written it back.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};

use super::frame::BLOCK_STATUS;

const STATUS_USER: u32 = 1;
const STATUS_KERNEL: u32 = 0;

/// Where `tpacket2_hdr` has its status.
const FRAME_STATUS: usize = std::mem::offset_of!(libc::tpacket2_hdr, tp_status);

/// The size of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// The size of one block in bytes; a power of two, and whole pages.
    pub(super) block_bytes: usize,
    /// How many blocks there are.
    pub(super) blocks: usize,
}

/// A mapped ring, unmapped when it is dropped.
#[derive(Debug)]
struct Memory {
    address: NonNull<u8>,
    geometry: Geometry,
}

// SAFETY: the mapping is memory that only this value refers to; no thread is special to it.
unsafe impl Send for Memory {}

impl Memory {
    /// Maps the ring that `socket` was given with exactly this geometry.
    fn new(socket: &OwnedFd, geometry: Geometry) -> io::Result<Self> {
        let length = geometry.block_bytes * geometry.blocks;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // Populated now: the pages exist already (the kernel has allocated the ring), and so no packet pays for a fault.
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: no address is asked for, so nothing that is mapped already is replaced.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, socket.as_raw_fd(), 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(address.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { address, geometry })
    }

    /// Where block `index` begins; an index beyond the end comes around.
    #[inline]
    fn start(&self, index: usize) -> NonNull<u8> {
        // Asked for several times per packet: a division, which is slow, only where it is needed.
        let index = if index < self.geometry.blocks { index } else { index % self.geometry.blocks };
        let offset = index * self.geometry.block_bytes;
        // SAFETY: `offset` is that of a block, and the mapping has all blocks.
        unsafe { self.address.add(offset) }
    }

    /// The status of a block, `offset` bytes from its beginning: 0 or 8, so that it is aligned and inside.
    #[inline]
    fn status<const OFFSET: usize>(&self, index: usize) -> &AtomicU32 {
        const { assert!(OFFSET == FRAME_STATUS || OFFSET == BLOCK_STATUS) };
        // SAFETY: the status lies inside the block.
        let address = unsafe { self.start(index).add(OFFSET) };
        // SAFETY: the word is aligned (blocks are multiples of 16 bytes in whole pages) and lives as long as `self`; the kernel
        // and we both access it atomically, and a `&mut` slice over it exists only while `self` is borrowed mutably.
        unsafe { AtomicU32::from_ptr(address.as_ptr().cast()) }
    }

    /// The bytes of a block, which must be ours: the kernel does not touch it until a status is written.
    #[inline]
    fn bytes(&mut self, index: usize) -> &mut [u8] {
        let start = self.start(index).as_ptr();
        // SAFETY: the mapping has `block_bytes` there; the callers in this file have seen by its status that the block is ours, and
        // write the status through `&mut self` only, which they cannot while this borrow lives; there is no other borrow for the
        // same reason.
        unsafe { slice::from_raw_parts_mut(start, self.geometry.block_bytes) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let length = self.geometry.block_bytes * self.geometry.blocks;
        // SAFETY: this is what mmap gave, nothing borrows it any more, and it is unmapped only here. The result is not
        // looked at: it fails only for wrong arguments, and there is nothing left to do.
        unsafe { libc::munmap(self.address.as_ptr().cast(), length) };
    }
}

/// The mapped ring of a socket that receives.
#[derive(Debug)]
pub(super) struct Mapping {
    memory: Memory,
}

impl Mapping {
    /// Maps the ring that `socket` was given with exactly this geometry.
    pub(super) fn new(socket: &OwnedFd, geometry: Geometry) -> io::Result<Self> {
        Ok(Self { memory: Memory::new(socket, geometry)? })
    }

    /// Its size.
    pub(super) const fn geometry(&self) -> Geometry {
        self.memory.geometry
    }

    /// Whether the block belongs to us. Acquire: what the kernel wrote before it handed the block over is seen.
    #[inline]
    pub(super) fn is_ours(&self, index: usize) -> bool {
        self.memory.status::<BLOCK_STATUS>(index).load(Ordering::Acquire) & STATUS_USER != 0
    }

    /// The bytes of a block; none while it belongs to the kernel.
    #[inline]
    pub(super) fn block(&mut self, index: usize) -> Option<&mut [u8]> {
        if !self.is_ours(index) {
            return None;
        }
        Some(self.memory.bytes(index))
    }

    /// Gives a block back. Release: the kernel must not write into it before our last read is done.
    pub(super) fn release(&mut self, index: usize) {
        self.memory.status::<BLOCK_STATUS>(index).store(STATUS_KERNEL, Ordering::Release);
    }
}

/// The mapped ring of a socket that sends; each block is a frame.
#[derive(Debug)]
pub(super) struct SendMapping {
    memory: Memory,
}

impl SendMapping {
    /// Maps the ring that `socket` was given with exactly this geometry.
    pub(super) fn new(socket: &OwnedFd, geometry: Geometry) -> io::Result<Self> {
        Ok(Self { memory: Memory::new(socket, geometry)? })
    }

    /// How many frames there are.
    pub(super) const fn frames(&self) -> usize {
        self.memory.geometry.blocks
    }

    /// What the kernel says of a frame (`TP_STATUS_`). Acquire: it is done reading the frame before it says so.
    #[inline]
    pub(super) fn status(&self, index: usize) -> u32 {
        self.memory.status::<FRAME_STATUS>(index).load(Ordering::Acquire)
    }

    /// The bytes of a frame; none while it waits to be sent, or is being sent.
    #[inline]
    pub(super) fn frame(&mut self, index: usize) -> Option<&mut [u8]> {
        if self.status(index) != libc::TP_STATUS_AVAILABLE {
            return None;
        }
        Some(self.memory.bytes(index))
    }

    /// Hands a frame to the kernel. Release: it must see what we have written.
    #[inline]
    pub(super) fn request(&mut self, index: usize) {
        self.memory.status::<FRAME_STATUS>(index).store(libc::TP_STATUS_SEND_REQUEST, Ordering::Release);
    }
}
