//! What the attribution is told: all that its answers depend on besides the packets themselves.
//!
//! There is no other way in, so that a recording that keeps its news (`journal.rs`) can be attributed again, offline, with the
//! same answers.

use std::net::IpAddr;

use super::clock::ClockOffset;
use super::event::{Event, NetNs, Scan};
use crate::model::{Flow, MonoTime, RealTime};

/// What the attribution begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The network namespace in which packets are captured.
    pub netns: NetNs,
    /// When the machine was started, on the packets' clock.
    pub boot: RealTime,
}

/// Where the recording stands while packets are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Turns packet times into event times.
    pub clock: ClockOffset,
    /// All that happened before this time is known, less what was lost.
    pub known_until: MonoTime,
}

/// One thing that the attribution is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// What the kernel side tells.
    Event(Event),
    /// A scan for sockets from before the start is under way: until it is there, any flow may be theirs.
    SnapshotExpected,
    /// What was seen in the kernel's tables.
    Scan(Scan),
    /// Events between these times are not all known.
    Lost {
        /// The earlier time.
        from: MonoTime,
        /// The later time.
        to: MonoTime,
    },
    /// The addresses of this host, as far as they are known: they tell what merely passes through.
    Addresses(Vec<IpAddr>),
    /// No packet at or after this time asks for what is over by then.
    Forget(MonoTime),
    /// The packets from here on are asked for at this moment.
    Moment(Moment),
    /// Whether connections are tracked here, so that addresses may be translated. The attribution finds that out by itself,
    /// and what follows, too.
    Tracking(bool),
    /// What a flow is on the other side of a translation of addresses.
    Translation {
        /// As a packet carries it from its sender.
        flow: Flow,
        /// The time of that packet.
        at: MonoTime,
        /// The other side; none if nothing translates it.
        answer: Option<Flow>,
    },
    /// A packet that is not in the file opened this connection.
    Opening {
        /// From the sender of the packet.
        flow: Flow,
        /// The time of the packet.
        at: MonoTime,
    },
    /// The first fragment of an IP packet is not in the file.
    FirstFragment {
        /// The flow of all fragments, which only the first one shows.
        flow: Flow,
        /// What they have in common, besides addresses and protocol.
        identification: u32,
        /// The time of the fragment.
        at: MonoTime,
    },
}
