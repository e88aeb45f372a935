//! Legacy pcap files, of all kinds that libpcap reads.

use super::*;

/// How a file differs from the usual one.
#[derive(Clone, Copy, Debug)]
struct Kind {
    magic: u32,
    version: (u16, u16),
    is_big_endian: bool,
}

impl Kind {
    const USUAL: Self = Self { magic: 0xa1b2_c3d4, version: (2, 4), is_big_endian: false };

    fn all() -> Vec<Self> {
        let mut kinds = Vec::new();
        for magic in [0xa1b2_c3d4, 0xa1b2_3c4d, 0xa1b2_cd34] {
            for version in [(2, 4), (2, 3), (2, 2), (543, 0)] {
                kinds.extend([false, true].map(|is_big_endian| Self { magic, version, is_big_endian }));
            }
        }
        kinds
    }

    fn word(self, number: u32) -> [u8; 4] {
        if self.is_big_endian { number.to_be_bytes() } else { number.to_le_bytes() }
    }

    /// Packets of 0, 1, 2, ... bytes that were 100 bytes long, a tick apart; raw IP.
    fn file(self, packets: u32) -> Vec<u8> {
        let half = |number: u16| if self.is_big_endian { number.to_be_bytes() } else { number.to_le_bytes() };
        let mut file = self.word(self.magic).to_vec();
        file.extend(half(self.version.0));
        file.extend(half(self.version.1));
        for number in [0, 0, 65535, 101] {
            file.extend(self.word(number));
        }
        for number in 0..packets {
            let lengths = if self.version == (2, 4) { [number, 100] } else { [100, number] };
            for number in [1_700_000_000, number, lengths[0], lengths[1]] {
                file.extend(self.word(number));
            }
            if self.magic == 0xa1b2_cd34 {
                file.extend([0xee; 8]);
            }
            file.extend((0..number).map(|byte| byte as u8));
        }
        file
    }
}

#[test]
fn packets_of_every_kind_of_file_are_the_same() {
    for kind in Kind::all() {
        let file = kind.file(9);
        let (packets, reader) = read_all(&file);
        assert_eq!(packets.len(), 9, "{kind:?}");
        let tick = if kind.magic == 0xa1b2_3c4d { 1 } else { 1000 };
        for (packet, number) in packets.iter().zip(0..) {
            assert_eq!(packet.time, START + number * tick, "{kind:?}");
            assert_eq!(packet.data, (0..number as u8).collect::<Vec<u8>>(), "{kind:?}");
            assert_eq!((packet.original_length, packet.interface), (100, 0), "{kind:?}");
        }
        assert_eq!(reader.interfaces().len(), 1);
        assert_eq!(reader.interfaces()[0].link_type, LinkType::RAW_IP);
        assert_eq!(reader.interfaces()[0].snap_length, 65535);
        assert!(reader.statistics().is_none());
    }
}

#[test]
fn a_copy_is_pcapng_with_the_same_packets() {
    for kind in Kind::all() {
        let file = kind.file(9);
        let mut out = Vec::new();
        let mut copier =
            Copier::new(Reader::new(file.as_slice()).unwrap(), &mut out, "a comment".to_owned()).unwrap();
        while copier.next_packet().unwrap().is_some() {
            copier.keep().unwrap();
        }
        copier.finish().unwrap();
        assert_eq!(read_all(&out).0, read_all(&file).0, "{kind:?}");
        let kinds = types(&out);
        assert_eq!(kinds[..2], [block::SECTION_HEADER, block::INTERFACE_DESCRIPTION]);
        assert_eq!(kinds.len(), 11);
    }
}

#[test]
fn a_file_cut_anywhere_gives_all_packets_before_the_cut_and_then_says_where() {
    let file = Kind::USUAL.file(5);
    let ends: Vec<usize> =
        (0..=5).map(|number| 24 + (0..number).map(|length| 16 + length).sum::<usize>()).collect();
    for cut in 4..file.len() {
        let whole = ends.iter().rposition(|end| *end <= cut);
        let mut packets = 0;
        let ended = Reader::new(&file[..cut]).and_then(|mut reader| {
            while reader.next_packet()?.is_some() {
                packets += 1;
            }
            Ok(())
        });
        assert_eq!(packets, whole.unwrap_or(0), "cut at {cut}");
        match ended {
            Ok(()) => assert!(ends.contains(&cut), "cut at {cut}"),
            Err(ReadError::Truncated { offset }) => {
                assert_eq!(offset as usize, whole.map_or(0, |whole| ends[whole]), "cut at {cut}");
            }
            Err(error) => panic!("cut at {cut}: {error}"),
        }
    }
}

#[test]
fn an_absurd_length_is_told_with_its_place() {
    let mut file = Kind::USUAL.file(3);
    // The third record begins behind the header and records of 16 and 17 bytes.
    file[24 + 16 + 17 + 8..][..4].copy_from_slice(&0xffff_fff0_u32.to_le_bytes());
    let mut reader = Reader::new(file.as_slice()).unwrap();
    assert!(reader.next_packet().unwrap().is_some());
    assert!(reader.next_packet().unwrap().is_some());
    let error = reader.next_packet().unwrap_err().to_string();
    assert!(
        error.starts_with("the block at byte 57 is damaged: it says that 4294967280 bytes were captured"),
        "{error}"
    );
}

#[test]
fn many_packets_go_through_a_buffer_that_is_smaller_than_the_file() {
    // 16 to 300 bytes each: their ends meet the buffer's at every offset.
    let mut file = Kind::USUAL.file(0);
    let mut expected = Vec::new();
    for number in 0..20_000_u32 {
        let length = number * 7 % 285;
        for word in [number, 0, length, length] {
            file.extend(word.to_le_bytes());
        }
        let data: Vec<u8> = (0..length).map(|byte| (byte + number) as u8).collect();
        file.extend(&data);
        expected.push(data);
    }
    let mut reader = Reader::new(file.as_slice()).unwrap();
    for (number, data) in expected.iter().enumerate() {
        let record = reader.next_packet().unwrap().unwrap();
        assert_eq!(record.packet.data, data, "packet {number}");
        assert_eq!(record.packet.time, RealTime::from_ns(number as u64 * 1_000_000_000));
    }
    assert!(reader.next_packet().unwrap().is_none());
    assert_eq!(reader.offset(), file.len() as u64);
}
