//! Compares what the file says about each packet with what the programs said about themselves.
//!
//! A name is right only if the truth allows it for this packet at this end; all forms of annotation must say the same. The
//! truth is by intervals: whoever used the socket at the time of the packet. Between the end of one turn and the beginning
//! of the next the packet may be either's, and nobody else's.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::Path;

use crate::blocks;
use crate::lab::say;
use crate::truth::{Truth, canonical};
use crate::tshark;

/// Which packets are judged: those that belong to a socket. An ICMP error quotes ports, but they are not its own.
const JUDGED: &str = "((tcp or udp or udplite) and not icmp and not icmpv6) or icmp.type in {0,8} or \
     icmpv6.type in {128,129} or ip.frag_offset > 0 or ipv6.fraghdr.offset > 0";
const UNKNOWN: &str = "?";

/// One packet of a socket, as tshark reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its number in the file, from 1.
    pub number: u32,
    /// When it was captured: nanoseconds since the epoch.
    pub time_ns: u64,
    /// `tcp`, `udp`, `udplite`, `icmp`, `icmpv6`.
    pub protocol: String,
    /// From where. The port of an echo is its identifier, at both ends.
    pub source: SocketAddr,
    /// To where.
    pub destination: SocketAddr,
    /// TCP flags, as tshark writes them; empty for others. An echo has `request` or `reply`.
    pub flags: String,
    /// Bytes on the wire.
    pub length: u32,
    /// Our annotation.
    pub comment: Option<String>,
}

impl Packet {
    /// Whether it opens a TCP connection: SYN without ACK.
    fn opens(&self) -> bool {
        let flags = self.flags.strip_prefix("0x").and_then(|hex| u16::from_str_radix(hex, 16).ok());
        flags.is_some_and(|flags| flags & 0x12 == 0x02)
    }
}

const FIELDS: [&str; 23] = [
    "frame.number",
    "frame.time_epoch",
    "frame.len",
    "ip.src",
    "ipv6.src",
    "ip.dst",
    "ipv6.dst",
    "tcp.srcport",
    "udp.srcport",
    "tcp.dstport",
    "udp.dstport",
    "tcp.flags",
    "ip.proto",
    "ipv6.nxt",
    "ipv6.fraghdr.nxt",
    "icmp.type",
    "icmpv6.type",
    "icmp.ident",
    "icmpv6.echo.identifier",
    "ip.id",
    "ipv6.fraghdr.ident",
    "frame.comment",
    "ip.frag_offset",
];

/// The packets of sockets in a file that the display filter lets through. Later fragments have the ports of the first.
pub fn packets(file: &Path, filter: &str) -> Vec<Packet> {
    let filter = format!("({JUDGED}) and ({filter})");
    let rows = tshark::fields(file, &filter, &FIELDS);
    let mut firsts = HashMap::new();
    let packet = |row: &Vec<String>| {
        let row = Row(row);
        // Identifications come again: the first fragment that was seen last is the one that the others follow.
        if let (Some(datagram), Some(ports)) = (row.datagram(), row.ports()) {
            firsts.insert(datagram, ports);
        }
        row.packet(&firsts).unwrap_or_else(|| panic!("cannot read the row {:?}", row.0))
    };
    rows.iter().map(packet).collect()
}

/// What the fragments of one datagram have in common: addresses, protocol, identification.
type Datagram = (IpAddr, IpAddr, &'static str, String);

/// One row of [`FIELDS`].
struct Row<'a>(&'a [String]);

