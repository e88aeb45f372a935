//! Copies without some of the packets.

use super::*;

/// Copies what `keeps` says of the packets, by their number from 0.
pub(super) fn copy(file: &[u8], keeps: impl Fn(usize) -> bool) -> (Vec<u8>, Copied, Option<ReadError>) {
    let mut out = Vec::new();
    let reader = Reader::with_buffer(file, SMALL).unwrap();
    let mut copier = Copier::new(reader, &mut out, "a comment".to_owned()).unwrap();
    let mut number = 0;
    let failure = loop {
        match copier.next_packet() {
            Ok(Some(_)) => {}
            Ok(None) => break None,
            Err(CopyError::Read(error)) => break Some(error),
            Err(CopyError::Write(error)) => panic!("{error}"),
        }
        if keeps(number) {
            copier.keep().unwrap();
        }
        number += 1;
    };
    let (copied, ..) = copier.finish().unwrap();
    (out, copied, failure)
}

/// Three processes that talk: each packet has its number as data.
fn conversation() -> Vec<u8> {
    let mut table = ProcessTable::default();
    let [a, b, c] = [(10, "a"), (11, "b"), (12, "c")].map(|(pid, name)| table.push(process(pid, name)));
    let mut writer = writer(Annotate::ALL);
    for (number, (sender, receiver)) in
        [(c, None), (a, Some(b)), (b, None), (c, Some(c)), (a, None)].iter().enumerate()
    {
        let receiver = receiver.and_then(|index| owner(index, 0));
        let attribution = known(owner(*sender, 5), receiver, receiver.is_some());
        writer.packet(&packet(&[number as u8; 4]), &attribution, &table).unwrap();
    }
    let counts = InterfaceCounts { received: 5, dropped_by_kernel: Some(0), dropped_by_us: 0, written: 5 };
    writer.finish(&Statistics { interfaces: vec![counts], ..Statistics::default() }, &table).unwrap()
}

#[test]
fn the_kept_packets_and_their_processes_are_as_they_were() {
    let file = conversation();
    let (all, _) = read_all(&file);
    for chosen in 0..1_u32 << all.len() {
        let keeps = |number: usize| chosen >> number & 1 == 1;
        let (out, copied, failure) = copy(&file, keeps);
        assert!(failure.is_none());
        let (packets, reader) = read_all(&out);
        let expected: Vec<&ReadBack> =
            all.iter().enumerate().filter(|(number, _)| keeps(*number)).map(|(_, packet)| packet).collect();
        assert_eq!(packets.iter().collect::<Vec<_>>(), expected, "{chosen:05b}");
        assert_eq!(
            (copied.kept as usize, copied.left_out as usize),
            (expected.len(), all.len() - expected.len())
        );

        let statistics = reader.statistics().unwrap();
        assert_eq!(statistics.filtered_out, copied.left_out);
        assert_eq!(statistics.interfaces[0].written, 5, "the recording's own counters stay");
    }
}

#[test]
fn only_processes_with_a_packet_have_a_record() {
    // Packets 1 and 2: a to b, and b alone.
    let (out, ..) = copy(&conversation(), |number| number == 1 || number == 2);
    let (_, reader) = read_all(&out);
    let names: Vec<_> = reader.processes().iter().map(|(_, process)| process.name.clone()).collect();
    assert_eq!(names, [b"a", b"b"]);
    let kinds = types(&out);
    let count = |kind| kinds.iter().filter(|found| **found == kind).count();
    assert_eq!((count(block::DARWIN_PROCESS), count(block::CUSTOM)), (2, 2));
    let of_c = [b'c', 0, 0, 0];
    assert!(
        !blocks(&out).iter().any(|(kind, bytes)| *kind != block::ENHANCED_PACKET && contains(bytes, &of_c))
    );
}

#[test]
fn a_copy_of_everything_differs_in_its_comments_only() {
    let file = conversation();
    let (out, ..) = copy(&file, |_| true);
    let of_packets = |file: &[u8]| -> Vec<Vec<u8>> {
        let kinds = [block::SECTION_HEADER, block::INTERFACE_STATISTICS];
        let same = blocks(file).into_iter().filter(|(kind, _)| !kinds.contains(kind));
        same.map(|(_, bytes)| bytes.to_vec()).collect()
    };
    // Records of both ends stand before a packet, whichever is met first.
    assert_eq!(of_packets(&out), of_packets(&file));
    let reader = Reader::with_buffer(out.as_slice(), SMALL).unwrap();
    assert_eq!(reader.section().comments, ["a comment"]);
}

#[test]
fn a_copy_of_a_copy_adds_up_what_is_missing() {
    let (once, ..) = copy(&conversation(), |number| number > 0);
    let (twice, ..) = copy(&once, |number| number > 0);
    let (packets, reader) = read_all(&twice);
    assert_eq!(packets.len(), 3);
    assert_eq!(reader.statistics().unwrap().filtered_out, 2);
    assert_eq!(reader.section().comments.len(), 2);
}

