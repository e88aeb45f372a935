//! Sending on an interface: an AF_PACKET socket with a TPACKET_V2 ring.
//!
//! Version 3 has nothing to give here: for sending its frames are of one size too, and one is handed over at a time. Nothing bypasses
//! the queueing discipline, so that the packets are shaped, and seen by taps, as those of any program.
//!
//! Each frame says by a `virtio_net_hdr` how much of it the kernel shall copy, which is all of it. What it does not copy it refers to
//! (tpacket_fill_skb in net/packet/af_packet.c), and copies page by page where the packet changes hands (veth) or is cloned (a tap).

use std::io;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::filter::Class;
use super::links::Links;
use super::mapping::{Geometry, SendMapping};
use super::sys;
use crate::model::LinkType;
use crate::source::TransmitError;

/// Where a frame has the bytes to send: behind the header, without the address that a received one has (`tpacket_parse_header`).
const DATA: usize = size_of::<libc::tpacket2_hdr>();
const LENGTH: usize = std::mem::offset_of!(libc::tpacket2_hdr, tp_len);
/// `struct virtio_net_hdr` of linux/virtio_net.h: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
const VNET_HEADER: usize = 10;
/// Where it has `hdr_len`, in the machine's byte order.
const VNET_HEADER_LENGTH: usize = 2;

const ETHERNET_HEADER: u32 = 14;
const VLAN_TAG: u32 = 4;
const ETHER_TYPE_VLAN: [u8; 2] = [0x81, 0x00];

/// What the ring has room for, roughly: it should stay in the cache of a core.
const RING_BYTES: usize = 1 << 20;
const FEWEST_FRAMES: usize = 16;
const PAGE: usize = 4096;

/// More than any device has that sends what it is given; a frame of the ring must hold it.
const LARGEST_MTU: u32 = 256 << 10;

/// How long the queue of the device is waited for before it is tried again.
const RETRY: Duration = Duration::from_micros(50);
/// After this time without a single packet something is broken for good.
const PATIENCE: Duration = Duration::from_secs(10);

/// An interface to send on. Packets are put into the ring, and go out in order with the next [`flush`](Self::flush), or when the
/// ring is full.
#[derive(Debug)]
pub struct Transmitter {
    name: String,
    socket: OwnedFd,
    ring: SendMapping,
    /// The frame that is filled next.
    next: usize,
    /// Frames that were filled since the last flush.
    filled: usize,
    /// By frame: how long the packet in it is.
    lengths: Vec<u32>,
    link_type: LinkType,
    mac: Option<[u8; 6]>,
    mtu: u32,
}

