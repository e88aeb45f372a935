//! The line for people in each packet's comment: `curl[4242]`, `curl[4242] > nginx[99]`, `? > nginx[99]`.
//!
//! Pure text work. A process chooses its own name, so a name is hostile: whatever bytes it holds, the line
//! must parse back to that name and that process id, and must not look like another line.
//!
//! These bytes of a name are written as `\xNN` (two lower-case hexadecimal digits per byte):
//! - bytes that are not UTF-8, control characters, the backslash;
//! - `[`, `]` and `>`, which carry the meaning of the line, and their full-width and small forms;
//! - characters that one cannot see or that move others: bidirectional controls, zero-width and other format
//!   characters, fillers, variation selectors, line and paragraph separators, every space but U+0020;
//! - U+0020 where it begins or ends the name, and `?` where it is the whole name.
//!
//! An empty name is written as `\x00` (the kernel ends names at a zero byte, so none can hold one). All other
//! characters stand for themselves.

use std::fmt::Write as _;

/// The most bytes of a name that are written; Linux allows 255 in a file name, and 15 in a thread's name.
pub const NAME_LIMIT: usize = 255;

/// Behind a process id, where no other line ends.
const EFFECTIVE: &str = " (effective)";

/// One end of an annotated packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NamedProcess {
    /// The name, as bytes: unescaped.
    pub name: Vec<u8>,
    /// The process id.
    pub pid: u32,
}

/// What a packet's comment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// `curl[4242]`: the process at this host's end of the packet.
    One(NamedProcess),
    /// `curl[4242] > nginx[99]`: sender and receiver, at least one of them known.
    Two(Option<NamedProcess>, Option<NamedProcess>),
}

/// The name as it is spelled in the file, wherever it stands. Only the first [`NAME_LIMIT`] bytes are.
pub fn escape_name(name: &[u8]) -> String {
    let name = &name[..name.len().min(NAME_LIMIT)];
    match name {
        [] => return r"\x00".to_owned(),
        b"?" => return r"\x3f".to_owned(),
        _ => {}
    }
    let leading = name.iter().take_while(|byte| **byte == b' ').count();
    let trailing = name[leading..].iter().rev().take_while(|byte| **byte == b' ').count();
    let (start, rest) = name.split_at(leading);
    let (middle, end) = rest.split_at(rest.len() - trailing);

    let mut text = String::with_capacity(name.len() + 8);
    push_bytes(&mut text, start);
    push_escaped(&mut text, middle, |character| is_hidden(character) || is_mark(character));
    push_bytes(&mut text, end);
    text
}

/// Adds what [`escape_name`] gives.
#[inline]
pub fn push_name(text: &mut Vec<u8>, name: &[u8]) {
    let is_mark = |byte: &u8| matches!(byte, b'[' | b']' | b'>');
    let is_special = matches!(name, [] | b"?" | [b' ', ..] | [.., b' ']) || name.iter().any(is_mark);
    match is_plain(name) && !is_special && name.len() <= NAME_LIMIT {
        true => text.extend_from_slice(name),
        false => text.extend_from_slice(escape_name(name).as_bytes()),
    }
}

/// Adds what [`escape_text`] gives.
#[inline]
pub fn push_text(text: &mut Vec<u8>, bytes: &[u8]) {
    match is_plain(bytes) {
        true => text.extend_from_slice(bytes),
        false => text.extend_from_slice(escape_text(bytes).as_bytes()),
    }
}

/// Whether all bytes are ASCII that stands for itself in a text, as those of most names are.
#[inline]
fn is_plain(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'\\')
}

/// Any other text of a process (path, argument): as names, except that brackets, `>`, `?` and plain spaces
/// stand for themselves everywhere, and an empty text is empty.
pub fn escape_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 8);
    push_escaped(&mut text, bytes, is_hidden);
    text
}

/// The bytes that [`escape_name`] spelled.
pub fn unescape_name(text: &str) -> Vec<u8> {
    if text == r"\x00" { Vec::new() } else { unescape_text(text) }
}

