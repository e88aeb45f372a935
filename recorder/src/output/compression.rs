//! Compression by zstd, in threads of its own, which all files share: one frame per file.

use std::fmt;
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::LazyLock;
use std::thread::available_parallelism;

use zstd::stream::raw::{CParameter, InBuffer, Operation, OutBuffer, WriteBuf};
use zstd::stream::zio::Writer;
use zstd::zstd_safe::{CCtx, ResetDirective, SafeResult, ThreadPool, get_error_name};

/// Those that the `zstd` program has without `--ultra`: above them it takes gigabytes of memory.
const LEVELS: RangeInclusive<i32> = 1..=19;
/// Not zstd's own 3: what cannot be compressed (most of today's traffic is encrypted) costs several times as much there, and the rest
/// becomes hardly smaller; docs/PERFORMANCE.md has the figures.
const DEFAULT_LEVEL: i32 = 1;
/// More threads compress faster than packets come in; each has buffers of its own.
const MOST_WORKERS: usize = 4;

/// How a file is compressed: zstd, at this level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    level: i32,
}

impl Default for Compression {
    fn default() -> Self {
        Self { level: DEFAULT_LEVEL }
    }
}

/// A text that names no compression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no compression\n  give zstd, or zstd:LEVEL with a level from {} to {}", LEVELS.start(), LEVELS.end())]
pub struct BadCompression {
    text: String,
}

impl FromStr for Compression {
    type Err = BadCompression;

    /// From `zstd` or `zstd:LEVEL`.
    fn from_str(text: &str) -> Result<Self, BadCompression> {
        let bad = || BadCompression { text: text.to_owned() };
        match text.split_once(':') {
            None if text == "zstd" => Ok(Self::default()),
            Some(("zstd", level)) => match level.parse() {
                Ok(level) if LEVELS.contains(&level) => Ok(Self { level }),
                _ => Err(bad()),
            },
            _ => Err(bad()),
        }
    }
}

/// How many threads compress. One core is the recorder's own; even a single one takes the compression out of its loop.
static WORKERS: LazyLock<usize> =
    LazyLock::new(|| available_parallelism().map_or(1, |cores| (cores.get() - 1).clamp(1, MOST_WORKERS)));

/// The threads. They begin with as little as whoever asks for them first may do, and no file needs others.
static POOL: LazyLock<Option<ThreadPool>> = LazyLock::new(|| ThreadPool::try_new(*WORKERS));

/// Counts the cores, which takes files that may be out of reach later.
pub fn count_cores() {
    LazyLock::force(&WORKERS);
}

/// Starts the threads that compress, unless they run.
pub fn start_workers() {
    LazyLock::force(&POOL);
}

/// Compresses into a `W`.
pub(super) struct Encoder<W: Write> {
    zstd: Writer<W, Zstd>,
    /// Bytes taken since the last flush.
    on_the_way: u64,
}

impl<W: Write> Encoder<W> {
    pub(super) fn new(out: W, compression: Compression) -> io::Result<Self> {
        Ok(Self { zstd: Writer::new(out, Zstd::new(compression)?), on_the_way: 0 })
    }

    pub(super) fn place(&self) -> &W {
        self.zstd.writer()
    }

    pub(super) const fn on_the_way(&self) -> u64 {
        self.on_the_way
    }

    /// Ends the frame. After an error it goes on at the next call.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.zstd.finish()
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.zstd.write(bytes)?;
        self.on_the_way += count as u64;
        Ok(count)
    }

    /// Makes everything so far readable. What is compressed afterwards still refers to what came before.
    fn flush(&mut self) -> io::Result<()> {
        if self.on_the_way > 0 {
            self.zstd.flush()?;
            self.on_the_way = 0;
        }
        Ok(())
    }
}

