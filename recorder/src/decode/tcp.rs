//! What the report of a connection needs of a TCP header, beyond what attribution does.

use super::{IpPacket, TcpFlags, Transport, u16_at};

/// One TCP segment. Sequence numbers are those of the wire: they begin anywhere, and wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// The number of the first byte, or of the SYN.
    pub sequence: u32,
    /// The number of the byte that the sender waits for; only with ACK.
    pub acknowledged: u32,
    /// How much the sender can take, as the header has it: not scaled.
    pub window: u16,
    /// The flags.
    pub flags: TcpFlags,
    /// Bytes of payload on the wire.
    pub length: u32,
    /// The payload as far as it was captured.
    pub payload: &'a [u8],
}

/// The TCP segment of a packet that was decoded from `data`; none if it is something else, a later fragment, or cut within the
/// part of the header that every segment has.
pub fn segment<'a>(packet: &IpPacket, data: &'a [u8]) -> Option<Segment<'a>> {
    const SHORTEST_HEADER: usize = 20;
    let Transport::Tcp { flags, payload_length } = packet.transport else { return None };
    let bytes = packet.span.of(data);
    let header: &[u8; SHORTEST_HEADER] = bytes.first_chunk()?;
    let word = |at: usize| Some(u32::from_be_bytes(*header.get(at..)?.first_chunk()?));
    let header_length = usize::from(header[12] >> 4) * 4;
    Some(Segment {
        sequence: word(4)?,
        acknowledged: word(8)?,
        window: u16_at(header, 14)?,
        flags,
        length: payload_length,
        payload: bytes.get(header_length..).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Decoded, packet};
    use super::*;
    use crate::model::LinkType;

    /// A TCP segment with an option of four bytes and three bytes of payload, on Ethernet, with padding.
    fn padded() -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([0x08, 0x00]);
        frame.extend([0x45, 0, 0, 47, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0, 80, 0x9c, 0x40, 0xff, 0xff, 0xff, 0xf0, 0, 0, 1, 0]);
        frame.extend([0x60, 0x18, 0x02, 0x00, 0, 0, 0, 0, 2, 4, 5, 0xb4]);
        frame.extend(b"abc\0\0\0\0\0\0\0\0");
        frame
    }

    fn decoded(data: &[u8]) -> IpPacket {
        match packet(LinkType::ETHERNET, data) {
            Decoded::Ip(packet) => packet,
            Decoded::NotIp(_) => panic!("not IP: {data:02x?}"),
        }
    }

    #[test]
    fn a_segment_is_read_without_the_padding_behind_it() {
        let frame = padded();
        let expected = Segment {
            sequence: 0xffff_fff0,
            acknowledged: 256,
            window: 512,
            flags: TcpFlags(0x18),
            length: 3,
            payload: b"abc",
        };
        assert_eq!(segment(&decoded(&frame), &frame), Some(expected));
    }

    #[test]
    fn what_was_cut_away_is_not_in_the_payload_but_in_the_length() {
        let frame = padded();
        let cut = &frame[..frame.len() - 10];
        let segment_of = |data| segment(&decoded(data), data);
        assert_eq!(segment_of(cut).map(|segment| (segment.length, segment.payload)), Some((3, &b"a"[..])));
        assert_eq!(segment_of(&frame[..14 + 20 + 19]), None, "the header is not whole");
    }

    #[test]
    fn no_bytes_whatever_make_it_panic() {
        let frame = padded();
        for length in 14 + 20..frame.len() {
            for at in 14..length {
                for byte in [0, 0x0f, 0xf0, 0xff] {
                    let mut damaged = frame[..length].to_vec();
                    damaged[at] = byte;
                    if let Decoded::Ip(packet) = packet(LinkType::ETHERNET, &damaged) {
                        let _ = segment(&packet, &damaged);
                        let _ = packet.span.of(&[]);
                    }
                }
            }
        }
    }
}
