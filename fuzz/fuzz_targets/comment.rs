//! Names and comments: what is spelled is read back, is one tame line, and nothing else is taken for ours.
#![no_main]

use libfuzzer_sys::fuzz_target;
use recorder::model::{Process, ProcessTable};
use recorder::pcapng::annotation::{self, Line, NAME_LIMIT, NamedProcess};
use recorder::pcapng::{Annotate, Reader, SectionInfo, Writer};

fuzz_target!(|bytes: &[u8]| {
    let name = &bytes[..bytes.len().min(NAME_LIMIT)];
    // The kernel ends names at a zero byte; a name that is one is spelled as the empty one.
    let named = NamedProcess { name: if name == [0] { Vec::new() } else { name.to_vec() }, pid: 7 };
    let line = annotation::one(name, 7);
    assert_is_tame(&line);
    assert_eq!(annotation::parse(&line), Some(Line::One(named.clone())));
    assert_eq!(annotation::parse_effective(&line), None);
    let effective = annotation::effective(name, 7);
    assert_eq!(annotation::parse_effective(&effective), Some(named.clone()));
    assert_eq!(annotation::parse(&effective), None);
    let other = NamedProcess { name: b"nginx".to_vec(), pid: 99 };
    let two = annotation::two(Some((name, 7)), Some((b"nginx", 99)));
    assert_eq!(annotation::parse(&two), Some(Line::Two(Some(named), Some(other))));
    let text = annotation::escape_text(bytes);
    assert_is_tame(&text);
    assert_eq!(annotation::unescape_text(&text), bytes);
    if let Ok(comment) = std::str::from_utf8(bytes) {
        foreign(comment);
    }
});

fn assert_is_tame(line: &str) {
    assert!(
        !line.chars().any(|letter| letter.is_control() || letter != ' ' && letter.is_whitespace()),
        "{line:?}"
    );
}

/// A comment that somebody else wrote names who it can be read to name, and if it is one of ours, it is spelled as ours are.
fn foreign(comment: &str) {
    if let Some(Line::One(NamedProcess { name, pid })) = annotation::parse(comment) {
        assert_eq!(annotation::one(&name, pid), comment);
    }
    let mut bytes = Vec::new();
    let writer = Writer::new(&mut bytes, Annotate::NONE, &SectionInfo::default());
    writer
        .finish(&recorder::model::Statistics::default(), &ProcessTable::default())
        .expect("memory can be written");
    // A packet of a simple interface with this comment.
    bytes.extend(block(1, &[1, 0, 0, 0, 0, 0, 4, 0]));
    let mut packet = [[0; 12].as_slice(), &[0; 8]].concat();
    let comment = &comment.as_bytes()[..comment.len().min(60_000)];
    packet.extend([1, 0]);
    packet.extend((comment.len() as u16).to_le_bytes());
    packet.extend(comment);
    packet.resize(packet.len().next_multiple_of(4), 0);
    packet.extend([0; 4]);
    bytes.extend(block(6, &packet));
    let mut reader = Reader::new(bytes.as_slice()).expect("it is a capture");
    assert!(reader.next_packet().expect("it is whole").is_some());
    assert!(
        reader
            .processes()
            .iter()
            .all(|(_, Process { pid, .. })| *pid <= i32::MAX as u32 || comment.contains(&b'['))
    );
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes(), &length, body, &length].concat()
}
