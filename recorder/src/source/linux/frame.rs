//! Walks the frames of one TPACKET_V3 block, and brings each packet into the form it has in the file.
//!
//! Works on a byte slice and touches nothing else: no sockets, no clocks, no allocation. Nothing in the block is
//! trusted; every offset is checked against the slice, so damage ends the walk with an error.
//!
//! The layout is that of `include/uapi/linux/if_packet.h`: a block header, then frames, each with a `tpacket3_hdr`,
//! a `sockaddr_ll`, a gap, the link header up to `tp_net`, and the packet.

use std::mem::offset_of;
use std::ops::Range;

use crate::model::{Direction, LinkType, RealTime, Reception};

/// Where the block header has its status; the kernel and we hand the block over by this word.
pub(super) const BLOCK_STATUS: usize = 8;
const PACKET_COUNT: usize = 12;
const FIRST_PACKET: usize = 16;

const ADDRESS: usize = size_of::<libc::tpacket3_hdr>();
/// A frame's fixed part: `tpacket3_hdr` and the `sockaddr_ll` behind it.
const HEADERS: usize = ADDRESS + size_of::<libc::sockaddr_ll>();
const _: () = assert!(HEADERS == 68 && ADDRESS.is_multiple_of(16));
const _: () = assert!(offset_of!(libc::tpacket3_hdr, tp_mac) == 24);

const VLAN_TAG_LENGTH: usize = 4;
const SLL2_LENGTH: usize = 20;
const ETHERNET_ADDRESSES: usize = 12;

const VLAN_VALID: u32 = 1 << 4;
const VLAN_TPID_VALID: u32 = 1 << 6;

const ETH_P_8021Q: u16 = 0x8100;

/// The kernel has written something that cannot be a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// How many packets of the block cannot be read.
    pub(super) lost: u32,
}

/// One frame: its headers, checked against the block that it lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// When it was captured.
    pub(super) time: RealTime,
    /// The interface.
    pub(super) ifindex: u32,
    /// The interface's ARPHRD_ type.
    pub(super) hardware: u16,
    /// The EtherType, as the kernel understood it.
    pub(super) protocol: u16,
    packet_type: u8,
    vlan: Option<(u16, u16)>,
    /// Offsets into the block.
    start: usize,
    data: usize,
    network: usize,
    captured: usize,
    original: u32,
}

/// A packet in its final form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Where in the block it lies.
    pub(super) bytes: Range<usize>,
    /// Its length on the wire.
    pub(super) original: u32,
}

/// A position among the frames of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    at: usize,
    left: u32,
}

impl Walk {
    /// Begins with the first frame of `block`.
    pub(super) fn begin(block: &[u8]) -> Result<Self, Damage> {
        let (Some(left), Some(at)) = (u32_at(block, PACKET_COUNT), u32_at(block, FIRST_PACKET)) else {
            return Err(Damage { lost: 0 });
        };
        // A frame has 68 bytes of headers at least; more of them than fit is damage, and no count to believe.
        if left as usize > block.len() / HEADERS {
            return Err(Damage { lost: 0 });
        }
        Ok(Self { at: at as usize, left })
    }

    /// The frame that it stands on; none after the last.
    #[inline]
    pub(super) fn frame(&self, block: &[u8]) -> Result<Option<Frame>, Damage> {
        if self.left == 0 {
            return Ok(None);
        }
        match read(block, self.at) {
            Some((frame, _)) => Ok(Some(frame)),
            None => Err(Damage { lost: self.left }),
        }
    }

    /// Goes on to the next frame.
    #[inline]
    pub(super) fn step(&mut self, block: &[u8]) -> Result<(), Damage> {
        self.left = self.left.saturating_sub(1);
        if self.left > 0 {
            let step = read(block, self.at).map_or(0, |(_, step)| step);
            // The step of the last frame is 0 (prb_close_block in net/packet/af_packet.c); of others it is not, or the
            // walk would stand still.
            if step < HEADERS {
                return Err(Damage { lost: std::mem::take(&mut self.left) });
            }
            self.at += step;
        }
        Ok(())
    }
}

