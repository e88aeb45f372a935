//! Finds the process behind each packet.
//!
//! The kernel side ([`linux::ebpf`]) tells which process uses which socket and which socket has which flow, as plain
//! values ([`event`]). The join ([`join`]) keeps them as intervals and answers who held a flow at a time. The attributor
//! asks it about both ends of each packet. All that it is told goes through one gate ([`news`]), and can be kept there
//! ([`journal`]).

mod attributor;
mod cgroup_path;
pub mod clock;
pub mod event;
mod fragments;
mod identities;
pub mod join;
pub mod journal;
#[cfg(target_os = "linux")]
pub mod linux;
pub mod log;
mod memo;
pub mod news;
mod process;
pub mod told;
pub mod translations;

pub use attributor::Attributor;

/// Container and unit, for the fuzz target `text`.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn container_and_unit(path: &str) -> (Option<String>, Option<String>) {
    (cgroup_path::container(path), cgroup_path::unit(path))
}
