//! How packets, processes and times are spelled for people. Whatever comes from a file is escaped: it must
//! not be able to steer a terminal.

use std::fmt;
use std::io::Write as _;
use std::net::IpAddr;

use chrono::{DateTime, Local, TimeZone};

use crate::decode::{Decoded, IpPacket, TcpFlags};
use crate::model::{Process, Protocol, RealTime, Reception};
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

/// Adds the protocol as a word: `TCP`, `ARP`, `EtherType 0x88b5`, `?`.
pub fn protocol(text: &mut Vec<u8>, decoded: &Decoded) {
    let word = match decoded {
        Decoded::Ip(packet) => match packet.flow.protocol {
            Protocol::TCP => "TCP",
            Protocol::UDP => "UDP",
            // Writing to memory cannot fail.
            other => return write!(text, "{other}").unwrap_or_default(),
        },
        Decoded::NotIp(None) => "?",
        Decoded::NotIp(Some(ether_type)) => match ether_type {
            0x0800 => "damaged IPv4",
            0x0806 => "ARP",
            0x86dd => "damaged IPv6",
            0x8847 | 0x8848 => "MPLS",
            0x8863 | 0x8864 => "PPPoE",
            0x888e => "EAPOL",
            0x88cc => "LLDP",
            other => return write!(text, "EtherType {other:#06x}").unwrap_or_default(),
        },
    };
    text.extend_from_slice(word.as_bytes());
}

/// Whether the ports of a packet's flow are ports, and known.
pub fn has_ports(packet: &IpPacket) -> bool {
    let flow = &packet.flow;
    let is_known = flow.local.port != 0 || flow.remote.port != 0;
    is_known && !matches!(flow.protocol, Protocol::ICMP | Protocol::ICMPV6)
}

/// Adds the flags as tcpdump writes them: `S`, `S.`, `P.`, `F.`, `R`, `.`, `none`.
pub fn tcp_flags(text: &mut Vec<u8>, flags: TcpFlags) {
    let before = text.len();
    let letters = [
        (flags.syn(), b'S'),
        (flags.fin(), b'F'),
        (flags.rst(), b'R'),
        (flags.psh(), b'P'),
        (flags.urg(), b'U'),
        (flags.ack(), b'.'),
    ];
    text.extend(letters.iter().filter(|(is_set, _)| *is_set).map(|(_, letter)| *letter));
    if text.len() == before {
        text.extend_from_slice(b"none");
    }
}

/// `curl[4242]`, with the escapes of the file.
pub fn process(process: &Process) -> String {
    annotation::one(&process.name, process.pid)
}

/// Any text of a file, safe to print.
pub fn safe(text: &str) -> String {
    annotation::escape_text(text.as_bytes())
}

/// The name of a unit or container: as [`safe`], but a backslash stands for itself, as it does for systemd.
pub fn unit(name: &str) -> String {
    safe(name).replace(r"\x5c", r"\")
}

/// What is said on standard error: lines, each as [`unit()`]. It may quote a file, its name, or an interface's.
pub fn message(text: &str) -> String {
    text.split('\n').map(unit).collect::<Vec<_>>().join("\n")
}

/// JSON that cannot steer a terminal either: serde_json escapes control characters, but for those above U+007E; they and all
/// that cannot be seen become `\uNNNN`. They stand in strings only, so it means the same.
pub fn json(json: String) -> String {
    let stays = |letter: char| matches!(letter, ' '..='~' | '\n') || !annotation::is_hidden(letter);
    if json.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')) {
        return json;
    }
    let mut text = String::with_capacity(json.len() + 16);
    for letter in json.chars() {
        match stays(letter) {
            true => text.push(letter),
            false => {
                text.extend(letter.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")))
            }
        }
    }
    text
}

/// The address of the other end of a packet: of its receiver for who sent it, of its sender for who received
/// it.
pub fn peer(packet: &IpPacket, is_sender: bool) -> IpAddr {
    if is_sender { packet.flow.remote.ip() } else { packet.flow.local.ip() }
}

/// Lines up columns: those that `is_left` chooses by number to the left, all others to the right; two spaces between.
pub fn table(rows: &[Vec<String>], is_left: impl Fn(usize) -> bool) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if is_left(column) { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode;
    use crate::model::LinkType;

    #[test]
    fn a_time_has_nanoseconds() {
        let time = RealTime::from_ns(1_700_000_000_000_000_005);
        assert_eq!(time_in(&chrono::Utc, time), "2023-11-14 22:13:20.000000005");
        assert!(time_in(&chrono::Utc, RealTime::from_ns(u64::MAX)).starts_with("2554-07-21 "));
    }

    fn spelled(spell: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut text = Vec::new();
        spell(&mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn flags_are_spelled_as_tcpdump_does() {
        for (flags, text) in
            [(0x02, "S"), (0x12, "S."), (0x10, "."), (0x18, "P."), (0x11, "F."), (0x04, "R"), (0, "none")]
        {
            assert_eq!(spelled(|to| tcp_flags(to, TcpFlags(flags))), text);
        }
    }

    #[test]
    fn what_is_not_ip_has_a_word() {
        for (ether_type, word) in [(Some(0x0806), "ARP"), (Some(0x88b5), "EtherType 0x88b5"), (None, "?")] {
            assert_eq!(spelled(|to| protocol(to, &Decoded::NotIp(ether_type))), word);
        }
        assert_eq!(spelled(|to| protocol(to, &decode::packet(LinkType::RAW_IP, &[]))), "?");
    }

    #[test]
    fn no_message_steers_a_terminal_and_its_lines_and_backslashes_stay() {
        let text = "cannot read a\x1b]0;x\x07\u{9b}m\u{202e}b:\n  C:\\x5c \\n";
        let expected = "cannot read a\\x1b]0;x\\x07\\xc2\\x9bm\\xe2\\x80\\xaeb:\n  C:\\x5c \\n";
        assert_eq!(message(text), expected);
    }

    #[test]
    fn json_means_the_same_without_a_character_that_steers_a_terminal() {
        let names = [
            "plain",
            "\x1b[31m",
            "\u{9b}31m",
            "a\u{7f}b",
            "\u{202e}gpj",
            "\u{e0041}",
            "größe 日本",
            "\"\\\n",
        ];
        let text = json(serde_json::to_string(&names).unwrap());
        assert!(text.chars().all(|letter| matches!(letter, ' '..='~') || letter.is_alphabetic()), "{text}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&text).unwrap(), names);
        let pretty = serde_json::to_string_pretty(&["\u{9b}"]).unwrap();
        assert_eq!(json(pretty), "[\n  \"\\u009b\"\n]");
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "100".to_owned()], vec!["größer".to_owned(), "1".to_owned()]];
        assert_eq!(table(&rows, |column| column == 0), "a       100\ngrößer    1\n");
    }
}
