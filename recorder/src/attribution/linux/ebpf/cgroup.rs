//! The root of the cgroup tree (version 2): what the programs are attached to.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use procfs::process::Process;

use super::sys;

/// The root of the cgroup2 tree, opened.
///
/// Looks into the mount table first: it may be at /sys/fs/cgroup, at /sys/fs/cgroup/unified, or elsewhere. Where it is
/// not mounted at all it is opened without mounting it anywhere, so nothing is left behind.
pub(super) fn open_root() -> io::Result<OwnedFd> {
    if let Some(mount_point) = mount_point() {
        return Ok(File::open(mount_point)?.into());
    }
    sys::open_unmounted("cgroup2")
}

/// Where the whole cgroup2 tree is mounted, if it is.
fn mount_point() -> Option<PathBuf> {
    let mounts = Process::myself().and_then(|myself| myself.mountinfo()).ok()?;
    // A mount of a part of the tree (root other than "/") would miss the processes outside that part.
    mounts
        .into_iter()
        .find(|mount| mount.fs_type == "cgroup2" && mount.root == "/")
        .map(|mount| mount.mount_point)
}
