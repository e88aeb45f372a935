//! One line for each packet:
//! `2026-11-21 01:22:47.123456789 eth0 Out TCP 10.0.0.1:40000 -> 10.0.0.2:443 [S] length 74  curl[4242]`
//!
//! Written by hand into one buffer that is used again: there are millions of lines, and `fmt` takes longer than all the rest.

use std::io::Write as _;

use super::super::text;
use crate::decode::{self, Decoded, IpPacket, Transport};
use crate::model::{Attribution, Direction, Endpoint, Owner, Process, ProcessTable, RealTime};
use crate::pcapng::Record;
use crate::pcapng::annotation;

/// ECMA-48, 8.3.117. The names and numbers of a file stand between them, never in them.
mod color {
    pub(super) const TIME: &[u8] = b"\x1b[2m";
    pub(super) const IN: &[u8] = b"\x1b[36m";
    pub(super) const OUT: &[u8] = b"\x1b[33m";
    pub(super) const PROTOCOL: &[u8] = b"\x1b[1m";
    pub(super) const OWNERS: &[u8] = b"\x1b[1;32m";
    pub(super) const NONE: &[u8] = b"";
    pub(super) const END: &[u8] = b"\x1b[0m";
}

/// Spells packets.
#[derive(Debug)]
pub(super) struct Line {
    text: Vec<u8>,
    is_colored: bool,
    minute: Minute,
}

impl Line {
    pub(super) fn new(is_colored: bool) -> Self {
        Self { text: Vec::with_capacity(512), is_colored, minute: Minute::default() }
    }

    /// The line of a packet, with its end.
    pub(super) fn of(&mut self, record: &Record<'_>) -> &[u8] {
        let packet = &record.packet;
        let decoded = decode::packet(record.interface.link_type, packet.data);
        self.text.clear();
        self.colored(color::TIME, |line| line.minute.push_time(&mut line.text, packet.time));
        self.text.push(b' ');
        self.interface(record);
        self.text.push(b' ');
        let (direction, direction_color) = direction(packet.direction);
        self.colored(direction_color, |line| line.text.extend_from_slice(direction));
        self.text.push(b' ');
        self.colored(color::PROTOCOL, |line| text::protocol(&mut line.text, &decoded));
        if let Decoded::Ip(ip) = &decoded {
            self.ends(ip);
        }
        self.text.extend_from_slice(b" length ");
        push_number(&mut self.text, packet.original_length);
        if (packet.data.len() as u64) < u64::from(packet.original_length) {
            self.text.extend_from_slice(b" (captured ");
            push_number(&mut self.text, packet.data.len() as u32);
            self.text.push(b')');
        }
        self.text.extend_from_slice(b"  ");
        let is_known = matches!(record.attribution, Attribution::Known { .. });
        let owners_color = if is_known { color::OWNERS } else { color::NONE };
        self.colored(owners_color, |line| {
            push_owners(&mut line.text, &record.attribution, record.processes);
        });
        self.text.push(b'\n');
        &self.text
    }

    /// Its name, or its number where it has none.
    #[inline]
    fn interface(&mut self, record: &Record<'_>) {
        if record.interface.name.is_empty() {
            self.text.push(b'#');
            return push_number(&mut self.text, record.packet.interface.0);
        }
        annotation::push_text(&mut self.text, record.interface.name.as_bytes());
    }

    #[inline]
    fn colored(&mut self, color: &[u8], write: impl FnOnce(&mut Self)) {
        if !self.is_colored || color.is_empty() {
            return write(self);
        }
        self.text.extend_from_slice(color);
        write(self);
        self.text.extend_from_slice(color::END);
    }

    fn ends(&mut self, ip: &IpPacket) {
        let has_ports = text::has_ports(ip);
        self.text.push(b' ');
        push_endpoint(&mut self.text, ip.flow.local, has_ports);
        self.text.extend_from_slice(b" -> ");
        push_endpoint(&mut self.text, ip.flow.remote, has_ports);
        push_transport(&mut self.text, ip);
    }
}

const fn direction(direction: Direction) -> (&'static [u8], &'static [u8]) {
    match direction {
        Direction::Unknown => (b"-", color::NONE),
        Direction::Inbound => (b"In", color::IN),
        Direction::Outbound => (b"Out", color::OUT),
    }
}

