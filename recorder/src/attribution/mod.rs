//! Finds the process behind each packet.
//!
//! The kernel side ([`linux::ebpf`]) tells which process uses which socket and which socket has which flow, as plain
//! values ([`event`]). The join ([`join`]) keeps them as intervals and answers who held a flow at a time. The attributor
//! asks it about both ends of each packet.

#[cfg(target_os = "linux")]
mod attributor;
pub mod event;
mod fragments;
#[cfg(target_os = "linux")]
mod identities;
pub mod join;
#[cfg(target_os = "linux")]
pub mod linux;
pub mod log;
#[cfg(target_os = "linux")]
mod memo;
pub mod told;

#[cfg(target_os = "linux")]
pub use attributor::{Attributor, Context};
