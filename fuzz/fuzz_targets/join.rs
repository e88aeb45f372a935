//! The join against its oracle: a small world of processes and sockets in which these bytes decide what happens, what is lost of
//! what the kernel tells, and how late the rest is. No packet may be given a wrong name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use recorder::attribution::join::play;

fuzz_target!(|bytes: &[u8]| play(bytes));
