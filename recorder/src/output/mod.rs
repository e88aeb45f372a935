//! Where the bytes go: a new file, a pipe, or standard output; compressed or as they are. And where they come from again.
//!
//! A recording holds other people's traffic and is often made as root, so a file is created for its owner
//! alone, never through a symbolic link, and never over something that is there unless the user insists.

mod compression;
mod input;
mod series;

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use compression::Encoder;

pub use compression::{BadCompression, Compression, count_cores, start_workers};
pub use input::{decompressed, open};
pub use series::{Series, beside};

/// What a file needs before its first packet, about.
#[cfg(target_os = "linux")]
const FIRST_BYTES: u64 = 4096;
/// Read and write for the owner, nothing for others.
const OWNER_ONLY: u32 = 0o600;

/// How often a FIFO is tried that nobody reads yet.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// How files are made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// Whether a regular file that is there is replaced.
    pub force: bool,
    /// The user and group that a file is given to: those who called sudo.
    pub owner: Option<(u32, u32)>,
    /// How it is compressed, if it is.
    pub compression: Option<Compression>,
}

/// Why a file cannot be created.
#[derive(Debug, thiserror::Error)]
#[error("cannot create {}: {why}\n  {remedy}", path.display())]
pub struct CreateError {
    /// Which file.
    pub path: PathBuf,
    /// What stood in the way.
    pub why: String,
    /// What to do about it.
    pub remedy: &'static str,
    /// The error of the system, if there was one.
    #[source]
    pub source: Option<io::Error>,
}

/// Takes a recording's bytes to where they belong.
#[derive(Debug)]
pub struct Output {
    body: Body,
    /// Whether somebody may be reading along: standard output, or a FIFO.
    is_stream: bool,
}

#[derive(Debug)]
enum Body {
    Plain(Place),
    Compressed(Encoder<Place>),
}

/// A place that takes bytes and counts them.
#[derive(Debug)]
struct Place {
    sink: Sink,
    path: PathBuf,
    written: u64,
}

#[derive(Debug)]
enum Sink {
    File(File),
    Stdout(io::Stdout),
}

impl Output {
    /// Creates `path`, readable and writable for its owner alone (mode 0600); `-` and /dev/stdout are standard output.
    ///
    /// With `manner.force` a regular file that is there is removed first, so that the new one shares nothing with
    /// it: no mode, no owner, no other name of the same file. A symbolic link, a device or a directory stays,
    /// and is an error. A FIFO is opened as it is, when somebody reads it; until then `goes_on` is asked now and then
    /// whether to wait. So is a pipe that was inherited (/dev/fd/63, as shells write `>(COMMAND)`).
    ///
    /// # Errors
    /// If the file is there already, cannot be created, or cannot be given to its owner. A file that could be
    /// created but not given away is removed again.
    pub fn create(path: &Path, manner: &Manner, goes_on: &dyn Fn() -> bool) -> Result<Self, CreateError> {
        let (sink, is_stream) = if is_stdout(path) {
            (Sink::Stdout(io::stdout()), true)
        } else if is_fifo(path) {
            (Sink::File(open_fifo(path, goes_on).map_err(|error| explain(path, error))?), true)
        } else {
            (Sink::File(create_file(path, manner)?), false)
        };
        let name = if is_stdout(path) { Path::new("standard output") } else { path };
        let place = Place { sink, path: name.to_owned(), written: 0 };
        let body = match manner.compression {
            None => Body::Plain(place),
            Some(compression) => {
                Body::Compressed(Encoder::new(place, compression).map_err(|error| explain(path, error))?)
            }
        };
        Ok(Self { body, is_stream })
    }

    /// Bytes that have arrived at their place so far: the size of the file.
    pub fn written(&self) -> u64 {
        self.place().written
    }

    /// Bytes that were taken and may not have arrived, as they are before compression.
    pub fn on_the_way(&self) -> u64 {
        match &self.body {
            Body::Plain(_) => 0,
            Body::Compressed(encoder) => encoder.on_the_way(),
        }
    }

    /// The path as it was given; `standard output` for `-`.
    pub fn path(&self) -> &Path {
        &self.place().path
    }

    /// Whether somebody may be reading along, and nothing is left of it: standard output, or a FIFO.
    pub const fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// Whether the bytes are compressed.
    pub const fn is_compressed(&self) -> bool {
        matches!(self.body, Body::Compressed(_))
    }

