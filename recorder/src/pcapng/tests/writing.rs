//! What the writer writes, byte for byte and through the reader.

use std::io::{self, Write};

use super::*;

#[test]
#[rustfmt::skip]
fn an_annotated_packet_is_these_bytes() {
    let mut table = ProcessTable::default();
    let curl = table.push(process(4242, "curl"));
    let mut writer = writer(Annotate { custom: false, ..Annotate::ALL });
    writer.packet(&packet(&[1, 2, 3, 4, 5]), &known(owner(curl, 4243), None, false), &table).unwrap();
    let file = writer.finish(&Statistics::default(), &table).unwrap();

    let section_header: &[u8] = &[
        0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 28, 0, 0, 0,
    ];
    let interface: &[u8] = &[
        1, 0, 0, 0, 40, 0, 0, 0, 1, 0, 0, 0, 0x00, 0x00, 0x04, 0x00,
        2, 0, 4, 0, b'e', b't', b'h', b'0', // if_name
        9, 0, 1, 0, 9, 0, 0, 0, // if_tsresol
        0, 0, 0, 0, 40, 0, 0, 0,
    ];
    let process: &[&[u8]] = &[
        &[0x01, 0x00, 0x00, 0x80, 124, 0, 0, 0, 0x92, 0x10, 0, 0],
        &[2, 0, 4, 0], b"curl",
        &[4, 0, 16, 0], UUID_OF_CURL,
        &[3, 0, 13, 0], b"/usr/bin/curl", &[0, 0, 0],
        &[1, 0, 52, 0], br#"{"ppid":1,"uid":1000,"start_ns":1700000000000000000}"#,
        &[0, 0, 0, 0, 124, 0, 0, 0],
    ];
    let packet: &[&[u8]] = &[
        &[6, 0, 0, 0, 88, 0, 0, 0, 0, 0, 0, 0],
        &[0xfe, 0x9c, 0x97, 0x17, 0x05, 0x00, 0x2a, 0x36], // START + 5, upper half first
        &[5, 0, 0, 0, 5, 0, 0, 0],
        &[1, 2, 3, 4, 5, 0, 0, 0],
        &[1, 0, 10, 0], b"curl[4242]", &[0, 0],
        &[2, 0, 4, 0, 2, 0, 0, 0], // epb_flags: outbound
        &[8, 0, 8, 0, 0x92, 0x10, 0, 0, 0x93, 0x10, 0, 0],
        &[0x01, 0x80, 4, 0, 0, 0, 0, 0],
        &[0, 0, 0, 0, 88, 0, 0, 0],
    ];
    assert_eq!(START + 5, 0x1797_9cfe_362a_0005);
    let expected = [section_header, interface, &process.concat(), &packet.concat()].concat();
    assert_eq!(file, expected);
}

/// Computed by other means than the code's: Python's integers.
const UUID_OF_CURL: &[u8] =
    &[0x7f, 0x0e, 0x0c, 0x82, 0x7e, 0xcb, 0x8e, 0x09, 0x80, 0x87, 0x2a, 0x40, 0xd6, 0x39, 0xf1, 0x87];

#[test]
#[rustfmt::skip]
fn a_process_information_block_is_these_bytes() {
    let mut table = ProcessTable::default();
    let mut curl = process(4242, "curl");
    curl.command_line = Some(CommandLine { bytes: b"curl\0-s".to_vec(), is_cut: false });
    let index = table.push(curl);
    let mut writer = writer(Annotate { custom: true, ..Annotate::NONE });
    writer.packet(&packet(&[]), &known(owner(index, 0), None, false), &table).unwrap();
    let file = writer.finish(&Statistics::default(), &table).unwrap();

    let json = br#"{"ppid":1,"uid":1000,"start_ns":1700000000000000000,"cmdline":["curl","-s"]}"#;
    let entry = [
        &[0x92, 0x10, 0, 0][..],
        &[2, 0, 4, 0], b"curl",
        &[3, 0, 13, 0], b"/usr/bin/curl", &[0, 0, 0],
        &[4, 0, 7, 0], b"curl\0-s", &[0],
        &[5, 0, 4, 0, 1, 0, 0, 0],
        &[6, 0, 4, 0, 0xe8, 0x03, 0, 0],
        &[8, 0, 16, 0], UUID_OF_CURL,
        &[9, 0, 8, 0], &START.to_le_bytes(),
        &[1, 0, json.len() as u8, 0], json,
        &[0, 0, 0, 0],
    ].concat();
    let total = (24 + entry.len()) as u32;
    let expected = [
        &[0xad, 0x0b, 0, 0][..], &total.to_le_bytes(),
        &32622_u32.to_le_bytes(), &[3, 0, 0, 0], &(entry.len() as u32).to_le_bytes(),
        &entry, &total.to_le_bytes(),
    ].concat();
    assert_eq!(json.len() % 4, 0, "else the lines above lack padding");
    let (block_type, bytes) = *blocks(&file).last().unwrap();
    assert_eq!(block_type, block::CUSTOM);
    assert_eq!(bytes, expected);
}

