//! Files that are cut, damaged, or written by others.

use std::io::{self, Read};

use super::*;

#[test]
fn a_file_cut_anywhere_gives_all_packets_before_the_cut_and_then_says_where() {
    let mut table = ProcessTable::default();
    let curl = table.push(process(4242, "curl"));
    let mut writer = writer(Annotate::ALL);
    for length in 0..5 {
        writer.packet(&packet(&[7; 5][..length]), &known(owner(curl, 0), None, false), &table).unwrap();
    }
    let file = writer.finish(&Statistics::default(), &table).unwrap();
    let mut ends = Vec::new();
    let mut end = 0;
    for (kind, block) in blocks(&file) {
        end += block.len();
        ends.push((end, kind));
    }
    for cut in 1..file.len() {
        let whole = ends.iter().take_while(|(end, _)| *end <= cut);
        let expected = whole.clone().filter(|(_, kind)| *kind == block::ENHANCED_PACKET).count();
        let boundary = whole.last().map_or(0, |(end, _)| *end);
        let mut packets = 0;
        let error = match Reader::with_buffer(&file[..cut], SMALL) {
            Err(error) => Some(error),
            Ok(mut reader) => loop {
                match reader.next_packet() {
                    Ok(Some(_)) => packets += 1,
                    Ok(None) => break None,
                    Err(error) => {
                        assert!(matches!(reader.next_packet(), Ok(None)), "nothing comes after an error");
                        break Some(error);
                    }
                }
            },
        };
        assert_eq!(packets, expected, "cut at {cut}");
        match error {
            None => assert_eq!(boundary, cut),
            Some(ReadError::Truncated { offset }) => assert_eq!(offset as usize, boundary, "cut at {cut}"),
            Some(ReadError::NotPcapng { .. }) => assert!(cut < 4),
            Some(other) => panic!("cut at {cut}: {other}"),
        }
    }
}

#[test]
fn any_damaged_byte_gives_an_error_or_packets_but_no_panic() {
    let mut table = ProcessTable::default();
    let curl = table.push(process(4242, "curl"));
    let mut writer = writer(Annotate::ALL);
    for length in 0..3 {
        writer
            .packet(&packet(&[7; 5][..length]), &known(owner(curl, 0), owner(curl, 1), true), &table)
            .unwrap();
    }
    let counts = InterfaceCounts { received: 1, dropped_by_kernel: Some(2), dropped_by_us: 3, written: 4 };
    let statistics = Statistics { interfaces: vec![counts], ..Statistics::default() };
    let file = writer.finish(&statistics, &table).unwrap();
    for at in 0..file.len() {
        for bit in [0x01, 0x80, 0xff] {
            let mut damaged = file.clone();
            damaged[at] ^= bit;
            if let Ok(mut reader) = Reader::with_buffer(damaged.as_slice(), SMALL) {
                while let Ok(Some(record)) = reader.next_packet() {
                    assert!(record.packet.data.len() <= file.len());
                }
                reader.statistics();
            }
        }
    }
}

