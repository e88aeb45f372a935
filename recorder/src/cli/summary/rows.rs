//! Groups of processes, and connections, as `recorder summary` tells of them: what was added up, put in order.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::super::text;
use super::connections::{Connection, TcpCounts, has_ports};
use super::names::Names;
use super::tcp::{End, Start};
use super::totals::{Totals, Traffic, Volume};
use crate::model::{Process, ProcessIndex, ProcessTable};
use crate::pcapng::annotation::{escape_name, escape_text};

/// What a row stands for: processes that have this in common, or a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// Each process by itself: its pid, start and program
    #[default]
    #[value(alias = "pid")]
    Process,
    /// The name
    Name,
    /// The real user id
    User,
    /// The systemd unit
    Unit,
    /// The container
    Container,
    /// Each connection, also those of nobody known
    Connection,
}

/// What makes two processes one group.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
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
            By::Process | By::Connection => Self::Process(index),
            By::Name => Self::Name(&process.name),
            By::User => Self::User(process.uid),
            By::Unit => Self::Unit(process.unit.as_deref()),
            By::Container => Self::Container(process.container.as_deref()),
        })
    }

    fn who(&self, processes: &ProcessTable, user_name: &dyn Fn(u32) -> Option<String>) -> Who {
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
    peers: HashMap<IpAddr, Traffic>,
    tcp: TcpCounts,
    /// Packets from one of them to one of them, which are in both columns.
    within: Volume,
}

impl Group {
    fn row(self, key: Key<'_>, who: Who, names: &Names) -> Row {
        let Traffic { sent, received, first, last, sent_again } = self.traffic;
        let mut peers: Vec<Peer> =
            self.peers.iter().map(|(address, traffic)| Peer::new(*address, traffic, names)).collect();
        // Of equals the lowest address comes first, so that the same file gives the same text.
        peers.sort_by_key(|peer| (Reverse(peer.sent.plus(peer.received).bytes), peer.address));
        let top = self.peers.iter().max_by_key(|(address, traffic)| {
            (traffic.sent.plus(traffic.received).packets, Reverse(**address))
        });
        Row {
            who,
            process: if let Key::Process(index) = key { Some(index) } else { None },
            processes: self.processes,
            total: sent.plus(received).minus(self.within),
            sent,
            received,
            peers: peers.len(),
            top_peer: top.map(|(address, _)| address.to_string()),
            peer_list: peers,
            tcp: self.tcp,
            sent_again: SentAgain { sent: sent_again[0], received: sent_again[1] },
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
    /// Which process it is, by process.
    #[serde(skip)]
    pub(super) process: Option<ProcessIndex>,
    /// How many processes are in the group.
    pub(super) processes: usize,
    /// Packets with one of the group at one end or at both, each counted once.
    pub(super) total: Volume,
    pub(super) sent: Volume,
    pub(super) received: Volume,
    /// How many addresses the other ends had.
    pub(super) peers: usize,
    /// The one with the most packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) top_peer: Option<String>,
    /// Most bytes first.
    pub(super) peer_list: Vec<Peer>,
    pub(super) tcp: TcpCounts,
    pub(super) sent_again: SentAgain,
    pub(super) first_ns: u64,
    pub(super) last_ns: u64,
}

/// TCP segments that were sent before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct SentAgain {
    pub(super) sent: u64,
    pub(super) received: u64,
}

/// An address that somebody talked to.
#[derive(Debug, Serialize)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    /// As DNS answers of the capture have them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) names: Vec<String>,
    pub(super) sent: Volume,
    pub(super) received: Volume,
    pub(super) sent_again: SentAgain,
    pub(super) first_ns: u64,
    pub(super) last_ns: u64,
}

impl Peer {
    pub(super) fn new(address: IpAddr, traffic: &Traffic, names: &Names) -> Self {
        Self {
            address,
            names: names.of(address).to_vec(),
            sent: traffic.sent,
            received: traffic.received,
            sent_again: SentAgain { sent: traffic.sent_again[0], received: traffic.sent_again[1] },
            first_ns: traffic.first.as_ns(),
            last_ns: traffic.last.as_ns(),
        }
    }

