//! Who talked to whom: one entry for each connection, or flow of a protocol that has none, within a limit.

use std::collections::HashMap;

use serde::Serialize;

use super::tcp::{End, Start, Tcp};
use super::totals::Volume;
use crate::decode::{self, IpPacket};
use crate::model::{Flow, Packet, ProcessIndex, Protocol, RealTime};

/// So many processes are named at one connection: one server hands it to hardly more.
const MOST_PROCESSES: usize = 16;

/// One connection as the end sees it that opened it, or that was heard of first.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) flow: Flow,
    /// From that end, and to it.
    pub(super) volumes: [Volume; 2],
    /// Segments that were sent again, the same way.
    pub(super) sent_again: [u64; 2],
    /// The processes at that end, and at the other one.
    pub(super) processes: [Vec<ProcessIndex>; 2],
    pub(super) first: RealTime,
    pub(super) last: RealTime,
    pub(super) tcp: Option<Tcp>,
}

impl Connection {
    fn beginning(packet: &IpPacket, segment: Option<&decode::Segment<'_>>, at: RealTime) -> Self {
        let is_answer = segment.is_some_and(|segment| segment.flags.syn() && segment.flags.ack());
        Self {
            flow: if is_answer { packet.flow.reversed() } else { packet.flow },
            volumes: [Volume::default(); 2],
            sent_again: [0; 2],
            processes: [Vec::new(), Vec::new()],
            first: at,
            last: at,
            tcp: segment.map(Tcp::beginning),
        }
    }

    /// Names a process at one end. Tells whether there was room.
    fn name(&mut self, end: usize, process: Option<ProcessIndex>) -> bool {
        let processes = &mut self.processes[end];
        match process {
            Some(process) if !processes.contains(&process) => {
                let has_room = processes.len() < MOST_PROCESSES;
                if has_room {
                    processes.push(process);
                }
                has_room
            }
            _ => true,
        }
    }
}

/// How many TCP connections there were, and how they began and ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct TcpCounts {
    pub(super) connections: u64,
    pub(super) syn: u64,
    pub(super) already_open: u64,
    pub(super) fin: u64,
    pub(super) half_closed: u64,
    pub(super) reset: u64,
    pub(super) refused: u64,
    pub(super) unanswered: u64,
    pub(super) open: u64,
}

impl TcpCounts {
    /// Counts a connection.
    pub(super) fn count(&mut self, tcp: &Tcp) {
        self.connections += 1;
        *match tcp.start {
            Start::Syn => &mut self.syn,
            Start::AlreadyOpen => &mut self.already_open,
        } += 1;
        *match tcp.end() {
            End::Fin => &mut self.fin,
            End::HalfClosed => &mut self.half_closed,
            End::Reset => &mut self.reset,
            End::Refused => &mut self.refused,
            End::Unanswered => &mut self.unanswered,
            End::Open => &mut self.open,
        } += 1;
    }
}

/// The connections so far.
#[derive(Debug)]
pub(super) struct Connections {
    /// The latest of each flow; of the two ways to see a flow, the smaller one.
    by_flow: HashMap<Flow, usize>,
    all: Vec<Connection>,
    most: usize,
    /// Packets of connections that there was no room for.
    pub(super) beyond: Volume,
    /// Packets of processes that there was no room for at their connection.
    pub(super) unnamed: u64,
}

impl Connections {
    /// At most so many of them.
    pub(super) fn new(most: usize) -> Self {
        let beyond = Volume::default();
        Self { by_flow: HashMap::new(), all: Vec::new(), most, beyond, unnamed: 0 }
    }

    /// Takes in an IP packet with the processes that sent and received it. Tells whether it is a TCP segment that was sent before.
    pub(super) fn count(
        &mut self,
        packet: &Packet<'_>,
        ip: &IpPacket,
        sender: Option<ProcessIndex>,
        receiver: Option<ProcessIndex>,
    ) -> bool {
        let segment = decode::segment(ip, packet.data);
        let Some(index) = self.index_of(ip, segment.as_ref(), packet.time) else {
            self.beyond.count(packet.original_length);
            return false;
        };
        let connection = &mut self.all[index];
        let way = usize::from(connection.flow != ip.flow);
        connection.volumes[way].count(packet.original_length);
        connection.first = connection.first.min(packet.time);
        connection.last = connection.last.max(packet.time);
        let are_named = [connection.name(way, sender), connection.name(1 - way, receiver)];
        self.unnamed += are_named.iter().filter(|is_named| !**is_named).count() as u64;
        let (Some(tcp), Some(segment)) = (&mut connection.tcp, &segment) else { return false };
        let is_again = tcp.take(way, segment, packet.time, packet.interface);
        connection.sent_again[way] += u64::from(is_again);
        is_again
    }

    /// The connection of a packet; a new one if there is none yet and there is room.
    fn index_of(
        &mut self,
        ip: &IpPacket,
        segment: Option<&decode::Segment<'_>>,
        at: RealTime,
    ) -> Option<usize> {
        let reversed = ip.flow.reversed();
        let key = if ip.flow <= reversed { ip.flow } else { reversed };
        if let Some(index) = self.by_flow.get(&key).copied() {
            let connection = &self.all[index];
            let way = usize::from(connection.flow != ip.flow);
            let is_another = match (&connection.tcp, segment) {
                (Some(tcp), Some(segment)) => tcp.is_over_with(way, segment),
                _ => false,
            };
            if !is_another {
                return Some(index);
            }
            self.by_flow.remove(&key);
        }
        if self.all.len() >= self.most {
            return None;
        }
        let index = self.all.len();
        self.all.push(Connection::beginning(ip, segment, at));
        self.by_flow.insert(key, index);
        Some(index)
    }

    /// All of them, in the order of their first packets.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.all.iter()
    }

    /// All of TCP.
    pub(super) fn tcp_counts(&self) -> TcpCounts {
        let mut counts = TcpCounts::default();
        self.all.iter().filter_map(|connection| connection.tcp.as_ref()).for_each(|tcp| counts.count(tcp));
        counts
    }

    /// TCP segments that were sent again, in all.
    pub(super) fn sent_again(&self) -> u64 {
        self.all.iter().flat_map(|connection| connection.sent_again).sum()
    }
}

/// Whether a protocol has ports, so that an address alone does not tell an end.
pub(super) const fn has_ports(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::TCP | Protocol::UDP | Protocol::UDP_LITE | Protocol::SCTP)
}
