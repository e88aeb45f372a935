//! Adds packets up: for each process while they are read, for each group of processes at the end, because the records
//! of processes may stand behind all packets. Pure: from records to rows.

use std::collections::HashMap;
use std::net::IpAddr;

use serde::Serialize;

use super::super::text;
use crate::decode::{self, Decoded};
use crate::model::{Attribution, Owner, Process, ProcessIndex, ProcessTable, RealTime};
use crate::pcapng::Record;
use crate::pcapng::annotation::{escape_name, escape_text};

/// What the processes of a group have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// Each process by itself: its pid, start and program
    #[default]
    Pid,
    /// The name
    Name,
    /// The real user id
    User,
    /// The systemd unit
    Unit,
    /// The container
    Container,
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

    const fn plus(self, other: Self) -> Self {
        Self { packets: self.packets + other.packets, bytes: self.bytes + other.bytes }
    }

    const fn minus(self, other: Self) -> Self {
        Self { packets: self.packets - other.packets, bytes: self.bytes - other.bytes }
    }
}

/// What one process did, or a group of them.
#[derive(Clone, Debug)]
struct Traffic {
    sent: Volume,
    received: Volume,
    /// Packets by the address of the other end.
    peers: HashMap<IpAddr, u64>,
    first: RealTime,
    last: RealTime,
}

impl Traffic {
    fn beginning(at: RealTime) -> Self {
        let nothing = Volume::default();
        Self { sent: nothing, received: nothing, peers: HashMap::new(), first: at, last: at }
    }

    fn add(&mut self, other: &Self) {
        self.sent = self.sent.plus(other.sent);
        self.received = self.received.plus(other.received);
        for (address, packets) in &other.peers {
            *self.peers.entry(*address).or_default() += packets;
        }
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

/// What was read so far.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// All packets.
    pub(super) all: Volume,
    /// Packets without a process.
    pub(super) nobody: Volume,
    by_process: HashMap<ProcessIndex, Traffic>,
    /// Packets whose two ends are known: they are in the traffic of both.
    between: HashMap<(ProcessIndex, ProcessIndex), Volume>,
}

impl Totals {
    /// Counts one packet.
    pub(super) fn count(&mut self, record: &Record<'_>) {
        let bytes = record.packet.original_length;
        self.all.count(bytes);
        let (sender, receiver) = match record.attribution {
            Attribution::Known { sender, receiver, .. } => (sender, receiver),
            Attribution::Unknown(_) => (None, None),
        };
        match (sender, receiver) {
            (None, None) => return self.nobody.count(bytes),
            (Some(sender), Some(receiver)) => {
                self.between.entry((sender.process, receiver.process)).or_default().count(bytes);
            }
            _ => {}
        }
        let decoded = decode::packet(record.interface.link_type, record.packet.data);
        for (owner, is_sender) in [(sender, true), (receiver, false)] {
            if let Some(owner) = owner {
                self.count_end(owner, is_sender, record, &decoded);
            }
        }
    }

    fn count_end(&mut self, owner: Owner, is_sender: bool, record: &Record<'_>, decoded: &Decoded) {
        let packet = &record.packet;
        let traffic = self.by_process.entry(owner.process).or_insert_with(|| Traffic::beginning(packet.time));
        let volume = if is_sender { &mut traffic.sent } else { &mut traffic.received };
        volume.count(packet.original_length);
        if let Decoded::Ip(ip) = decoded {
            *traffic.peers.entry(text::peer(ip, is_sender)).or_default() += 1;
        }
        traffic.first = traffic.first.min(packet.time);
        traffic.last = traffic.last.max(packet.time);
    }

    /// Packets with a process.
    pub(super) const fn attributed(&self) -> u64 {
        self.all.packets - self.nobody.packets
    }

