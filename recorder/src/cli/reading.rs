//! What a command that reads a file from a stranger may still do, before the first byte of it is read: read that file, write what was
//! asked for, look up names in /etc.

use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};

use super::record::compression_by_name;
use crate::output;
use crate::pipeline::{Invoker, folder};
use crate::sandbox::{self, Needs, Role};

/// Names of users, services and protocols, and the local time; of the C library, all of them.
const NAMES: [&str; 2] = ["/etc", "/usr/share/zoneinfo"];

/// Gives up all but reading these files and writing that one; `-` is a standard stream. What the kernel cannot take away stays: it
/// is told by `recorder doctor`.
pub(super) fn begin(files: &[&Path], written: Option<&Path>) {
    // Modules that know users of other kinds are code, which cannot be loaded later.
    let _ = User::from_uid(Uid::from_raw(u32::MAX - 1));
    if written.and_then(compression_by_name).is_some() {
        output::count_cores();
        sandbox::apart(&Needs::of(Role::Compress), output::start_workers);
    }
    let files = files.iter().filter(|file| **file != Path::new("-"));
    let read = files.map(|file| file.to_path_buf()).chain(NAMES.map(PathBuf::from)).collect();
    let write_in = written.and_then(folder).into_iter().collect();
    let invoker = Invoker::from_sudo().map(sandbox::User::from);
    sandbox::restrict(&Needs { read, write_in, invoker, ..Needs::of(Role::Read) });
}