impl Row<'_> {
    /// The first value: tshark may take what is in a packet for another one.
    fn field(&self, name: &str) -> &str {
        self.whole_field(name).split(';').next().unwrap_or_default()
    }

    fn whole_field(&self, name: &str) -> &str {
        let at = FIELDS.iter().position(|field| *field == name);
        at.and_then(|at| self.0.get(at)).map_or("", String::as_str)
    }

    /// Nothing for what has no identification.
    fn datagram(&self) -> Option<Datagram> {
        let identification = format!("{}{}", self.field("ip.id"), self.field("ipv6.fraghdr.ident"));
        let (source, destination) = self.addresses()?;
        (!identification.is_empty()).then_some((source, destination, self.protocol()?, identification))
    }

    fn addresses(&self) -> Option<(IpAddr, IpAddr)> {
        let address = |v4, v6| format!("{}{}", self.field(v4), self.field(v6)).parse::<IpAddr>().ok();
        Some((address("ip.src", "ipv6.src")?, address("ip.dst", "ipv6.dst")?))
    }

    fn ports(&self) -> Option<(u16, u16)> {
        let number = |names: [&str; 2]| names.iter().find_map(|name| self.field(name).parse::<u16>().ok());
        if let Some(identifier) =
            number(["icmp.ident", "icmpv6.echo.identifier"]).or_else(|| self.hex_identifier())
        {
            return Some((identifier, identifier));
        }
        Some((number(["tcp.srcport", "udp.srcport"])?, number(["tcp.dstport", "udp.dstport"])?))
    }

    /// tshark writes the identifier of ICMPv6 in hexadecimal.
    fn hex_identifier(&self) -> Option<u16> {
        let text = self.field("icmpv6.echo.identifier").strip_prefix("0x")?;
        u16::from_str_radix(text, 16).ok()
    }

    fn packet(&self, firsts: &HashMap<Datagram, (u16, u16)>) -> Option<Packet> {
        let (source, destination) = self.addresses()?;
        let of_first = || self.datagram().and_then(|datagram| firsts.get(&datagram).copied());
        let (from, to) = self.ports().or_else(of_first)?;
        let kind = match (self.field("icmp.type"), self.field("icmpv6.type")) {
            ("8", _) | (_, "128") => "request",
            ("0", _) | (_, "129") => "reply",
            _ => self.field("tcp.flags"),
        };
        let comment = self.whole_field("frame.comment");
        Some(Packet {
            number: self.field("frame.number").parse().ok()?,
            time_ns: nanoseconds(self.field("frame.time_epoch"))?,
            protocol: self.protocol()?.to_string(),
            source: SocketAddr::new(source, from),
            destination: SocketAddr::new(destination, to),
            flags: kind.to_string(),
            length: self.field("frame.len").parse().ok()?,
            comment: (!comment.is_empty()).then(|| comment.to_string()),
        })
    }

    fn protocol(&self) -> Option<&'static str> {
        let names = ["ipv6.fraghdr.nxt", "ip.proto", "ipv6.nxt"];
        Some(match names.map(|name| self.field(name)).into_iter().find(|text| !text.is_empty())? {
            "1" => "icmp",
            "6" => "tcp",
            "17" => "udp",
            "58" => "icmpv6",
            "136" => "udplite",
            _ => return None,
        })
    }
}

/// `1700000000.000000001` in nanoseconds; a float would not hold them.
fn nanoseconds(time: &str) -> Option<u64> {
    let (seconds, fraction) = time.split_once('.')?;
    let seconds: u64 = seconds.parse().ok()?;
    let nanoseconds: u64 = format!("{fraction:0<9}").parse().ok()?;
    Some(seconds * 1_000_000_000 + nanoseconds)
}

/// What was decided about one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Every end that has an owner is named, and right.
    Right,
    /// A name that is not the owner's. The worst there is.
    Wrong,
    /// An end has an owner and is not named.
    Unattributed,
    /// No program said that this was its packet, and the file says nothing either.
    Nobodys,
}

/// One packet that was judged.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The packet.
    pub packet: Packet,
    /// The verdict.
    pub verdict: Verdict,
    /// Who may be named as sender; nobody, if nobody said it was theirs.
    pub senders: Vec<String>,
    /// Who may be named as receiver.
    pub receivers: Vec<String>,
    /// Why it is wrong although the comment may be right: another form of annotation says something else.
    pub disagreement: Option<String>,
}

impl Judged {
    /// Whether both ends are named.
    pub fn names_both(&self) -> bool {
        let ends = self.packet.comment.as_deref().and_then(|comment| comment.split_once(" > "));
        ends.is_some_and(|(sender, receiver)| sender != UNKNOWN && receiver != UNKNOWN)
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { packet, verdict, senders, receivers, disagreement } = self;
        let Packet { number, time_ns, protocol, source, destination, flags, comment, .. } = packet;
        let got = comment.as_deref().unwrap_or("nothing");
        write!(
            f,
            "{verdict:?}: frame {number} at {time_ns} {protocol} {source} -> {destination} {flags}\n  \
             expected {senders:?} > {receivers:?}\n  got      {got}"
        )?;
        disagreement.iter().try_for_each(|text| write!(f, "\n  but      {text}"))
    }
}