/// The bytes that [`escape_text`] spelled. A backslash that begins no `\xNN` stands for itself.
pub fn unescape_text(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if let Some((byte, after)) = escaped_byte(rest) {
            bytes.push(byte);
            rest = after;
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    bytes
}

/// The line for one process.
pub fn one(name: &[u8], pid: u32) -> String {
    format!("{}[{pid}]", escape_name(name))
}

/// The line for a packet whose two ends are told apart; `None` is an unknown end.
pub fn two(sender: Option<(&[u8], u32)>, receiver: Option<(&[u8], u32)>) -> String {
    let end = |end: Option<(&[u8], u32)>| end.map_or_else(|| "?".to_owned(), |(name, pid)| one(name, pid));
    format!("{} > {}", end(sender), end(receiver))
}

/// The second line of a packet whose process acts on behalf of another one: `Safari[510] (effective)`.
pub fn effective(name: &[u8], pid: u32) -> String {
    format!("{}{EFFECTIVE}", one(name, pid))
}

/// Reads the line of the effective process back; `None` for every other comment.
pub fn parse_effective(comment: &str) -> Option<NamedProcess> {
    parse_process(comment.strip_suffix(EFFECTIVE)?)
}

/// Reads a comment back. `None` when it is not one of ours: other programs and people write comments too.
pub fn parse(comment: &str) -> Option<Line> {
    match comment.split_once(" > ") {
        None => Some(Line::One(parse_process(comment)?)),
        Some(("?", "?")) => None,
        Some(("?", receiver)) => Some(Line::Two(None, Some(parse_process(receiver)?))),
        Some((sender, "?")) => Some(Line::Two(Some(parse_process(sender)?), None)),
        Some((sender, receiver)) => {
            Some(Line::Two(Some(parse_process(sender)?), Some(parse_process(receiver)?)))
        }
    }
}

/// `curl[4242]`. Only what [`one`] writes is accepted, so that a comment has one meaning or none.
fn parse_process(text: &str) -> Option<NamedProcess> {
    let (name, pid) = text.strip_suffix(']')?.split_once('[')?;
    let process = NamedProcess { name: unescape_name(name), pid: pid.parse().ok()? };
    (one(&process.name, process.pid) == text).then_some(process)
}

fn push_escaped(text: &mut String, bytes: &[u8], must_escape: impl Fn(char) -> bool) {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if must_escape(character) {
                push_bytes(text, character.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                text.push(character);
            }
        }
        push_bytes(text, chunk.invalid());
    }
}

fn push_bytes(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "\\x{byte:02x}");
    }
}

fn escaped_byte(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let ([b'\\', b'x', high, low], rest) = bytes.split_first_chunk::<4>()? else {
        return None;
    };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    Some(((digit(*high)? * 16 + digit(*low)?) as u8, rest))
}

/// Whether a character carries meaning in the line, or looks like one that does.
fn is_mark(character: char) -> bool {
    matches!(character, '[' | ']' | '>' | '\u{fe65}' | '\u{ff1e}' | '\u{ff3b}' | '\u{ff3d}')
}

