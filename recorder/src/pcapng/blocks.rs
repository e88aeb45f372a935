//! The blocks of a file, one after the other, in a buffer that is used again.
//!
//! A block lies in the buffer as it lies in the file; nothing is copied but the bytes of a block that did not fit behind
//! those before it. The buffer grows with the bytes that are there, never with the length that a block states of itself.
//! A legacy pcap file is read as the pcapng file that it would be: see [`super::legacy`].

use std::io::{self, Read};
use std::ops::Range;

use super::legacy::{self, FileHeader};
use super::process::number;
use super::{ReadError, block};

/// How much is read at once, in bytes.
const CHUNK: usize = 64 << 10;
/// Bytes in front of the unread ones that may be overwritten: a legacy record becomes a packet block in its place.
const SLACK: usize = legacy::GROWTH;
/// Type and length before the body, the length once more behind it.
const SHORTEST: usize = 12;
/// `shb` magic number, big-endian.
const BYTE_ORDER: [u8; 4] = [0x1a, 0x2b, 0x3c, 0x4d];

/// Where one block lies in the file, and of which type it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) kind: u32,
    pub(super) offset: u64,
}

/// Reads the blocks of one file from an `R`.
#[derive(Debug)]
pub(super) struct Blocks<R> {
    from: R,
    buffer: Vec<u8>,
    /// What has been read and not been given as a block.
    unread: Range<usize>,
    /// Where `unread` begins in the file.
    offset: u64,
    /// The body of the current block.
    body: Range<usize>,
    format: Format,
    /// There is nothing behind `unread`.
    is_at_end: bool,
    /// There was something behind it: compressed bytes that are cut.
    is_cut: bool,
    /// The longest block that is read, in bytes.
    longest: usize,
}

#[derive(Clone, Copy, Debug)]
enum Format {
    Pcapng { is_big_endian: bool },
    Legacy { header: FileHeader, is_described: bool },
}

impl<R: Read> Blocks<R> {
    /// Looks at the first bytes.
    ///
    /// # Errors
    /// If this is no capture file, or cannot be read.
    pub(super) fn new(from: R, longest: usize) -> Result<Self, ReadError> {
        let mut blocks = Self {
            from,
            buffer: vec![0; CHUNK],
            unread: SLACK..SLACK,
            offset: 0,
            body: 0..0,
            format: Format::Pcapng { is_big_endian: false },
            is_at_end: false,
            is_cut: false,
            longest,
        };
        blocks.fill(4)?;
        if let Some(magic) = blocks.buffer[blocks.unread.clone()].first_chunk::<4>()
            && legacy::is_magic(*magic)
        {
            blocks.begin_legacy()?;
        } else if let Some(what) = other_format(&blocks.buffer[blocks.unread.clone()]) {
            return Err(ReadError::NotCapture { what: what.to_owned() });
        }
        Ok(blocks)
    }

    fn begin_legacy(&mut self) -> Result<(), ReadError> {
        if !self.fill(legacy::HEADER_LENGTH)? {
            return Err(ReadError::Truncated { offset: 0 });
        }
        let (header, _) = self.take(legacy::HEADER_LENGTH);
        let in_place = &mut self.buffer[header.clone()];
        let parsed = FileHeader::read(in_place).map_err(|what| ReadError::NotCapture { what })?;
        let length = parsed.describe(in_place);
        self.body = header.start..header.start + length;
        self.format = Format::Legacy { header: parsed, is_described: false };
        Ok(())
    }

