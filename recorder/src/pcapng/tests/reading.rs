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
            Some(ReadError::NotCapture { .. }) => assert!(cut < 4),
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
fn what_is_no_capture_is_told_with_the_reason() {
    for (bytes, word) in [
        (&b""[..], "empty"),
        (b"hello world", "neither as pcapng nor as pcap"),
        (
            &[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0],
            "pcap version 2.5",
        ),
        (
            &[0xa1, 0xb2, 0xc3, 0xd4, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 9, 0, 0],
            "link type 589824",
        ),
    ] {
        let error = Reader::new(bytes).unwrap_err();
        assert!(matches!(error, ReadError::NotCapture { .. }), "{error}");
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

/// A block, little-endian.
fn raw_block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes()[..], &length, body, &length].concat()
}

fn section() -> Vec<u8> {
    raw_block(block::SECTION_HEADER, &crate::pcapng::legacy::SECTION_HEADER)
}

/// The body of an interface block with these options, each padded.
fn described(options: &[u8]) -> Vec<u8> {
    [&[1, 0, 0, 0, 0, 0, 0, 0][..], options].concat()
}

/// A packet without bytes, with this time stamp and these options.
fn raw_packet(interface: u32, stamp: u64, options: &[u8]) -> Vec<u8> {
    let mut body = interface.to_le_bytes().to_vec();
    body.extend(encode::high_low(stamp));
    body.extend([0; 8]);
    body.extend(options);
    raw_block(block::ENHANCED_PACKET, &body)
}

fn comment(text: &str) -> Vec<u8> {
    let mut options = Vec::new();
    encode::text_option(&mut options, 1, text);
    options
}

#[test]
fn each_interface_counts_time_in_its_own_way_and_each_section_begins_anew() {
    let [milli, pico, binary] = [3, 12, 0x80 | 20].map(|value| described(&[9, 0, 1, 0, value, 0, 0, 0]));
    let late = described(&[14, 0, 8, 0, 100, 0, 0, 0, 0, 0, 0, 0]);
    let file = [
        section(),
        raw_block(1, &milli),
        raw_block(1, &pico),
        raw_packet(0, 5, &[]),
        raw_packet(1, 7_000_000, &[]),
        section(),
        raw_block(1, &binary),
        raw_block(1, &late),
        raw_packet(0, 3 << 19, &[]),
        raw_packet(1, 9, &[]),
    ]
    .concat();
    let (packets, reader) = read_all(&file);
    let seen: Vec<(u32, u64)> = packets.iter().map(|packet| (packet.interface, packet.time)).collect();
    assert_eq!(seen, [(0, 5_000_000), (1, 7_000), (2, 1_500_000_000), (3, 100_000_009_000)]);
    assert_eq!(reader.interfaces().len(), 4);
}

#[test]
fn an_option_of_an_interface_with_a_wrong_length_is_an_error_that_names_it() {
    for (options, word) in [
        (&[6, 0, 1, 0, 2, 0, 0, 0][..], "the option if_MACaddr of its interface has length 1, not 6"),
        (&[9, 0, 2, 0, 9, 9, 0, 0], "the option if_tsresol of its interface has length 2, not 1"),
        (&[2, 0, 200, 0, b'e'], "an option of its interface is longer than the block"),
    ] {
        let options = [options, &[0; 3][..encode::padding(options.len())]].concat();
        let file = [section(), raw_block(1, &described(&options))].concat();
        let error = Reader::new(file.as_slice()).unwrap().next_packet().unwrap_err().to_string();
        assert!(error.starts_with(&format!("the block at byte 28 is damaged: {word}")), "{error}");
    }
}

#[test]
fn the_comments_of_other_programs_name_processes_which_their_packets_share() {
    let ptcpdump = [comment("PID: 42\nCmd: /usr/bin/curl\nArgs: curl x"), comment("UserId: 7")].concat();
    let out = [&[2, 0, 4, 0, 2, 0, 0, 0][..], &ptcpdump].concat();
    let inward = [&[2, 0, 4, 0, 1, 0, 0, 0][..], &ptcpdump].concat();
    let windows = [&[8, 0, 8, 0, 4, 0, 0, 0, 88, 0, 0, 0][..], &comment("PID=4 TID=88")].concat();
    let rustnet = comment("rustnet process=nginx pid=99 ppid=1 uid=0 attr=ebpf direction=incoming");
    let ours = [comment("dig[5]"), ptcpdump.clone()].concat();
    let mut file = [section(), raw_block(1, &described(&[]))].concat();
    for options in [&out, &inward, &windows, &rustnet, &ours] {
        file.extend(raw_packet(0, 1, options));
    }
    let (packets, reader) = read_all(&file);
    let named = |end: &Option<(Process, u32)>| {
        end.as_ref().map(|(process, tid)| {
            (String::from_utf8(process.name.clone()).unwrap(), process.pid, process.uid, *tid)
        })
    };
    let curl = Some(("curl".to_owned(), 42, Some(7), 0));
    assert_eq!((named(&packets[0].sender), named(&packets[0].receiver)), (curl.clone(), None));
    assert_eq!((named(&packets[1].sender), named(&packets[1].receiver)), (None, curl));
    assert_eq!(named(&packets[2].sender), Some((String::new(), 4, None, 88)));
    assert_eq!(named(&packets[3].receiver), Some(("nginx".to_owned(), 99, Some(0), 0)));
    assert_eq!(named(&packets[4].sender), Some(("dig".to_owned(), 5, None, 0)), "what we wrote counts more");
    assert_eq!(reader.processes().len(), 4);
}

#[test]
fn the_same_options_say_something_else_behind_a_record_that_changes_it() {
    let options = [&[8, 0, 8, 0, 4, 0, 0, 0, 0, 0, 0, 0][..]].concat();
    let mut record = Vec::new();
    process::custom_block(&mut record, &Process { start: None, ..process(4, "named") });
    let file = [
        section(),
        raw_block(1, &described(&[])),
        raw_packet(0, 1, &options),
        raw_packet(0, 2, &options),
        record,
        raw_packet(0, 3, &options),
        section(),
        raw_block(1, &described(&[])),
        raw_packet(0, 4, &options),
    ]
    .concat();
    let (packets, reader) = read_all(&file);
    assert_eq!(packets.len(), 4);
    let names = packets.iter().map(|packet| packet.sender.as_ref().unwrap().0.name.clone());
    assert_eq!(names.collect::<Vec<_>>(), [&b""[..], b"", b"named", b"named"]);
    assert_eq!(reader.processes().len(), 1, "the record tells of the process that the packets told of");
}

#[test]
fn a_file_that_tells_of_more_than_there_is_room_for_is_read_up_to_there() {
    const ROOM: usize = 1 << 20;
    let mut file = [section(), raw_block(1, &described(&[]))].concat();
    for pid in 1..10_000_u32 {
        let ids = [&[8, 0, 8, 0][..], &pid.to_le_bytes(), &[0; 4]].concat();
        file.extend(raw_packet(0, 1, &ids));
    }
    let mut reader = Reader::with_limits(file.as_slice(), SMALL, ROOM).unwrap();
    let mut packets = 0;
    let error = loop {
        match reader.next_packet() {
            Ok(record) => packets += usize::from(record.is_some()),
            Err(error) => break error.to_string(),
        }
    };
    assert!((1000..5000).contains(&packets), "{packets}");
    assert!(error.contains("take more than 1 MiB of memory; everything before it is good"), "{error}");
}
