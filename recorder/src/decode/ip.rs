//! The IP header, the headers that extend it, and the part of the transport header that is needed.

use etherparse::{
    EtherType, IpAuthHeaderSlice, IpNumber, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice,
    Ipv6RawExtHeaderSlice,
};

use super::{Decoded, FragmentInfo, IpPacket, Span, TcpFlags, Transport, u16_at};
use crate::model::{Endpoint, Flow, Protocol};

/// An IPv4 packet; `data` begins with its header.
#[inline]
pub(super) fn v4(data: &[u8]) -> Decoded {
    let damaged = Decoded::NotIp(Some(EtherType::IPV4.0));
    let Ok(header) = Ipv4HeaderSlice::from_slice(data) else {
        return damaged;
    };
    let header_length = header.slice().len();
    // 0: a segment longer than 65535 bytes that the network card (or the kernel, for BIG TCP) will cut.
    let ip_length = match usize::from(header.total_len()) {
        0 => data.len(),
        length => length,
    };
    let Some(payload_length) = ip_length.checked_sub(header_length) else {
        return damaged;
    };
    let captured = &data[header_length..data.len().min(ip_length)];

    let offset = header.fragments_offset().value();
    let more = header.more_fragments();
    let fragment = (more || offset != 0).then(|| FragmentInfo {
        identification: u32::from(header.identification()),
        offset: u32::from(offset) * 8,
        more,
    });
    let mut payload = Payload { protocol: header.protocol(), captured, length: payload_length };
    if payload.protocol == IpNumber::AUTHENTICATION_HEADER && offset == 0 {
        payload.skip_authentication();
    }
    finish(payload, mapped(header.source()), mapped(header.destination()), fragment, ip_length, data.len())
}

/// An IPv6 packet; `data` begins with its fixed header.
#[inline]
pub(super) fn v6(data: &[u8]) -> Decoded {
    let Ok(header) = Ipv6HeaderSlice::from_slice(data) else {
        return Decoded::NotIp(Some(EtherType::IPV6.0));
    };
    let header_length = header.slice().len();
    // 0: the length stands in a jumbo option, or the kernel has not cut the segment yet (BIG TCP).
    let ip_length = match usize::from(header.payload_length()) {
        0 => data.len(),
        length => header_length + length,
    };
    let mut payload = Payload {
        protocol: header.next_header(),
        captured: &data[header_length..data.len().min(ip_length)],
        length: ip_length - header_length,
    };
    let fragment = payload.skip_extensions();
    finish(payload, header.source(), header.destination(), fragment, ip_length, data.len())
}

/// What follows the headers read so far.
struct Payload<'a> {
    protocol: IpNumber,
    captured: &'a [u8],
    /// Bytes on the wire.
    length: usize,
}