#[test]
fn what_is_written_comes_back() {
    let mut table = ProcessTable::default();
    let mut nginx = process(99, "nginx");
    nginx.cgroup = Some("/system.slice/dev-disk-by\\x2duuid.slice".into());
    nginx.container = Some("0123abcd".into());
    nginx.unit = Some("dev-disk-by\\x2duuid.swap".into());
    let arguments = b"nginx: worker\0\xff\0a \"quoted\"\\\n\0\0".to_vec();
    nginx.command_line = Some(CommandLine { bytes: arguments, is_cut: true });
    let curl = table.push(process(4242, "curl"));
    let nginx_index = table.push(nginx.clone());
    let mut bare = process(7, "bare");
    (bare.path, bare.parent_pid, bare.uid, bare.start) = (None, None, None, None);
    let bare_index = table.push(bare.clone());

    let mut file = Writer::new(
        Vec::new(),
        Annotate::ALL,
        &SectionInfo {
            hardware: Some("x86_64".into()),
            os: Some("Linux".into()),
            application: Some("recorder".into()),
            comments: vec!["one".into(), "two\nlines".into()],
        },
    );
    let mut second = interface("wlan0");
    second.description = Some("uplink".into());
    second.mac = Some([2, 0, 0, 0, 0, 1]);
    second.filter = Some("tcp port 80".into());
    assert_eq!(file.add_interface(&interface("eth0")).unwrap(), InterfaceId(0));
    assert_eq!(file.add_interface(&second).unwrap(), InterfaceId(1));

    let both = known(owner(curl, 4243), owner(nginx_index, 100), true);
    let inbound = known(None, owner(bare_index, 8), false);
    file.packet(&packet(b"out"), &both, &table).unwrap();
    let received = Packet {
        interface: InterfaceId(1),
        direction: Direction::Inbound,
        reception: Reception::Multicast,
        original_length: 1500,
        ..packet(b"cut in")
    };
    file.packet(&received, &inbound, &table).unwrap();
    let file = file.finish(&Statistics::default(), &table).unwrap();

    let (packets, reader) = read_all(&file);
    assert_eq!(reader.interfaces(), [interface("eth0"), second]);
    assert_eq!(reader.section().comments, ["one", "two\nlines"]);
    assert_eq!(reader.section().os.as_deref(), Some("Linux"));
    assert_eq!(packets[0].data, b"out");
    assert_eq!(packets[0].sender, Some((process(4242, "curl"), 4243)));
    assert_eq!(packets[0].receiver, Some((nginx, 0)), "option 8 holds one thread only");
    assert!(packets[0].both_local);
    assert_eq!(packets[1].receiver, Some((bare, 8)));
    assert_eq!(packets[1].sender, None);
    assert_eq!((packets[1].interface, packets[1].original_length), (1, 1500));
    assert_eq!((packets[1].direction, packets[1].reception), (Direction::Inbound, Reception::Multicast));
    assert_eq!(packets[1].time, START + 5);
    assert_eq!(reader.processes().len(), 3, "the custom blocks at the end are the same processes");
    assert!(reader.statistics().is_none());
}

