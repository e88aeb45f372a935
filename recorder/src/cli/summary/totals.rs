//! Adds packets up while they are read: for each process, its peers, each connection. Which processes make a group is known at the
//! end only, because their records may stand behind all packets. Pure, and in bounded memory.

use std::collections::HashMap;
use std::net::IpAddr;

use serde::Serialize;

use super::super::text;
use super::connections::Connections;
use super::names::Names;
use super::timeline::{Bytes, Timeline};
use crate::decode::{self, Decoded, IpPacket};
use crate::model::{Attribution, Owner, ProcessIndex, RealTime};
use crate::pcapng::Record;

/// How much is remembered besides the processes, of which the reader has a table anyway. What is beyond it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Limits {
    /// Connections, TCP or not.
    pub(super) connections: usize,
    /// Pairs of a process and an address that it talked to.
    pub(super) peers: usize,
    /// Addresses with names.
    pub(super) names: usize,
    /// Pairs of processes that talked to each other.
    pub(super) pairs: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 1 << 16, peers: 1 << 16, names: 1 << 16, pairs: 1 << 16 }
    }
}

/// Packets, and their bytes on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Volume {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl Volume {
    pub(super) fn count(&mut self, bytes: u32) {
        self.packets += 1;
        self.bytes += u64::from(bytes);
    }

    pub(super) const fn plus(self, other: Self) -> Self {
        Self { packets: self.packets + other.packets, bytes: self.bytes + other.bytes }
    }

    pub(super) const fn minus(self, other: Self) -> Self {
        Self { packets: self.packets - other.packets, bytes: self.bytes - other.bytes }
    }
}

/// What went both ways, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traffic {
    pub(super) sent: Volume,
    pub(super) received: Volume,
    pub(super) first: RealTime,
    pub(super) last: RealTime,
    /// TCP segments that were sent again: by this end, and to it.
    pub(super) sent_again: [u64; 2],
}

impl Traffic {
    pub(super) fn beginning(at: RealTime) -> Self {
        let nothing = Volume::default();
        Self { sent: nothing, received: nothing, first: at, last: at, sent_again: [0; 2] }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.sent = self.sent.plus(other.sent);
        self.received = self.received.plus(other.received);
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        for way in 0..2 {
            self.sent_again[way] += other.sent_again[way];
        }
    }

    fn count(&mut self, record: &Record<'_>, is_sender: bool, is_again: bool) {
        let packet = &record.packet;
        let volume = if is_sender { &mut self.sent } else { &mut self.received };
        volume.count(packet.original_length);
        self.first = self.first.min(packet.time);
        self.last = self.last.max(packet.time);
        self.sent_again[usize::from(!is_sender)] += u64::from(is_again);
    }
}

/// What was read so far.
#[derive(Debug)]
pub(super) struct Totals {
    pub(super) limits: Limits,
    /// All packets.
    pub(super) all: Volume,
    /// Packets without a process.
    pub(super) nobody: Volume,
    /// When the first and the last packet were captured.
    pub(super) times: Option<(RealTime, RealTime)>,
    pub(super) by_process: HashMap<ProcessIndex, Traffic>,
    /// By process, and the address of the other end.
    pub(super) peers: HashMap<(ProcessIndex, IpAddr), Traffic>,
    /// Packets with a peer that there was no room for.
    pub(super) beyond_peers: Volume,
    /// Packets whose two ends are known: they are in the traffic of both.
    pub(super) between: HashMap<(ProcessIndex, ProcessIndex), Volume>,
    /// Packets of two processes that there was no room for.
    pub(super) beyond_pairs: Volume,
    pub(super) connections: Connections,
    pub(super) names: Names,
    /// Only where it was asked for.
    pub(super) timeline: Option<Timeline>,
}

