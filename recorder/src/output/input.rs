//! Where a recording is read from: a file or standard input, compressed or not.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

/// RFC 8878: the magic number of a zstd frame.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// RFC 1952: the first two bytes of a gzip member.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Opens a file for reading; `-` is standard input. What zstd or gzip has compressed, by its first bytes, is read as it was
/// before.
///
/// Compressed bytes that end too soon give all that can be had of them, then an error of kind `UnexpectedEof`.
///
/// # Errors
/// If it cannot be opened, or its first bytes cannot be read.
pub fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    if path == Path::new("-") { decompressed(io::stdin()) } else { decompressed(File::open(path)?) }
}

/// The same for what is open already.
///
/// # Errors
/// If its first bytes cannot be read.
pub fn decompressed(mut from: impl Read + 'static) -> io::Result<Box<dyn Read>> {
    let mut first = Vec::new();
    (&mut from).take(ZSTD.len() as u64).read_to_end(&mut first)?;
    let is_zstd = first == ZSTD;
    let is_gzip = first.starts_with(&GZIP);
    let whole = Cursor::new(first).chain(from);
    Ok(match (is_zstd, is_gzip) {
        (true, _) => Box::new(zstd::Decoder::new(whole)?),
        (_, true) => Box::new(MultiGzDecoder::new(BufReader::new(whole))),
        _ => Box::new(whole),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;

    use super::*;

    /// Bytes that do not compress to nothing.
    fn text() -> Vec<u8> {
        (0..20_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> (Vec<u8>, io::Result<usize>) {
        let mut all = Vec::new();
        let result =
            decompressed(Cursor::new(bytes.to_vec())).and_then(|mut from| from.read_to_end(&mut all));
        (all, result)
    }

    #[test]
    fn plain_zstd_and_gzip_are_told_by_their_first_bytes() {
        let text = text();
        for bytes in [text.clone(), zstd::encode_all(text.as_slice(), 3).unwrap(), gzip(&text)] {
            let (all, result) = read(&bytes);
            assert_eq!(result.unwrap(), text.len());
            assert_eq!(all, text);
        }
        for short in [&b""[..], b"a", b"abc"] {
            assert_eq!(read(short).0, short);
        }
    }

    #[test]
    fn several_frames_or_members_are_read_as_one() {
        let text = text();
        for one in [zstd::encode_all(text.as_slice(), 3).unwrap(), gzip(&text)] {
            let (all, result) = read(&[one.clone(), one].concat());
            assert_eq!(result.unwrap(), 2 * text.len());
            assert_eq!(all, [text.clone(), text.clone()].concat());
        }
    }

    #[test]
    fn wherever_it_is_cut_what_is_there_is_given_and_the_end_is_an_error() {
        let text = text();
        for whole in [zstd::encode_all(text.as_slice(), 3).unwrap(), gzip(&text)] {
            for length in (4..whole.len()).step_by(997).chain([whole.len() - 1]) {
                let (all, result) = read(&whole[..length]);
                assert_eq!(result.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "cut at {length}");
                assert_eq!(all, text[..all.len()]);
            }
        }
    }

    #[test]
    fn damaged_bytes_are_an_error_or_other_bytes_and_never_a_panic() {
        let text = text();
        for whole in [zstd::encode_all(text.as_slice(), 3).unwrap(), gzip(&text)] {
            for at in (0..whole.len()).step_by(101) {
                let mut damaged = whole.clone();
                damaged[at] ^= 0x55;
                drop(read(&damaged));
            }
        }
    }
}
