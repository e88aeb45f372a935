//! Where the bytes go: a new file, or standard output. And where they come from again.
//!
//! A recording holds other people's traffic and is often made as root, so a file is created for its owner
//! alone, never through a symbolic link, and never over something that is there unless the user insists.
//! Rotation and compression build on this.

mod input;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

pub use input::open;

/// Read and write for the owner, nothing for others.
const OWNER_ONLY: u32 = 0o600;

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

/// A place that takes bytes and counts them.
#[derive(Debug)]
pub struct Output {
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
    /// Creates `path`, readable and writable for its owner alone (mode 0600); `-` is standard output.
    ///
    /// With `force` a regular file that is there is removed first, so that the new one shares nothing with
    /// it: no mode, no owner, no other name of the same file. A symbolic link, a device or a directory stays,
    /// and is an error.
    /// `owner` is the user and group that the file is given to: those who called sudo.
    ///
    /// # Errors
    /// If the file is there already, cannot be created, or cannot be given to `owner`. A file that could be
    /// created but not given away is removed again.
    pub fn create(path: &Path, force: bool, owner: Option<(u32, u32)>) -> Result<Self, CreateError> {
        if path == Path::new("-") {
            let sink = Sink::Stdout(io::stdout());
            return Ok(Self { sink, path: PathBuf::from("standard output"), written: 0 });
        }
        if force {
            remove_regular_file(path)?;
        }
        let file = open_new(path).map_err(|error| explain(path, error))?;
        if let Err(error) = hand_over(&file, owner) {
            // Best effort: the error to tell is the one above.
            let _ = std::fs::remove_file(path);
            return Err(CreateError {
                path: path.to_owned(),
                why: format!("it cannot be given to its owner: {error}"),
                remedy: "write to a file system that keeps owners, such as your home directory",
                source: Some(error),
            });
        }
        Ok(Self { sink: Sink::File(file), path: path.to_owned(), written: 0 })
    }

    /// Bytes written so far.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// The path as it was given; `standard output` for `-`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is standard output, so that nothing else may be printed there.
    pub const fn is_stdout(&self) -> bool {
        matches!(self.sink, Sink::Stdout(_))
    }

    /// Adds to an error where it happened and how much is safe. A broken pipe stays as it is: that the reader
    /// left is no failure, and callers tell it by its kind.
    fn explain(&self, error: io::Error) -> io::Error {
        let remedy = match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => {
                return error;
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "\n  make room, or bound the recording with --ring-buffer or --autostop"
            }
            io::ErrorKind::FileTooLarge => "\n  bound the size of each file with --ring-buffer filesize:KB",
            _ => "",
        };
        let (path, written, kind) = (self.path.display(), self.written, error.kind());
        io::Error::new(kind, format!("cannot write to {path} after {written} bytes: {error}{remedy}"))
    }
}

impl Write for Output {
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

fn open_new(path: &Path) -> io::Result<File> {
    // create_new is O_CREAT | O_EXCL. POSIX, open(): with these "and path names a symbolic link, open() shall
    // fail", wherever the link points; so a name that somebody put there in the meantime is never written
    // through.
    OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY).open(path)
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

fn explain(path: &Path, error: io::Error) -> CreateError {
    let remedy = match error.kind() {
        io::ErrorKind::AlreadyExists => "choose another name, or replace it with --force",
        io::ErrorKind::NotFound => "its directory does not exist; create it first",
        io::ErrorKind::PermissionDenied => "choose a directory that you may write to",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room, or choose another disk",
        io::ErrorKind::ReadOnlyFilesystem => "choose a directory on a file system that can be written",
        _ => "choose another name or directory",
    };
    CreateError { path: path.to_owned(), why: error.to_string(), remedy, source: Some(error) }
}

#[cfg(test)]
mod tests;