/// All packets of one file, judged.
#[derive(Debug, Default)]
pub struct Judgement {
    /// In the order of the file.
    pub packets: Vec<Judged>,
}

impl Judgement {
    /// How many packets have this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.packets.iter().filter(|judged| judged.verdict == verdict).count()
    }

    /// Says the table, and panics with every packet that is not right unless all are, and there are at least so many.
    pub fn assert_all_right(&self, at_least: usize, context: &str) {
        say(&format!("{context}: {self}"));
        let bad: Vec<String> = self
            .packets
            .iter()
            .filter(|judged| judged.verdict != Verdict::Right)
            .take(40)
            .map(Judged::to_string)
            .collect();
        assert!(bad.is_empty(), "{context}: {self}\nnot right (the first 40):\n{}", bad.join("\n"));
        assert!(self.packets.len() >= at_least, "{context}: expected at least {at_least} packets; {self}");
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |verdict| self.count(verdict);
        let (right, wrong) = (count(Verdict::Right), count(Verdict::Wrong));
        let (unattributed, nobodys) = (count(Verdict::Unattributed), count(Verdict::Nobodys));
        let all = self.packets.len();
        write!(
            f,
            "{all} packets: {right} right, {wrong} wrong, {unattributed} unattributed, {nobodys} nobody's"
        )
    }
}

/// Judges every packet of a socket in a file by what the programs said.
pub fn judge(file: &Path, truths: &[Truth]) -> Judgement {
    judge_these(packets(file, "frame"), file, truths)
}

/// The same of these, which are all that the file has; their times may be on another clock, if the truth is.
pub fn judge_these(packets: Vec<Packet>, file: &Path, truths: &[Truth]) -> Judgement {
    let mut disagreements = blocks::disagreements(file);
    disagreements.extend(strange_threads(&blocks::ids(file), truths));
    let book = Book::new(truths, &packets);
    let judged = |packet: Packet| judge_one(packet, &book, &disagreements);
    Judgement { packets: packets.into_iter().map(judged).collect() }
}

/// Thread ids that are of none of the threads that the process said it has, by frame number. 0 claims nothing; of a process
/// that said nothing, nothing is known.
fn strange_threads(ids: &[Option<(u32, u32)>], truths: &[Truth]) -> HashMap<u32, String> {
    let mut threads: HashMap<u32, HashSet<u32>> = HashMap::new();
    for truth in truths {
        threads.entry(truth.pid).or_default().insert(truth.tid);
    }
    let is_strange =
        |(pid, tid): (u32, u32)| tid != 0 && threads.get(&pid).is_some_and(|own| !own.contains(&tid));
    let numbered = (1..).zip(ids).filter_map(|(frame, ids)| Some((frame, (*ids)?)));
    numbered
        .filter(|(_, ids)| is_strange(*ids))
        .map(|(frame, (pid, tid))| (frame, format!("thread {tid} is not one of process {pid}")))
        .collect()
}

fn judge_one(packet: Packet, book: &Book<'_>, disagreements: &HashMap<u32, String>) -> Judged {
    let Packet { protocol, source, destination, time_ns, flags, .. } = &packet;
    // The kernel answers echo requests, and that is nobody's.
    let owners = |end: End, kernel: &str| match flags == kernel {
        true => Vec::new(),
        false => book.owners(protocol, end, *time_ns),
    };
    let senders = owners(End { local: *source, remote: *destination, sent: true }, "reply");
    let receivers = owners(End { local: *destination, remote: *source, sent: false }, "request");
    let disagreement = disagreements.get(&packet.number).cloned();
    let verdict = match &disagreement {
        Some(_) => Verdict::Wrong,
        None => verdict(packet.comment.as_deref(), &senders, &receivers),
    };
    Judged { packet, verdict, senders, receivers, disagreement }
}

