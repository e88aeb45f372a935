//! The memory of a TPACKET_V3 ring: blocks that the kernel and we hand to each other.
//!
//! A block belongs to us from the moment its status says so until we write the status back; in between the kernel
//! does not touch it (prb_dispatch_next_block in net/packet/af_packet.c freezes the queue rather than do so).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};

use super::frame::BLOCK_STATUS;

const STATUS_USER: u32 = 1;
const STATUS_KERNEL: u32 = 0;

/// The size of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// The size of one block in bytes; a power of two, and whole pages.
    pub(super) block_bytes: usize,
    /// How many blocks there are.
    pub(super) blocks: usize,
}

/// The mapped ring of one socket.
#[derive(Debug)]
pub(super) struct Mapping {
    address: NonNull<u8>,
    geometry: Geometry,
}

// SAFETY: the mapping is memory that only this value refers to; no thread is special to it.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps the ring that `socket` was given with exactly this geometry.
    pub(super) fn new(socket: &OwnedFd, geometry: Geometry) -> io::Result<Self> {
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

    /// Its size.
    pub(super) const fn geometry(&self) -> Geometry {
        self.geometry
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

    #[inline]
    fn status(&self, index: usize) -> &AtomicU32 {
        // SAFETY: the status lies inside the block.
        let address = unsafe { self.start(index).add(BLOCK_STATUS) };
        // SAFETY: the word is aligned (blocks are whole pages) and lives as long as `self`; the kernel and we both access
        // it atomically, and a `&mut` slice over it exists only while `self` is borrowed mutably.
        unsafe { AtomicU32::from_ptr(address.as_ptr().cast()) }
    }

    /// Whether the block belongs to us. Acquire: what the kernel wrote before it handed the block over is seen.
    #[inline]
    pub(super) fn is_ours(&self, index: usize) -> bool {
        self.status(index).load(Ordering::Acquire) & STATUS_USER != 0
    }

    /// The bytes of a block; none while it belongs to the kernel.
    #[inline]
    pub(super) fn block(&mut self, index: usize) -> Option<&mut [u8]> {
        if !self.is_ours(index) {
            return None;
        }
        let start = self.start(index).as_ptr();
        // SAFETY: the mapping has `block_bytes` there, the block is ours until `release`, which needs `&mut self` and so
        // cannot be called while this borrow lives, and there is no other borrow for the same reason.
        Some(unsafe { slice::from_raw_parts_mut(start, self.geometry.block_bytes) })
    }

    /// Gives a block back. Release: the kernel must not write into it before our last read is done.
    pub(super) fn release(&mut self, index: usize) {
        self.status(index).store(STATUS_KERNEL, Ordering::Release);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let length = self.geometry.block_bytes * self.geometry.blocks;
        // SAFETY: this is what mmap gave, nothing borrows it any more, and it is unmapped only here. The result is not
        // looked at: it fails only for wrong arguments, and there is nothing left to do.
        unsafe { libc::munmap(self.address.as_ptr().cast(), length) };
    }
}
