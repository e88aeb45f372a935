//! The plain values that all rooms share: packets, interfaces, flows, processes, times, counts.
//!
//! Nothing here touches a file, a socket or a clock, and nothing here knows a byte layout.

mod attribution;
mod flow;
mod packet;
mod process;
mod statistics;
mod time;

pub use attribution::{Attribution, Found, Owner, Reason};
pub use flow::{Endpoint, Flow, Protocol};
pub use packet::{Direction, Interface, InterfaceId, LinkType, Packet, Reception};
pub use process::{CommandLine, Process, ProcessIndex, ProcessKey, ProcessTable, Renumbering};
pub use statistics::{AttributionCounts, InterfaceCounts, Statistics};
pub use time::{MonoTime, RealTime};