impl Payload<'_> {
    /// Walks the chain of IPv6 extension headers; ends because each header costs at least eight bytes. Stops
    /// at a header that is cut, and then `protocol` is the number of that header.
    fn skip_extensions(&mut self) -> Option<FragmentInfo> {
        let mut fragment = None;
        loop {
            match self.protocol {
                IpNumber::IPV6_FRAGMENTATION_HEADER => {
                    let Ok(header) = Ipv6FragmentHeaderSlice::from_slice(self.captured) else {
                        return fragment;
                    };
                    let offset = u32::from(header.fragment_offset().value()) * 8;
                    let more = header.more_fragments();
                    // RFC 6946: an "atomic fragment" is a whole packet.
                    if offset != 0 || more {
                        let identification = header.identification();
                        fragment = Some(FragmentInfo { identification, offset, more });
                    }
                    self.step(header.next_header(), header.slice().len());
                    if offset != 0 {
                        return fragment;
                    }
                }
                IpNumber::AUTHENTICATION_HEADER => {
                    if !self.skip_authentication() {
                        return fragment;
                    }
                }
                other if Ipv6RawExtHeaderSlice::header_type_supported(other) => {
                    let Ok(header) = Ipv6RawExtHeaderSlice::from_slice(self.captured) else {
                        return fragment;
                    };
                    self.step(header.next_header(), header.slice().len());
                }
                _ => return fragment,
            }
        }
    }

    /// Whether there was a whole authentication header to step over.
    fn skip_authentication(&mut self) -> bool {
        let Ok(header) = IpAuthHeaderSlice::from_slice(self.captured) else {
            return false;
        };
        self.step(header.next_header(), header.slice().len());
        true
    }

    fn step(&mut self, next: IpNumber, header_length: usize) {
        self.protocol = next;
        self.captured = self.captured.get(header_length..).unwrap_or(&[]);
        self.length = self.length.saturating_sub(header_length);
    }

    /// The ports of both ends, and what else the transport header tells.
    #[inline]
    fn transport(&self) -> (u16, u16, Transport) {
        let captured = self.captured;
        let ports = || match (u16_at(captured, 0), u16_at(captured, 2)) {
            (Some(source), Some(destination)) => Some((source, destination)),
            _ => None,
        };
        match Protocol(self.protocol.0) {
            Protocol::TCP => {
                let Some((source, destination)) = ports() else { return (0, 0, Transport::Other) };
                (source, destination, self.tcp())
            }
            Protocol::UDP => match ports() {
                Some((source, destination)) => (source, destination, Transport::Udp),
                None => (0, 0, Transport::Other),
            },
            Protocol::UDP_LITE | Protocol::SCTP => {
                let (source, destination) = ports().unwrap_or((0, 0));
                (source, destination, Transport::Other)
            }
            Protocol::ICMP => self.icmp(0, 8),
            Protocol::ICMPV6 => self.icmp(128, 129),
            _ => (0, 0, Transport::Other),
        }
    }

    #[inline]
    fn tcp(&self) -> Transport {
        let (Some(offset), Some(flags)) = (self.captured.get(12), self.captured.get(13)) else {
            return Transport::Other;
        };
        let header_length = usize::from(offset >> 4) * 4;
        Transport::Tcp {
            flags: TcpFlags(*flags),
            payload_length: self.length.saturating_sub(header_length) as u32,
        }
    }

    fn icmp(&self, echo_a: u8, echo_b: u8) -> (u16, u16, Transport) {
        let (Some(&kind), Some(&code)) = (self.captured.first(), self.captured.get(1)) else {
            return (0, 0, Transport::Other);
        };
        match u16_at(self.captured, 4) {
            Some(identifier) if kind == echo_a || kind == echo_b => {
                (identifier, identifier, Transport::Icmp { kind, code, echo: true })
            }
            _ => (0, 0, Transport::Icmp { kind, code, echo: false }),
        }
    }
}

/// `captured` is how many bytes there are from the IP header on, `ip_length` how many there should be.
#[inline]
fn finish(
    payload: Payload<'_>,
    source: [u8; 16],
    destination: [u8; 16],
    fragment: Option<FragmentInfo>,
    ip_length: usize,
    captured: usize,
) -> Decoded {
    // What the IP header counts of it, and what stands behind that: the padding of a short Ethernet frame.
    let padding = captured.saturating_sub(ip_length);
    let (source_port, destination_port, transport) = match fragment {
        Some(FragmentInfo { offset: 1.., .. }) => (0, 0, Transport::Other),
        _ => payload.transport(),
    };
    Decoded::Ip(IpPacket {
        flow: Flow {
            protocol: Protocol(payload.protocol.0),
            local: Endpoint { address: source, port: source_port },
            remote: Endpoint { address: destination, port: destination_port },
        },
        transport,
        fragment,
        ip_length: ip_length as u32,
        truncated: captured < ip_length,
        span: Span {
            from_end: (payload.captured.len() + padding) as u32,
            length: payload.captured.len() as u32,
        },
    })
}

/// `::ffff:a.b.c.d`, as [`Endpoint`] wants it.
#[inline]
fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}
