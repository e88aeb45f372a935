//! How packets, processes and times are spelled for people. Whatever comes from a file is escaped: it must
//! not be able to steer a terminal.

use std::fmt;
use std::net::IpAddr;

use chrono::{DateTime, Local, TimeZone};

use crate::decode::{Decoded, IpPacket, TcpFlags, Transport};
use crate::model::{
    Attribution, Direction, Endpoint, Owner, Process, ProcessTable, Protocol, RealTime, Reception,
};
use crate::pcapng::annotation;

/// A time in the local time zone, with nanoseconds: `2026-11-21 01:22:47.123456789`.
pub fn local_time(time: RealTime) -> String {
    time_in(&Local, time)
}

/// A time in a given time zone, with nanoseconds.
pub fn time_in<Zone: TimeZone>(zone: &Zone, time: RealTime) -> String
where
    Zone::Offset: fmt::Display,
{
    const NS_PER_SECOND: u64 = 1_000_000_000;
    let seconds = (time.as_ns() / NS_PER_SECOND) as i64;
    match DateTime::from_timestamp(seconds, (time.as_ns() % NS_PER_SECOND) as u32) {
        Some(utc) => utc.with_timezone(zone).format("%Y-%m-%d %H:%M:%S%.9f").to_string(),
        // No calendar date; 64 bits of nanoseconds end in the year 2554, so this does not happen.
        None => format!("{} ns", time.as_ns()),
    }
}

/// `In`, `Out`, `-`.
pub const fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Unknown => "-",
        Direction::Inbound => "In",
        Direction::Outbound => "Out",
    }
}

/// `unicast`, ...; `None` where the file does not say.
pub const fn reception(reception: Reception) -> Option<&'static str> {
    match reception {
        Reception::Unknown => None,
        Reception::Unicast => Some("unicast"),
        Reception::Multicast => Some("multicast"),
        Reception::Broadcast => Some("broadcast"),
        Reception::Promiscuous => Some("promiscuous"),
    }
}

/// The protocol as a word: `TCP`, `ARP`, `EtherType 0x88b5`, `?`.
pub fn protocol(decoded: &Decoded) -> String {
    match decoded {
        Decoded::Ip(packet) => packet.flow.protocol.to_string(),
        Decoded::NotIp(None) => "?".to_owned(),
        Decoded::NotIp(Some(ether_type)) => match ether_type {
            0x0800 => "damaged IPv4".to_owned(),
            0x0806 => "ARP".to_owned(),
            0x86dd => "damaged IPv6".to_owned(),
            0x8847 | 0x8848 => "MPLS".to_owned(),
            0x8863 | 0x8864 => "PPPoE".to_owned(),
            0x888e => "EAPOL".to_owned(),
            0x88cc => "LLDP".to_owned(),
            other => format!("EtherType {other:#06x}"),
        },
    }
}

/// An end of a packet: with its port where the protocol has ports, the bare address otherwise.
pub fn endpoint(packet: &IpPacket, endpoint: Endpoint) -> String {
    if has_ports(packet) { endpoint.to_string() } else { endpoint.ip().to_string() }
}

/// Whether the ports of a packet's flow are ports, and known.
pub fn has_ports(packet: &IpPacket) -> bool {
    let flow = &packet.flow;
    let is_known = flow.local.port != 0 || flow.remote.port != 0;
    is_known && !matches!(flow.protocol, Protocol::ICMP | Protocol::ICMPV6)
}

/// The flags as tcpdump writes them: `S`, `S.`, `P.`, `F.`, `R`, `.`, `none`.
pub fn tcp_flags(flags: TcpFlags) -> String {
    let letters =
        [(flags.syn(), 'S'), (flags.fin(), 'F'), (flags.rst(), 'R'), (flags.psh(), 'P'), (flags.urg(), 'U')];
    let mut text: String = letters.iter().filter(|(is_set, _)| *is_set).map(|(_, letter)| *letter).collect();
    if flags.ack() {
        text.push('.');
    }
    if text.is_empty() { "none".to_owned() } else { text }
}

/// What the transport header tells besides ports, in brackets or words; empty if nothing.
pub fn transport(packet: &IpPacket) -> String {
    let mut text = match packet.transport {
        Transport::Tcp { flags, .. } => format!("[{}]", tcp_flags(flags)),
        Transport::Icmp { echo: true, .. } => format!("echo id {}", packet.flow.local.port),
        Transport::Icmp { kind, code, echo: false } => format!("type {kind} code {code}"),
        Transport::Udp | Transport::Other => String::new(),
    };
    if let Some(fragment) = packet.fragment {
        let space = if text.is_empty() { "" } else { " " };
        text = format!("{text}{space}fragment at {}", fragment.offset);
    }
    text
}

