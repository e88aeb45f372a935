//! The commands: arguments in, text and exit codes out.

pub mod interfaces;
pub mod show;
pub mod summary;
pub mod text;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::pcapng::{ReadError, Reader};

/// Why a command that reads a file could not do all of its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be read, or not to its end. What could be read has been printed.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why, where, and what to do about it.
        source: ReadError,
    },
    /// The result cannot be written. A broken pipe is never told this way: that the reader left is no error.
    #[error("cannot write the result: {0}")]
    Write(#[from] io::Error),
}

impl Error {
    /// The exit code of the command: 1 if a part of the work was done, 2 if nothing usable was.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Read { source: ReadError::NotPcapng { .. }, .. } | Self::Open { .. } => 2,
            Self::Read { .. } | Self::Write(_) => 1,
        }
    }
}

/// What a file is read from.
type FileReader = Reader<Box<dyn Read>>;

/// Opens a recording; `-` is standard input.
fn open(path: &Path) -> Result<FileReader, Error> {
    let from: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(|source| Error::Open { path: path.to_owned(), source })?)
    };
    Reader::new(from).map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// Lets a broken pipe pass: whoever read our output has seen enough.
fn ignore_broken_pipe(result: io::Result<()>) -> Result<(), Error> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}