/// A frame in the making. The package's own encoder starts threads for each.
struct Zstd(CCtx<'static>);

impl Zstd {
    fn new(compression: Compression) -> io::Result<Self> {
        let mut context = CCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
        let pool = POOL.as_ref().ok_or_else(|| io::Error::other("no thread can be started to compress"))?;
        checked(context.ref_thread_pool(pool))?;
        let workers = u32::try_from(*WORKERS).unwrap_or(1);
        for parameter in [
            CParameter::CompressionLevel(compression.level),
            CParameter::NbWorkers(workers),
            CParameter::ChecksumFlag(true),
        ] {
            checked(context.set_parameter(parameter))?;
        }
        Ok(Self(context))
    }
}

impl Drop for Zstd {
    /// The threads are not the context's own, so freeing it does not wait for them: what they are at has to be done by then. After an
    /// error it may not be.
    fn drop(&mut self) {
        let mut nowhere = vec![0; CCtx::out_size()];
        while let Ok(1..) = self.0.end_stream(&mut OutBuffer::around(nowhere.as_mut_slice())) {}
    }
}

impl Operation for Zstd {
    fn run<C: WriteBuf + ?Sized>(
        &mut self,
        input: &mut InBuffer<'_>,
        output: &mut OutBuffer<'_, C>,
    ) -> io::Result<usize> {
        checked(self.0.compress_stream(output, input))
    }

    fn flush<C: WriteBuf + ?Sized>(&mut self, output: &mut OutBuffer<'_, C>) -> io::Result<usize> {
        checked(self.0.flush_stream(output))
    }

    fn reinit(&mut self) -> io::Result<()> {
        checked(self.0.reset(ResetDirective::SessionOnly)).map(drop)
    }

    fn finish<C: WriteBuf + ?Sized>(&mut self, output: &mut OutBuffer<'_, C>, _: bool) -> io::Result<usize> {
        checked(self.0.end_stream(output))
    }
}

fn checked(result: SafeResult) -> io::Result<usize> {
    result.map_err(|code| io::Error::other(get_error_name(code)))
}

impl<W: Write + fmt::Debug> fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { zstd, on_the_way } = self;
        f.debug_struct("Encoder").field("out", zstd.writer()).field("on_the_way", on_the_way).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compression_is_read_with_its_level_or_refused() {
        assert_eq!("zstd".parse(), Ok(Compression::default()));
        assert_eq!("zstd:19".parse(), Ok(Compression { level: 19 }));
        for text in ["", "gzip", "zstd:", "zstd:0", "zstd:20", "zstd:fast", "zst"] {
            let error = text.parse::<Compression>().unwrap_err().to_string();
            assert!(error.contains("from 1 to 19"), "{text}: {error}");
        }
    }

    #[test]
    fn what_was_flushed_can_be_read_though_the_end_is_missing() {
        let mut encoder = Encoder::new(Vec::new(), Compression::default()).unwrap();
        encoder.write_all(&[b'a'; 100_000]).unwrap();
        assert_eq!(encoder.on_the_way(), 100_000);
        encoder.flush().unwrap();
        assert_eq!(encoder.on_the_way(), 0);
        let so_far = encoder.place().clone();
        assert!(so_far.len() < 1000, "{} bytes", so_far.len());
        let mut read = Vec::new();
        let error = io::copy(&mut zstd::Decoder::new(so_far.as_slice()).unwrap(), &mut read).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read, [b'a'; 100_000]);
        // Nothing new, nothing written.
        encoder.flush().unwrap();
        assert_eq!(*encoder.place(), so_far);
        encoder.end().unwrap();
        assert_eq!(zstd::decode_all(encoder.place().as_slice()).unwrap(), [b'a'; 100_000]);
    }

    /// Takes nothing each second time.
    #[derive(Default)]
    struct Stubborn {
        taken: Vec<u8>,
        refuses: bool,
    }

    impl Write for Stubborn {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.refuses = !self.refuses;
            if self.refuses {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let some = bytes.len().min(100);
            self.taken.extend_from_slice(&bytes[..some]);
            Ok(some)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn after_an_error_it_goes_on_where_it_was() {
        let bytes: Vec<u8> =
            (0..100_000_u32).flat_map(|number| (number.wrapping_mul(number)).to_le_bytes()).collect();
        let mut encoder = Encoder::new(Stubborn::default(), Compression::default()).unwrap();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            rest = encoder.write(rest).map_or(rest, |count| &rest[count..]);
        }
        while encoder.flush().is_err() {}
        while encoder.end().is_err() {}
        assert!(zstd::decode_all(encoder.place().taken.as_slice()).unwrap() == bytes);
    }
}
