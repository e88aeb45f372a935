//! Files that are written anew: in other forms, and out of PKTAP headers.

use super::*;

fn rewrite(file: &[u8], annotate: Annotate) -> (Vec<u8>, Rewritten) {
    let reader = || Reader::with_buffer(file, SMALL).unwrap();
    rewrite_knowing(file, annotate, Known::read(reader()))
}

fn rewrite_knowing(file: &[u8], annotate: Annotate, known: Known) -> (Vec<u8>, Rewritten) {
    let reader = Reader::with_buffer(file, SMALL).unwrap();
    let mut rewriter = Rewriter::new(reader, Vec::new(), annotate, known, None);
    while rewriter.next_packet().unwrap().is_some() {
        rewriter.keep(None).unwrap();
    }
    let (rewritten, out) = rewriter.finish().unwrap();
    (out, rewritten)
}

/// All sixteen ways.
fn forms() -> impl Iterator<Item = Annotate> {
    (0..16).map(|bits: u8| Annotate {
        comment: bits & 1 != 0,
        ids: bits & 2 != 0,
        darwin: bits & 4 != 0,
        custom: bits & 8 != 0,
    })
}

/// Every kind of owner, in both directions and in none.
fn recording(annotate: Annotate) -> Vec<u8> {
    let mut table = ProcessTable::default();
    let [a, b, c] = [(10, "a"), (11, "b [1]"), (12, "c")].map(|(pid, name)| table.push(process(pid, name)));
    let mut writer = writer(annotate);
    let owners = [
        (Direction::Outbound, owner(a, 5), None, false),
        (Direction::Inbound, None, owner(b, 6), false),
        (Direction::Unknown, owner(c, 0), owner(a, 5), true),
        (Direction::Inbound, owner(c, 0), None, true),
        (Direction::Outbound, None, None, false),
        (Direction::Outbound, owner(a, 5), None, false),
    ];
    for (number, (direction, sender, receiver, both_local)) in owners.into_iter().enumerate() {
        let attribution = match sender.or(receiver) {
            Some(_) => known(sender, receiver, both_local),
            None => Attribution::Unknown(Reason::NoSocket),
        };
        let bytes = [number as u8; 5];
        let packet = Packet { direction, ..packet(&bytes[..number]) };
        writer.packet(&packet, &attribution, &table).unwrap();
    }
    let counts = InterfaceCounts { received: 9, dropped_by_kernel: Some(3), dropped_by_us: 0, written: 6 };
    let mut statistics = Statistics { interfaces: vec![counts], events_lost: 2, ..Statistics::default() };
    statistics.attribution.add_found(Found::Snapshot, 5);
    statistics.attribution.add_without(Reason::NoSocket, 1);
    writer.finish(&statistics, &table).unwrap()
}

#[test]
fn from_all_forms_into_any_it_is_the_file_that_would_have_been_recorded_so() {
    let all = recording(Annotate::ALL);
    for form in forms() {
        assert_eq!(rewrite(&all, form).0, recording(form), "{form}");
    }
}

#[test]
fn from_any_form_into_any_other_all_that_both_can_hold_stays_and_nothing_is_made_up() {
    for from in forms() {
        let original = recording(from);
        let (before, reader) = read_all(&original);
        // What stands behind the packets counts too.
        let table: Vec<Process> = reader.processes().iter().map(|(_, process)| process.clone()).collect();
        for to in forms() {
            let (file, rewritten) = rewrite(&original, to);
            let (after, reader) = read_all(&file);
            assert_eq!(after.len(), before.len());
            assert_eq!(rewritten.packets as usize, before.len());
            assert_eq!(reader.statistics(), read_all(&original).1.statistics(), "{from} into {to}");
            for (before, after) in before.iter().zip(&after) {
                compare(before, after, from, to);
                if to.darwin
                    && let Some((process, _)) = after.sender.as_ref().or(after.receiver.as_ref())
                {
                    assert!(table.contains(process), "{from} into {to}: {process:?} of {table:?}");
                }
            }
        }
    }
}