impl Transmitter {
    /// Opens an interface for sending. Needs CAP_NET_RAW.
    ///
    /// # Errors
    /// If there is no such interface, it is down, takes neither Ethernet nor bare IP, or the kernel refuses.
    pub fn open(name: &str) -> Result<Self, TransmitError> {
        let interface = || name.to_owned();
        let refused =
            |step| move |source| TransmitError::Refused { interface: name.to_owned(), step, source };
        let links = Links::open().map_err(refused("list of interfaces"))?;
        let link =
            links.named(name).ok_or_else(|| TransmitError::UnknownInterface { interface: interface() })?;
        if !link.is_up() {
            return Err(TransmitError::InterfaceDown { interface: interface() });
        }
        let link_type = Class::main(link.hardware).link_type();
        if link_type != LinkType::ETHERNET && link_type != LinkType::RAW_IP {
            return Err(TransmitError::Kind { interface: interface(), hardware: link.hardware });
        }
        let socket = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0).map_err(refused("packet socket"))?;
        let set = |name, value| sys::set_number(&socket, libc::SOL_PACKET, name, value);
        set(libc::PACKET_VERSION, libc::tpacket_versions::TPACKET_V2 as i32)
            .map_err(refused("TPACKET_V2"))?;
        set(libc::PACKET_VNET_HDR, 1).map_err(refused("PACKET_VNET_HDR"))?;
        let mtu = link.mtu.min(LARGEST_MTU);
        let geometry = geometry(mtu);
        sys::set_send_ring(&socket, &request(geometry)).map_err(refused("packet ring"))?;
        let ring = SendMapping::new(&socket, geometry).map_err(refused("packet ring"))?;
        // Protocol 0: it sends, and receives nothing.
        sys::bind_packet(&socket, link.index as i32, 0).map_err(refused("bind"))?;
        Ok(Self {
            name: interface(),
            socket,
            ring,
            next: 0,
            filled: 0,
            lengths: vec![0; geometry.blocks],
            link_type,
            mac: link.mac,
            mtu,
        })
    }

    /// How its packets begin: Ethernet, or bare IP.
    pub const fn link_type(&self) -> LinkType {
        self.link_type
    }

    /// Its Ethernet address, if it has one.
    pub const fn mac(&self) -> Option<[u8; 6]> {
        self.mac
    }

    /// The fewest bytes that a packet has.
    pub const fn shortest(&self) -> usize {
        self.header() as usize
    }

    /// The most bytes that such a packet may have; a tagged one has four more.
    pub fn longest(&self, packet: &[u8]) -> usize {
        let is_tagged = self.link_type == LinkType::ETHERNET && packet.get(12..14) == Some(&ETHER_TYPE_VLAN);
        (self.mtu + self.header() + if is_tagged { VLAN_TAG } else { 0 }) as usize
    }

    const fn header(&self) -> u32 {
        if self.link_type.0 == LinkType::ETHERNET.0 { ETHERNET_HEADER } else { 0 }
    }

    /// Puts a packet into the ring, no shorter than [`shortest`](Self::shortest) and no longer than [`longest`](Self::longest).
    ///
    /// # Errors
    /// If the ring is full and cannot be sent, as of [`flush`](Self::flush).
    #[inline]
    pub fn push(&mut self, packet: &[u8]) -> Result<(), TransmitError> {
        if self.filled == self.ring.frames() / 2 {
            self.flush()?;
        }
        if self.ring.status(self.next) != libc::TP_STATUS_AVAILABLE {
            self.wait_for(self.next, libc::TP_STATUS_AVAILABLE)?;
        }
        let length = packet.len() as u32;
        let place = self.ring.frame(self.next).and_then(|frame| {
            frame.get_mut(LENGTH..LENGTH + 4)?.copy_from_slice(&(length + VNET_HEADER as u32).to_ne_bytes());
            let (header, place) = frame.get_mut(DATA..)?.split_at_mut_checked(VNET_HEADER)?;
            header.fill(0);
            let copied = u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes();
            header.get_mut(VNET_HEADER_LENGTH..VNET_HEADER_LENGTH + 2)?.copy_from_slice(&copied);
            place.get_mut(..packet.len())
        });
        match place {
            Some(place) => place.copy_from_slice(packet),
            None => return Err(self.refused(io::ErrorKind::InvalidInput.into())),
        }
        if let Some(place) = self.lengths.get_mut(self.next) {
            *place = length;
        }
        self.ring.request(self.next);
        self.next = (self.next + 1) % self.ring.frames();
        self.filled += 1;
        Ok(())
    }

    /// Sends what is in the ring; on return the device, or its queue, has it all.
    ///
    /// # Errors
    /// If the interface is gone or down, or takes nothing for ten seconds.
    pub fn flush(&mut self) -> Result<(), TransmitError> {
        if self.filled == 0 {
            return Ok(());
        }
        let last = (self.next + self.ring.frames() - 1) % self.ring.frames();
        self.filled = 0;
        self.send_until(last, |status| status != libc::TP_STATUS_SEND_REQUEST)
    }

    /// Waits until the kernel is done with a frame: a device that reads the ring itself takes its time.
    fn wait_for(&mut self, frame: usize, wanted: u32) -> Result<(), TransmitError> {
        self.send_until(frame, |status| status == wanted)
    }

    fn send_until(&mut self, frame: usize, is_done: impl Fn(u32) -> bool) -> Result<(), TransmitError> {
        let begin = Instant::now();
        loop {
            let result = sys::send_ring(&self.socket);
            let status = self.ring.status(frame);
            if status & libc::TP_STATUS_WRONG_FORMAT != 0 {
                return Err(self.refused(io::ErrorKind::InvalidInput.into()));
            }
            if is_done(status) {
                return Ok(());
            }
            match result {
                Ok(()) => {}
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(self.refused(error)),
            }
            if begin.elapsed() > PATIENCE {
                return Err(self.refused(io::ErrorKind::TimedOut.into()));
            }
            std::thread::sleep(RETRY);
        }
    }

    fn refused(&self, source: io::Error) -> TransmitError {
        TransmitError::Refused { interface: self.name.clone(), step: "send", source }
    }

    /// Packets that the kernel has not taken, and their bytes: after an error, those that did not go out.
    pub fn left(&self) -> (u64, u64) {
        let waiting = |(frame, _): &(usize, &u32)| is_waiting(self.ring.status(*frame));
        let left = self.lengths.iter().enumerate().filter(waiting);
        left.fold((0, 0), |(packets, bytes), (_, length)| (packets + 1, bytes + u64::from(*length)))
    }
}

/// Has the calling thread wake when it wants to, as far as it may: ahead of other threads (CAP_SYS_NICE), and without the 50 us by
/// which the kernel lets timers come late. Where that is refused packets are later than they could be, and the report says how late.
pub fn wake_in_time() {
    let _ = sys::set_real_time();
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

/// Full queues, and memory for packets that is given back when they are sent.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR))
}

const fn is_waiting(status: u32) -> bool {
    status & (libc::TP_STATUS_SEND_REQUEST | libc::TP_STATUS_WRONG_FORMAT) != 0
}

/// Frames that hold the longest packet of the interface.
fn geometry(mtu: u32) -> Geometry {
    let longest = DATA + VNET_HEADER + (mtu + ETHERNET_HEADER + VLAN_TAG) as usize;
    // A frame lies in one block, and a block is whole pages: with powers of two both fit.
    let block_bytes = longest.next_power_of_two();
    Geometry { block_bytes, blocks: (RING_BYTES / block_bytes).max(FEWEST_FRAMES) }
}

fn request(geometry: Geometry) -> libc::tpacket_req {
    let Geometry { block_bytes, blocks } = geometry;
    let pages = block_bytes.max(PAGE);
    libc::tpacket_req {
        tp_block_size: pages as u32,
        tp_block_nr: (blocks * block_bytes / pages) as u32,
        tp_frame_size: block_bytes as u32,
        tp_frame_nr: blocks as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_holds_the_longest_packet_and_the_kernel_takes_the_sizes() {
        for mtu in [68, 1280, 1500, 1600, 2026, 9000, 65_535, 65_536] {
            let geometry = geometry(mtu);
            let request = request(geometry);
            assert!(geometry.block_bytes >= mtu as usize + 18 + 42, "{mtu}");
            assert!(request.tp_block_size.is_multiple_of(4096), "{mtu}: {request:?}");
            let frames = request.tp_block_size / request.tp_frame_size * request.tp_block_nr;
            assert_eq!(frames, request.tp_frame_nr, "{mtu}: {request:?}");
            assert_eq!(geometry.blocks, frames as usize);
        }
    }
}