/// Reads the frame at `at`, and how far away the next one is.
#[inline]
fn read(block: &[u8], at: usize) -> Option<(Frame, usize)> {
    let header: &[u8; HEADERS] = block.get(at..)?.first_chunk()?;
    let word = |offset: usize| {
        u32::from_ne_bytes([header[offset], header[offset + 1], header[offset + 2], header[offset + 3]])
    };
    let half = |offset: usize| u16::from_ne_bytes([header[offset], header[offset + 1]]);

    let captured = word(12) as usize;
    let status = word(20);
    let (mac, net) = (half(24) as usize, half(26) as usize);
    let room = block.len() - at; // `get` above says that `at` is inside
    if mac < HEADERS || net < mac || net > room || captured > room.saturating_sub(mac) {
        return None;
    }
    let vlan = (status & VLAN_VALID != 0).then(|| {
        let protocol = if status & VLAN_TPID_VALID != 0 { half(36) } else { ETH_P_8021Q };
        (protocol, word(32) as u16)
    });
    let frame = Frame {
        time: RealTime::from_ns(u64::from(word(4)) * 1_000_000_000 + u64::from(word(8))),
        ifindex: word(ADDRESS + 4),
        hardware: half(ADDRESS + 8),
        protocol: u16::from_be_bytes([header[ADDRESS + 2], header[ADDRESS + 3]]),
        packet_type: header[ADDRESS + 10],
        vlan,
        start: at,
        data: at + mac,
        network: at + net,
        captured,
        original: word(16),
    };
    Some((frame, word(0) as usize))
}

impl Frame {
    /// Which way the packet went.
    #[inline]
    pub(super) fn direction(&self) -> Direction {
        if self.packet_type == libc::PACKET_OUTGOING { Direction::Outbound } else { Direction::Inbound }
    }

    /// To whom the link layer addressed it.
    #[inline]
    pub(super) fn reception(&self) -> Reception {
        match self.packet_type {
            libc::PACKET_HOST => Reception::Unicast,
            libc::PACKET_BROADCAST => Reception::Broadcast,
            libc::PACKET_MULTICAST => Reception::Multicast,
            libc::PACKET_OTHERHOST => Reception::Promiscuous,
            _ => Reception::Unknown,
        }
    }

    /// Brings the packet into the form of `link_type`, in place; none if the frame has no room for it.
    ///
    /// The snap length is not applied here, see [`Shape::cut`]: a filter in user space wants to see all that there is.
    #[inline]
    pub(super) fn shape(&self, block: &mut [u8], link_type: LinkType) -> Option<Shape> {
        match link_type {
            LinkType::ETHERNET => self.ethernet(block),
            LinkType::RAW_IP => Some(self.network_part(0)),
            _ => self.cooked(block),
        }
    }

    #[inline]
    fn ethernet(&self, block: &mut [u8]) -> Option<Shape> {
        let whole = self.data..self.data + self.captured;
        match self.vlan {
            Some(tag) if self.captured >= ETHERNET_ADDRESSES => self.put_tag_back(block, tag),
            _ => Some(Shape { bytes: whole, original: self.original.max(self.captured as u32) }),
        }
    }

    /// The kernel takes the VLAN tag out of the packet (skb_vlan_untag, or the hardware does) and tells it apart. The
    /// two addresses move forward, and the tag stands behind them again: 12 bytes move, not the packet.
    #[cold]
    fn put_tag_back(&self, block: &mut [u8], (protocol, tag): (u16, u16)) -> Option<Shape> {
        let start = self.data.checked_sub(VLAN_TAG_LENGTH).filter(|&start| start >= self.start + HEADERS)?;
        block.copy_within(self.data..self.data + ETHERNET_ADDRESSES, start);
        let place = block.get_mut(start + ETHERNET_ADDRESSES..)?.first_chunk_mut::<VLAN_TAG_LENGTH>()?;
        let ([p0, p1], [t0, t1]) = (protocol.to_be_bytes(), tag.to_be_bytes());
        *place = [p0, p1, t0, t1];
        let bytes = start..self.data + self.captured;
        let original = self.original.saturating_add(VLAN_TAG_LENGTH as u32).max(bytes.len() as u32);
        Some(Shape { bytes, original })
    }