impl Totals {
    /// Nothing yet; with a timeline, if one is asked for.
    pub(super) fn new(limits: Limits, has_timeline: bool) -> Self {
        Self {
            limits,
            all: Volume::default(),
            nobody: Volume::default(),
            times: None,
            by_process: HashMap::new(),
            peers: HashMap::new(),
            beyond_peers: Volume::default(),
            between: HashMap::new(),
            beyond_pairs: Volume::default(),
            connections: Connections::new(limits.connections),
            names: Names::new(limits.names),
            timeline: has_timeline.then(Timeline::default),
        }
    }

    /// Counts one packet.
    pub(super) fn count(&mut self, record: &Record<'_>) {
        let packet = &record.packet;
        self.all.count(packet.original_length);
        let (first, last) = self.times.unwrap_or((packet.time, packet.time));
        self.times = Some((first.min(packet.time), last.max(packet.time)));
        let ends = match record.attribution {
            Attribution::Known { sender, receiver, .. } => [sender, receiver],
            Attribution::Unknown(_) => [None, None],
        };
        let ends = ends.map(|end: Option<Owner>| end.map(|owner| owner.process));
        self.draw(record, ends);
        let decoded = decode::packet(record.interface.link_type, packet.data);
        let is_again = match &decoded {
            Decoded::Ip(ip) => {
                decode::answers(ip, packet.data).iter().for_each(|named| self.names.learn(named));
                self.connections.count(packet, ip, ends[0], ends[1])
            }
            Decoded::NotIp(_) => false,
        };
        match ends {
            [None, None] => self.nobody.count(packet.original_length),
            [Some(sender), Some(receiver)] => self.count_pair(sender, receiver, packet.original_length),
            _ => {}
        }
        for (process, is_sender) in ends.into_iter().zip([true, false]) {
            let Some(process) = process else { continue };
            let traffic = self.by_process.entry(process).or_insert_with(|| Traffic::beginning(packet.time));
            traffic.count(record, is_sender, is_again);
            if let Decoded::Ip(ip) = &decoded {
                self.count_peer(process, ip, record, is_sender, is_again);
            }
        }
    }

    fn count_pair(&mut self, sender: ProcessIndex, receiver: ProcessIndex, bytes: u32) {
        let (pair, is_full) = ((sender, receiver), self.between.len() >= self.limits.pairs);
        if is_full && !self.between.contains_key(&pair) {
            self.beyond_pairs.count(bytes);
        } else {
            self.between.entry(pair).or_default().count(bytes);
        }
    }

    fn count_peer(
        &mut self,
        process: ProcessIndex,
        ip: &IpPacket,
        record: &Record<'_>,
        is_sender: bool,
        is_again: bool,
    ) {
        let (key, is_full) = ((process, text::peer(ip, is_sender)), self.peers.len() >= self.limits.peers);
        if is_full && !self.peers.contains_key(&key) {
            self.beyond_peers.count(record.packet.original_length);
            return;
        }
        let peer = self.peers.entry(key).or_insert_with(|| Traffic::beginning(record.packet.time));
        peer.count(record, is_sender, is_again);
    }

    /// Puts a packet into the timeline, if there is one.
    fn draw(&mut self, record: &Record<'_>, [sender, receiver]: [Option<ProcessIndex>; 2]) {
        let Some(timeline) = &mut self.timeline else { return };
        let (at, bytes) = (record.packet.time, u64::from(record.packet.original_length));
        let half = if sender.is_some() && receiver.is_some() { bytes / 2 } else { bytes };
        if sender.is_some() {
            let share = if receiver.is_some() { bytes - half } else { bytes };
            timeline.count(sender, at, Bytes { sent: bytes, received: 0, share });
        }
        if receiver.is_some() {
            timeline.count(receiver, at, Bytes { sent: 0, received: bytes, share: half });
        }
        if sender.is_none() && receiver.is_none() {
            timeline.count(None, at, Bytes { sent: 0, received: 0, share: bytes });
        }
    }

    /// Packets with a process.
    pub(super) const fn attributed(&self) -> u64 {
        self.all.packets - self.nobody.packets
    }
}
