//! Asks the kernel's connection tracking what network address translation made of a connection's addresses. The kernel keeps
//! both sides (include/uapi/linux/netfilter/nfnetlink_conntrack.h), and is asked by what a packet carries.

use std::fs;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Tuple};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use crate::attribution::translations::Translator;
use crate::model::{Endpoint, Flow, Protocol};

/// How many entries there are in this network namespace. Not there where nothing is tracked.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
/// An entry with all its attributes is some 300 bytes.
const ANSWER_BYTES: usize = 8192;

/// Asks for translations.
#[derive(Debug, Default)]
pub struct Conntrack {
    /// Open while connections are tracked here.
    socket: Option<Socket>,
}

impl Translator for Conntrack {
    fn is_tracking(&mut self) -> bool {
        if !is_tracking() {
            self.socket = None;
        } else if self.socket.is_none() {
            self.socket = open().ok();
        }
        self.socket.is_some()
    }

    fn translate(&mut self, flow: &Flow) -> Option<Flow> {
        let socket = self.socket.as_ref()?;
        // An error is an answer too: mostly that there is no such entry. Entries are found by what is seen before the
        // translation; what is seen behind it is an answer to be, turned round.
        let turned_round = || Some(ask(socket, &flow.reversed()).ok()??.reversed());
        ask(socket, flow).ok().flatten().or_else(turned_round)
    }
}

/// Whether there are entries to ask for, and asking would not load a kernel module: we change nothing.
fn is_tracking() -> bool {
    let count = fs::read_to_string(COUNT).ok().and_then(|text| text.trim().parse::<u64>().ok());
    if count.unwrap_or(0) == 0 {
        return false;
    }
    let modules = fs::read_to_string("/proc/modules").unwrap_or_default();
    let is_loaded = |name: &str| modules.lines().any(|line| line.split(' ').next() == Some(name));
    is_loaded("nf_conntrack_netlink") || !is_loaded("nf_conntrack")
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

fn ask(socket: &Socket, flow: &Flow) -> io::Result<Option<Flow>> {
    let mut question = NetlinkMessage::from(question(flow));
    question.header.flags = NLM_F_REQUEST;
    question.finalize();
    let mut bytes = vec![0; question.buffer_len()];
    question.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    // The kernel has answered by the time that the call returns.
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    socket.recv(&mut answer, libc::MSG_DONTWAIT)?;
    read_answer(flow, &answer)
}

fn read_answer(flow: &Flow, answer: &[u8]) -> io::Result<Option<Flow>> {
    let answer = NetlinkMessage::<NetfilterMessage>::deserialize(answer)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(translation(flow, &answer))
}

/// What an answer says, for the fuzz target `kernel`.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn answer(flow: &Flow, answer: &[u8]) -> Option<Flow> {
    read_answer(flow, answer).ok().flatten()
}

fn question(flow: &Flow) -> NetfilterMessage {
    let family = match flow.local.ip() {
        IpAddr::V4(_) => NetfilterProtoFamily::IPv4,
        IpAddr::V6(_) => NetfilterProtoFamily::IPv6,
    };
    let addresses =
        vec![IPTuple::SourceAddress(flow.local.ip()), IPTuple::DestinationAddress(flow.remote.ip())];
    let ports = vec![
        ProtoTuple::Protocol(flow.protocol.0.into()),
        ProtoTuple::SourcePort(flow.local.port),
        ProtoTuple::DestinationPort(flow.remote.port),
    ];
    let tuple = vec![Tuple::Ip(addresses), Tuple::Proto(ports)];
    // The kernel looks in both directions, whichever of the two attributes names the tuple.
    let message = ConntrackMessage::Get(vec![ConntrackAttribute::CtaTupleOrig(tuple)]);
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}