    /// The name, where there is one; else the address.
    pub(super) fn label(&self) -> String {
        self.names.first().cloned().unwrap_or_else(|| self.address.to_string())
    }
}

/// The groups, the busiest first. `user_name` tells the name of a user id.
pub(super) fn groups(
    totals: &Totals,
    by: By,
    processes: &ProcessTable,
    user_name: &dyn Fn(u32) -> Option<String>,
) -> Vec<Row> {
    let mut groups: HashMap<Key<'_>, Group> = HashMap::new();
    let key = |index: ProcessIndex| Key::of(by, index, processes);
    for (index, traffic) in &totals.by_process {
        let Some(key) = key(*index) else { continue };
        let group = groups.entry(key).or_insert_with(|| Group {
            processes: 0,
            traffic: Traffic::beginning(traffic.first),
            peers: HashMap::new(),
            tcp: TcpCounts::default(),
            within: Volume::default(),
        });
        group.processes += 1;
        group.traffic.add(traffic);
    }
    for ((index, address), traffic) in &totals.peers {
        if let Some(group) = key(*index).and_then(|key| groups.get_mut(&key)) {
            let peer = group.peers.entry(*address).or_insert_with(|| Traffic::beginning(traffic.first));
            peer.add(traffic);
        }
    }
    for ((sender, receiver), volume) in &totals.between {
        let (sender, receiver) = (key(*sender), key(*receiver));
        if sender == receiver
            && let Some(group) = sender.and_then(|key| groups.get_mut(&key))
        {
            group.within = group.within.plus(*volume);
        }
    }
    for connection in totals.connections.iter() {
        let Some(tcp) = &connection.tcp else { continue };
        let there: HashSet<Key<'_>> =
            connection.processes.iter().flatten().filter_map(|index| key(*index)).collect();
        for key in there {
            if let Some(group) = groups.get_mut(&key) {
                group.tcp.count(tcp);
            }
        }
    }
    let mut rows: Vec<Row> = groups
        .into_iter()
        .map(|(key, group)| group.row(key, key.who(processes, user_name), &totals.names))
        .collect();
    rows.sort_by(|a, b| {
        b.total.bytes.cmp(&a.total.bytes).then_with(|| (&a.who, a.first_ns).cmp(&(&b.who, b.first_ns)))
    });
    rows
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

/// One connection; also its object in `--json`. Seen from who opened it, or was heard of first.
#[derive(Debug, Serialize)]
pub(super) struct ConnectionRow {
    pub(super) protocol: String,
    pub(super) source: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source_port: Option<u16>,
    pub(super) destination: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) destination_port: Option<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) source_names: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) destination_names: Vec<String>,
    /// In the order in which they were heard of.
    pub(super) source_processes: Vec<ProcessName>,
    pub(super) destination_processes: Vec<ProcessName>,
    pub(super) total: Volume,
    pub(super) sent: Volume,
    pub(super) received: Volume,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) start: Option<Start>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) end: Option<End>,
    pub(super) sent_again: SentAgain,
    pub(super) first_ns: u64,
    pub(super) last_ns: u64,
}

/// A process at the end of a connection.
#[derive(Debug, Serialize)]
pub(super) struct ProcessName {
    pub(super) pid: u32,
    pub(super) name: String,
}

impl ConnectionRow {
    pub(super) fn new(connection: &Connection, processes: &ProcessTable, names: &Names) -> Self {
        let flow = connection.flow;
        let (source, destination) = (flow.local.ip(), flow.remote.ip());
        let port = |port: u16| (has_ports(flow.protocol) && port != 0).then_some(port);
        let named = |end: usize| {
            let known = connection.processes[end].iter().filter_map(|index| processes.get(*index));
            known.map(|process| ProcessName { pid: process.pid, name: escape_name(&process.name) }).collect()
        };
        let [sent, received] = connection.volumes;
        let [sent_again, received_again] = connection.sent_again;
        Self {
            protocol: flow.protocol.to_string(),
            source,
            source_port: port(flow.local.port),
            destination,
            destination_port: port(flow.remote.port),
            source_names: names.of(source).to_vec(),
            destination_names: names.of(destination).to_vec(),
            source_processes: named(0),
            destination_processes: named(1),
            total: sent.plus(received),
            sent,
            received,
            start: connection.tcp.as_ref().map(|tcp| tcp.start),
            end: connection.tcp.as_ref().map(super::tcp::Tcp::end),
            sent_again: SentAgain { sent: sent_again, received: received_again },
            first_ns: connection.first.as_ns(),
            last_ns: connection.last.as_ns(),
        }
    }
}