    /// The packet from the network header on, behind `header` bytes that stand in front of it.
    fn network_part(&self, header: usize) -> Shape {
        let link = self.network - self.data;
        let captured = self.captured.saturating_sub(link);
        let bytes = self.network - header..self.network + captured;
        let original = self.original.saturating_sub(link as u32).saturating_add(header as u32);
        Shape { original: original.max(bytes.len() as u32), bytes }
    }

    /// Writes a LINKTYPE_LINUX_SLL2 header in front of the network header, over the link's own.
    #[cold]
    fn cooked(&self, block: &mut [u8]) -> Option<Shape> {
        let start = self.network.checked_sub(SLL2_LENGTH).filter(|&start| start >= self.start + HEADERS)?;
        let mut header = [0; SLL2_LENGTH];
        let address = self.start + ADDRESS;
        header[0..2].copy_from_slice(block.get(address + 2..address + 4)?); // protocol, in network order already
        header[4..8].copy_from_slice(&self.ifindex.to_be_bytes());
        header[8..10].copy_from_slice(&self.hardware.to_be_bytes());
        header[10..20].copy_from_slice(block.get(address + 10..address + 20)?); // packet type, address length, address
        block.get_mut(start..self.network)?.copy_from_slice(&header);
        Some(self.network_part(SLL2_LENGTH))
    }
}

impl Shape {
    /// Cuts the bytes to the snap length.
    #[inline]
    pub(super) fn cut(mut self, snap_length: u32) -> Self {
        self.bytes.end = self.bytes.end.min(self.bytes.start + snap_length as usize);
        self
    }
}

/// How many packets a block of a ring has, for the fuzz target `kernel`: each is brought into one of the forms, as `ring.rs` does.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn packets_in(block: &mut [u8]) -> usize {
    let Ok(mut walk) = Walk::begin(block) else { return 0 };
    let mut packets = 0;
    while let Ok(Some(frame)) = walk.frame(block) {
        let link_types = [LinkType::ETHERNET, LinkType::RAW_IP, LinkType::LINUX_SLL2];
        if let Some(shape) = frame.shape(block, link_types[usize::from(frame.hardware) % 3]) {
            assert!(block.get(shape.cut(96).bytes).is_some(), "it lies in the block");
        }
        packets += 1;
        if walk.step(block).is_err() {
            break;
        }
    }
    packets
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Writes blocks as the kernel does, for tests of this room.
#[cfg(test)]
pub(super) mod made {
    /// A frame to be written.
    #[derive(Clone)]
    pub(crate) struct Made {
        pub(crate) ns: u64,
        pub(crate) ifindex: u32,
        pub(crate) hardware: u16,
        pub(crate) protocol: u16,
        pub(crate) packet_type: u8,
        pub(crate) vlan: Option<(u16, u16)>,
        pub(crate) link_length: u16,
        pub(crate) data: Vec<u8>,
        pub(crate) original: u32,
    }

    impl Default for Made {
        fn default() -> Self {
            let mut data = vec![0xaa; 6];
            data.extend([0xbb; 6]);
            data.extend([0x08, 0x00]);
            data.extend(0..46);
            Self {
                ns: 5_000_000_007,
                ifindex: 2,
                hardware: 1,
                protocol: 0x0800,
                packet_type: libc::PACKET_HOST,
                vlan: None,
                link_length: 14,
                original: data.len() as u32,
                data,
            }
        }
    }