#[test]
fn what_is_not_ours_is_copied_to_the_byte() {
    let section = [0x1a, 0x2b, 0x3c, 0x4d, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    // A comment, an option that nobody knows; no end of options.
    let section = [&section[..], &[0, 1, 0, 2, b'h', b'i', 0, 0], &[0, 99, 0, 1, 7, 0, 0, 0]].concat();
    let interface = [0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 3, 0, 0, 0, 0, 0, 0, 0];
    let packet =
        |data: [u8; 4], options: &[u8]| [&[0; 11][..], &[1, 0, 0, 0, 3, 0, 0, 0, 9], &data, options].concat();
    // FCS length in the flags, a second comment, a packet id, an option of local use.
    let options = [0, 2, 0, 4, 0, 0, 0, 0x82, 0, 1, 0, 1, b'x', 0, 0, 0, 0, 5, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    let options = [&options[..], &[0x80, 0x77, 0, 1, 9, 0, 0, 0]].concat();
    let parts: [(u32, Vec<u8>); 8] = [
        (block::SECTION_HEADER, section.clone()),
        (block::INTERFACE_DESCRIPTION, interface.to_vec()),
        (4, vec![0, 0, 0, 0]),
        (block::ENHANCED_PACKET, packet(*b"abc\0", &options)),
        (10, vec![1; 12]),
        (block::CUSTOM_NOT_COPIED, vec![0, 0, 0, 1]),
        (block::ENHANCED_PACKET, packet(*b"xyz\0", &[])),
        (block::SIMPLE_PACKET, vec![0, 0, 0, 2, b'o', b'k', 0, 0]),
    ];
    let big_endian = |parts: &[(u32, Vec<u8>)]| -> Vec<u8> {
        let block = |(kind, body): &(u32, Vec<u8>)| {
            let length = (body.len() as u32 + 12).to_be_bytes();
            [&kind.to_be_bytes()[..], &length, body, &length].concat()
        };
        parts.iter().flat_map(block).collect()
    };
    let file = big_endian(&parts);
    let (out, copied, failure) = copy(&file, |number| number != 1);
    assert!(failure.is_none(), "{failure:?}");
    assert_eq!(copied, Copied { kept: 2, left_out: 1, not_to_be_copied: 1, events_left_out: false });

    let added = [&[0, 1, 0, 9][..], b"a comment\0\0\0", &[0; 4]].concat();
    let mut header = [&section[..], &added].concat();
    header[8..16].fill(0xff);
    let mut expected = parts.to_vec();
    expected[0].1 = header;
    expected.remove(6);
    expected.remove(5);
    assert_eq!(out, big_endian(&expected));
}

#[test]
fn an_index_that_points_nowhere_does_not_point_at_somebody_afterwards() {
    // mergecap before 4.7 loses the process blocks and keeps the indexes; then others are added.
    let merged: Vec<u8> = blocks(&conversation())
        .into_iter()
        .filter(|(kind, _)| !matches!(*kind, block::DARWIN_PROCESS | block::CUSTOM))
        .flat_map(|(_, block)| block.to_vec())
        .collect();
    let (before, _) = read_all(&merged);
    let (out, ..) = copy(&merged, |_| true);
    let (after, _) = read_all(&out);
    assert_eq!(after, before);
    assert!(contains(&out, &[0x01, 0x80, 4, 0, 0xff, 0xff, 0xff, 0xff]));
}

#[test]
fn a_file_cut_anywhere_is_copied_as_far_as_it_goes() {
    let file = conversation();
    for cut in 28..file.len() {
        let (out, copied, failure) = copy(&file[..cut], |number| number != 2);
        let (packets, _) = read_all(&out);
        assert_eq!(packets.len() as u64, copied.kept, "cut at {cut}");
        let mut reader = Reader::with_buffer(&file[..cut], SMALL).unwrap();
        let mut readable = 0;
        let end = loop {
            match reader.next_packet() {
                Ok(Some(_)) => readable += 1,
                Ok(None) => break None,
                Err(error) => break Some(error.to_string()),
            }
        };
        assert_eq!(copied.kept + copied.left_out, readable, "cut at {cut}");
        assert_eq!(failure.map(|error| error.to_string()), end, "cut at {cut}");
    }
}

#[test]
fn a_damaged_file_gives_no_panic_and_a_copy_that_can_be_read() {
    let file = conversation();
    for at in 0..file.len() {
        for bit in [0x01, 0x80, 0xff] {
            let mut damaged = file.clone();
            damaged[at] ^= bit;
            let Ok(reader) = Reader::with_buffer(damaged.as_slice(), SMALL) else { continue };
            let mut out = Vec::new();
            let mut copier = Copier::new(reader, &mut out, String::new()).unwrap();
            while let Ok(Some(_)) = copier.next_packet() {
                copier.keep().unwrap();
            }
            let (copied, ..) = copier.finish().unwrap();
            let mut reader = Reader::with_buffer(out.as_slice(), SMALL).unwrap();
            let mut packets = 0;
            while let Ok(Some(_)) = reader.next_packet() {
                packets += 1;
            }
            assert_eq!(packets, copied.kept, "damaged at {at}");
        }
    }
}
