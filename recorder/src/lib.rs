//! recorder: every packet, and the process behind it.
//!
//! The rooms, from the ground up; imports run one way, and `tests/tests/rooms.rs` holds it:
//! `cli → pipeline → {source, attribution, pcapng, output, selection, sandbox} → decode → model → shared`.

pub mod attribution;
pub mod cli;
pub mod decode;
pub mod model;
pub mod output;
pub mod pcapng;
pub mod pipeline;
pub mod replay;
#[cfg(target_os = "linux")]
pub mod sandbox;
pub mod selection;
pub mod source;