fn verdict(comment: Option<&str>, senders: &[String], receivers: &[String]) -> Verdict {
    let Some(comment) = comment else {
        let nobody = may_be_nobodys(senders) && may_be_nobodys(receivers);
        return if nobody { Verdict::Nobodys } else { Verdict::Unattributed };
    };
    match comment.split_once(" > ") {
        Some((sender, receiver)) => worse(end(sender, senders), end(receiver, receivers)),
        None if may_be_nobodys(senders) && receivers.iter().any(|owner| owner == comment) => Verdict::Right,
        None if may_be_nobodys(receivers) && senders.iter().any(|owner| owner == comment) => Verdict::Right,
        // Both ends have an owner, and one name stands there.
        None if senders.iter().chain(receivers).any(|owner| owner == comment) => Verdict::Unattributed,
        None => Verdict::Wrong,
    }
}

fn end(name: &str, owners: &[String]) -> Verdict {
    match name {
        UNKNOWN if may_be_nobodys(owners) => Verdict::Right,
        UNKNOWN => Verdict::Unattributed,
        name if owners.iter().any(|owner| owner == name) => Verdict::Right,
        _ => Verdict::Wrong,
    }
}

fn may_be_nobodys(owners: &[String]) -> bool {
    owners.is_empty() || owners.iter().any(|owner| owner == UNKNOWN)
}

fn worse(one: Verdict, other: Verdict) -> Verdict {
    match (one, other) {
        (Verdict::Wrong, _) | (_, Verdict::Wrong) => Verdict::Wrong,
        (Verdict::Unattributed, _) | (_, Verdict::Unattributed) => Verdict::Unattributed,
        _ => Verdict::Right,
    }
}

/// One end of a packet.
#[derive(Clone, Copy)]
struct End {
    local: SocketAddr,
    remote: SocketAddr,
    /// Whether this end sent the packet.
    sent: bool,
}

/// The truth, by local and remote port.
struct Book<'a> {
    by_ports: HashMap<(u16, Option<u16>), Vec<&'a Truth>>,
    /// When each TCP flow was opened, seen from the client: the times of its SYNs, in order.
    openings: HashMap<(SocketAddr, SocketAddr), Vec<u64>>,
}

impl<'a> Book<'a> {
    fn new(truths: &'a [Truth], packets: &[Packet]) -> Self {
        let mut by_ports: HashMap<_, Vec<&Truth>> = HashMap::new();
        for truth in truths {
            let ports = (truth.local.port(), truth.remote.map(|remote| remote.port()));
            by_ports.entry(ports).or_default().push(truth);
        }
        let mut openings: HashMap<_, Vec<u64>> = HashMap::new();
        for packet in packets.iter().filter(|packet| packet.opens()) {
            openings.entry((packet.source, packet.destination)).or_default().push(packet.time_ns);
        }
        openings.values_mut().for_each(|times| times.sort_unstable());
        Self { by_ports, openings }
    }

    /// Who may be named for this end of a packet at this time, [`UNKNOWN`] for nobody. More than one only between two turns, and for a connection
    /// that came in and was not yet accepted: the process that listens, and the one that accepts it a moment later.
    fn owners(&self, protocol: &str, end: End, time_ns: u64) -> Vec<String> {
        let End { local, remote, sent } = end;
        let life = self.life_of_flow(protocol, local, remote, time_ns);
        let mut exact = self.lines(protocol, local, Some(remote));
        let at_that_time = |truth: &&Truth| truth.start_ns <= time_ns && time_ns <= truth.end_ns;
        // Whoever has a socket without connections may be slow between its words and its deeds, and another one quicker.
        let is_slow = |truth: &&Truth| protocol != "tcp" && at_that_time(truth);
        exact.retain(|truth| life.contains(&self.begin(truth)) || is_slow(truth));
        exact.sort_by_key(|truth| truth.start_ns);
        let mut of_any = self.lines(protocol, local, None);
        of_any.retain(at_that_time);

        let mut owners: Vec<&Truth> = exact.iter().copied().filter(at_that_time).collect();
        if owners.is_empty() {
            let before = exact.iter().rev().find(|truth| truth.start_ns <= time_ns);
            let after = exact.iter().find(|truth| truth.start_ns > time_ns);
            // The kernel still answers for a closed TCP connection; a closed socket of another kind receives nothing more.
            let before = before.filter(|_| protocol == "tcp" || sent || after.is_some());
            owners.extend(before.into_iter().chain(after));
            // Where several listen, only the one that took it counts.
            if before.is_none() && (after.is_none() || is_one_process(&of_any)) {
                owners.extend(of_any);
            }
        }
        // While a socket is being closed it takes a datagram, or no longer does.
        let is_closing = |truth: &&Truth| truth.closing_ns <= time_ns;
        let is_uncertain = protocol != "tcp" && !sent && owners.iter().any(is_closing);
        let mut labels: Vec<String> = owners.into_iter().map(Truth::label).collect();
        labels.dedup();
        labels.extend(is_uncertain.then(|| UNKNOWN.to_string()));
        labels
    }