/// What the transport header tells besides ports, in brackets or words; nothing if nothing.
fn push_transport(text: &mut Vec<u8>, packet: &IpPacket) {
    match packet.transport {
        Transport::Tcp { flags, .. } => {
            text.extend_from_slice(b" [");
            text::tcp_flags(text, flags);
            text.push(b']');
        }
        Transport::Icmp { echo: true, .. } => {
            text.extend_from_slice(b" echo id ");
            push_number(text, packet.flow.local.port.into());
        }
        Transport::Icmp { kind, code, echo: false } => {
            // Writing to memory cannot fail.
            let _ = write!(text, " type {kind} code {code}");
        }
        Transport::Udp | Transport::Other => {}
    }
    if let Some(fragment) = packet.fragment {
        let _ = write!(text, " fragment at {}", fragment.offset);
    }
}

/// The owners of a packet as the file's comment has them; `-` without one.
fn push_owners(text: &mut Vec<u8>, attribution: &Attribution, processes: &ProcessTable) {
    let Attribution::Known { sender, receiver, both_local, found: _ } = *attribution else {
        return text.push(b'-');
    };
    let known = |owner: Option<Owner>| owner.and_then(|owner| processes.get(owner.process));
    match (known(sender), known(receiver)) {
        (None, None) => text.push(b'-'),
        (Some(one), None) | (None, Some(one)) if !both_local => push_process(text, Some(one)),
        (sender, receiver) => {
            push_process(text, sender);
            text.extend_from_slice(b" > ");
            push_process(text, receiver);
        }
    }
}

fn push_process(text: &mut Vec<u8>, process: Option<&Process>) {
    let Some(process) = process else { return text.push(b'?') };
    annotation::push_name(text, &process.name);
    text.push(b'[');
    push_number(text, process.pid);
    text.push(b']');
}

/// An end of a packet: with its port where the protocol has ports, the bare address otherwise.
#[inline]
fn push_endpoint(text: &mut Vec<u8>, endpoint: Endpoint, has_port: bool) {
    const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    match endpoint.address.split_first_chunk::<12>() {
        Some((&MAPPED, v4)) => push_v4(text, v4),
        _ if has_port => {
            text.push(b'[');
            push_v6(text, &endpoint.address);
            text.push(b']');
        }
        _ => push_v6(text, &endpoint.address),
    }
    if has_port {
        text.push(b':');
        push_number(text, endpoint.port.into());
    }
}

#[inline]
fn push_v4(text: &mut Vec<u8>, octets: &[u8]) {
    for (position, octet) in octets.iter().enumerate() {
        if position > 0 {
            text.push(b'.');
        }
        push_number(text, (*octet).into());
    }
}

/// RFC 5952: lower case, no leading zeros, the first of the longest runs of zeros as `::`.
fn push_v6(text: &mut Vec<u8>, address: &[u8; 16]) {
    let (pairs, _) = address.as_chunks::<2>();
    let mut run = 0..0;
    let mut position = 0;
    while position < pairs.len() {
        let zeros = pairs[position..].iter().take_while(|pair| **pair == [0, 0]).count();
        if zeros > run.len().max(1) {
            run = position..position + zeros;
        }
        position += zeros.max(1);
    }
    let mut position = 0;
    while position < pairs.len() {
        if !run.is_empty() && position == run.start {
            text.extend_from_slice(b"::");
            position = run.end;
            continue;
        }
        if position > 0 && position != run.end {
            text.push(b':');
        }
        push_hexadecimal(text, u16::from_be_bytes(pairs[position]));
        position += 1;
    }
}

fn push_hexadecimal(text: &mut Vec<u8>, number: u16) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = [12, 8, 4, 0].map(|shift| DIGITS[usize::from(number >> shift & 0xf)]);
    let leading = (number | 1).leading_zeros() as usize / 4;
    text.extend_from_slice(&digits[leading..]);
}

