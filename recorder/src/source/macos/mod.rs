//! Capturing on macOS, through Apple's libpcap and its pseudo-device `pktap`: one stream of packets from all interfaces that were
//! asked for, each behind a header that names interface, inner link type and process.
//!
//! Only Apple's libpcap knows `pktap`. The kernel would apply a filter to the header, so none is given to it; the user's is applied to
//! the packet behind ([`Queue`]), as Apple's tcpdump does. Opening makes an interface `pktapN`, which needs root; closing removes it.

use std::io;
use std::time::Duration;

use pcap::{Active, Linktype};

use super::pktap::{HEADER_ROOM, Queue, Told};
use super::{Arrival, CaptureOptions, Error, InterfaceDetails, PacketFilter, Packets, Selection};
use crate::decode::pktap::LINK_TYPES;
use crate::model::{LinkType, RealTime};

/// How long a read waits for the kernel's buffer to fill.
const READ_TIMEOUT_MS: i32 = 20;

/// A running capture.
pub struct Capture {
    handle: pcap::Capture<Active>,
    queue: Queue,
    notes: Vec<String>,
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl Capture {
    /// Opens everything. Needs root.
    ///
    /// # Errors
    /// If the filter makes no sense, an interface is not there, or the system refuses.
    pub fn open(options: &CaptureOptions) -> Result<Self, Error> {
        let filter = checked(options)?;
        let device = device(&options.interfaces);
        let refused = |step| {
            move |error| Error::Refused {
                interface: options.interfaces.to_string(),
                step,
                source: system(error),
            }
        };
        let snap_length = options.snap_length.saturating_add(HEADER_ROOM);
        let handle = pcap::Capture::from_device(device.as_str())
            .map_err(refused("pktap"))?
            .want_pktap(true)
            .snaplen(i32::try_from(snap_length).unwrap_or(i32::MAX))
            .buffer_size(i32::try_from(options.buffer_bytes).unwrap_or(i32::MAX))
            .timeout(READ_TIMEOUT_MS)
            .open()
            .map_err(refused("pktap"))?;
        let Linktype(link_type) = handle.get_datalink();
        if !LINK_TYPES.iter().any(|LinkType(pktap)| i32::from(*pktap) == link_type) {
            let text = format!("it gives link type {link_type}, and not PKTAP: is this Apple's libpcap?");
            return Err(refused("pktap")(pcap::Error::PcapError(text)));
        }
        let mut notes = Vec::new();
        if options.promiscuous {
            notes.push("promiscuous mode has no effect: PKTAP has none".into());
        }
        let queue = Queue::new(filter.zip(options.filter.clone()), options.snap_length);
        Ok(Self { handle, queue, notes })
    }

    /// Waits for packets, some 20 ms at most, and takes in what there is.
    ///
    /// # Errors
    /// If the system cannot give any more.
    pub fn wait(&mut self) -> io::Result<()> {
        let queue = &mut self.queue;
        let taken = self.handle.dispatch(None, |packet| {
            let time = &packet.header.ts;
            let ns =
                (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_usec as u64 * 1000);
            queue.push(RealTime::from_ns(ns), packet.data, packet.header.len);
        });
        match taken {
            Ok(_) | Err(pcap::Error::TimeoutExpired) => Ok(()),
            Err(error) => Err(system(error)),
        }
    }

    /// The packets that came in.
    pub const fn queue(&mut self) -> &mut Queue {
        &mut self.queue
    }

    /// Packets that the kernel dropped because the buffer was full.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn dropped(&mut self) -> io::Result<u64> {
        self.handle.stats().map(|stats| u64::from(stats.dropped)).map_err(system)
    }

    /// What the user should know.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

impl Packets for Capture {
    fn next(&mut self, deadline: RealTime) -> Option<Arrival<'_>> {
        self.queue.next(deadline).map(|Told { arrival, .. }| arrival)
    }

    /// Waits 20 ms at most, whatever `timeout` is.
    fn wait(&mut self, _timeout: Duration) -> io::Result<()> {
        if self.queue.is_empty() { Self::wait(self) } else { Ok(()) }
    }

    fn is_over(&self) -> bool {
        false
    }
}

/// What is wrong with interfaces and filter is told without any privilege.
///
/// # Errors
/// If an interface is not there, or the filter has no meaning.
pub fn check(options: &CaptureOptions) -> Result<(), Error> {
    checked(options).map(drop)
}

fn checked(options: &CaptureOptions) -> Result<Option<PacketFilter>, Error> {
    if let Selection::Named(names) = &options.interfaces {
        let there = interfaces()?;
        if let Some(unknown) = names.iter().find(|name| !there.iter().any(|there| there.name == **name)) {
            return Err(Error::UnknownInterface { interface: unknown.clone() });
        }
    }
    options.filter.as_deref().map(PacketFilter::new).transpose()
}

/// The interfaces of this machine, in the system's order.
///
/// # Errors
/// If the system does not list them.
pub fn interfaces() -> Result<Vec<InterfaceDetails>, Error> {
    let devices = pcap::Device::list().map_err(|error| Error::List(system(error)))?;
    let details = |(position, device): (usize, pcap::Device)| InterfaceDetails {
        is_up: device.flags.is_up(),
        is_loopback: device.flags.is_loopback(),
        addresses: device.addresses.iter().map(|address| address.addr).collect(),
        // Which it is stands in the header of each packet.
        link_type: if device.flags.is_loopback() { LinkType(0) } else { LinkType::ETHERNET },
        index: position as u32 + 1,
        mac: None,
        description: device.desc,
        name: device.name,
        mtu: 0,
    };
    Ok(devices.into_iter().enumerate().map(details).collect())
}

/// `pktap,en0,lo0`; all of them is a name of its own, because `pktap` alone leaves loopback out.
fn device(interfaces: &Selection) -> String {
    match interfaces {
        Selection::Any => "pktap,all".to_owned(),
        Selection::Named(names) => format!("pktap,{}", names.join(",")),
    }
}

/// libpcap tells what went wrong in words only.
fn system(error: pcap::Error) -> io::Error {
    let text = match error {
        pcap::Error::PcapError(text) => text,
        other => other.to_string(),
    };
    let kind = if text.contains("not permitted") || text.contains("Permission denied") {
        io::ErrorKind::PermissionDenied
    } else {
        io::ErrorKind::Other
    };
    io::Error::new(kind, text)
}