    /// Whether the file has no name any more: somebody has deleted it, and nothing of it will be left.
    pub fn is_deleted(&self) -> bool {
        match &self.place().sink {
            // What cannot be asked is not known to be gone.
            Sink::File(file) => !self.is_stream && file.metadata().is_ok_and(|now| now.nlink() == 0),
            Sink::Stdout(_) => false,
        }
    }

    /// Writes what compression still holds, and its end. After an error it goes on at the next call.
    ///
    /// # Errors
    /// Those of the place.
    pub fn end(&mut self) -> io::Result<()> {
        match &mut self.body {
            Body::Plain(_) => Ok(()),
            Body::Compressed(encoder) => encoder.end(),
        }
    }

    /// The same. Gives the size of the file.
    ///
    /// # Errors
    /// Those of the place.
    pub fn finish(mut self) -> io::Result<u64> {
        self.end().map(|()| self.written())
    }

    /// What stands in the file before this byte, `most` bytes at most; nothing where it cannot be read.
    pub fn before(&self, end: u64, most: u64) -> Vec<u8> {
        let Body::Plain(Place { sink: Sink::File(file), .. }) = &self.body else { return Vec::new() };
        let mut bytes = vec![0; end.min(most) as usize];
        let begin = end - bytes.len() as u64;
        if self.is_stream || file.read_exact_at(&mut bytes, begin).is_err() { Vec::new() } else { bytes }
    }