    /// A block of `size` bytes with these frames, given to user space.
    pub(crate) fn block(size: usize, frames: &[Made]) -> Vec<u8> {
        let mut block = vec![0; size];
        let mut at = 48;
        put(&mut block, 0, &[1, 0, 0, 0]);
        put(&mut block, super::BLOCK_STATUS, &1u32.to_ne_bytes());
        put(&mut block, super::PACKET_COUNT, &(frames.len() as u32).to_ne_bytes());
        put(&mut block, super::FIRST_PACKET, &48u32.to_ne_bytes());
        for (index, frame) in frames.iter().enumerate() {
            let net = (68 + frame.link_length.max(16)).next_multiple_of(16) + 4;
            let mac = net - frame.link_length;
            let step = (mac as usize + frame.data.len()).next_multiple_of(8);
            let last = index + 1 == frames.len();
            frame_header(&mut block[at..], frame, mac, net, if last { 0 } else { step as u32 });
            put(&mut block, at + mac as usize, &frame.data);
            at += step;
        }
        block
    }

    fn frame_header(at: &mut [u8], frame: &Made, mac: u16, net: u16, step: u32) {
        let status = 1 | frame.vlan.map_or(0, |_| super::VLAN_VALID | super::VLAN_TPID_VALID);
        let (tpid, tci) = frame.vlan.unwrap_or_default();
        put(at, 0, &step.to_ne_bytes());
        put(at, 4, &((frame.ns / 1_000_000_000) as u32).to_ne_bytes());
        put(at, 8, &((frame.ns % 1_000_000_000) as u32).to_ne_bytes());
        put(at, 12, &(frame.data.len() as u32).to_ne_bytes());
        put(at, 16, &frame.original.to_ne_bytes());
        put(at, 20, &status.to_ne_bytes());
        put(at, 24, &mac.to_ne_bytes());
        put(at, 26, &net.to_ne_bytes());
        put(at, 32, &u32::from(tci).to_ne_bytes());
        put(at, 36, &tpid.to_ne_bytes());
        put(at, 48, &17u16.to_ne_bytes());
        put(at, 50, &frame.protocol.to_be_bytes());
        put(at, 52, &frame.ifindex.to_ne_bytes());
        put(at, 56, &frame.hardware.to_ne_bytes());
        put(at, 58, &[frame.packet_type, 6, 1, 2, 3, 4, 5, 6, 0, 0]);
    }