/// `curl[4242]`, with the escapes of the file.
pub fn process(process: &Process) -> String {
    annotation::one(&process.name, process.pid)
}

/// The owners of a packet as the file's comment has them; `-` without one.
pub fn owners(attribution: &Attribution, processes: &ProcessTable) -> String {
    let Attribution::Known { sender, receiver, both_local, found: _ } = *attribution else {
        return "-".to_owned();
    };
    let known = |owner: Option<Owner>| owner.and_then(|owner| processes.get(owner.process));
    match (known(sender), known(receiver)) {
        (None, None) => "-".to_owned(),
        (Some(one), None) | (None, Some(one)) if !both_local => process(one),
        (sender, receiver) => {
            let end = |end: Option<&Process>| end.map_or_else(|| "?".to_owned(), process);
            format!("{} > {}", end(sender), end(receiver))
        }
    }
}

/// Any text of a file, safe to print.
pub fn safe(text: &str) -> String {
    annotation::escape_text(text.as_bytes())
}

/// The name of a unit or container: as [`safe`], but a backslash stands for itself, as it does for systemd.
pub fn unit(name: &str) -> String {
    safe(name).replace(r"\x5c", r"\")
}

/// The address of the other end of a packet: of its receiver for who sent it, of its sender for who received
/// it.
pub fn peer(packet: &IpPacket, is_sender: bool) -> IpAddr {
    if is_sender { packet.flow.remote.ip() } else { packet.flow.local.ip() }
}

/// Lines up columns: the first `left` columns to the left, all others to the right; two spaces between.
pub fn table(rows: &[Vec<String>], left: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column < left { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{self, FragmentInfo};
    use crate::model::{Flow, Found, LinkType, ProcessIndex};

    #[test]
    fn a_time_has_nanoseconds() {
        let time = RealTime::from_ns(1_700_000_000_000_000_005);
        assert_eq!(time_in(&chrono::Utc, time), "2023-11-14 22:13:20.000000005");
        assert!(time_in(&chrono::Utc, RealTime::from_ns(u64::MAX)).starts_with("2554-07-21 "));
    }

    #[test]
    fn flags_are_spelled_as_tcpdump_does() {
        for (flags, text) in
            [(0x02, "S"), (0x12, "S."), (0x10, "."), (0x18, "P."), (0x11, "F."), (0x04, "R"), (0, "none")]
        {
            assert_eq!(tcp_flags(TcpFlags(flags)), text);
        }
    }

    #[test]
    fn what_is_not_ip_has_a_word() {
        for (ether_type, word) in [(Some(0x0806), "ARP"), (Some(0x88b5), "EtherType 0x88b5"), (None, "?")] {
            assert_eq!(protocol(&Decoded::NotIp(ether_type)), word);
        }
        assert_eq!(protocol(&decode::packet(LinkType::RAW_IP, &[])), "?");
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let end = |last: u8| Endpoint::new([10, 0, 0, last].into(), 0);
        let packet = IpPacket {
            flow: Flow { protocol: Protocol::UDP, local: end(1), remote: end(2) },
            transport: Transport::Other,
            fragment: Some(FragmentInfo { identification: 1, offset: 1480, more: false }),
            ip_length: 100,
            truncated: false,
        };
        assert_eq!(endpoint(&packet, packet.flow.local), "10.0.0.1");
        assert_eq!(transport(&packet), "fragment at 1480");
    }

    #[test]
    fn owners_are_spelled_as_in_the_file() {
        let mut table = ProcessTable::default();
        let named = |name: &str, pid| Process::new(pid, name);
        let a = Some(Owner { process: table.push(named("a", 1)), tid: 0 });
        let b = Some(Owner { process: table.push(named("\x1b[2J", 2)), tid: 0 });
        let stray = Some(Owner { process: ProcessIndex(9), tid: 0 });
        for (sender, receiver, both_local, text) in [
            (a, None, false, "a[1]"),
            (None, a, false, "a[1]"),
            (a, None, true, "a[1] > ?"),
            (a, b, true, r"a[1] > \x1b\x5b2J[2]"),
            (stray, None, true, "-"),
        ] {
            let attribution = Attribution::Known { sender, receiver, both_local, found: Found::Socket };
            assert_eq!(owners(&attribution, &table), text);
        }
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "100".to_owned()], vec!["größer".to_owned(), "1".to_owned()]];
        assert_eq!(table(&rows, 1), "a       100\ngrößer    1\n");
    }
}