    /// The groups, the busiest first. `user_name` tells the name of a user id.
    pub(super) fn rows(
        &self,
        by: By,
        processes: &ProcessTable,
        user_name: impl Fn(u32) -> Option<String>,
    ) -> Vec<Row> {
        let mut groups: HashMap<Key<'_>, Group> = HashMap::new();
        for (index, traffic) in &self.by_process {
            let Some(key) = Key::of(by, *index, processes) else { continue };
            let group = groups.entry(key).or_insert_with(|| Group::beginning(traffic.first));
            group.processes += 1;
            group.traffic.add(traffic);
        }
        for ((sender, receiver), volume) in &self.between {
            let (sender, receiver) = (Key::of(by, *sender, processes), Key::of(by, *receiver, processes));
            if sender == receiver
                && let Some(group) = sender.and_then(|key| groups.get_mut(&key))
            {
                group.within = group.within.plus(*volume);
            }
        }
        let mut rows: Vec<Row> =
            groups.iter().map(|(key, group)| group.row(key.who(processes, &user_name))).collect();
        rows.sort_by(|a, b| {
            b.total.bytes.cmp(&a.total.bytes).then_with(|| (&a.who, a.first_ns).cmp(&(&b.who, b.first_ns)))
        });
        rows
    }
}

/// What makes two processes one group.
#[derive(PartialEq, Eq, Hash)]
enum Key<'a> {
    Process(ProcessIndex),
    Name(&'a [u8]),
    User(Option<u32>),
    Unit(Option<&'a str>),
    Container(Option<&'a str>),
}

impl<'a> Key<'a> {
    fn of(by: By, index: ProcessIndex, processes: &'a ProcessTable) -> Option<Self> {
        let process: &Process = processes.get(index)?;
        Some(match by {
            By::Pid => Self::Process(index),
            By::Name => Self::Name(&process.name),
            By::User => Self::User(process.uid),
            By::Unit => Self::Unit(process.unit.as_deref()),
            By::Container => Self::Container(process.container.as_deref()),
        })
    }

    fn who(&self, processes: &ProcessTable, user_name: impl Fn(u32) -> Option<String>) -> Who {
        match *self {
            Self::Process(index) => {
                let process = processes.get(index).cloned().unwrap_or_else(|| Process::new(0, ""));
                let path = process.path.as_ref().map(|path| escape_text(path));
                Who::Process { pid: process.pid, name: escape_name(&process.name), path }
            }
            Self::Name(name) => Who::Name { name: escape_name(name) },
            Self::User(uid) => Who::User { uid, user: uid.and_then(user_name) },
            Self::Unit(unit) => Who::Unit { unit: unit.map(str::to_owned) },
            Self::Container(container) => Who::Container { container: container.map(str::to_owned) },
        }
    }
}

/// Processes that have something in common, and what they did.
struct Group {
    processes: usize,
    traffic: Traffic,
    /// Packets from one of them to one of them, which are in both columns.
    within: Volume,
}

impl Group {
    fn beginning(at: RealTime) -> Self {
        Self { processes: 0, traffic: Traffic::beginning(at), within: Volume::default() }
    }

    fn row(&self, who: Who) -> Row {
        let Traffic { sent, received, peers, first, last } = &self.traffic;
        // The most packets; of equals the lowest address, so that the same file gives the same text.
        let top = peers.iter().max_by_key(|(address, packets)| (**packets, std::cmp::Reverse(**address)));
        Row {
            who,
            processes: self.processes,
            total: sent.plus(*received).minus(self.within),
            sent: *sent,
            received: *received,
            peers: peers.len(),
            top_peer: top.map(|(address, _)| address.to_string()),
            first_ns: first.as_ns(),
            last_ns: last.as_ns(),
        }
    }
}

/// One group; also its object in `--json`. docs/FORMAT.md describes it; keys are only ever added.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    #[serde(flatten)]
    pub(super) who: Who,
    /// How many processes are in the group.
    pub(super) processes: usize,
    /// Packets with one of the group at one end or at both, each counted once.
    pub(super) total: Volume,
    pub(super) sent: Volume,
    pub(super) received: Volume,
    /// How many addresses the other ends had.
    pub(super) peers: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) top_peer: Option<String>,
    pub(super) first_ns: u64,
    pub(super) last_ns: u64,
}

/// Which group: names spelled as in the file.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub(super) enum Who {
    Process {
        pid: u32,
        name: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<String>,
    },
    Name {
        name: String,
    },
    User {
        #[serde(skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<String>,
    },
    Unit {
        #[serde(skip_serializing_if = "Option::is_none")]
        unit: Option<String>,
    },
    Container {
        #[serde(skip_serializing_if = "Option::is_none")]
        container: Option<String>,
    },
}