impl ConnectionRow {
    /// `TCP 10.0.0.1:40000 > 10.0.0.2:443`
    pub(super) fn label(&self) -> String {
        let end = |address: IpAddr, port: Option<u16>| {
            port.map_or_else(|| address.to_string(), |port| SocketAddr::new(address, port).to_string())
        };
        let source = end(self.source, self.source_port);
        format!("{} {source} > {}", self.protocol, end(self.destination, self.destination_port))
    }

    /// `curl[4242] > nginx[99], nginx[100]`; `?` for an end of which no process is known, `-` for two.
    pub(super) fn processes(&self) -> String {
        let end = |processes: &[ProcessName]| {
            let labels: Vec<String> =
                processes.iter().map(|process| format!("{}[{}]", process.name, process.pid)).collect();
            if labels.is_empty() { "?".to_owned() } else { labels.join(", ") }
        };
        if self.source_processes.is_empty() && self.destination_processes.is_empty() {
            return "-".to_owned();
        }
        format!("{} > {}", end(&self.source_processes), end(&self.destination_processes))
    }

    /// The name of the other end, as DNS answers have it.
    pub(super) fn name(&self) -> Option<&str> {
        self.destination_names.first().or(self.source_names.first()).map(String::as_str)
    }
}

/// The connections, the busiest first; of equals the earlier one.
pub(super) fn connections(totals: &Totals, processes: &ProcessTable) -> Vec<ConnectionRow> {
    let row = |connection| ConnectionRow::new(connection, processes, &totals.names);
    let mut rows: Vec<ConnectionRow> = totals.connections.iter().map(row).collect();
    rows.sort_by_key(|row| Reverse(row.total.bytes));
    rows
}

#[cfg(test)]
mod tests {
    use super::super::totals::Limits;
    use super::*;
    use crate::model::*;
    use crate::pcapng::Record;

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
    fn totals(packets: &[(Option<u32>, Option<u32>, u32)], limits: Limits) -> Totals {
        let interface = Interface {
            name: "lo".into(),
            description: None,
            link_type: LinkType::ETHERNET,
            mac: None,
            snap_length: 0,
            filter: None,
        };
        let (mut totals, processes) = (Totals::new(limits, true), table());
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
        let rows = groups(&totals(packets, Limits::default()), by, &table(), &names);
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
    fn each_process_is_a_group_of_its_own_by_process() {
        let rows = rows(&PACKETS, By::Process);
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
        let totals = totals(&PACKETS, Limits::default());
        assert_eq!((totals.all, totals.nobody, totals.attributed()), (volume(4, 138), volume(1, 1), 3));
        assert!(rows(&[(None, None, 5)], By::Name).is_empty());
        assert_eq!(rows(&[], By::User), []);
        assert_eq!(
            rows(&[(Some(1), None, 5)], By::Unit),
            [("-".to_owned(), 1, volume(1, 5), volume(1, 5), NOTHING)]
        );
    }

    #[test]
    fn beyond_the_limit_of_pairs_a_packet_within_a_group_counts_twice_and_that_is_known() {
        let totals = totals(&PACKETS, Limits { pairs: 1, ..Limits::default() });
        assert_eq!(totals.beyond_pairs, volume(2, 37));
        let rows = groups(&totals, By::Container, &table(), &|_| None);
        assert_eq!((rows[0].total, rows[1].total), (volume(2, 130), volume(3, 44)));
    }

    #[test]
    fn in_a_picture_of_all_each_byte_is_there_once_and_shared_by_two_ends() {
        let series = totals(&PACKETS, Limits::default()).timeline.unwrap().series();
        let share = |process: Option<u32>| {
            let bins = &series[&process.map(ProcessIndex)];
            bins.iter().map(|(_, bytes)| bytes.share).sum::<u64>()
        };
        assert_eq!([None, Some(0), Some(1), Some(2), Some(3)].map(share), [1, 50 + 15, 50, 15, 7]);
    }
}