/// The other side of the entry's translation. The reply's tuple is what answers carry: reversed, it is the connection as
/// it is behind the translation.
fn translation(flow: &Flow, answer: &NetlinkMessage<NetfilterMessage>) -> Option<Flow> {
    let NetlinkPayload::InnerMessage(message) = &answer.payload else { return None };
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = &message.inner else {
        return None;
    };
    let original = attributes.iter().find_map(|attribute| match attribute {
        ConntrackAttribute::CtaTupleOrig(tuple) => flow_of(tuple),
        _ => None,
    })?;
    let reply = attributes.iter().find_map(|attribute| match attribute {
        ConntrackAttribute::CtaTupleReply(tuple) => flow_of(tuple),
        _ => None,
    })?;
    let other = if *flow == original {
        reply.reversed()
    } else if *flow == reply {
        original.reversed()
    } else {
        return None;
    };
    (other != *flow).then_some(other)
}

fn flow_of(tuple: &[Tuple]) -> Option<Flow> {
    let (mut source, mut destination, mut protocol) = (None, None, None);
    let (mut source_port, mut destination_port) = (None, None);
    for part in tuple {
        match part {
            Tuple::Ip(addresses) => {
                for address in addresses {
                    match address {
                        IPTuple::SourceAddress(address) => source = Some(*address),
                        IPTuple::DestinationAddress(address) => destination = Some(*address),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(ports) => {
                for port in ports {
                    match port {
                        ProtoTuple::Protocol(number) => protocol = Some(Protocol(u8::from(*number))),
                        ProtoTuple::SourcePort(port) => source_port = Some(*port),
                        ProtoTuple::DestinationPort(port) => destination_port = Some(*port),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(Flow {
        protocol: protocol?,
        local: Endpoint::new(source?, source_port?),
        remote: Endpoint::new(destination?, destination_port?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(text: &str) -> Endpoint {
        let address: std::net::SocketAddr = text.parse().unwrap();
        Endpoint::new(address.ip(), address.port())
    }

    fn tcp(from: &str, to: &str) -> Flow {
        Flow { protocol: Protocol(6), local: end(from), remote: end(to) }
    }

    fn tuple(flow: &Flow) -> Vec<Tuple> {
        let NetfilterMessageInner::Conntrack(ConntrackMessage::Get(attributes)) = question(flow).inner else {
            panic!("a question gets an entry")
        };
        let Some(ConntrackAttribute::CtaTupleOrig(tuple)) = attributes.into_iter().next() else {
            panic!("a question has a tuple")
        };
        tuple
    }

    fn entry(original: &Flow, reply: &Flow) -> NetlinkMessage<NetfilterMessage> {
        let attributes = vec![
            ConntrackAttribute::CtaTupleOrig(tuple(original)),
            ConntrackAttribute::CtaTupleReply(tuple(reply)),
        ];
        let header = NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0);
        NetlinkMessage::from(NetfilterMessage::new(header, ConntrackMessage::New(attributes)))
    }

    #[test]
    fn a_masqueraded_packet_leads_to_the_flow_behind_it_both_ways() {
        let inner = tcp("10.0.0.2:5000", "192.0.2.9:80");
        let outer = tcp("192.0.2.1:61000", "192.0.2.9:80");
        let entry = entry(&inner, &outer.reversed());
        assert_eq!(translation(&inner, &entry), Some(outer));
        assert_eq!(translation(&outer.reversed(), &entry), Some(inner.reversed()));
    }

    #[test]
    fn a_forwarded_port_leads_to_the_server_behind_it() {
        let outer = tcp("192.0.2.9:5000", "192.0.2.1:8080");
        let inner = tcp("192.0.2.9:5000", "10.0.0.2:80");
        let entry = entry(&outer, &inner.reversed());
        assert_eq!(translation(&outer, &entry), Some(inner));
        assert_eq!(translation(&inner.reversed(), &entry), Some(outer.reversed()));
    }

    #[test]
    fn an_entry_without_translation_leads_nowhere() {
        let flow = tcp("10.0.0.2:5000", "192.0.2.9:80");
        assert_eq!(translation(&flow, &entry(&flow, &flow.reversed())), None);
    }
}