impl Who {
    /// As the table writes it; `-` for processes that have none.
    pub(super) fn label(&self) -> String {
        let label = match self {
            Self::Process { pid, name, .. } => Some(format!("{name}[{pid}]")),
            Self::Name { name } => Some(name.clone()),
            Self::User { uid, user } => {
                let name = user.as_deref().map(text::safe);
                name.or_else(|| uid.map(|uid| uid.to_string()))
            }
            Self::Unit { unit: group } | Self::Container { container: group } => {
                group.as_deref().map(text::unit)
            }
        };
        label.unwrap_or_else(|| "-".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::*;

    const NOTHING: Volume = Volume { packets: 0, bytes: 0 };

    /// A server and its two clients, one of them in the same container; and somebody who talks to himself.
    fn table() -> ProcessTable {
        let process = |pid, name: &str, uid, container: Option<&str>, unit: Option<&str>| Process {
            uid,
            container: container.map(str::to_owned),
            unit: unit.map(str::to_owned),
            ..Process::new(pid, name)
        };
        let mut table = ProcessTable::default();
        table.push(process(1, "server", Some(0), Some("box"), Some("web.service")));
        table.push(process(2, "client", Some(1000), Some("box"), None));
        table.push(process(3, "client", Some(1000), None, None));
        table.push(process(4, "loner", None, None, Some(r"a\x2db.scope")));
        table
    }

    /// One packet of so many bytes: who sent it, who received it.
    fn totals(packets: &[(Option<u32>, Option<u32>, u32)]) -> Totals {
        let interface = Interface {
            name: "lo".into(),
            description: None,
            link_type: LinkType::ETHERNET,
            mac: None,
            snap_length: 0,
            filter: None,
        };
        let (mut totals, processes) = (Totals::default(), table());
        for (number, (sender, receiver, bytes)) in packets.iter().enumerate() {
            let owner =
                |index: Option<u32>| index.map(|index| Owner { process: ProcessIndex(index), tid: 0 });
            let (sender, receiver) = (owner(*sender), owner(*receiver));
            let attribution = match (sender, receiver) {
                (None, None) => Attribution::Unknown(Reason::NoSocket),
                _ => Attribution::Known { sender, receiver, both_local: true, found: Found::Socket },
            };
            let packet = Packet {
                interface: InterfaceId(0),
                time: RealTime::from_ns(number as u64),
                direction: Direction::Unknown,
                reception: Reception::Unknown,
                original_length: *bytes,
                data: &[],
            };
            totals.count(&Record { packet, interface: &interface, attribution, processes: &processes });
        }
        totals
    }

    fn rows(
        packets: &[(Option<u32>, Option<u32>, u32)],
        by: By,
    ) -> Vec<(String, usize, Volume, Volume, Volume)> {
        let names = |uid| (uid == 1000).then(|| "alice".to_owned());
        let rows = totals(packets).rows(by, &table(), names);
        rows.iter().map(|row| (row.who.label(), row.processes, row.total, row.sent, row.received)).collect()
    }

    const fn volume(packets: u64, bytes: u64) -> Volume {
        Volume { packets, bytes }
    }

    const PACKETS: [(Option<u32>, Option<u32>, u32); 4] =
        [(Some(1), Some(0), 100), (Some(0), Some(2), 30), (Some(3), Some(3), 7), (None, None, 1)];

    #[test]
    fn a_packet_within_a_group_counts_once_for_the_group() {
        assert_eq!(
            rows(&PACKETS, By::Container),
            [
                ("box".to_owned(), 2, volume(2, 130), volume(2, 130), volume(1, 100)),
                ("-".to_owned(), 2, volume(2, 37), volume(1, 7), volume(2, 37)),
            ]
        );
    }

    #[test]
    fn a_packet_between_two_groups_counts_once_for_each() {
        assert_eq!(
            rows(&PACKETS, By::Name),
            [
                ("client".to_owned(), 2, volume(2, 130), volume(1, 100), volume(1, 30)),
                ("server".to_owned(), 1, volume(2, 130), volume(1, 30), volume(1, 100)),
                ("loner".to_owned(), 1, volume(1, 7), volume(1, 7), volume(1, 7)),
            ]
        );
    }

    #[test]
    fn each_process_is_a_group_of_its_own_by_pid() {
        let rows = rows(&PACKETS, By::Pid);
        let labels: Vec<&str> = rows.iter().map(|row| row.0.as_str()).collect();
        assert_eq!(labels, ["server[1]", "client[2]", "client[3]", "loner[4]"]);
        assert_eq!(rows[3].2, volume(1, 7), "a packet to oneself is one packet");
    }

    #[test]
    fn users_have_their_names_where_the_system_knows_them() {
        let rows = rows(&PACKETS, By::User);
        let labels: Vec<&str> = rows.iter().map(|row| row.0.as_str()).collect();
        assert_eq!(labels, ["0", "alice", "-"], "of equals the lower user id comes first");
    }

    #[test]
    fn a_unit_is_spelled_as_systemd_spells_it() {
        let rows = rows(&PACKETS, By::Unit);
        let labels: Vec<&str> = rows.iter().map(|row| row.0.as_str()).collect();
        assert_eq!(labels, ["-", "web.service", r"a\x2db.scope"]);
    }

    #[test]
    fn what_has_no_process_is_in_no_group() {
        let totals = totals(&PACKETS);
        assert_eq!((totals.all, totals.nobody, totals.attributed()), (volume(4, 138), volume(1, 1), 3));
        assert!(rows(&[(None, None, 5)], By::Name).is_empty());
        assert_eq!(rows(&[], By::User), []);
        assert_eq!(
            rows(&[(Some(1), None, 5)], By::Unit),
            [("-".to_owned(), 1, volume(1, 5), volume(1, 5), NOTHING)]
        );
    }
}
