//! The Debian package on a bare Debian 12: it installs, members of its group record without root, nobody else runs it, and
//! removing it leaves nothing.
//!
//! The same binary runs twice: first it makes the system, then, in a mount namespace of its own, it does the rest; so what is
//! mounted there is gone with it before anything is deleted.
#![expect(clippy::expect_used, reason = "what cannot be set up cannot be judged")]
#![expect(clippy::panic, reason = "the same")]

mod story;
mod system;

use std::path::{Path, PathBuf};
use std::process::Command;

use recorder_tests::lab::{machine_allows, say};
use tempfile::TempDir;

const USAGE: &str = "usage: package FILE.deb";
/// The programs that a run needs.
const TOOLS: [&str; 8] = ["debootstrap", "apt-get", "chroot", "unshare", "mount", "ip", "tshark", "find"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [deb] if !machine_allows(&TOOLS) => say(&format!("package: {deb} was not tried")),
        [deb] => outside(Path::new(deb)),
        [inside, root] if inside == "inside" => story::tell(Path::new(root)),
        _ => {
            eprintln!("{USAGE}");
            std::process::exit(2);
        }
    }
}

fn outside(deb: &Path) {
    let folder = folder();
    let bare = system::bare(&folder);
    let here = TempDir::with_prefix_in("run-", &folder).expect("cannot make a folder");
    let root = here.path().join("root");
    system::copy(&bare, &root);
    std::fs::copy(deb, root.join("recorder.deb"))
        .unwrap_or_else(|error| panic!("cannot copy {}: {error}; run `make deb`", deb.display()));
    let own = std::env::current_exe().expect("this program has a path");
    // Not through pipes: what is told is told at once.
    let mut inside = Command::new("unshare");
    inside.args(["--mount", "--propagation", "private"]).arg(own).arg("inside").arg(&root);
    let status = inside.status().expect("cannot start unshare");
    drop(here);
    assert!(status.success(), "the package is not as expected: {status}");
    say("package: all as expected");
}

/// Where the bare system is kept: beside what cargo has built.
fn folder() -> PathBuf {
    let own = std::env::current_exe().expect("this program has a path");
    let target = own.ancestors().nth(2).expect("this program is in target/PROFILE");
    target.join("package-test")
}