#[test]
fn each_way_to_annotate_stands_alone_and_can_be_read_alone() {
    let mut table = ProcessTable::default();
    let curl = table.push(process(4242, "curl"));
    let attribution = known(owner(curl, 4243), None, false);
    for list in
        ["comment", "ids", "darwin", "custom", "ids,custom", "comment,custom", "comment,ids", "all", "none"]
    {
        let annotate: Annotate = list.parse().unwrap();
        let mut writer = writer(annotate);
        writer.packet(&packet(b"1234"), &attribution, &table).unwrap();
        let file = writer.finish(&Statistics::default(), &table).unwrap();

        let epb = blocks(&file).into_iter().find(|(kind, _)| *kind == block::ENHANCED_PACKET).unwrap().1;
        assert_eq!(contains(epb, b"curl[4242]"), annotate.comment, "{list}");
        assert_eq!(contains(epb, &[8, 0, 8, 0]), annotate.ids, "{list}");
        assert_eq!(contains(epb, &[0x01, 0x80, 4, 0]), annotate.darwin, "{list}");
        assert_eq!(types(&file).contains(&block::DARWIN_PROCESS), annotate.darwin, "{list}");
        assert_eq!(types(&file).last() == Some(&block::CUSTOM), annotate.custom, "{list}");

        let (packets, reader) = read_all(&file);
        let sender =
            packets[0].sender.as_ref().map(|(process, tid)| (process.pid, process.name.as_slice(), *tid));
        let expected: Option<(u32, &[u8], u32)> = match list {
            "none" | "custom" => None,
            "ids" => Some((4242, b"", 4243)),
            "comment" | "comment,custom" | "darwin" => Some((4242, b"curl", 0)),
            // The record of the custom block comes after the packet: it is in the table then.
            "ids,custom" => Some((4242, b"", 4243)),
            _ => Some((4242, b"curl", 4243)),
        };
        assert_eq!(sender, expected, "{list}");
        if annotate.darwin || annotate.custom {
            let all: Vec<_> = reader.processes().iter().map(|(_, process)| process.clone()).collect();
            assert_eq!(all, [process(4242, "curl")], "{list}");
        }
    }
}

#[test]
fn the_list_of_annotations_is_parsed_and_printed() {
    assert_eq!("all".parse(), Ok(Annotate::default()));
    assert_eq!("none".parse(), Ok(Annotate::NONE));
    assert_eq!(" comment , ids".parse(), Ok(Annotate { comment: true, ids: true, ..Annotate::NONE }));
    for list in ["comment", "ids,darwin", "comment,ids,darwin,custom", "none"] {
        assert_eq!(list.parse::<Annotate>().unwrap().to_string(), list);
    }
    for bad in ["", "pid", "comment,", "comment,none"] {
        assert!(bad.parse::<Annotate>().is_err(), "{bad}");
    }
    assert!("pids".parse::<Annotate>().unwrap_err().to_string().contains("comment, ids, darwin, custom"));
}

#[test]
fn a_packet_without_a_known_process_has_no_annotation() {
    let mut table = ProcessTable::default();
    table.push(process(1, "init"));
    let stray = owner(ProcessIndex(77), 5);
    for attribution in [
        Attribution::Unknown(Reason::NoSocket),
        known(None, None, true),
        known(None, None, false),
        known(stray, None, false),
        known(stray, stray, true),
    ] {
        let mut writer = writer(Annotate::ALL);
        let plain = Packet { direction: Direction::Unknown, ..packet(b"1234") };
        writer.packet(&plain, &attribution, &table).unwrap();
        let file = writer.finish(&Statistics::default(), &table).unwrap();
        let blocks = blocks(&file);
        assert_eq!(blocks.len(), 3, "{attribution:?}");
        assert_eq!(blocks[2].1.len(), 36, "no options, not even their end: {attribution:?}");
    }
}

#[test]
fn an_end_that_the_direction_does_not_tell_is_written_as_such() {
    let mut table = ProcessTable::default();
    let a = table.push(process(1, "a"));
    let b = table.push(process(2, "b"));
    for (sender, receiver, both_local, direction, line) in [
        (owner(a, 0), None, false, Direction::Outbound, "a[1]"),
        (owner(a, 0), None, false, Direction::Unknown, "a[1]"),
        (owner(a, 0), None, false, Direction::Inbound, "a[1] > ?"),
        (None, owner(b, 0), false, Direction::Inbound, "b[2]"),
        (None, owner(b, 0), false, Direction::Outbound, "? > b[2]"),
        (None, owner(b, 0), false, Direction::Unknown, "? > b[2]"),
        (owner(a, 0), None, true, Direction::Outbound, "a[1] > ?"),
        (None, owner(b, 0), true, Direction::Inbound, "? > b[2]"),
        (owner(a, 0), owner(b, 0), true, Direction::Inbound, "a[1] > b[2]"),
        (owner(a, 0), owner(a, 0), true, Direction::Outbound, "a[1] > a[1]"),
    ] {
        let mut writer = writer(Annotate { comment: true, ..Annotate::NONE });
        let packet = Packet { direction, ..packet(b"1234") };
        writer.packet(&packet, &known(sender, receiver, both_local), &table).unwrap();
        let file = writer.finish(&Statistics::default(), &table).unwrap();
        let option = [&[1, 0, line.len() as u8, 0], line.as_bytes()].concat();
        assert!(contains(&file, &option), "{line}");
        let (packets, _) = read_all(&file);
        let pid = |end: &Option<(Process, u32)>| end.as_ref().map(|(process, _)| process.pid);
        assert_eq!(pid(&packets[0].sender), sender.map(|_| 1), "{line}");
        assert_eq!(pid(&packets[0].receiver), receiver.map(|o| o.process.0 + 1), "{line}");
    }
}

