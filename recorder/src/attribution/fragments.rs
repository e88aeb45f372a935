//! Later IP fragments have no ports: they follow the first one.

use std::collections::VecDeque;
use std::time::Duration;

use foldhash::HashMap;

use crate::decode::{FragmentInfo, IpPacket};
use crate::model::{Flow, MonoTime, Protocol};

/// How long the kernel waits for the rest of a packet (net.ipv4.ipfrag_time).
const REASSEMBLY_TIME: Duration = Duration::from_secs(30);
/// The most packets under reassembly that are remembered; the oldest go first.
const MOST_PACKETS: usize = 4096;

/// What all fragments of one packet share (RFC 791, section 3.2; RFC 8200, section 4.5).
type Key = ([u8; 16], [u8; 16], Protocol, u32);

/// The flows of packets whose first fragment was seen.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    flows: HashMap<Key, Flow>,
    order: VecDeque<(MonoTime, Key)>,
}

impl Fragments {
    /// Remembers the flow of a first fragment; gives a later one the flow of its first.
    pub(super) fn complete(&mut self, ip: &mut IpPacket, fragment: FragmentInfo, at: MonoTime) {
        if fragment.offset == 0 {
            self.learn_first(ip.flow, fragment.identification, at);
        } else if let Some(flow) = self.flows.get(&key(&ip.flow, fragment.identification)) {
            ip.flow = *flow;
        }
    }

    /// Remembers the flow of a first fragment.
    pub(super) fn learn_first(&mut self, flow: Flow, identification: u32, at: MonoTime) {
        self.remember(key(&flow, identification), flow, at);
    }

    fn remember(&mut self, key: Key, flow: Flow, at: MonoTime) {
        while let Some(&(since, oldest)) = self.order.front() {
            if self.order.len() < MOST_PACKETS && at.since(since) < REASSEMBLY_TIME {
                break;
            }
            self.order.pop_front();
            self.flows.remove(&oldest);
        }
        self.flows.insert(key, flow);
        self.order.push_back((at, key));
    }
}

const fn key(flow: &Flow, identification: u32) -> Key {
    (flow.local.address, flow.remote.address, flow.protocol, identification)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Span, Transport};
    use crate::model::Endpoint;

    fn fragment_of(identification: u32, offset: u32, port: u16) -> (IpPacket, FragmentInfo) {
        let end = |last| Endpoint::new([10, 0, 0, last].into(), port);
        let fragment = FragmentInfo { identification, offset, more: true };
        let flow = Flow { protocol: Protocol::UDP, local: end(1), remote: end(2) };
        let packet = IpPacket {
            flow,
            transport: Transport::Other,
            fragment: Some(fragment),
            ip_length: 0,
            truncated: false,
            span: Span::default(),
        };
        (packet, fragment)
    }

    #[test]
    fn a_later_fragment_has_the_ports_of_the_first() {
        let mut fragments = Fragments::default();
        let (mut first, info) = fragment_of(7, 0, 53);
        fragments.complete(&mut first, info, MonoTime::from_ns(1));
        let (mut later, info) = fragment_of(7, 1480, 0);
        fragments.complete(&mut later, info, MonoTime::from_ns(2));
        assert_eq!(later.flow, first.flow);
    }

    #[test]
    fn a_fragment_of_another_packet_keeps_what_it_has() {
        let mut fragments = Fragments::default();
        let (mut first, info) = fragment_of(7, 0, 53);
        fragments.complete(&mut first, info, MonoTime::from_ns(1));
        let (mut other, info) = fragment_of(8, 1480, 0);
        fragments.complete(&mut other, info, MonoTime::from_ns(2));
        assert_eq!(other.flow.local.port, 0);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut fragments = Fragments::default();
        for number in 0..10_000 {
            let (mut first, info) = fragment_of(number, 0, 53);
            fragments.complete(&mut first, info, MonoTime::from_ns(1));
        }
        assert_eq!(fragments.flows.len(), MOST_PACKETS);
        assert_eq!(fragments.order.len(), MOST_PACKETS);
    }
}