    /// From when on a client has the flow: from its SYN on, which tells better than the client's own clock when the
    /// connection before it is over.
    fn begin(&self, truth: &Truth) -> u64 {
        if truth.role != "client" || truth.protocol != "tcp" {
            return truth.start_ns;
        }
        let openings = truth.remote.and_then(|remote| self.openings.get(&(truth.local, remote)));
        let opening = openings.and_then(|times| times.iter().find(|time| **time >= truth.start_ns));
        opening.copied().filter(|time| *time <= truth.end_ns).unwrap_or(truth.start_ns)
    }

    /// From when to when this flow, whose ports may be used again later, is the one that the packet belongs to: a flow
    /// begins when a client opens it, and ends when the next client opens the same.
    fn life_of_flow(
        &self,
        protocol: &str,
        local: SocketAddr,
        remote: SocketAddr,
        time_ns: u64,
    ) -> Range<u64> {
        let mut openers = self.lines(protocol, local, Some(remote));
        openers.extend(self.lines(protocol, remote, Some(local)));
        let clients = openers.iter().filter(|truth| truth.role == "client");
        let starts: Vec<u64> = clients.map(|truth| self.begin(truth)).collect();
        let begin = starts.iter().copied().filter(|start| *start <= time_ns).max().unwrap_or(0);
        let end = starts.into_iter().filter(|start| *start > time_ns).min().unwrap_or(u64::MAX);
        begin..end
    }

    /// The lines about this end; no `remote`: those that stand for any.
    fn lines(&self, protocol: &str, local: SocketAddr, remote: Option<SocketAddr>) -> Vec<&'a Truth> {
        let (local, remote) = (canonical(local), remote.map(canonical));
        let ports = (local.port(), remote.map(|remote| remote.port()));
        let same_address = |truth: &Truth| is_at(truth.local.ip(), local.ip());
        let same_remote =
            |truth: &Truth| truth.remote.map(|remote| remote.ip()) == remote.map(|remote| remote.ip());
        let fits = |truth: &Truth| truth.protocol == protocol && same_remote(truth) && same_address(truth);
        let lines = self.by_ports.get(&ports).map_or(&[][..], Vec::as_slice);
        lines.iter().copied().filter(|truth| fits(truth)).collect()
    }
}

/// Whether a socket bound to one address has packets of the other. `::` has those of IPv4 too.
fn is_at(bound: IpAddr, address: IpAddr) -> bool {
    match bound {
        IpAddr::V4(v4) => bound == address || v4.is_unspecified() && address.is_ipv4(),
        IpAddr::V6(v6) => bound == address || v6.is_unspecified(),
    }
}