#[test]
fn forged_names_come_back_as_they_were() {
    let names: [&[u8]; 7] =
        [b"curl[1] > sshd", b"a\nb", b"", b"?", b"\xff\xfe", "\u{202e}lruc".as_bytes(), br"\x41"];
    for name in names {
        let mut table = ProcessTable::default();
        let hostile =
            Process { name: name.to_vec(), path: Some(b"/a\\\xff\n".to_vec()), ..process(4242, "x") };
        let index = table.push(hostile.clone());
        let mut writer = writer(Annotate::ALL);
        writer.packet(&packet(b"x"), &known(owner(index, 0), None, false), &table).unwrap();
        let file = writer.finish(&Statistics::default(), &table).unwrap();
        assert!(!contains(&file, b"curl[1]"));
        assert!(!contains(&file, b"sshd[1]"));
        let (packets, reader) = read_all(&file);
        assert_eq!(packets[0].sender, Some((hostile, 0)));
        assert_eq!(reader.processes().len(), 1);
    }
}

#[test]
fn every_length_is_padded_to_four_bytes_with_zeros() {
    let bytes: Vec<u8> = (1..=9).collect();
    let mut writer = writer(Annotate::NONE);
    let table = ProcessTable::default();
    for length in 0..=bytes.len() {
        writer.packet(&packet(&bytes[..length]), &Attribution::Unknown(Reason::Off), &table).unwrap();
    }
    let file = writer.finish(&Statistics::default(), &table).unwrap();
    for (length, (_, block)) in blocks(&file)[2..].iter().enumerate() {
        assert_eq!(block.len(), 28 + length.next_multiple_of(4) + 12 + 4, "flags take eight, their end four");
        assert!(block[28 + length..28 + length.next_multiple_of(4)].iter().all(|byte| *byte == 0));
    }
    let (packets, _) = read_all(&file);
    let lengths: Vec<usize> = packets.iter().map(|packet| packet.data.len()).collect();
    assert_eq!(lengths, (0..=9).collect::<Vec<_>>());
}

#[test]
fn a_length_on_the_wire_below_the_captured_one_is_raised() {
    let mut writer = writer(Annotate::NONE);
    let wrong = Packet { original_length: 1, ..packet(b"1234") };
    writer.packet(&wrong, &Attribution::Unknown(Reason::Off), &ProcessTable::default()).unwrap();
    let file = writer.finish(&Statistics::default(), &ProcessTable::default()).unwrap();
    assert_eq!(read_all(&file).0[0].original_length, 4);
}