    /// Has the file end at this byte, and goes on there.
    ///
    /// # Errors
    /// `Unsupported` if it is a stream or compressed: what is out is out; else those of the file system.
    pub fn cut(&mut self, at: u64) -> io::Result<()> {
        let Body::Plain(place) = &mut self.body else { return Err(io::ErrorKind::Unsupported.into()) };
        let Sink::File(file) = &mut place.sink else { return Err(io::ErrorKind::Unsupported.into()) };
        if self.is_stream {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // btrfs refuses where a quota is used up, but not before it has zeroed what was to go. Asked for the length that the file has, it
        // only refuses.
        file.set_len(place.written)?;
        file.set_len(at)?;
        file.seek(SeekFrom::Start(at))?;
        place.written = at;
        Ok(())
    }

    fn place(&self) -> &Place {
        match &self.body {
            Body::Plain(place) => place,
            Body::Compressed(encoder) => encoder.place(),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.body {
            Body::Plain(place) => place.write(bytes),
            Body::Compressed(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.body {
            Body::Plain(place) => place.flush(),
            Body::Compressed(encoder) => encoder.flush(),
        }
    }
}

impl Place {
    /// Adds to an error where it happened and how much is safe. A broken pipe stays as it is: that the reader
    /// left is no failure, and callers tell it by its kind.
    fn explain(&self, error: io::Error) -> io::Error {
        let remedy = match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => {
                return error;
            }
            _ if is_full(&error) => "\n  make room, or bound the recording with --ring-buffer or --autostop",
            io::ErrorKind::FileTooLarge => "\n  bound the size of each file with --ring-buffer filesize:KB",
            io::ErrorKind::ReadOnlyFilesystem => {
                "\n  its disk has become read-only, mostly after an error (see dmesg): record on another one"
            }
            _ if Errno::from_io_error(&error) == Some(Errno::IO) => {
                "\n  its disk may be failing (see dmesg): record on another one"
            }
            _ => "",
        };
        let (path, written, kind) = (self.path.display(), self.written, error.kind());
        io::Error::new(kind, format!("cannot write to {path} after {written} bytes: {error}{remedy}"))
    }
}

impl Write for Place {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = match &mut self.sink {
            Sink::File(file) => file.write(bytes),
            Sink::Stdout(stdout) => stdout.write(bytes),
        };
        match result {
            Ok(count) => {
                self.written += count as u64;
                Ok(count)
            }
            Err(error) => Err(self.explain(error)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = match &mut self.sink {
            Sink::File(file) => file.flush(),
            Sink::Stdout(stdout) => stdout.flush(),
        };
        result.map_err(|error| self.explain(error))
    }
}

/// Whether this name means standard output.
pub fn is_stdout(path: &Path) -> bool {
    ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|name| path == Path::new(name))
}

fn is_fifo(path: &Path) -> bool {
    let there = if is_own_descriptor(path) { path.metadata() } else { path.symlink_metadata() };
    there.is_ok_and(|there| there.file_type().is_fifo())
}

/// Whether this names a descriptor of ours. Such names are links that lead nowhere but to what we were given.
fn is_own_descriptor(path: &Path) -> bool {
    ["/dev/fd", "/proc/self/fd"].iter().any(|folder| path.parent() == Some(Path::new(folder)))
}

/// Opens a FIFO for writing when it has a reader. Without O_NONBLOCK the call itself would wait, and no signal that ends
/// the recording would get through.
fn open_fifo(path: &Path, goes_on: &dyn Fn() -> bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let no_link = if is_own_descriptor(path) { OFlags::empty() } else { OFlags::NOFOLLOW };
    options.write(true).custom_flags((OFlags::NONBLOCK | no_link).bits() as i32);
    let file = loop {
        match options.open(path) {
            // fifo(7): nobody has it open for reading.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NXIO) => {
                if !goes_on() {
                    return Err(io::Error::new(
                        io::ErrorKind::Interrupted,
                        "nobody has opened this FIFO for reading",
                    ));
                }
                std::thread::sleep(TRY_EVERY);
            }
            result => break result?,
        }
    };
    if !file.metadata()?.file_type().is_fifo() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is no FIFO any more"));
    }
    let flags = fcntl_getfl(&file)?;
    fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    Ok(file)
}

/// A new file that belongs to its owner alone.
fn create_file(path: &Path, manner: &Manner) -> Result<File, CreateError> {
    if manner.force {
        remove_regular_file(path)?;
    }
    let file = open_new(path).map_err(|error| explain(path, error))?;
    if let Err(error) = prepare(path, &file, manner.owner) {
        // Best effort: the error to tell is the one above.
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    Ok(file)
}

/// What a new file needs before anything is written to it: room, and its owner.
fn prepare(path: &Path, file: &File, owner: Option<(u32, u32)>) -> Result<(), CreateError> {
    #[cfg(target_os = "linux")]
    reserve(file).map_err(|error| explain(path, error))?;
    hand_over(file, owner).map_err(|error| CreateError {
        path: path.to_owned(),
        why: format!("it cannot be given to its owner: {error}"),
        remedy: "write to a file system that keeps owners, such as your home directory",
        source: Some(error),
    })
}

/// Has the disk keep room for the first blocks: a file that gets none would stay behind, because its folder is out of reach by then.
#[cfg(target_os = "linux")]
fn reserve(file: &File) -> io::Result<()> {
    let kept = rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, FIRST_BYTES);
    match kept.map_err(io::Error::from) {
        Err(error) if is_full(&error) => Err(error),
        // Not every file system keeps room.
        _ => Ok(()),
    }
}

fn open_new(path: &Path) -> io::Result<File> {
    // create_new is O_CREAT | O_EXCL. POSIX, open(): with these "and path names a symbolic link, open() shall
    // fail", wherever the link points; so a name that somebody put there in the meantime is never written
    // through.
    // Read as well: see `Output::before`.
    OpenOptions::new().read(true).write(true).create_new(true).mode(OWNER_ONLY).open(path)
}

/// Makes room for a new file; nothing there is fine.
fn remove_regular_file(path: &Path) -> Result<(), CreateError> {
    let refuse = |why: &str| CreateError {
        path: path.to_owned(),
        why: why.to_owned(),
        remedy: "only a regular file is replaced; choose another name",
        source: None,
    };
    let result = match std::fs::symlink_metadata(path) {
        Ok(there) if there.is_symlink() => return Err(refuse("it is a symbolic link")),
        Ok(there) if !there.is_file() => return Err(refuse("it is no regular file")),
        Ok(_) => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    result.map_err(|error| explain(path, error))
}

/// Makes the file that of `owner`, and of nobody else.
fn hand_over(file: &File, owner: Option<(u32, u32)>) -> io::Result<()> {
    file.set_permissions(std::fs::Permissions::from_mode(OWNER_ONLY))?;
    match owner {
        Some((user, group)) => fchown(file, Some(user), Some(group)),
        None => Ok(()),
    }
}

/// Whether the error says that there is no room, on the disk or for this user.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn explain(path: &Path, error: io::Error) -> CreateError {
    let remedy = match error.kind() {
        _ if matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE)) => {
            "too many files are open: raise the limit (ulimit -n)"
        }
        io::ErrorKind::AlreadyExists => "choose another name, or replace it with --force",
        io::ErrorKind::NotFound => "its directory does not exist; create it first",
        io::ErrorKind::PermissionDenied => "choose a directory that you may write to",
        _ if is_full(&error) => "make room, or choose another disk",
        io::ErrorKind::Interrupted => "start its reader",
        io::ErrorKind::ReadOnlyFilesystem => "choose a directory on a file system that can be written",
        _ => "choose another name or directory",
    };
    CreateError { path: path.to_owned(), why: error.to_string(), remedy, source: Some(error) }
}

#[cfg(test)]
mod tests;
