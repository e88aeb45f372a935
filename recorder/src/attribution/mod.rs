//! Finds the process behind each packet.

pub mod event;
pub mod join;
#[cfg(target_os = "linux")]
pub mod linux;