/// In decimal.
#[inline]
fn push_number(text: &mut Vec<u8>, mut number: u32) {
    const LONGEST: usize = 10;
    let mut digits = [b'0'; LONGEST];
    let mut begins = LONGEST;
    loop {
        begins -= 1;
        digits[begins] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    text.extend_from_slice(&digits[begins..]);
}

/// The minute that was spelled last. The calendar and the time zone are asked once a minute: offsets change between minutes.
#[derive(Debug, Default)]
struct Minute {
    /// Since 1970.
    number: u64,
    /// `2026-11-21 01:22:`; empty where its first second is not second 0 of the local time.
    text: String,
}

impl Minute {
    const NS: u64 = 60_000_000_000;

    #[inline]
    fn push_time(&mut self, text: &mut Vec<u8>, time: RealTime) {
        let (number, rest) = (time.as_ns() / Self::NS, time.as_ns() % Self::NS);
        if number != self.number || self.text.is_empty() {
            self.begin(number);
        }
        if self.text.is_empty() {
            return text.extend_from_slice(text::local_time(time).as_bytes());
        }
        let (second, mut ns) = ((rest / 1_000_000_000) as u8, (rest % 1_000_000_000) as u32);
        let mut digits = *b"00.000000000";
        (digits[0], digits[1]) = (b'0' + second / 10, b'0' + second % 10);
        for digit in digits[3..].iter_mut().rev() {
            *digit = b'0' + (ns % 10) as u8;
            ns /= 10;
        }
        text.extend_from_slice(self.text.as_bytes());
        text.extend_from_slice(&digits);
    }

    #[cold]
    fn begin(&mut self, number: u64) {
        self.number = number;
        self.text = text::local_time(RealTime::from_ns(number * Self::NS));
        match self.text.strip_suffix("00.000000000").map(str::len) {
            Some(length) => self.text.truncate(length),
            None => self.text.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv6Addr, SocketAddr};

    use super::*;
    use crate::decode::{FragmentInfo, Span};
    use crate::model::{Flow, Found, ProcessIndex, Protocol};

    fn spelled(spell: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut text = Vec::new();
        spell(&mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn addresses_are_spelled_as_the_standard_library_does() {
        // Every pattern of zero groups, with groups of one to four digits between; and mapped IPv4 addresses.
        let groups = [1, 0x23, 0x456, 0x789a, 0xffff, 0x10, 0x100, 0x1000];
        let patterns = (0..=255_u16).map(|zeros| {
            let group = |at: usize| if zeros >> at & 1 == 1 { 0 } else { groups[at] };
            IpAddr::V6(Ipv6Addr::from(std::array::from_fn::<u16, 8, _>(group)))
        });
        let v4 = [[0, 0, 0, 0], [10, 0, 0, 2], [255, 255, 255, 255], [192, 168, 100, 9]];
        for address in patterns.chain(v4.map(IpAddr::from)) {
            for port in [0, 7, 53, 443, 8080, 65535] {
                let endpoint = Endpoint::new(address, port);
                assert_eq!(
                    spelled(|to| push_endpoint(to, endpoint, true)),
                    SocketAddr::new(address, port).to_string()
                );
                assert_eq!(spelled(|to| push_endpoint(to, endpoint, false)), address.to_string());
            }
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        let mut minute = Minute::default();
        let start = 1_700_000_000_000_000_000;
        let steps = [0, 1, 999_999_999, 40_000_000_000, 59_999_999_999, 61_000_000_000, 86_400_000_000_000];
        let times = steps.into_iter().flat_map(|step| [0, start].map(|start: u64| start + step));
        for ns in times.chain([u64::MAX]) {
            let time = RealTime::from_ns(ns);
            assert_eq!(spelled(|to| minute.push_time(to, time)), text::local_time(time));
        }
    }

    #[test]
    fn numbers_are_decimal() {
        for number in [0, 9, 10, 99, 100, 255, 65535, 1_000_000, u32::MAX] {
            assert_eq!(spelled(|to| push_number(to, number)), number.to_string());
        }
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
            span: Span::default(),
        };
        let mut line = Line::new(false);
        line.ends(&packet);
        assert_eq!(line.text, b" 10.0.0.1 -> 10.0.0.2 fragment at 1480");
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
            assert_eq!(spelled(|to| push_owners(to, &attribution, &table)), text);
        }
    }
}