fn compare(before: &ReadBack, after: &ReadBack, from: Annotate, to: Annotate) {
    let hint = format!("{from} into {to}\n{before:?}\n{after:?}");
    assert_eq!(
        (before.time, before.direction, &before.data),
        (after.time, after.direction, &after.data),
        "{hint}"
    );
    let names = |packet: &ReadBack| {
        let name = |end: &Option<(Process, u32)>| end.as_ref().map(|(who, _)| (who.pid, who.name.clone()));
        [name(&packet.sender), name(&packet.receiver)]
    };
    let main = |packet: &ReadBack| packet.sender.clone().or_else(|| packet.receiver.clone());
    if to.comment {
        // Names that stand behind the packets are filled in.
        let [before, after] = [before, after].map(names);
        for (before, after) in before.iter().zip(&after) {
            let same = before == after
                || matches!((before, after), (Some(one), Some(two)) if one.0 == two.0 && one.1.is_empty());
            assert!(same, "{hint}");
        }
    } else if to.ids || to.darwin {
        assert_eq!(main(before).map(|main| main.0.pid), main(after).map(|main| main.0.pid), "{hint}");
    } else {
        assert_eq!(main(after), None, "{hint}");
    }
    if to.ids && from.ids {
        assert_eq!(main(before).map(|main| main.1), main(after).map(|main| main.1), "{hint}");
    }
}

#[test]
fn without_reading_twice_only_what_stands_in_front_of_a_packet_is_known() {
    let ids = Annotate { ids: true, custom: true, ..Annotate::NONE };
    let darwin = Annotate { darwin: true, ..Annotate::NONE };
    let main = |file: &[u8]| read_all(file).0[0].sender.clone().map(|(process, _)| process);
    let file = recording(ids);
    assert_eq!(main(&rewrite(&file, darwin).0), Some(process(10, "a")));
    assert_eq!(main(&rewrite_knowing(&file, darwin, Known::default()).0), Some(Process::new(10, "")));
}

