//! Where packets come from: devices of this machine, and capture files.
//!
//! The face is the same on every platform: a `Capture` is opened with [`CaptureOptions`], waited for, and walked
//! packet by packet in order of arrival. A packet's bytes stay where the kernel put them until the next call, so
//! that holding a packet back costs neither a copy nor a queue.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use crate::model::{Interface, InterfaceCounts, LinkType, Packet, RealTime};

mod expression;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
pub mod pktap;

pub use expression::PacketFilter;
#[cfg(target_os = "linux")]
pub use linux::{Capture, SETTLING, Transmitter, check, interfaces, wake_in_time};
#[cfg(all(fuzzing, target_os = "linux"))]
#[doc(hidden)]
pub use linux::{link_changes_in, packets_in};
#[cfg(target_os = "macos")]
pub use macos::{Capture, check, interfaces};

/// The snap length when none is asked for: dumpcap's and tcpdump's, large enough for every real packet.
pub const DEFAULT_SNAP_LENGTH: u32 = 262_144;

/// The size of one ring when none is asked for.
pub const DEFAULT_BUFFER_BYTES: usize = 64 << 20;

/// Which interfaces to record on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All of them, those that appear later included.
    Any,
    /// These, each with a ring of its own.
    Named(Vec<String>),
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Named(names) => f.write_str(&names.join(", ")),
        }
    }
}

/// What to capture, and how.
#[derive(Clone, Debug)]
pub struct CaptureOptions {
    /// Where.
    pub interfaces: Selection,
    /// A libpcap filter expression; none lets everything through.
    pub filter: Option<String>,
    /// The most bytes to keep of each packet.
    pub snap_length: u32,
    /// The size of one ring in bytes; rounded to whole blocks.
    pub buffer_bytes: usize,
    /// Whether named interfaces also receive what is addressed to others.
    pub promiscuous: bool,
}

impl Default for CaptureOptions {
    fn default() -> Self {
        Self {
            interfaces: Selection::Any,
            filter: None,
            snap_length: DEFAULT_SNAP_LENGTH,
            buffer_bytes: DEFAULT_BUFFER_BYTES,
            promiscuous: false,
        }
    }
}

/// Something that happened to an interface that was asked for by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was set down; recording goes on by itself when it comes up again.
    InterfaceDown {
        /// Its name.
        name: String,
    },
    /// It came up again.
    InterfaceUp {
        /// Its name.
        name: String,
    },
    /// It was deleted, or moved to another network namespace. It does not come back.
    InterfaceGone {
        /// Its name.
        name: String,
    },
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// A block of packets has become ready.
    pub packets: bool,
    /// One of the caller's own descriptors is ready (or has an error).
    pub others: bool,
    /// A signal came in.
    pub interrupted: bool,
}

/// A packet, lent by its source, with the interfaces that are known by then, its own included.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The packet.
    pub packet: Packet<'a>,
    /// The interfaces of the packets given out so far; [`Packet::interface`] is a position in it.
    pub interfaces: &'a [Interface],
    /// What the interfaces are to this machine, in the same order.
    pub origins: &'a [InterfaceOrigin],
}

/// Where packets come from, to whoever takes them: a live capture, or a recording in its place
/// ([`replay::Source`](crate::replay::Source)).
pub trait Packets {
    /// The oldest packet, if there is one now and it is not later than `deadline`; the end of time takes whatever there is.
    fn next(&mut self, deadline: RealTime) -> Option<Arrival<'_>>;

    /// Waits until there may be a packet, or the time is up.
    ///
    /// # Errors
    /// If no more can come, because the source failed.
    fn wait(&mut self, timeout: Duration) -> io::Result<()>;

    /// Whether no packet will come any more: all interfaces are gone, or the recording has ended. What has come can still be taken.
    fn is_over(&self) -> bool;
}

/// What an interface of the recording is to this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceOrigin {
    /// The kernel's number of it; 0 for one of a recording.
    pub ifindex: u32,
    /// Whether it is the loopback interface, as far as that is known.
    pub is_loopback: bool,
}

/// The packets of a capture, counted.
///
/// `received = delivered + dropped_by_kernel + damaged + waiting`: each packet is accounted for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptureCounts {
    /// By interface. `written` and `dropped_by_us` are the caller's to fill in, and stay 0 here.
    pub interfaces: Vec<InterfaceCounts>,
    /// Packets that passed the filter, dropped ones included.
    pub received: u64,
    /// Packets that `next` gave out.
    pub delivered: u64,
    /// Packets that passed the filter and were dropped because a ring was full.
    pub dropped_by_kernel: u64,
    /// Packets lost because the ring itself was damaged; never seen on a healthy kernel.
    pub damaged: u64,
    /// Packets that passed the filter and are still in the rings.
    pub waiting: u64,
}

