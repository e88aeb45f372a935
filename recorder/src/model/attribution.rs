//! What is known about who sent and who received a packet.

use super::ProcessIndex;

/// A process at one end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// The process.
    pub process: ProcessIndex,
    /// The thread that used the socket; 0 where several did, or none is known.
    pub tid: u32,
}

/// How an owner was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Found {
    /// The kernel told which socket held the flow, and which process used that socket.
    Socket,
    /// The socket is older than the recording; one process held it at the start, and nothing else was heard since.
    Snapshot,
    /// The connection came in through a listening socket and nobody has accepted it yet.
    Listener,
    /// The socket was seen both before and after the packet, held by this process alone.
    Procfs,
    /// macOS named it in the packet's PKTAP header.
    Pktap,
    /// A log of connections named it, which somebody else wrote.
    Log,
}

impl Found {
    /// All ways, the most certain first.
    pub const ALL: [Self; 6] =
        [Self::Socket, Self::Snapshot, Self::Listener, Self::Procfs, Self::Pktap, Self::Log];

    /// The word for summaries and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Socket => "by socket",
            Self::Snapshot => "by snapshot",
            Self::Listener => "by listener",
            Self::Procfs => "by procfs",
            Self::Pktap => "by PKTAP",
            Self::Log => "by log",
        }
    }
}

/// Why a packet has no owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Attribution was off.
    Off,
    /// Not IP (ARP, LLDP, ...) or too damaged to tell.
    NotIp,
    /// No socket of this host had this flow at this time.
    NoSocket,
    /// The kernel itself made or answered it: resets for closed ports, ICMP errors, neighbour discovery.
    Kernel,
    /// Neither address is one of this host's: it passes through.
    Forwarded,
    /// Several owners were possible, and they differ.
    Ambiguous,
    /// The socket is known, its process is not: the events that would tell were lost.
    EventsLost,
    /// The ring was too full to wait until the answer was certain.
    TooLate,
    /// Owners are looked up in /proc, and no socket was seen there both before and after the packet.
    NotSeen,
    /// What owners are taken from, a PKTAP header or a log of connections, names nobody for this packet.
    NotTold,
}

impl Reason {
    /// All reasons, in the order in which they are reported.
    pub const ALL: [Self; 10] = [
        Self::Off,
        Self::NotIp,
        Self::NoSocket,
        Self::Kernel,
        Self::Forwarded,
        Self::Ambiguous,
        Self::EventsLost,
        Self::TooLate,
        Self::NotSeen,
        Self::NotTold,
    ];

    /// The word for summaries and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "attribution off",
            Self::NotIp => "not IP",
            Self::NoSocket => "no socket",
            Self::Kernel => "kernel",
            Self::Forwarded => "forwarded",
            Self::Ambiguous => "ambiguous",
            Self::EventsLost => "events lost",
            Self::TooLate => "too late",
            Self::NotSeen => "not seen",
            Self::NotTold => "not told",
        }
    }
}

/// What is known about both ends of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribution {
    /// At least one end is a known process.
    Known {
        /// The process that sent it, if that is a known one of this host.
        sender: Option<Owner>,
        /// The process that received it, if that is a known one of this host.
        receiver: Option<Owner>,
        /// Whether both ends are on this host, so that an unknown one is written as `?`.
        both_local: bool,
        /// The less certain of the two ways in which the ends were found.
        found: Found,
    },
    /// Neither end is a known process.
    Unknown(Reason),
}
