//! How owners are learnt on Linux.

pub mod ebpf;
pub mod process;
pub mod procfs;

use std::os::unix::fs::MetadataExt;

use super::event::NetNs;
use crate::model::{MonoTime, RealTime};

pub(crate) use ebpf::sys::clock_ns;

/// CLOCK_REALTIME and CLOCK_MONOTONIC at one moment, as near as two calls can be.
pub fn now() -> (RealTime, MonoTime) {
    let before = clock_ns(libc::CLOCK_MONOTONIC);
    let real = clock_ns(libc::CLOCK_REALTIME);
    let after = clock_ns(libc::CLOCK_MONOTONIC);
    (RealTime::from_ns(real), MonoTime::from_ns(before.midpoint(after)))
}

/// The network namespace of this process; 0 (unknown) if /proc is not there.
pub fn own_netns() -> NetNs {
    let inode = std::fs::metadata("/proc/self/ns/net").map_or(0, |metadata| metadata.ino());
    NetNs(u32::try_from(inode).unwrap_or(0))
}
