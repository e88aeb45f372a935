//! What a file is read from.

use std::io::{self, Read};

/// The first bytes of a block: type, length; then the magic number of a section header.
const PREFIX: usize = 12;

/// What is read from, with its first block, and whether its end has been seen: pcap-file does not tell the
/// end of the file from a block that does not fit into its buffer.
#[derive(Debug)]
pub(super) struct Source<R> {
    from: R,
    first: Vec<u8>,
    /// How many of `first` have been handed on.
    handed_on: usize,
    pub(super) is_at_end: bool,
}

impl<R: Read> Source<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, first: Vec::new(), handed_on: 0, is_at_end: false }
    }

    /// Reads the first block, or as much of it as there is; of anything but a section header its first bytes. A length
    /// beyond `longest` is none.
    pub(super) fn peek(&mut self, longest: usize) -> io::Result<()> {
        (&mut self.from).take(PREFIX as u64).read_to_end(&mut self.first)?;
        let [0x0a, 0x0d, 0x0d, 0x0a, length @ .., m, _, _, _] = self.first.as_slice() else { return Ok(()) };
        let Ok(length) = <[u8; 4]>::try_from(length) else { return Ok(()) };
        let length = if *m == 0x1a { u32::from_be_bytes(length) } else { u32::from_le_bytes(length) };
        if let Some(rest) = (length as usize).checked_sub(PREFIX).filter(|rest| *rest <= longest) {
            (&mut self.from).take(rest as u64).read_to_end(&mut self.first)?;
        }
        Ok(())
    }

    /// The first block between its two lengths.
    pub(super) fn first_header(&self) -> &[u8] {
        self.first.get(8..self.first.len().saturating_sub(4)).unwrap_or(&[])
    }

    pub(super) fn other_format(&self) -> Option<&'static str> {
        match *self.first.as_slice() {
            [] => Some("it is empty"),
            [0x0a, 0x0d, 0x0d, 0x0a, ..] => None,
            [0xa1, 0xb2, 0xc3, 0xd4 | 0xcd, ..]
            | [0xd4 | 0x4d, 0xc3 | 0x3c, 0xb2, 0xa1, ..]
            | [0xa1, 0xb2, 0x3c, 0x4d, ..] => Some(
                "it is a pcap file, which has no room for processes; `editcap -F pcapng IN OUT` converts it",
            ),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("it is compressed; `zstd -d` opens it"),
            [0x1f, 0x8b, ..] => Some("it is compressed; `gzip -d` opens it"),
            _ => Some("it does not begin with a section header"),
        }
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut rest = &self.first[self.handed_on..];
        if !rest.is_empty() {
            let count = rest.read(into)?;
            self.handed_on += count;
            return Ok(count);
        }
        loop {
            match self.from.read(into) {
                // A signal; pcap-file would take it for a failure.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => {
                    self.is_at_end = true;
                    return Ok(0);
                }
                // Compressed bytes that are cut; what was in front of the cut has been given.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.is_at_end = true;
                    return Err(error);
                }
                result => return result,
            }
        }
    }
}