#[test]
fn a_packet_of_an_unknown_interface_is_refused() {
    let mut writer = writer(Annotate::ALL);
    let size = writer.bytes();
    let stray = Packet { interface: InterfaceId(1), ..packet(b"x") };
    let error =
        writer.packet(&stray, &Attribution::Unknown(Reason::Off), &ProcessTable::default()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert_eq!(writer.bytes(), size, "nothing of it is written");
}

#[test]
fn a_process_is_recorded_once_and_before_its_first_packet() {
    let mut table = ProcessTable::default();
    let a = table.push(process(1, "a"));
    let b = table.push(process(2, "b"));
    let c = table.push(process(3, "c"));
    let mut writer = writer(Annotate::ALL);
    for attribution in [
        known(owner(c, 0), None, false),
        known(owner(c, 9), None, false),
        known(owner(c, 0), owner(a, 0), true),
        known(None, owner(a, 0), false),
    ] {
        writer.packet(&packet(b"1234"), &attribution, &table).unwrap();
    }
    let file = writer.finish(&Statistics::default(), &table).unwrap();
    let (darwin, epb, custom) = (block::DARWIN_PROCESS, block::ENHANCED_PACKET, block::CUSTOM);
    assert_eq!(types(&file)[2..], [darwin, epb, epb, darwin, epb, epb, custom, custom]);
    let (packets, reader) = read_all(&file);
    assert_eq!(packets[3].receiver.as_ref().unwrap().0.pid, 1, "index 1 is the second block of the file");
    assert_eq!(reader.processes().len(), 2, "{b:?} was not used");
}

#[test]
fn a_reused_process_id_is_two_processes() {
    let mut table = ProcessTable::default();
    let old = table.push(process(5, "sh"));
    let young = table.push(Process { start: Some(RealTime::from_ns(START + 100)), ..process(5, "sh") });
    let mut writer = writer(Annotate::ALL);
    for index in [old, young, old] {
        writer.packet(&packet(b"1234"), &known(owner(index, 0), None, false), &table).unwrap();
    }
    let file = writer.finish(&Statistics::default(), &table).unwrap();
    let (packets, reader) = read_all(&file);
    let starts: Vec<_> =
        packets.iter().map(|p| p.sender.as_ref().unwrap().0.start.unwrap().as_ns()).collect();
    assert_eq!(starts, [START, START + 100, START]);
    assert_eq!(reader.processes().len(), 2);
}

#[test]
fn statistics_come_back() {
    let mut statistics = Statistics {
        start: RealTime::from_ns(START),
        end: RealTime::from_ns(START + 77),
        interfaces: vec![
            InterfaceCounts { received: 10, dropped_by_kernel: Some(3), dropped_by_us: 2, written: 5 },
            InterfaceCounts { received: 4, dropped_by_kernel: Some(0), dropped_by_us: 0, written: 4 },
        ],
        dropped_by_kernel: 3,
        events_lost: 6,
        ..Statistics::default()
    };
    statistics.attribution.add_found(Found::Socket, 4);
    statistics.attribution.add_found(Found::Listener, 1);
    for (index, reason) in Reason::ALL.into_iter().enumerate() {
        statistics.attribution.add_without(reason, index as u64);
    }
    statistics.not_selected.add_found(Found::Snapshot, 7);
    statistics.not_selected.add_without(Reason::Ambiguous, 8);
    let mut shared = statistics.clone();
    shared.interfaces.iter_mut().for_each(|counts| counts.dropped_by_kernel = None);
    for statistics in [statistics, shared] {
        let mut writer = writer(Annotate::ALL);
        writer.add_interface(&Interface { filter: Some("tcp".into()), ..interface("lo") }).unwrap();
        let file = writer.finish(&statistics, &ProcessTable::default()).unwrap();
        let (_, reader) = read_all(&file);
        assert_eq!(reader.statistics(), Some(statistics));
    }
}

#[test]
fn statistics_say_only_what_is_true() {
    let statistics = Statistics {
        interfaces: vec![
            InterfaceCounts {
                received: 10,
                dropped_by_kernel: None,
                dropped_by_us: 2,
                written: 5
            };
            2
        ],
        dropped_by_kernel: 3,
        ..Statistics::default()
    };
    let mut writer = writer(Annotate::ALL);
    writer.add_interface(&Interface { filter: Some("tcp".into()), ..interface("lo") }).unwrap();
    let file = writer.finish(&statistics, &ProcessTable::default()).unwrap();
    let blocks: Vec<_> =
        blocks(&file).into_iter().filter(|(kind, _)| *kind == block::INTERFACE_STATISTICS).collect();
    let number = |code: u8, count: u8| [code, 0, 8, 0, count, 0, 0, 0, 0, 0, 0, 0];
    assert!(contains(blocks[0].1, &number(4, 10)), "received");
    assert!(!contains(blocks[1].1, &number(4, 10)), "before the filter: not known");
    for (_, block) in blocks {
        assert!(contains(block, &number(6, 10)), "accepted by the filter");
        assert!(contains(block, &number(8, 7)), "delivered");
        assert!(!contains(block, &[7, 0, 8, 0]), "whose the drops are is not known");
        assert!(contains(block, b"dropped by kernel on all interfaces 3 (shared)"));
        assert!(contains(block, b"this interface: written 5; dropped by recorder 2"));
    }
}

/// Counts writes, and fails from the second on.
struct FailsLater {
    writes: usize,
}

impl Write for FailsLater {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writes += 1;
        if self.writes > 1 { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(bytes.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn bytes_gather_before_they_are_written_and_a_full_disk_is_told() {
    let mut writer = Writer::new(FailsLater { writes: 0 }, Annotate::ALL, &SectionInfo::default());
    writer.add_interface(&interface("eth0")).unwrap();
    let table = ProcessTable::default();
    let data = [0; 1024];
    let mut packets = 0;
    let error = loop {
        match writer.packet(&packet(&data), &Attribution::Unknown(Reason::Off), &table) {
            Ok(()) => packets += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!((470..500).contains(&packets), "512 KiB in two writes, not {packets} packets");
}
