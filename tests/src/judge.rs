//! Compares what the file says about each packet with what the programs said about themselves.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::Path;

use crate::lab::say;
use crate::truth::{Truth, canonical};
use crate::tshark;

/// Which packets are judged: those with a socket at both ends. An ICMP error quotes ports, but they are not its own.
const JUDGED: &str = "(tcp or udp) and not icmp and not icmpv6";
const UNKNOWN: &str = "?";

/// One TCP or UDP packet, as tshark reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its number in the file, from 1.
    pub number: u32,
    /// When it was captured: nanoseconds since the epoch.
    pub time_ns: u64,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// From where.
    pub source: SocketAddr,
    /// To where.
    pub destination: SocketAddr,
    /// TCP flags, as tshark writes them; empty for UDP.
    pub flags: String,
    /// Our annotation.
    pub comment: Option<String>,
}

/// The TCP and UDP packets of a file that the display filter lets through.
pub fn packets(file: &Path, filter: &str) -> Vec<Packet> {
    let names = [
        "frame.number",
        "frame.time_epoch",
        "ip.src",
        "ipv6.src",
        "ip.dst",
        "ipv6.dst",
        "tcp.srcport",
        "udp.srcport",
        "tcp.dstport",
        "udp.dstport",
        "tcp.flags",
        "frame.comment",
    ];
    let filter = format!("{JUDGED} and ({filter})");
    let rows = tshark::fields(file, &filter, &names);
    rows.iter().map(|row| packet(row).unwrap_or_else(|| panic!("cannot read the row {row:?}"))).collect()
}

fn packet(row: &[String]) -> Option<Packet> {
    let [number, time, from4, from6, to4, to6, tcp_from, udp_from, tcp_to, udp_to, flags, comment] = row
    else {
        return None;
    };
    let address = |v4: &str, v6: &str| format!("{v4}{v6}").parse::<IpAddr>().ok();
    let port = |tcp: &str, udp: &str| format!("{tcp}{udp}").parse::<u16>().ok();
    Some(Packet {
        number: number.parse().ok()?,
        time_ns: nanoseconds(time)?,
        protocol: if tcp_from.is_empty() { "udp" } else { "tcp" }.to_string(),
        source: SocketAddr::new(address(from4, from6)?, port(tcp_from, udp_from)?),
        destination: SocketAddr::new(address(to4, to6)?, port(tcp_to, udp_to)?),
        flags: flags.clone(),
        comment: (!comment.is_empty()).then(|| comment.clone()),
    })
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
            .map(line)
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

fn line(judged: &Judged) -> String {
    let Judged { packet, verdict, senders, receivers } = judged;
    let Packet { number, time_ns, protocol, source, destination, flags, comment } = packet;
    let got = comment.as_deref().unwrap_or("nothing");
    format!(
        "{verdict:?}: frame {number} at {time_ns} {protocol} {source} -> {destination} {flags}\n  \
         expected {senders:?} > {receivers:?}\n  got      {got}"
    )
}

/// Judges every TCP and UDP packet of a file by what the programs said.
pub fn judge(file: &Path, truths: &[Truth]) -> Judgement {
    let book = Book::new(truths);
    Judgement { packets: packets(file, "frame").into_iter().map(|packet| judge_one(packet, &book)).collect() }
}

fn judge_one(packet: Packet, book: &Book<'_>) -> Judged {
    let Packet { protocol, source, destination, time_ns, .. } = &packet;
    let senders = book.owners(protocol, *source, *destination, *time_ns);
    let receivers = book.owners(protocol, *destination, *source, *time_ns);
    let verdict = verdict(packet.comment.as_deref(), &senders, &receivers);
    Judged { packet, verdict, senders, receivers }
}

fn verdict(comment: Option<&str>, senders: &[String], receivers: &[String]) -> Verdict {
    let Some(comment) = comment else {
        let nobody = senders.is_empty() && receivers.is_empty();
        return if nobody { Verdict::Nobodys } else { Verdict::Unattributed };
    };
    match comment.split_once(" > ") {
        Some((sender, receiver)) => worse(end(sender, senders), end(receiver, receivers)),
        None if senders.is_empty() => end(comment, receivers),
        None if receivers.is_empty() => end(comment, senders),
        // Both ends have an owner, and one name stands there.
        None if senders.iter().chain(receivers).any(|owner| owner == comment) => Verdict::Unattributed,
        None => Verdict::Wrong,
    }
}

fn end(name: &str, owners: &[String]) -> Verdict {
    match name {
        UNKNOWN if owners.is_empty() => Verdict::Right,
        UNKNOWN => Verdict::Unattributed,
        name if owners.iter().any(|owner| owner == name) => Verdict::Right,
        _ => Verdict::Wrong,
    }
}

fn worse(one: Verdict, other: Verdict) -> Verdict {
    match (one, other) {
        (Verdict::Wrong, _) | (_, Verdict::Wrong) => Verdict::Wrong,
        (Verdict::Unattributed, _) | (_, Verdict::Unattributed) => Verdict::Unattributed,
        _ => Verdict::Right,
    }
}

/// The truth, by local and remote port.
struct Book<'a> {
    by_ports: HashMap<(u16, Option<u16>), Vec<&'a Truth>>,
}

