//! What the recorded programs said about themselves.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;

/// One socket, or one turn of use of a socket, of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truth {
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The name of the program, spelled as docs/FORMAT.md says.
    pub name: String,
    /// `client`, `server`, `listener`, `heir`, `refused`.
    pub role: String,
    /// `tcp`, `udp`, `udplite`, `icmp`, `icmpv6`. An echo has its identifier as the port of both ends.
    pub protocol: String,
    /// Its end; the unspecified address stands for any.
    pub local: SocketAddr,
    /// The other end; none: any.
    pub remote: Option<SocketAddr>,
    /// Nanoseconds since the epoch: before the first packet of a client, after accept for a server.
    pub start_ns: u64,
    /// Nanoseconds since the epoch: before close, if it said so; else as `end_ns`.
    pub closing_ns: u64,
    /// Nanoseconds since the epoch: after close. `u64::MAX` if nothing tells when it ended.
    pub end_ns: u64,
}

impl Truth {
    /// How the recorder names this process.
    pub fn label(&self) -> String {
        format!("{}[{}]", self.name, self.pid)
    }
}

/// All lines of a log. Where a program first said that a socket is open, and then when it ended, the two are one.
pub fn read(log: impl AsRef<Path>) -> Vec<Truth> {
    let log = log.as_ref();
    let text =
        fs::read_to_string(log).unwrap_or_else(|error| panic!("cannot read {}: {error}", log.display()));
    let lines = text.lines().map(|line| parse(line).unwrap_or_else(|| panic!("not a line of truth: {line}")));
    let mut truths: Vec<Truth> = Vec::new();
    let mut open: HashMap<(u32, SocketAddr, u64), usize> = HashMap::new();
    for truth in lines {
        let key = (truth.pid, truth.local, truth.start_ns);
        if truth.end_ns == u64::MAX {
            open.insert(key, truths.len());
        } else if let Some(first) = open.remove(&key) {
            (truths[first].closing_ns, truths[first].end_ns) = (truth.closing_ns, truth.end_ns);
            continue;
        }
        truths.push(truth);
    }
    truths
}

fn parse(line: &str) -> Option<Truth> {
    let value: Value = serde_json::from_str(line).ok()?;
    let text = |key: &str| value[key].as_str().map(str::to_string);
    let number = |key: &str| value[key].as_u64();
    let end_ns = number("end_ns").map(|end| if end == 0 { u64::MAX } else { end })?;
    Some(Truth {
        pid: number("pid")? as u32,
        tid: number("tid")? as u32,
        name: spelled(&bytes(value["name_hex"].as_str()?)?),
        role: text("role")?,
        protocol: text("protocol")?,
        local: canonical(text("local")?.parse().ok()?),
        remote: text("remote")?.parse().ok().map(canonical),
        start_ns: number("start_ns")?,
        closing_ns: number("closing_ns").filter(|closing| *closing != 0).unwrap_or(end_ns),
        end_ns,
    })
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let pair = |at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    (0..hex.len()).step_by(2).map(pair).collect()
}

/// A name as docs/FORMAT.md spells it in a file: written here a second time, from the document, for the names that the tests
/// use. Of what cannot be seen it knows only the ASCII part.
pub fn spelled(name: &[u8]) -> String {
    if name == b"?" {
        return "\\x3f".into();
    }
    if name.is_empty() {
        return "\\x00".into();
    }
    // Spaces at the edges could not be seen.
    let before = name.iter().take_while(|byte| **byte == b' ').count();
    let after = name[before..].iter().rev().take_while(|byte| **byte == b' ').count();
    let mut text = "\\x20".repeat(before);
    for chunk in name[before..name.len() - after].utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '[' | ']' | '>' | '\\' => spell_bytes(&mut text, letter.encode_utf8(&mut [0; 4]).as_bytes()),
                letter if letter.is_control() => {
                    spell_bytes(&mut text, letter.encode_utf8(&mut [0; 4]).as_bytes());
                }
                letter => text.push(letter),
            }
        }
        spell_bytes(&mut text, chunk.invalid());
    }
    text + &"\\x20".repeat(after)
}

fn spell_bytes(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "\\x{byte:02x}");
    }
}

/// IPv4 addresses as such, also those that a dual-stack socket gives as ::ffff:a.b.c.d.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The one line with this role.
pub fn only<'a>(truths: &'a [Truth], role: &str) -> &'a Truth {
    let found: Vec<&Truth> = truths.iter().filter(|truth| truth.role == role).collect();
    assert_eq!(found.len(), 1, "expected one line with role {role}, got {truths:#?}");
    found[0]
}

#[cfg(test)]
mod tests {
    use super::spelled;

    #[test]
    fn names_are_spelled_as_the_format_says() {
        for (name, expected) in [
            (&b"curl"[..], "curl"),
            (b"two words", "two words"),
            (b"a[1]>b", "a\\x5b1\\x5d\\x3eb"),
            (b"line\nbreak", "line\\x0abreak"),
            (b"bad\xff", "bad\\xff"),
            (b" edges ", "\\x20edges\\x20"),
            (b"back\\slash", "back\\x5cslash"),
            (b"?", "\\x3f"),
            ("gr\u{fc}n".as_bytes(), "gr\u{fc}n"),
        ] {
            assert_eq!(spelled(name), expected);
        }
    }
}