/// An interface of this machine, for people who choose one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceDetails {
    /// `eth0`
    pub name: String,
    /// The kernel's number of it.
    pub index: u32,
    /// How its packets begin in the file.
    pub link_type: LinkType,
    /// Whether it is set up, so that it can be recorded.
    pub is_up: bool,
    /// Whether it is the loopback interface.
    pub is_loopback: bool,
    /// Its addresses, in the kernel's order.
    pub addresses: Vec<IpAddr>,
    /// Its Ethernet address, where it has one.
    pub mac: Option<[u8; 6]>,
    /// What the administrator calls it (`ip link set .. alias`).
    pub description: Option<String>,
    /// The largest packet it sends, in bytes, without the link header.
    pub mtu: u32,
}

/// Why packets cannot be captured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no interface of this name.
    #[error("cannot record on {interface}: no such interface")]
    UnknownInterface {
        /// The name.
        interface: String,
    },
    /// The interface is there, but it is not up.
    #[error("cannot record on {interface}: it is down")]
    InterfaceDown {
        /// The name.
        interface: String,
    },
    /// The kernel refused.
    #[error("cannot record on {interface}: {} ({step})", plain(source))]
    Refused {
        /// The name, or `any`.
        interface: String,
        /// What was being done, in the kernel's words.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The filter expression is wrong, or impossible for this link type.
    #[error("cannot use the filter \"{expression}\": {message}")]
    Filter {
        /// What the user wrote.
        expression: String,
        /// What libpcap says to it.
        message: String,
    },
    /// The interfaces of this machine cannot be listed.
    #[error("cannot list the interfaces: {}", plain(.0))]
    List(io::Error),
}

impl Error {
    /// What to do about it: the second line of the message.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::UnknownInterface { .. } => Some("`recorder interfaces` lists what there is".into()),
            Self::InterfaceDown { interface } => {
                Some(format!("bring it up first (ip link set dev {interface} up), or record on any"))
            }
            Self::Refused { source, .. } => refused_remedy(source).map(Into::into),
            Self::Filter { .. } => Some("see pcap-filter(7) for the syntax".into()),
            Self::List(source) => refused_remedy(source).map(Into::into),
        }
    }
}

/// Why packets cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TransmitError {
    /// There is no interface of this name.
    #[error("cannot send on {interface}: no such interface\n  `recorder interfaces` lists what there is")]
    UnknownInterface {
        /// The name.
        interface: String,
    },
    /// The interface is there, but it is not up.
    #[error("cannot send on {interface}: it is down\n  bring it up first (ip link set dev {interface} up)")]
    InterfaceDown {
        /// The name.
        interface: String,
    },
    /// The interface takes neither Ethernet nor bare IP.
    #[error(
        "cannot send on {interface}: its packets begin neither with an Ethernet header nor with IP (ARPHRD {hardware})\n  \
         choose another interface"
    )]
    Kind {
        /// The name.
        interface: String,
        /// The kernel's number for the kind of device.
        hardware: u16,
    },
    /// The kernel refused.
    #[error("cannot send on {interface}: {} ({step}){}", plain(source), transmit_remedy(source))]
    Refused {
        /// The name.
        interface: String,
        /// What was being done, in the kernel's words.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn transmit_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "\n  needs CAP_NET_RAW; run with sudo",
        io::ErrorKind::NetworkDown => "\n  the interface was set down",
        io::ErrorKind::TimedOut => "\n  its queue has been full for ten seconds",
        _ => "",
    }
}

fn refused_remedy(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::PermissionDenied if cfg!(target_os = "macos") => {
            Some("needs root; run with sudo, or see `recorder doctor`")
        }
        io::ErrorKind::PermissionDenied => Some("needs CAP_NET_RAW; run with sudo, or see `recorder doctor`"),
        io::ErrorKind::OutOfMemory => Some("ask for a smaller ring with --buffer-size"),
        _ if is_out_of_descriptors(error) => Some(MORE_DESCRIPTORS),
        _ => None,
    }
}

/// What to do about too few descriptors.
pub(crate) const MORE_DESCRIPTORS: &str = "raise the limit of open files (ulimit -n)";

/// Whether this process, or the machine, has as many files open as it may.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    // std has no kind for EMFILE and ENFILE.
    matches!(error.raw_os_error(), Some(23 | 24))
}

/// The message of a system error as it stands in the middle of a sentence: "operation not permitted".
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_object_and_reason_and_has_a_remedy() {
        let error = Error::Refused {
            interface: "eth0".into(),
            step: "socket",
            source: io::Error::from_raw_os_error(1),
        };
        assert_eq!(error.to_string(), "cannot record on eth0: operation not permitted (socket)");
        assert!(error.remedy().unwrap().starts_with("needs CAP_NET_RAW"));
    }
}
