//! The flow of a packet as a cgroup hook sees it: from the IP header on, complete and defragmented.

use aya_ebpf::programs::SkBuffContext;
use recorder_shared::Address;

const ETH_P_IP: u32 = 0x0800;
const ETH_P_IPV6: u32 = 0x86dd;

/// ICMP.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP for IPv6.
pub const ICMPV6: u8 = 58;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;

/// Source and destination of a packet. Addresses in network order, IPv4 mapped; ports in host order.
pub struct Headers {
    pub source: Address,
    pub destination: Address,
    pub source_port: u16,
    pub destination_port: u16,
    pub protocol: u8,
    /// Where the transport header begins.
    pub transport: usize,
}

/// Reads the headers; none if this is not IP, or cut off.
#[inline(always)]
pub fn headers(ctx: &SkBuffContext) -> Option<Headers> {
    match plain(ctx) {
        Some(headers) => Some(headers),
        None => any(ctx),
    }
}

/// TCP or UDP right behind an IP header without options, in the packet's linear part: that is nearly every packet, and
/// costs no call of a helper.
#[inline(always)]
fn plain(ctx: &SkBuffContext) -> Option<Headers> {
    // SAFETY: the context is valid for the run of the program.
    let (data, end) = unsafe { ((*ctx.skb.skb).data as usize, (*ctx.skb.skb).data_end as usize) };
    if data + size_of::<PlainV4>() > end {
        return None;
    }
    // SAFETY: it lies before the end of the packet, and has no alignment.
    let v4 = unsafe { &*(data as *const PlainV4) };
    if v4.version == 0x45 {
        return plain_headers(v4.protocol, mapped(v4.source), mapped(v4.destination), v4.ports, 20);
    }
    if v4.version >> 4 != 6 || data + size_of::<PlainV6>() > end {
        return None;
    }
    // SAFETY: the same.
    let v6 = unsafe { &*(data as *const PlainV6) };
    plain_headers(v6.next_header, v6.source, v6.destination, v6.ports, 40)
}

/// RFC 791, without options, and the ports behind it.
#[repr(C, packed)]
struct PlainV4 {
    version: u8,
    _until_protocol: [u8; 8],
    protocol: u8,
    _checksum: u16,
    source: u32,
    destination: u32,
    ports: [u16; 2],
}

/// RFC 8200, without extension headers, and the ports behind it.
#[repr(C, packed)]
struct PlainV6 {
    _until_next_header: [u8; 6],
    next_header: u8,
    _hop_limit: u8,
    source: Address,
    destination: Address,
    ports: [u16; 2],
}

#[inline(always)]
fn plain_headers(
    protocol: u8,
    source: Address,
    destination: Address,
    ports: [u16; 2],
    transport: usize,
) -> Option<Headers> {
    if protocol != TCP && protocol != UDP {
        return None;
    }
    let (source_port, destination_port) = (u16::from_be(ports[0]), u16::from_be(ports[1]));
    Some(Headers { source, destination, source_port, destination_port, protocol, transport })
}

/// Whatever stands where.
#[inline(always)]
fn any(ctx: &SkBuffContext) -> Option<Headers> {
    // SAFETY: the context is valid for the run of the program.
    let protocol = u32::from(u16::from_be(unsafe { (*ctx.skb.skb).protocol } as u16));
    let mut headers = match protocol {
        ETH_P_IP => ipv4(ctx)?,
        ETH_P_IPV6 => ipv6(ctx)?,
        _ => return None,
    };
    match headers.protocol {
        TCP | UDP | SCTP | UDP_LITE => {
            let ports: [u16; 2] = ctx.load(headers.transport).ok()?;
            headers.source_port = u16::from_be(ports[0]);
            headers.destination_port = u16::from_be(ports[1]);
        }
        ICMP | ICMPV6 => {
            let identifier = u16::from_be(ctx.load::<u16>(headers.transport + 4).ok()?);
            headers.source_port = identifier;
            headers.destination_port = identifier;
        }
        _ => {}
    }
    Some(headers)
}

/// The initial sequence number of a TCP packet that opens a connection: SYN without ACK (RFC 9293, section 3.1).
#[inline(always)]
pub fn opening_isn(ctx: &SkBuffContext, headers: &Headers) -> Option<u32> {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    // Sequence number, acknowledgment number, length of the header and flags.
    let words: [u32; 3] = ctx.load(headers.transport + 4).ok()?;
    let flags = words[2].to_ne_bytes()[1];
    (flags & (SYN | ACK) == SYN).then_some(u32::from_be(words[0]))
}

#[inline(always)]
fn ipv4(ctx: &SkBuffContext) -> Option<Headers> {
    let header: [u32; 5] = ctx.load(0).ok()?;
    Some(Headers {
        source: mapped(header[3]),
        destination: mapped(header[4]),
        source_port: 0,
        destination_port: 0,
        protocol: header[2].to_ne_bytes()[1],
        transport: usize::from(header[0].to_ne_bytes()[0] & 0x0f) * 4,
    })
}

/// ::ffff:a.b.c.d, from the four bytes as they lie in the packet.
#[inline(always)]
pub fn mapped(v4: u32) -> Address {
    const PREFIX: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    // Little-endian: the word that comes first in memory is the low half. bpfel is the only target.
    [0, u64::from(PREFIX) | u64::from(v4) << 32]
}

#[inline(always)]
fn ipv6(ctx: &SkBuffContext) -> Option<Headers> {
    let mut protocol: u8 = ctx.load(6).ok()?;
    let mut transport = 40;
    // Hop-by-hop, routing and destination options may stand before the transport header (RFC 8200, section 4).
    for _ in 0..4 {
        if protocol != 0 && protocol != 43 && protocol != 60 {
            break;
        }
        let extension: [u8; 2] = ctx.load(transport).ok()?;
        protocol = extension[0];
        transport += (usize::from(extension[1]) + 1) * 8;
    }
    Some(Headers {
        source: ctx.load(8).ok()?,
        destination: ctx.load(24).ok()?,
        source_port: 0,
        destination_port: 0,
        protocol,
        transport,
    })
}
