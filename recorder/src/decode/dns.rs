//! Which name an address was found under: the answers of DNS and multicast DNS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use simple_dns::rdata::RData;
use simple_dns::{Name, Packet, PacketFlag, RCODE, ResourceRecord};

use super::{IpPacket, Transport, segment};

/// The ports that answers come from: DNS and multicast DNS.
const PORTS: [u16; 2] = [53, 5353];

/// A longer message is not looked at. Answers over UDP have 4096 bytes at most (RFC 6891 recommends 1232), and the time to read
/// names that point to one another grows with the square of the length.
const LONGEST_MESSAGE: usize = 4096;

/// As many CNAME records lead from a name to an address; resolvers give up sooner.
const LONGEST_CHAIN: usize = 16;

/// An address, and the name that was asked for when it was the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The address.
    pub address: IpAddr,
    /// The name: labels joined by dots, in small letters, not escaped otherwise; at most 254 bytes.
    pub name: Vec<u8>,
}

/// The addresses that a packet, decoded from `data`, tells the names of: A and AAAA records of answers without an error, each
/// under the name at the beginning of its chain of CNAME records. Over TCP only messages that stand whole in one segment are read.
pub fn answers(packet: &IpPacket, data: &[u8]) -> Vec<Named> {
    if !PORTS.contains(&packet.flow.local.port) {
        return Vec::new();
    }
    match packet.transport {
        Transport::Udp => {
            const UDP_HEADER: usize = 8;
            packet.span.of(data).get(UDP_HEADER..).map(message).unwrap_or_default()
        }
        Transport::Tcp { .. } => {
            segment(packet, data).map_or_else(Vec::new, |segment| stream(segment.payload))
        }
        Transport::Icmp { .. } | Transport::Other => Vec::new(),
    }
}

/// Messages, each behind its length in two bytes (RFC 1035, 4.2.2).
fn stream(mut payload: &[u8]) -> Vec<Named> {
    let mut named = Vec::new();
    while let Some((length, rest)) = payload.split_first_chunk() {
        let Some((whole, next)) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length))) else {
            break;
        };
        named.extend(message(whole));
        payload = next;
    }
    named
}

fn message(bytes: &[u8]) -> Vec<Named> {
    if bytes.len() > LONGEST_MESSAGE {
        return Vec::new();
    }
    let Ok(message) = Packet::parse(bytes) else { return Vec::new() };
    if !message.has_flags(PacketFlag::RESPONSE) || message.rcode() != RCODE::NoError {
        return Vec::new();
    }
    // Multicast DNS puts the addresses of what it answers with into the additional records.
    let records: Vec<&ResourceRecord<'_>> =
        message.answers.iter().chain(&message.additional_records).collect();
    let aliases: Vec<(&Name<'_>, &Name<'_>)> = records
        .iter()
        .filter_map(|record| match &record.rdata {
            RData::CNAME(target) => Some((&target.0, &record.name)),
            _ => None,
        })
        .collect();
    records.iter().filter_map(|record| named(record, &aliases)).collect()
}

/// The address of a record under the name that was asked for; none if the record has no address.
fn named(record: &ResourceRecord<'_>, aliases: &[(&Name<'_>, &Name<'_>)]) -> Option<Named> {
    let address = match &record.rdata {
        RData::A(record) => IpAddr::V4(Ipv4Addr::from(record.address)),
        RData::AAAA(record) => IpAddr::V6(Ipv6Addr::from(record.address)),
        _ => return None,
    };
    let mut name = &record.name;
    for _ in 0..LONGEST_CHAIN {
        match aliases.iter().find(|(target, _)| *target == name) {
            Some((_, alias)) => name = alias,
            None => break,
        }
    }
    let name = name.get_labels().iter().map(AsRef::as_ref).collect::<Vec<&[u8]>>().join(&b'.');
    (!name.is_empty()).then(|| Named { address, name: name.to_ascii_lowercase() })
}

#[cfg(test)]
mod tests {
    use super::super::{Decoded, packet};
    use super::*;
    use crate::model::LinkType;