#[test]
fn what_others_wrote_stays_and_what_they_forbid_to_copy_does_not() {
    let mut writer = writer(Annotate::NONE);
    let options = [
        &[1, 0, 2, 0, b'h', b'i', 0, 0][..],
        &[2, 0, 4, 0, 2, 2, 0, 0],
        &[5, 0, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        &[0x77, 0x80, 1, 0, 9, 0, 0, 0],
        &[0; 4],
    ]
    .concat();
    let packet = [&[0; 12][..], &[3, 0, 0, 0, 3, 0, 0, 0], b"abc\0", &options].concat();
    let unknown = [(4, vec![0, 0, 0, 0]), (10, vec![1; 12]), (0x8000_4711, vec![7; 8])];
    for (kind, body) in &unknown {
        writer.block(*kind, body).unwrap();
    }
    writer.block(block::ENHANCED_PACKET, &packet).unwrap();
    writer.block(block::CUSTOM_NOT_COPIED, &[1; 8]).unwrap();
    let file = writer.finish(&Statistics::default(), &ProcessTable::default()).unwrap();
    let (out, rewritten) = rewrite(&file, Annotate::ALL);
    assert_eq!(rewritten.not_to_be_copied, 1);
    let bodies = |file: &[u8]| -> Vec<(u32, Vec<u8>)> {
        let of = |(kind, block): (u32, &[u8])| (kind, block[8..block.len() - 4].to_vec());
        blocks(file).into_iter().map(of).collect()
    };
    for (kind, body) in unknown {
        assert!(bodies(&out).contains(&(kind, body)), "block {kind:#x}");
    }
    let (_, anew) = bodies(&out).into_iter().find(|(kind, _)| *kind == block::ENHANCED_PACKET).unwrap();
    let options = |body: &[u8]| -> Vec<(u16, Vec<u8>)> {
        process::Options::new(&body[24..], false).map(|(code, value)| (code, value.to_vec())).collect()
    };
    let (mut before, mut after) = (options(&packet), options(&anew));
    before.sort();
    after.sort();
    assert_eq!(after, before);
}

#[test]
fn several_sections_of_either_order_become_one_in_which_each_packet_has_its_process() {
    let little = recording(Annotate::ALL);
    // A big-endian section with two interfaces: a packet of the second one, with a process block, option 8 and the index.
    let block = |kind: u32, body: &[u8]| {
        let length = (body.len() as u32 + 12).to_be_bytes();
        [&kind.to_be_bytes()[..], &length, body, &length].concat()
    };
    let big = [
        block(
            block::SECTION_HEADER,
            &[0x1a, 0x2b, 0x3c, 0x4d, 0, 1, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255],
        ),
        block(block::INTERFACE_DESCRIPTION, &[0, 101, 0, 0, 0, 0, 0, 0]),
        block(
            block::INTERFACE_DESCRIPTION,
            &[0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 2, b'e', b'n', 0, 0, 0, 0, 0, 0],
        ),
        block(block::DARWIN_PROCESS, &[0, 0, 1, 2, 0, 2, 0, 1, b'z', 0, 0, 0, 0, 0, 0, 0]),
        block(
            block::ENHANCED_PACKET,
            &[
                &[0, 0, 0, 1, 0, 5, 0xf0, 0, 1, 2, 3, 4, 0, 0, 0, 1, 0, 0, 0, 1, b'x', 0, 0, 0][..],
                &[0, 2, 0, 4, 0, 0, 0, 1, 0x80, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0],
            ]
            .concat(),
        ),
    ]
    .concat();
    for file in [[little.clone(), big.clone()].concat(), [big, little].concat()] {
        let (before, _) = read_all(&file);
        let (out, rewritten) = rewrite(&file, Annotate::ALL);
        let (after, reader) = read_all(&out);
        assert_eq!(after, before);
        assert_eq!(rewritten.sections_joined, 1);
        assert_eq!(reader.interfaces().len(), 3);
        assert_eq!(blocks(&out).iter().filter(|(kind, _)| *kind == block::SECTION_HEADER).count(), 1);
        let z = after.iter().find(|packet| packet.data == b"x").unwrap();
        assert_eq!(
            z.receiver.as_ref().map(|(process, _)| (process.pid, process.name.clone())),
            Some((258, b"z".to_vec()))
        );
    }
}

/// A PKTAP header of version 1: interface, link type, flags, process id and name, effective ones.
fn pktap(
    name: &[u8],
    dlt: u32,
    flags: u32,
    (pid, comm): (i32, &[u8]),
    (epid, ecomm): (i32, &[u8]),
) -> Vec<u8> {
    let mut header = vec![0; 156];
    for (at, number) in
        [(0, 156), (4, 1), (8, dlt), (36, flags), (52, pid as u32), (84, epid as u32), (76, 900)]
    {
        header[at..at + 4].copy_from_slice(&number.to_le_bytes());
    }
    for (at, text) in [(12, name), (56, comm), (88, ecomm)] {
        header[at..at + text.len()].copy_from_slice(text);
    }
    header[124..140].copy_from_slice(&[3; 16]);
    header
}

fn pktap_file(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), Annotate::NONE, &SectionInfo::default());
    let outer = Interface { link_type: LinkType(149), ..interface("pktap0") };
    writer.add_interface(&outer).unwrap();
    for data in packets {
        let packet = Packet { direction: Direction::Unknown, ..packet(data) };
        writer.packet(&packet, &Attribution::Unknown(Reason::Off), &ProcessTable::default()).unwrap();
    }
    writer.finish(&Statistics::default(), &ProcessTable::default()).unwrap()
}