#[test]
fn other_formats_are_told_by_name() {
    for (bytes, word) in [
        (&b""[..], "empty"),
        (&[0xd4, 0xc3, 0xb2, 0xa1, 2, 0], "pcap file"),
        (&[0x4d, 0x3c, 0xb2, 0xa1, 2, 0], "pcap file"),
        (&[0x28, 0xb5, 0x2f, 0xfd, 0, 0], "zstd -d"),
        (&[0x1f, 0x8b, 8, 0, 0, 0], "gzip -d"),
        (b"hello world", "section header"),
    ] {
        let error = Reader::new(bytes).unwrap_err();
        assert!(matches!(error, ReadError::NotPcapng { .. }), "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn a_big_endian_file_with_microseconds_and_option_8_is_read() {
    let mut file = vec![0x0a, 0x0d, 0x0d, 0x0a, 0, 0, 0, 28, 0x1a, 0x2b, 0x3c, 0x4d, 0, 1, 0, 0];
    file.extend([0xff; 8]);
    file.extend([0, 0, 0, 28]);
    // An interface without options: microseconds.
    file.extend([0, 0, 0, 1, 0, 0, 0, 20, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20]);
    // A block that nobody knows.
    file.extend([0, 0, 0x77, 0x77, 0, 0, 0, 16, 1, 2, 3, 4, 0, 0, 0, 16]);
    let mut packet =
        vec![0, 0, 0, 6, 0, 0, 0, 60, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 9];
    packet.extend([b'a', b'b', b'c', 0]);
    packet.extend([0, 8, 0, 8, 0, 0, 0x04, 0xd2, 0, 0, 0, 5]);
    // A comment that is not UTF-8; and no opt_endofopt.
    packet.extend([0, 1, 0, 3, 0xff, b'a', b'b', 0]);
    packet.extend([0, 99, 0, 0]);
    packet.extend([0, 0, 0, 60]);
    file.extend(packet);

    let (packets, _) = read_all(&file);
    assert_eq!(packets[0].data, b"abc");
    assert_eq!(packets[0].time, ((1 << 32) + 2) * 1000);
    let (process, tid) = packets[0].sender.clone().unwrap();
    assert_eq!((process.pid, tid), (1234, 5));
}

#[test]
fn a_wireshark_file_resolves_a_reused_process_id_by_time() {
    // What the next Wireshark writes: records first, packets with option 8 after them.
    let mut table = ProcessTable::default();
    let first = table.push(Process { start: Some(RealTime::from_ns(100)), ..process(5, "old") });
    let second = table.push(Process { start: Some(RealTime::from_ns(200)), ..process(5, "young") });
    let mut file = writer(Annotate::NONE).finish(&Statistics::default(), &table).unwrap();
    for index in [first, second] {
        process::custom_block(&mut file, table.get(index).unwrap());
    }
    let header = file.len() - blocks(&file)[2..].iter().map(|(_, block)| block.len()).sum::<usize>();
    let mut packets_file = writer(Annotate { ids: true, ..Annotate::NONE });
    for time in [150, 250, 50] {
        let packet = Packet { time: RealTime::from_ns(time), ..packet(b"1234") };
        packets_file.packet(&packet, &known(owner(first, 0), None, false), &table).unwrap();
    }
    file.extend(&packets_file.finish(&Statistics::default(), &table).unwrap()[header..]);

    let (packets, _) = read_all(&file);
    let names: Vec<_> = packets
        .iter()
        .map(|p| String::from_utf8(p.sender.as_ref().unwrap().0.name.clone()).unwrap())
        .collect();
    assert_eq!(names, ["old", "young", ""], "and one that started later than the packet is not its owner");
}

#[test]
fn a_dangling_index_gives_way_to_option_8_and_the_comment() {
    // mergecap before 4.7 loses the process blocks and keeps the indexes.
    let mut table = ProcessTable::default();
    let curl = table.push(process(4242, "curl"));
    let mut writer = writer(Annotate::ALL);
    writer.packet(&packet(b"1234"), &known(owner(curl, 9), None, false), &table).unwrap();
    let file = writer.finish(&Statistics::default(), &table).unwrap();
    let merged: Vec<u8> = blocks(&file)
        .into_iter()
        .filter(|(kind, _)| !matches!(*kind, block::DARWIN_PROCESS | block::CUSTOM))
        .flat_map(|(_, block)| block.to_vec())
        .collect();
    let (packets, _) = read_all(&merged);
    let (process, tid) = packets[0].sender.clone().unwrap();
    assert_eq!((process.pid, process.name.as_slice(), tid), (4242, &b"curl"[..], 9));
}

/// Gives one byte at a time, with interruptions.
struct Trickle<'a>(&'a [u8], bool);

impl Read for Trickle<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
        let length = into.len().min(1);
        self.0.read(&mut into[..length])
    }
}

#[test]
fn a_slow_source_gives_the_same_packets() {
    let mut writer = writer(Annotate::NONE);
    for _ in 0..3 {
        writer
            .packet(&packet(b"12345"), &Attribution::Unknown(Reason::Off), &ProcessTable::default())
            .unwrap();
    }
    let file = writer.finish(&Statistics::default(), &ProcessTable::default()).unwrap();
    let mut reader = Reader::new(Trickle(&file, false)).unwrap();
    let mut packets = 0;
    while reader.next_packet().unwrap().is_some() {
        packets += 1;
    }
    assert_eq!(packets, 3);
}
