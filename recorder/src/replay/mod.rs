//! Recorded packets once more: sent on an interface with their timing, or given to code that expects a live capture.
//!
//! **Sending.** A [`Schedule`] says when each packet is due, a [`Shaper`] brings it into the form that the interface takes, and `play`
//! (on Linux) sends it. Reading runs ahead in a thread of its own, so that a slow disk or a compressed file delays no packet.
//!
//! **In a test.** [`Source`] has the same face as a live `Capture`, which is the trait [`Packets`](crate::source::Packets). Code that is
//! written for that is fed a recording:
//!
//! ```
//! use std::fs::File;
//! use std::time::Duration;
//!
//! use recorder::model::RealTime;
//! use recorder::pcapng::Reader;
//! use recorder::replay::{Pace, Source};
//! use recorder::source::Packets;
//!
//! /// The code under test: counts bytes until no more can come.
//! fn bytes(packets: &mut impl Packets) -> std::io::Result<u64> {
//!     let mut bytes = 0;
//!     while !packets.is_over() {
//!         packets.wait(Duration::from_millis(100))?;
//!         while let Some(arrival) = packets.next(RealTime::from_ns(u64::MAX)) {
//!             bytes += u64::from(arrival.packet.original_length);
//!         }
//!     }
//!     Ok(bytes)
//! }
//!
//! let recording = File::open("../samples/loopback.pcapng")?;
//! // As fast as it is taken, for the test need not last as long as the recording did.
//! let mut source = Source::new(Reader::new(recording)?, Pace::TopSpeed);
//! assert_eq!(bytes(&mut source)?, 893);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod batch;
mod pace;
#[cfg(target_os = "linux")]
mod player;
mod source;

pub use batch::{Batch, Prepared, Shaper};
pub use pace::{Pace, Schedule};
#[cfg(target_os = "linux")]
pub use player::{Played, Report, Sink, play};
pub use source::Source;