/// Whether a character cannot be seen, or changes how others are seen; also the backslash, which begins escapes. The ranges are the
/// general category Cf and the property Default_Ignorable_Code_Point of Unicode 16, and the blank Braille pattern.
pub fn is_hidden(character: char) -> bool {
    if character == ' ' {
        return false;
    }
    if character.is_ascii() {
        return character.is_ascii_control() || character == '\\';
    }
    character.is_control()
        || character.is_whitespace()
        || matches!(character,
            '\u{00ad}' | '\u{034f}' | '\u{0600}'..='\u{0605}' | '\u{061c}' | '\u{06dd}' | '\u{070f}'
            | '\u{0890}'..='\u{0891}' | '\u{08e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &[u8], pid: u32) -> NamedProcess {
        NamedProcess { name: name.to_vec(), pid }
    }

    #[test]
    fn plain_names_stand_for_themselves() {
        for name in ["curl", "Web Content", "kworker/0:1-events", "Größe", "日本語", "a?b", "x<y", "🦀"]
        {
            assert_eq!(escape_name(name.as_bytes()), name);
        }
    }

    #[test]
    fn hostile_bytes_are_written_as_hexadecimal() {
        for (name, expected) in [
            (&b"a\nb"[..], r"a\x0ab"),
            (b"a\\b", r"a\x5cb"),
            (b"a\xffb", r"a\xffb"),
            (b"\xe2\x82", r"\xe2\x82"),
            (b"a\x7f", r"a\x7f"),
            ("a\u{0085}b".as_bytes(), r"a\xc2\x85b"),
            ("a\u{202e}b".as_bytes(), r"a\xe2\x80\xaeb"),
            ("a\u{2028}b".as_bytes(), r"a\xe2\x80\xa8b"),
            ("a\u{200b}b".as_bytes(), r"a\xe2\x80\x8bb"),
            ("a\u{00a0}b".as_bytes(), r"a\xc2\xa0b"),
            (b" a b ", r"\x20a b\x20"),
            (b"  ", r"\x20\x20"),
            (b"?", r"\x3f"),
            (b"", r"\x00"),
        ] {
            assert_eq!(escape_name(name), expected);
        }
    }

    #[test]
    fn a_name_cannot_look_like_another_annotation() {
        assert_eq!(one(b"curl[1] > sshd", 4242), r"curl\x5b1\x5d \x3e sshd[4242]");
        assert_eq!(one("curl\u{ff3b}1\u{ff3d}".as_bytes(), 4242), r"curl\xef\xbc\xbb1\xef\xbc\xbd[4242]");
        assert_eq!(two(Some((b"?", 7)), None), r"\x3f[7] > ?");
        assert_eq!(one(br"\x41", 5), r"\x5cx41[5]");
    }

    #[test]
    fn every_line_reads_back_as_it_was_meant() {
        let mut names: Vec<Vec<u8>> =
            (0..=255_u8).map(|byte| vec![byte]).filter(|name| name != b"\0").collect();
        names.extend((0..=255_u8).map(|byte| vec![b'a', byte, b'b']));
        names.extend(
            ["curl[1] > sshd", "", " ", "? > ?", r"\x41", "a[1]", "[", "]", "a > ", "日本語"]
                .map(|name| name.into()),
        );
        for name in &names {
            assert_eq!(parse(&one(name, 4242)), Some(Line::One(named(name, 4242))), "{name:?}");
            assert_eq!(
                parse(&two(Some((name, 1)), Some((name, u32::MAX)))),
                Some(Line::Two(Some(named(name, 1)), Some(named(name, u32::MAX)))),
                "{name:?}"
            );
            assert_eq!(parse(&two(None, Some((name, 3)))), Some(Line::Two(None, Some(named(name, 3)))));
            assert_eq!(parse(&two(Some((name, 3)), None)), Some(Line::Two(Some(named(name, 3)), None)));
            let mut added = Vec::new();
            push_name(&mut added, name);
            push_text(&mut added, name);
            assert_eq!(added, (escape_name(name) + &escape_text(name)).into_bytes(), "{name:?}");
        }
    }

    #[test]
    fn a_line_is_one_line_without_hidden_characters() {
        let all: String = (0..=0x10_ffff).filter_map(char::from_u32).collect();
        let text = escape_text(all.as_bytes());
        assert!(!text.chars().any(|c| c.is_control() || (c.is_whitespace() && c != ' ')));
        for hidden in ['\u{200b}', '\u{202e}', '\u{2066}', '\u{feff}', '\u{e0041}', '\u{fe0f}', '\u{3164}'] {
            assert!(!text.contains(hidden), "{hidden:?}");
        }
        for mark in ['[', ']', '>', '\u{ff3b}', '\u{ff3d}', '\u{ff1e}', '\u{fe65}'] {
            assert!(!escape_name(format!("a{mark}b").as_bytes()).contains(mark), "{mark:?}");
        }
    }

    #[test]
    fn comments_of_others_are_not_taken_for_ours() {
        for comment in [
            "",
            "?",
            "? > ?",
            "hello",
            "curl",
            "[",
            "]",
            "[5]",
            "curl[]",
            "curl[x]",
            "curl[-1]",
            "curl[01]",
            "curl[+1]",
            "curl[4294967296]",
            "curl[1] > ",
            " > curl[1]",
            "a[1] > b[2] > c[3]",
            "a[1][2]",
            "curl[1]\n",
            "see a[1]b",
            "?[1]",
            "curl [1]",
            r"curl\x41[1]",
        ] {
            assert_eq!(parse(comment), None, "{comment:?}");
        }
    }

    #[test]
    fn the_effective_process_has_a_line_that_is_nobody_elses() {
        for name in [&b"Safari"[..], b"a (effective)", b"? > b[1]", b""] {
            let line = effective(name, 510);
            assert_eq!(parse_effective(&line), Some(named(name, 510)), "{line}");
            assert_eq!(parse(&line), None, "{line}");
            assert_eq!(parse_effective(&one(name, 510)), None, "{line}");
        }
        assert_eq!(effective(b"Safari", 510), "Safari[510] (effective)");
    }

    #[test]
    fn a_long_name_is_cut() {
        assert_eq!(escape_name(&[b'a'; 5000]), "a".repeat(NAME_LIMIT));
    }

    #[test]
    fn paths_keep_their_brackets_and_spaces() {
        let path = b" /opt/my [app]/a>b\\\n\xff";
        assert_eq!(escape_text(path), r" /opt/my [app]/a>b\x5c\x0a\xff");
        assert_eq!(unescape_text(&escape_text(path)), path);
    }
}