#[test]
fn packets_leave_their_pktap_headers_with_interface_direction_and_processes() {
    let nobody = (-1, &b""[..]);
    let ethernet = [&[0; 12][..], &[8, 6], &[0; 28]].concat();
    let packets = [
        [pktap(b"en0", 1, 2, (510, b"Safari"), nobody), b"first".to_vec()].concat(),
        [pktap(b"lo0", 0, 1, (88, b"nsurlsessiond"), (510, b"Safari")), b"second".to_vec()].concat(),
        [pktap(b"en0", 1, 1, nobody, nobody), ethernet.clone()].concat(),
        [pktap(b"en0", 12, 1, (7, b""), nobody), b"third".to_vec()].concat(),
        b"no header".to_vec(),
    ];
    for to in [Annotate::ALL, Annotate { comment: true, ..Annotate::NONE }] {
        let (out, rewritten) = rewrite(&pktap_file(&packets), to);
        assert_eq!((rewritten.from_pktap, rewritten.not_pktap), (4, 1));
        let (packets, reader) = read_all(&out);
        let interfaces: Vec<_> = reader
            .interfaces()
            .iter()
            .map(|interface| (interface.name.as_str(), interface.link_type.0))
            .collect();
        assert_eq!(interfaces, [("en0", 1), ("lo0", 0), ("en0", 101), ("pktap0", 149)]);
        let told: Vec<_> = packets
            .iter()
            .map(|packet| {
                let pid = |end: &Option<(Process, u32)>| end.as_ref().map(|(process, _)| process.pid);
                (
                    packet.interface,
                    packet.direction,
                    pid(&packet.sender),
                    pid(&packet.receiver),
                    packet.data.as_slice(),
                )
            })
            .collect();
        let expected = [
            (0, Direction::Outbound, Some(510), None, &b"first"[..]),
            (1, Direction::Inbound, None, Some(88), b"second"),
            (0, Direction::Inbound, None, None, ethernet.as_slice()),
            (2, Direction::Inbound, None, Some(7), b"third"),
            (3, Direction::Unknown, None, None, b"no header"),
        ];
        assert_eq!(told, expected);
        assert_eq!(packets[0].original_length, 5);
        let statistics = reader.statistics().unwrap();
        assert_eq!(statistics.attribution.found(Found::Pktap), 3);
        assert_eq!(statistics.attribution.without(Reason::NotIp), 1);
        let written: Vec<_> = statistics.interfaces.iter().map(|counts| counts.written).collect();
        assert_eq!(written, [2, 1, 1, 1]);
        assert!(contains(&out, b"Safari[510] (effective)"));
        if to.darwin {
            assert_eq!(packets[0].sender.as_ref().unwrap().0.uuid, Some([3; 16]), "Apple's own");
            // Once more, and only the forms change: the effective process stays too.
            assert_eq!(rewrite(&out, to).0, out);
            let comments = rewrite(&out, Annotate { comment: true, ..Annotate::NONE }).0;
            assert!(contains(&comments, b"Safari[510] (effective)"));
            let again = rewrite(&comments, to).0;
            assert!(contains(&again, &[0x03, 0x80, 4, 0]), "option 0x8003");
        }
    }
}

#[test]
fn a_copy_has_the_process_on_whose_behalf_another_one_acts() {
    let nobody = (-1, &b""[..]);
    let packets = [
        [pktap(b"en0", 1, 2, (1, b"left-out"), nobody), b"x".to_vec()].concat(),
        [pktap(b"en0", 1, 2, (88, b"nsurlsessiond"), (510, b"Safari")), b"y".to_vec()].concat(),
    ];
    let annotated = rewrite(&pktap_file(&packets), Annotate { darwin: true, ..Annotate::NONE }).0;
    let (copy, ..) = super::copying::copy(&annotated, |number| number == 1);
    let reader = read_all(&copy).1;
    let names: Vec<_> = reader.processes().iter().map(|(_, process)| process.name.clone()).collect();
    assert_eq!(names, [&b"nsurlsessiond"[..], b"Safari"]);
    assert!(contains(&copy, &[0x03, 0x80, 4, 0, 1, 0, 0, 0]), "its index is counted anew");
}

#[test]
fn flipped_and_cut_bytes_do_not_make_it_panic() {
    let nobody = (-1, &b""[..]);
    let packets = [
        [pktap(b"en0", 1, 2, (88, b"nsurlsessiond"), (510, b"Safari")), b"x".to_vec()].concat(),
        [pktap(b"en0", 1, 1, nobody, nobody), b"y".to_vec()].concat(),
    ];
    let mut seed = 1_u64;
    for file in [pktap_file(&packets), recording(Annotate::ALL)] {
        for _ in 0..3000 {
            let mut bytes = file.clone();
            for _ in 0..3 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (seed >> 33) as usize % bytes.len();
                bytes[at] = (seed >> 20) as u8;
            }
            let Ok(reader) = Reader::with_buffer(bytes.as_slice(), SMALL) else { continue };
            let mut rewriter = Rewriter::new(reader, Vec::new(), Annotate::ALL, Known::default(), Some("x"));
            while let Ok(Some(_)) = rewriter.next_packet() {
                rewriter.keep(None).unwrap();
            }
            let (_, out) = rewriter.finish().unwrap();
            let mut reader = Reader::with_buffer(out.as_slice(), SMALL).unwrap();
            while reader.next_packet().unwrap().is_some() {}
        }
    }
}