fn is_one_process(truths: &[&Truth]) -> bool {
    truths.iter().all(|truth| truth.pid == truths[0].pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(pid: u32, role: &str, local: &str, remote: &str, start_ns: u64) -> Truth {
        Truth {
            pid,
            tid: pid,
            name: role.into(),
            role: role.into(),
            protocol: "tcp".into(),
            local: local.parse().unwrap(),
            remote: remote.parse().ok(),
            start_ns,
            closing_ns: start_ns + 5,
            end_ns: start_ns + 5,
        }
    }

    fn packet(source: &str, destination: &str, time_ns: u64, comment: &str) -> Packet {
        Packet {
            number: 1,
            time_ns,
            protocol: "tcp".into(),
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            flags: String::new(),
            length: 60,
            comment: (!comment.is_empty()).then(|| comment.to_string()),
        }
    }

    const CLIENT: &str = "10.0.0.1:4000";
    const SERVER: &str = "10.0.0.2:80";

    /// A listener, and the same client port used twice.
    fn story() -> Vec<Truth> {
        vec![
            Truth { end_ns: u64::MAX, ..truth(1, "listener", "0.0.0.0:80", "*", 0) },
            truth(10, "client", CLIENT, SERVER, 100),
            truth(2, "server", SERVER, CLIENT, 110),
            truth(11, "client", CLIENT, SERVER, 200),
            truth(3, "server", SERVER, CLIENT, 210),
        ]
    }

    fn verdict_of(time_ns: u64, comment: &str) -> Verdict {
        judge_one(packet(CLIENT, SERVER, time_ns, comment), &Book::new(&story(), &[]), &HashMap::new())
            .verdict
    }

    #[test]
    fn both_ends_must_be_named_and_right() {
        assert_eq!(verdict_of(120, "client[10] > server[2]"), Verdict::Right);
        assert_eq!(verdict_of(120, "client[10] > server[3]"), Verdict::Wrong);
        assert_eq!(verdict_of(120, "client[10] > ?"), Verdict::Unattributed);
        assert_eq!(verdict_of(120, "client[10]"), Verdict::Unattributed);
        assert_eq!(verdict_of(120, "other[10]"), Verdict::Wrong);
        assert_eq!(verdict_of(120, ""), Verdict::Unattributed);
    }

    #[test]
    fn before_accept_the_listener_or_the_acceptor_is_right_and_no_other() {
        assert_eq!(verdict_of(105, "client[10] > listener[1]"), Verdict::Right);
        assert_eq!(verdict_of(105, "client[10] > server[2]"), Verdict::Right);
        assert_eq!(verdict_of(105, "client[10] > server[3]"), Verdict::Wrong);
        assert_eq!(verdict_of(120, "client[10] > listener[1]"), Verdict::Wrong);
    }

    #[test]
    fn a_port_used_again_belongs_to_its_user_at_packet_time() {
        assert_eq!(verdict_of(199, "client[10] > server[2]"), Verdict::Right);
        assert_eq!(verdict_of(205, "client[10] > server[2]"), Verdict::Wrong);
        assert_eq!(verdict_of(205, "client[11] > server[3]"), Verdict::Right);
    }

    #[test]
    fn an_heir_owns_the_flow_from_its_first_use_on() {
        let mut story = story();
        story.push(truth(12, "heir", CLIENT, SERVER, 220));
        let judged = |time, comment: &str| {
            judge_one(packet(CLIENT, SERVER, time, comment), &Book::new(&story, &[]), &HashMap::new()).verdict
        };
        assert_eq!(judged(215, "client[11] > server[3]"), Verdict::Right);
        assert_eq!(judged(225, "client[11] > server[3]"), Verdict::Wrong);
        assert_eq!(judged(225, "heir[12] > server[3]"), Verdict::Right);
    }

    #[test]
    fn between_two_turns_a_packet_may_be_eithers_and_within_one_it_is_not() {
        let mut story = story();
        story.push(truth(12, "heir", CLIENT, SERVER, 220));
        story.push(truth(13, "heir", CLIENT, SERVER, 240));
        let judged = |time, comment: &str| {
            judge_one(packet(CLIENT, SERVER, time, comment), &Book::new(&story, &[]), &HashMap::new()).verdict
        };
        assert_eq!(judged(223, "heir[13] > server[3]"), Verdict::Wrong);
        assert_eq!(judged(230, "heir[12] > server[3]"), Verdict::Right);
        assert_eq!(judged(230, "heir[13] > server[3]"), Verdict::Right);
        assert_eq!(judged(230, "client[11] > server[3]"), Verdict::Wrong);
        assert_eq!(judged(243, "heir[12] > server[3]"), Verdict::Wrong);
        assert_eq!(judged(900, "heir[13] > server[3]"), Verdict::Right);
    }

    #[test]
    fn of_several_listeners_only_the_one_that_accepted_is_right() {
        let mut story = story();
        story.push(Truth { end_ns: u64::MAX, ..truth(9, "listener", "0.0.0.0:80", "*", 0) });
        let judged = |comment: &str| {
            judge_one(packet(CLIENT, SERVER, 105, comment), &Book::new(&story, &[]), &HashMap::new()).verdict
        };
        assert_eq!(judged("client[10] > server[2]"), Verdict::Right);
        assert_eq!(judged("client[10] > listener[9]"), Verdict::Wrong);
        assert_eq!(judged("client[10] > listener[1]"), Verdict::Wrong);
    }

    #[test]
    fn what_comes_before_the_syn_of_the_next_connection_is_the_former_ones() {
        let syn = Packet { flags: "0x0002".into(), ..packet(CLIENT, SERVER, 205, "") };
        let story = story();
        let judged = |time, comment: &str| {
            let packets = [syn.clone()];
            judge_one(packet(SERVER, CLIENT, time, comment), &Book::new(&story, &packets), &HashMap::new())
                .verdict
        };
        assert_eq!(judged(203, "server[2] > client[10]"), Verdict::Right);
        assert_eq!(judged(203, "server[2] > client[11]"), Verdict::Wrong);
        assert_eq!(judged(206, "server[3] > client[11]"), Verdict::Right);
    }

    #[test]
    fn a_closed_udp_socket_receives_nothing_more_and_what_it_sent_may_be_under_way() {
        let udp = Truth { protocol: "udp".into(), ..truth(1, "client", CLIENT, SERVER, 100) };
        let judged = |from, to, comment: &str| {
            let packet = Packet { protocol: "udp".into(), ..packet(from, to, 120, comment) };
            let truths = [udp.clone()];
            judge_one(packet, &Book::new(&truths, &[]), &HashMap::new()).verdict
        };
        assert_eq!(judged(SERVER, CLIENT, "client[1]"), Verdict::Wrong);
        assert_eq!(judged(SERVER, CLIENT, ""), Verdict::Nobodys);
        assert_eq!(judged(CLIENT, SERVER, "client[1]"), Verdict::Right);
    }

    #[test]
    fn while_a_udp_socket_is_being_closed_its_owner_or_nobody_is_right_and_no_other() {
        let udp =
            Truth { protocol: "udp".into(), closing_ns: 102, ..truth(1, "client", CLIENT, SERVER, 100) };
        let judged = |time, comment: &str| {
            let packet = Packet { protocol: "udp".into(), ..packet(SERVER, CLIENT, time, comment) };
            let truths = [udp.clone()];
            judge_one(packet, &Book::new(&truths, &[]), &HashMap::new()).verdict
        };
        assert_eq!(judged(101, "? > client[1]"), Verdict::Right);
        assert_eq!(judged(101, "? > ?"), Verdict::Unattributed);
        assert_eq!(judged(103, "? > client[1]"), Verdict::Right);
        assert_eq!(judged(103, "client[1]"), Verdict::Right);
        assert_eq!(judged(103, "? > ?"), Verdict::Right);
        assert_eq!(judged(103, ""), Verdict::Nobodys);
        assert_eq!(judged(103, "? > other[2]"), Verdict::Wrong);
    }

    #[test]
    fn a_thread_that_the_process_does_not_have_is_wrong() {
        let of_threads = |ids: &[_]| strange_threads(ids, &story()).into_keys().collect::<Vec<u32>>();
        assert_eq!(of_threads(&[Some((1, 1)), Some((1, 0)), None, Some((77, 78))]), Vec::<u32>::new());
        assert_eq!(of_threads(&[None, Some((1, 2))]), vec![2]);
    }

    #[test]
    fn another_form_of_annotation_that_disagrees_is_wrong() {
        let others = HashMap::from([(1, "the record is of somebody else".to_string())]);
        let packet = packet(CLIENT, SERVER, 120, "client[10] > server[2]");
        assert_eq!(judge_one(packet, &Book::new(&story(), &[]), &others).verdict, Verdict::Wrong);
    }

    #[test]
    fn a_name_on_a_packet_of_nobody_is_wrong() {
        let stranger = |comment| {
            judge_one(
                packet("1.1.1.1:1", "2.2.2.2:2", 1, comment),
                &Book::new(&story(), &[]),
                &HashMap::new(),
            )
            .verdict
        };
        assert_eq!(stranger("client[10]"), Verdict::Wrong);
        assert_eq!(stranger(""), Verdict::Nobodys);
    }

    #[test]
    fn nanoseconds_are_exact() {
        assert_eq!(nanoseconds("1795224653.146654837"), Some(1_795_224_653_146_654_837));
        assert_eq!(nanoseconds("5.5"), Some(5_500_000_000));
    }
}
