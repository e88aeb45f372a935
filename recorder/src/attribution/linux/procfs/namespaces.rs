//! Which network namespaces there are, and a look into each that leaves nothing behind.
//!
//! A namespace is entered by a thread of its own, for the moment in which it opens the netlink socket: so whatever goes wrong,
//! no other part of the recorder finds itself in another namespace. The sockets are closed after the scan, since they keep
//! their namespace alive.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use foldhash::{HashMap, HashMapExt};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::ScanError;
use super::sock_diag::SockDiag;
use crate::attribution::event::NetNs;
use crate::attribution::linux::own_netns;

/// A way to ask about the sockets of each network namespace that holds a process; and how many could not be entered.
pub(super) fn open_all() -> Result<(Vec<(NetNs, SockDiag)>, usize), ScanError> {
    let own = own_netns();
    let mut opened = vec![(own, SockDiag::open().map_err(ScanError::Netlink)?)];
    let others: Vec<_> = find()?.into_iter().filter(|(netns, _)| *netns != own).collect();
    if others.is_empty() {
        return Ok((opened, 0));
    }
    let enter_all = || others.iter().map(|(netns, path)| (*netns, enter(path))).collect::<Vec<_>>();
    let entered = thread::scope(|scope| {
        let entering = thread::Builder::new().spawn_scoped(scope, enter_all)?;
        entering.join().map_err(|_| io::Error::other("the thread that enters network namespaces has died"))
    });
    let mut closed = 0;
    for (netns, result) in entered.map_err(ScanError::Netlink)? {
        match result {
            Ok(sock_diag) => opened.push((netns, sock_diag)),
            // Others are gone by now.
            Err(error) => closed += usize::from(error.kind() == io::ErrorKind::PermissionDenied),
        }
    }
    Ok((opened, closed))
}

/// Opens the netlink socket in a namespace; stays there.
fn enter(path: &Path) -> io::Result<SockDiag> {
    let namespace = File::open(path)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    SockDiag::open()
}

/// The network namespaces of all processes, each with a file that stands for it.
fn find() -> Result<HashMap<NetNs, PathBuf>, ScanError> {
    let mut found = HashMap::new();
    for entry in fs::read_dir("/proc").map_err(ScanError::Processes)?.flatten() {
        let is_process = entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit);
        let path = entry.path().join("ns/net");
        // A process that is gone by now, or may not be looked into, shows none.
        if is_process && let Ok(metadata) = fs::metadata(&path) {
            found.entry(NetNs(u32::try_from(metadata.ino()).unwrap_or(0))).or_insert(path);
        }
    }
    Ok(found)
}
