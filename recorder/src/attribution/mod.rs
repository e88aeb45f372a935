//! Finds the process behind each packet.

pub mod event;
#[cfg(target_os = "linux")]
pub mod linux;
