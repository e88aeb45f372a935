//! The clocks of a machine. Setting one is for machines that a test has made itself.

use std::time::Duration;

use crate::sys;

/// A variable that programs of traffic look for: their truth is on CLOCK_BOOTTIME then, which nobody can set.
pub const BOOT_TIME: &str = "TRUTH_BY_BOOT_TIME";

/// How often both clocks are read, so that once nothing comes between.
const READINGS: usize = 10;

/// Since the machine was started, with the time that it slept.
pub fn boot() -> Duration {
    sys::clock(libc::CLOCK_BOOTTIME)
}

/// The same without the time that it slept.
pub fn awake() -> Duration {
    sys::clock(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds from [`boot`] to the time of day.
pub fn offset_ns() -> i64 {
    let reading = |_| {
        let (before, real, after) = (boot(), sys::clock(libc::CLOCK_REALTIME), boot());
        let offset_ns = real.as_nanos() as i64 - (before + after).as_nanos() as i64 / 2;
        (after - before, offset_ns)
    };
    (0..READINGS).map(reading).min().map_or(0, |(_, offset_ns)| offset_ns)
}

/// Sets the time of day forward, or back. It is everybody's: see to it that the machine is not.
pub fn step(seconds: i64) {
    let now = sys::clock(libc::CLOCK_REALTIME);
    let by = Duration::from_secs(seconds.unsigned_abs());
    sys::set_real_time(if seconds < 0 { now - by } else { now + by });
}
