//! How owners are learnt on Linux.

pub mod conntrack;
pub mod ebpf;
pub mod process;
pub mod procfs;

use std::os::unix::fs::MetadataExt;

use super::event::NetNs;
use crate::model::{MonoTime, RealTime};

pub(crate) use ebpf::sys::clock_ns;

/// How far apart two readings of a clock are at most that nothing came between.
const UNDISTURBED_NS: u64 = 2_000;
/// How often the clocks are read until nothing comes between.
const READINGS: usize = 10;

/// CLOCK_REALTIME and CLOCK_MONOTONIC at one moment, as near as calls can be: the best of some readings, because an
/// interrupt between two calls would put the packets of a whole round at wrong times.
pub fn now() -> (RealTime, MonoTime) {
    let mut best = read_clocks();
    for _ in 1..READINGS {
        if best.0 <= UNDISTURBED_NS {
            break;
        }
        best = best.min(read_clocks());
    }
    let (_, real, mono) = best;
    (real, mono)
}

/// Both clocks, and within how many nanoseconds they were read.
fn read_clocks() -> (u64, RealTime, MonoTime) {
    let before = clock_ns(libc::CLOCK_MONOTONIC);
    let real = clock_ns(libc::CLOCK_REALTIME);
    let after = clock_ns(libc::CLOCK_MONOTONIC);
    (after.saturating_sub(before), RealTime::from_ns(real), MonoTime::from_ns(before.midpoint(after)))
}

/// The network namespace of this process; 0 (unknown) if /proc is not there.
pub fn own_netns() -> NetNs {
    let inode = std::fs::metadata("/proc/self/ns/net").map_or(0, |metadata| metadata.ino());
    NetNs(u32::try_from(inode).unwrap_or(0))
}