    /// The next block, whose body is then in [`Self::body`]; `None` after the last one.
    ///
    /// # Errors
    /// If the file ends inside it, it contradicts itself, or it cannot be read.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<Place>, ReadError> {
        match self.format {
            Format::Pcapng { is_big_endian } => self.next_block(is_big_endian),
            Format::Legacy { header, is_described: false } => {
                self.format = Format::Legacy { header, is_described: true };
                Ok(Some(Place { kind: block::INTERFACE_DESCRIPTION, offset: 0 }))
            }
            Format::Legacy { header, is_described: true } => self.next_record(header),
        }
    }

    fn next_block(&mut self, mut is_big_endian: bool) -> Result<Option<Place>, ReadError> {
        let offset = self.offset;
        if !self.fill(SHORTEST)? {
            return self.end();
        }
        let mut kind = number(self.word(0), is_big_endian);
        // The same in both byte orders.
        if kind == block::SECTION_HEADER {
            is_big_endian = self.word(8) == BYTE_ORDER;
            if !is_big_endian && self.word(8).iter().ne(BYTE_ORDER.iter().rev()) {
                return Err(damaged(offset, "its byte order cannot be told"));
            }
            kind = block::SECTION_HEADER;
            self.format = Format::Pcapng { is_big_endian };
        }
        let length = number(self.word(4), is_big_endian) as usize;
        if length < SHORTEST || !length.is_multiple_of(4) {
            return Err(damaged(offset, &format!("it cannot be {length} bytes long")));
        }
        if length > self.longest {
            return Err(damaged(
                offset,
                &format!("it says that it is {length} bytes long, and {} is the most", self.longest),
            ));
        }
        if !self.fill(length)? {
            return Err(ReadError::Truncated { offset });
        }
        if number(self.word(length - 4), is_big_endian) as usize != length {
            return Err(damaged(offset, "its two lengths differ"));
        }
        let (whole, _) = self.take(length);
        self.body = whole.start + 8..whole.end - 4;
        Ok(Some(Place { kind, offset }))
    }

    fn next_record(&mut self, header: FileHeader) -> Result<Option<Place>, ReadError> {
        let offset = self.offset;
        let head = header.record_header();
        if !self.fill(head)? {
            return self.end();
        }
        let record = header.record(&self.buffer[self.unread.clone()]);
        let most = header.longest_packet().min(self.longest);
        if record.captured > most {
            return Err(damaged(
                offset,
                &format!("it says that {} bytes were captured, and {most} is the most", record.captured),
            ));
        }
        if !self.fill(head + record.captured)? {
            return Err(ReadError::Truncated { offset });
        }
        let (whole, _) = self.take(head + record.captured);
        let data = whole.start + head;
        self.body = data - legacy::PACKET_HEADER..whole.end;
        record.write(&mut self.buffer[self.body.start..data]);
        Ok(Some(Place { kind: block::ENHANCED_PACKET, offset }))
    }

    /// What comes where no block begins: nothing, or bytes that are no block.
    fn end(&self) -> Result<Option<Place>, ReadError> {
        if self.unread.is_empty() && !self.is_cut {
            return Ok(None);
        }
        Err(ReadError::Truncated { offset: self.offset })
    }

    /// The current block without its type and lengths.
    #[inline]
    pub(super) fn body(&self) -> &[u8] {
        &self.buffer[self.body.clone()]
    }

    /// The byte order of the section.
    #[inline]
    pub(super) fn is_big_endian(&self) -> bool {
        matches!(self.format, Format::Pcapng { is_big_endian: true })
    }

    /// Bytes of the file that blocks were made of so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The section header that a file without one would have.
    pub(super) fn header_of_legacy(&self) -> Option<&'static [u8]> {
        matches!(self.format, Format::Legacy { .. }).then_some(&legacy::SECTION_HEADER)
    }

    /// The four bytes at `at` of what is unread; it is there.
    #[inline]
    fn word(&self, at: usize) -> [u8; 4] {
        let at = self.unread.start + at;
        [self.buffer[at], self.buffer[at + 1], self.buffer[at + 2], self.buffer[at + 3]]
    }

    #[inline]
    fn take(&mut self, length: usize) -> (Range<usize>, u64) {
        let begins = self.unread.start;
        let offset = self.offset;
        self.unread.start += length;
        self.offset += length as u64;
        (begins..begins + length, offset)
    }

    /// Sees to it that so many bytes are unread. Whether there are so many.
    #[inline]
    fn fill(&mut self, needed: usize) -> Result<bool, ReadError> {
        if self.unread.len() >= needed {
            return Ok(true);
        }
        self.read(needed).map_err(|source| ReadError::Io { offset: self.offset, source })
    }

    #[cold]
    fn read(&mut self, needed: usize) -> io::Result<bool> {
        while self.unread.len() < needed && !self.is_at_end {
            if self.unread.end == self.buffer.len() {
                self.make_room();
            }
            match self.from.read(&mut self.buffer[self.unread.end..]) {
                Ok(0) => self.is_at_end = true,
                Ok(count) => self.unread.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Compressed bytes that are cut; what was in front of the cut has been given.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    (self.is_at_end, self.is_cut) = (true, true);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.unread.len() >= needed)
    }

    /// Moves what is unread to the front; a buffer that it fills all the same becomes twice as large.
    fn make_room(&mut self) {
        let length = self.unread.len();
        self.buffer.copy_within(self.unread.clone(), SLACK);
        self.unread = SLACK..SLACK + length;
        if self.unread.end == self.buffer.len() {
            self.buffer.resize(2 * self.buffer.len(), 0);
        }
    }
}

pub(super) fn damaged(offset: u64, why: &str) -> ReadError {
    ReadError::Damaged { offset, why: why.to_owned() }
}

fn other_format(first: &[u8]) -> Option<&'static str> {
    match first {
        [] => Some("it is empty"),
        [0x0a, 0x0d, 0x0d, 0x0a, ..] => None,
        _ => Some("it begins neither as pcapng nor as pcap does"),
    }
}
