//! The sockets that there are and the processes that hold them, from sock_diag and /proc.
//!
//! One scan takes a snapshot of the sockets from before the recording; many, one after the other, stand in for the kernel
//! side where that is refused. A scan only reads: it enters other network namespaces for the moment of opening a netlink
//! socket, and keeps nothing open when it is over.

mod access;
mod holders;
mod namespaces;
mod sock_diag;

use std::io;

use foldhash::{HashSet, HashSetExt};

use self::access::FileAccess;
use self::holders::Holders;
use self::sock_diag::Entry;
use super::clock_ns;
use crate::attribution::event::{Holder, Scan, Sighting};
use crate::model::{Found, MonoTime, Protocol};

/// Why sockets and their holders cannot be looked up.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// There is no netlink socket for sock_diag.
    #[error("cannot open a netlink socket for sock_diag: {0}")]
    Netlink(#[source] io::Error),
    /// The kernel does not list the sockets of a protocol.
    #[error("the kernel does not list its {protocol} sockets (sock_diag): {source}")]
    SockDiag {
        /// The protocol.
        protocol: Protocol,
        /// Why.
        source: io::Error,
    },
    /// The processes cannot be listed.
    #[error("cannot list the processes in /proc: {0}")]
    Processes(#[source] io::Error),
}

impl ScanError {
    /// What to do about it.
    pub const REMEDY: &'static str = "use a kernel with CONFIG_INET_DIAG and CONFIG_INET_UDP_DIAG, and mount /proc; or `--attribution none`";
}

/// What a scan could not look into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hidden {
    /// Processes whose descriptors may not be read: their sockets have no known holder, nor have those that they may share.
    pub processes: usize,
    /// Network namespaces that may not be entered.
    pub namespaces: usize,
}

impl Hidden {
    /// What that means and what to do about it, each in one line; nothing if nothing is hidden.
    pub fn in_words(self) -> Vec<String> {
        let mut words = Vec::new();
        if self.processes > 0 {
            words.push(format!(
                "{} processes cannot be looked into: the sockets that they have, or may share with their parents and \
                 children, have no known owner in /proc (needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH)",
                self.processes
            ));
        }
        if self.namespaces > 0 {
            words.push(format!(
                "the sockets of {} network namespaces cannot be looked up (needs CAP_SYS_ADMIN)",
                self.namespaces
            ));
        }
        words
    }
}

/// Scans; remembers processes between two scans.
#[derive(Debug, Default)]
pub struct Scanner {
    holders: Holders,
    hidden: Hidden,
}

impl Scanner {
    /// Looks at all sockets of all network namespaces that hold a process, and at their holders. `found` says what for.
    ///
    /// # Errors
    /// If the kernel does not list sockets, or /proc no processes. What vanishes meanwhile is no error.
    pub fn scan(&mut self, found: Found) -> Result<Scan, ScanError> {
        let _access = FileAccess::take_up();
        let began = now();
        let (namespaces, closed) = namespaces::open_all()?;
        let mut entries = Vec::new();
        for (netns, sock_diag) in &namespaces {
            let mut here = Vec::new();
            sock_diag.dump(&mut here)?;
            entries.extend(here.into_iter().map(|entry| (*netns, entry)));
        }
        drop(namespaces);
        // Inode 0: its process has closed it, or none has accepted it yet. Who will, is not known.
        let mut wanted = HashSet::new();
        wanted.extend(entries.iter().map(|(_, entry)| entry.inode).filter(|inode| *inode != 0));
        let mut holders = self.holders.find(&wanted, found == Found::Procfs)?;
        self.hidden = Hidden { processes: holders.unreadable, namespaces: closed };
        let counts = |entry: &Entry| entry.inode != 0 || entry.waits;
        let sockets = entries.into_iter().filter(|(_, entry)| counts(entry)).map(|(netns, entry)| Sighting {
            cookie: entry.cookie,
            netns,
            flow: entry.flow,
            reach: entry.reach,
            holder: match entry.waits {
                true => Holder::Unclear,
                false => holders.holders.get(&entry.inode).copied().unwrap_or(Holder::Nobody),
            },
        });
        let sockets = sockets.collect();
        Ok(Scan { began, ended: now(), found, processes: std::mem::take(&mut holders.processes), sockets })
    }

    /// What the last scan could not look into.
    pub const fn hidden(&self) -> Hidden {
        self.hidden
    }
}

/// How many sockets a piece of an answer of sock_diag tells of, for the fuzz target `kernel`.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn sockets_in(piece: &[u8]) -> usize {
    let mut entries = Vec::new();
    // Sockets before what makes no sense are told.
    let _ = sock_diag::read_piece(piece, Protocol::TCP.0, &mut entries);
    entries.len()
}

fn now() -> MonoTime {
    MonoTime::from_ns(clock_ns(libc::CLOCK_MONOTONIC))
}