impl<'a> Book<'a> {
    fn new(truths: &'a [Truth]) -> Self {
        let mut by_ports: HashMap<_, Vec<&Truth>> = HashMap::new();
        for truth in truths {
            let ports = (truth.local.port(), truth.remote.map(|remote| remote.port()));
            by_ports.entry(ports).or_default().push(truth);
        }
        Self { by_ports }
    }

    /// Who may be named for this end of a packet at this time. More than one only for a connection that came in and
    /// was not yet accepted: the process that listens, and the one that accepts it a moment later.
    fn owners(&self, protocol: &str, local: SocketAddr, remote: SocketAddr, time_ns: u64) -> Vec<String> {
        let life = self.life_of_flow(protocol, local, remote, time_ns);
        let mut exact = self.lines(protocol, local, Some(remote));
        exact.retain(|truth| life.contains(&truth.start_ns));
        exact.sort_by_key(|truth| truth.start_ns);
        let of_any = self.lines(protocol, local, None);

        let current = exact.iter().rev().find(|truth| truth.start_ns <= time_ns);
        match (current, exact.first()) {
            (Some(current), _) => vec![current.label()],
            (None, Some(next)) => of_any.iter().chain([next]).map(|truth| truth.label()).collect(),
            (None, None) => of_any.iter().map(|truth| truth.label()).collect(),
        }
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
        let starts = openers.iter().filter(|truth| truth.role == "client").map(|truth| truth.start_ns);
        let begin = starts.clone().filter(|start| *start <= time_ns).max().unwrap_or(0);
        let end = starts.filter(|start| *start > time_ns).min().unwrap_or(u64::MAX);
        begin..end
    }

    /// The lines about this end; no `remote`: those that stand for any.
    fn lines(&self, protocol: &str, local: SocketAddr, remote: Option<SocketAddr>) -> Vec<&'a Truth> {
        let (local, remote) = (canonical(local), remote.map(canonical));
        let ports = (local.port(), remote.map(|remote| remote.port()));
        let same_address =
            |truth: &Truth| truth.local.ip().is_unspecified() || truth.local.ip() == local.ip();
        let fits =
            |truth: &Truth| truth.protocol == protocol && truth.remote == remote && same_address(truth);
        let lines = self.by_ports.get(&ports).map_or(&[][..], Vec::as_slice);
        lines.iter().copied().filter(|truth| fits(truth)).collect()
    }
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
            comment: (!comment.is_empty()).then(|| comment.to_string()),
        }
    }

    const CLIENT: &str = "10.0.0.1:4000";
    const SERVER: &str = "10.0.0.2:80";

    /// A listener, and the same client port used twice.
    fn story() -> Vec<Truth> {
        vec![
            truth(1, "listener", "0.0.0.0:80", "*", 0),
            truth(10, "client", CLIENT, SERVER, 100),
            truth(2, "server", SERVER, CLIENT, 110),
            truth(11, "client", CLIENT, SERVER, 200),
            truth(3, "server", SERVER, CLIENT, 210),
        ]
    }

    fn verdict_of(time_ns: u64, comment: &str) -> Verdict {
        judge_one(packet(CLIENT, SERVER, time_ns, comment), &Book::new(&story())).verdict
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
            judge_one(packet(CLIENT, SERVER, time, comment), &Book::new(&story)).verdict
        };
        assert_eq!(judged(215, "client[11] > server[3]"), Verdict::Right);
        assert_eq!(judged(225, "client[11] > server[3]"), Verdict::Wrong);
        assert_eq!(judged(225, "heir[12] > server[3]"), Verdict::Right);
    }

    #[test]
    fn a_name_on_a_packet_of_nobody_is_wrong() {
        let stranger =
            |comment| judge_one(packet("1.1.1.1:1", "2.2.2.2:2", 1, comment), &Book::new(&story())).verdict;
        assert_eq!(stranger("client[10]"), Verdict::Wrong);
        assert_eq!(stranger(""), Verdict::Nobodys);
    }

    #[test]
    fn nanoseconds_are_exact() {
        assert_eq!(nanoseconds("1795224653.146654837"), Some(1_795_224_653_146_654_837));
        assert_eq!(nanoseconds("5.5"), Some(5_500_000_000));
    }
}