    fn put(block: &mut [u8], at: usize, bytes: &[u8]) {
        block[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::made::{Made, block};
    use super::*;

    fn frames(block: &[u8]) -> Result<Vec<Frame>, Damage> {
        let mut walk = Walk::begin(block)?;
        let mut frames = Vec::new();
        while let Some(frame) = walk.frame(block)? {
            frames.push(frame);
            walk.step(block)?;
        }
        Ok(frames)
    }

    #[test]
    fn frames_come_in_order_with_time_interface_and_bytes() {
        let second =
            Made { ns: 6_000_000_001, ifindex: 9, packet_type: libc::PACKET_OUTGOING, ..Made::default() };
        let mut block = block(4096, &[Made::default(), second]);
        let frames = frames(&block).unwrap();

        assert_eq!(frames.len(), 2);
        assert_eq!(frames[0].time, RealTime::from_ns(5_000_000_007));
        assert_eq!((frames[0].ifindex, frames[1].ifindex), (2, 9));
        assert_eq!((frames[0].direction(), frames[1].direction()), (Direction::Inbound, Direction::Outbound));
        assert_eq!((frames[0].reception(), frames[1].reception()), (Reception::Unicast, Reception::Unknown));
        let shape = frames[1].shape(&mut block, LinkType::ETHERNET).unwrap();
        assert_eq!(block[shape.bytes], Made::default().data);
        assert_eq!(shape.original, 60);
    }

    #[test]
    fn an_empty_block_has_no_frames() {
        assert_eq!(frames(&block(4096, &[])), Ok(vec![]));
    }

    #[test]
    fn a_stripped_vlan_tag_is_put_back_behind_the_addresses() {
        let tagged = Made { vlan: Some((0x88a8, 0x6005)), ..Made::default() };
        let mut block = block(4096, &[tagged]);
        let frame = frames(&block).unwrap()[0];
        let shape = frame.shape(&mut block, LinkType::ETHERNET).unwrap();

        let mut expected = Made::default().data;
        expected.splice(12..12, [0x88, 0xa8, 0x60, 0x05]);
        assert_eq!(shape.original, 64);
        assert_eq!(block[shape.clone().bytes], expected);
        assert_eq!(block[shape.cut(16).bytes], expected[..16]);
    }

    #[test]
    fn a_tag_without_a_known_protocol_is_8021q() {
        let mut block = block(4096, &[Made { vlan: Some((0x88a8, 7)), ..Made::default() }]);
        block[48 + 20] &= !(VLAN_TPID_VALID as u8);
        let frame = frames(&block).unwrap()[0];
        let shape = frame.shape(&mut block, LinkType::ETHERNET).unwrap();
        assert_eq!(block[shape.bytes][12..16], [0x81, 0, 0, 7]);
    }

    #[test]
    fn raw_ip_begins_at_the_network_header_even_where_a_link_header_precedes_it() {
        let data: Vec<u8> = [vec![0xee; 24], vec![0x45; 20]].concat();
        let made = Made { hardware: 778, link_length: 24, original: 100, data, ..Made::default() };
        let mut block = block(4096, &[made]);
        let frame = frames(&block).unwrap()[0];
        let shape = frame.shape(&mut block, LinkType::RAW_IP).unwrap();
        assert_eq!(block[shape.bytes], [0x45; 20]);
        assert_eq!(shape.original, 76);
    }

    #[test]
    fn other_links_get_a_cooked_header() {
        let made = Made {
            hardware: 280,
            protocol: 0x000c,
            link_length: 0,
            data: vec![7; 16],
            original: 16,
            ..Made::default()
        };
        let mut block = block(4096, &[made]);
        let frame = frames(&block).unwrap()[0];
        let shape = frame.shape(&mut block, LinkType::LINUX_SLL2).unwrap();
        let header = [0, 0x0c, 0, 0, 0, 0, 0, 2, 1, 24, 0, 6, 1, 2, 3, 4, 5, 6, 0, 0];
        assert_eq!(block[shape.bytes], [header.as_slice(), &[7; 16]].concat());
        assert_eq!(shape.original, 36);
    }

    #[test]
    fn damage_ends_the_walk_and_is_counted() {
        let good = block(512, &[Made::default(), Made::default(), Made::default()]);
        let damaged = |at: usize, value: u32| {
            let mut block = good.clone();
            block[at..at + 4].copy_from_slice(&value.to_ne_bytes());
            frames(&block)
        };
        assert_eq!(damaged(48 + 12, 100_000), Err(Damage { lost: 3 }), "captured length beyond the block");
        assert_eq!(damaged(48, 8), Err(Damage { lost: 2 }), "a step into the same frame, which is whole");
        assert_eq!(damaged(48, u32::MAX), Err(Damage { lost: 2 }), "a step out of the block");
        assert_eq!(damaged(48 + 24, 10 | 96 << 16), Err(Damage { lost: 3 }), "data inside the headers");
        assert_eq!(damaged(48 + 24, 96 | 82 << 16), Err(Damage { lost: 3 }), "network before link header");
        assert_eq!(damaged(PACKET_COUNT, u32::MAX), Err(Damage { lost: 0 }), "an impossible count");
        assert_eq!(
            damaged(FIRST_PACKET, u32::MAX),
            Err(Damage { lost: 3 }),
            "a first frame out of the block"
        );
    }

    #[test]
    fn no_bytes_whatever_make_it_panic() {
        let good = block(512, &[Made { vlan: Some((0x8100, 1)), ..Made::default() }, Made::default()]);
        for at in 8..good.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut block = good.clone();
                block[at] = value;
                for frame in frames(&block).unwrap_or_default() {
                    for link_type in [LinkType::ETHERNET, LinkType::RAW_IP, LinkType::LINUX_SLL2] {
                        let mut copy = block.clone();
                        if let Some(shape) = frame.shape(&mut copy, link_type) {
                            assert!(copy.get(shape.cut(40).bytes).is_some());
                        }
                    }
                }
            }
        }
    }
}