    /// An answer to `www.example.com`: an alias of `CDN.example.net`, which has an address of either family.
    fn answer() -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 0x81, 0x80, 0, 1, 0, 3, 0, 0, 0, 0];
        bytes.extend(b"\x03www\x07example\x03com\0\0\x01\0\x01");
        bytes.extend(b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x11\x03CDN\x07example\x03net\0");
        bytes.extend(b"\x03cdn\x07example\x03net\0\0\x01\0\x01\0\0\0\x3c\0\x04\x5d\xb8\xd8\x22");
        bytes.extend(b"\x03cdn\x07example\x03net\0\0\x1c\0\x01\0\0\0\x3c\0\x10\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01");
        bytes
    }

    /// The same in an IPv4 packet from a port.
    fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
        let length = (28 + payload.len()) as u16;
        let mut data = vec![0x45, 0];
        data.extend(length.to_be_bytes());
        data.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 53, 10, 0, 0, 2]);
        data.extend(port.to_be_bytes());
        data.extend([0x9c, 0x40]);
        data.extend((length - 20).to_be_bytes());
        data.extend([0, 0]);
        data.extend(payload);
        data
    }

    fn tcp(payload: &[u8]) -> Vec<u8> {
        let mut data = udp(53, &[&[0; 12], payload].concat());
        data[9] = 6;
        data[20 + 12] = 0x50;
        data
    }

    fn told(data: &[u8]) -> Vec<(String, String)> {
        let Decoded::Ip(packet) = packet(LinkType::RAW_IP, data) else { panic!("not IP") };
        let text =
            |named: &Named| (named.address.to_string(), String::from_utf8(named.name.clone()).unwrap());
        answers(&packet, data).iter().map(text).collect()
    }

    fn both() -> Vec<(String, String)> {
        ["93.184.216.34", "2001:db8::1"]
            .map(|address| (address.to_owned(), "www.example.com".to_owned()))
            .to_vec()
    }

    #[test]
    fn an_address_has_the_name_that_was_asked_for_and_not_its_alias() {
        assert_eq!(told(&udp(53, &answer())), both());
        assert_eq!(told(&udp(5353, &answer())), both());
        assert_eq!(told(&udp(54, &answer())), [], "not from a name server");
    }

    #[test]
    fn a_question_and_an_error_name_nothing() {
        let (mut question, mut error) = (answer(), answer());
        question[2] = 0x01;
        error[3] = 0x83;
        assert_eq!(told(&udp(53, &question)), []);
        assert_eq!(told(&udp(53, &error)), []);
    }

    #[test]
    fn over_tcp_messages_stand_behind_their_lengths() {
        let message = answer();
        let one = [&(message.len() as u16).to_be_bytes()[..], &message].concat();
        assert_eq!(told(&tcp(&one)), both());
        assert_eq!(told(&tcp(&[&one[..], &one].concat())).len(), 4);
        assert_eq!(
            told(&tcp(&[&one[..], &one[..one.len() - 1]].concat())),
            both(),
            "the second is not whole"
        );
    }

    #[test]
    fn aliases_that_lead_in_a_circle_end() {
        let mut bytes = vec![0, 0, 0x81, 0x80, 0, 0, 0, 3, 0, 0, 0, 0];
        bytes.extend(b"\x01a\0\0\x05\0\x01\0\0\0\x3c\0\x03\x01b\0");
        bytes.extend(b"\x01b\0\0\x05\0\x01\0\0\0\x3c\0\x03\x01a\0");
        bytes.extend(b"\x01a\0\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01");
        assert_eq!(told(&udp(53, &bytes)).len(), 1);
    }

    /// Each byte of an answer replaced by some that matter (lengths, pointers, types), and each end cut off.
    #[test]
    fn no_bytes_whatever_make_it_panic() {
        let whole = answer();
        for at in 0..whole.len() {
            for byte in [0, 1, 2, 5, 0x0c, 0x1c, 0x21, 0x29, 0x2e, 0x3f, 0x40, 0x7f, 0xc0, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = byte;
                message(&damaged);
                message(&damaged[..at]);
                // Every type of record has a reader of its own.
                for kind in 0..=65 {
                    if let Some(place) = damaged.get_mut(48) {
                        *place = kind;
                    }
                    message(&damaged);
                }
            }
        }
    }
}
