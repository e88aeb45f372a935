//! A bare Debian 12 in a folder: made by debootstrap from the mirror that this machine uses, and run by chroot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use recorder_tests::apt;
use recorder_tests::lab::say;
use recorder_tests::namespace::Namespace;
use recorder_tests::process::must;

const RELEASE: &str = "bookworm";
/// What a package manager writes down when it does anything at all, and what is not part of the system.
const NOT_COMPARED: [&str; 9] =
    ["proc", "sys", "dev", "run", "tmp", "home", "var/cache", "var/log", "var/lib/apt"];

/// The system that all runs begin with. What was made before is used again; deleting the folder has it made anew.
pub(crate) fn bare(folder: &Path) -> PathBuf {
    let bare = folder.join("bare");
    if bare.is_dir() {
        return bare;
    }
    say(&format!("package: making a bare Debian ({RELEASE})"));
    fs::create_dir_all(folder).unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
    // Under another name until it is whole.
    let partly = folder.join("bare.partly");
    // It may not be there.
    let _ = fs::remove_dir_all(&partly);
    // It mounts /proc in there; if it is killed, that must not outlive it.
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "debootstrap", "--variant=minbase"]);
    command.arg(format!("--keyring={}", apt::KEYRING)).arg(RELEASE).arg(&partly).arg(apt::site(RELEASE));
    // Without a deadline: how long it takes is up to the mirror.
    let output = command.output().expect("cannot start unshare");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "debootstrap: {}\n{said}", output.status);
    fetch_as_this_machine(&partly);
    must(Command::new("chroot").arg(&partly).args(["apt-get", "-q", "update"]));
    fs::rename(&partly, &bare).expect("cannot rename a folder");
    bare
}

/// Names are resolved, and packages fetched, as on this machine: through its proxy, if it has one.
fn fetch_as_this_machine(root: &Path) {
    for file in ["etc/resolv.conf", "etc/hosts"] {
        fs::copy(Path::new("/").join(file), root.join(file)).expect("cannot copy a file of /etc");
    }
    let options = must(Command::new("apt-config").args(["dump", "Acquire"])).stdout;
    fs::write(root.join("etc/apt/apt.conf.d/90as-outside"), options).expect("cannot write apt's options");
}

/// A copy, with owners and modes.
pub(crate) fn copy(bare: &Path, root: &Path) {
    must(Command::new("cp").arg("--archive").arg(bare).arg(root));
}

/// The system, with what the kernel shows mounted in it: only in this mount namespace, and so only as long as this process.
pub(crate) struct System {
    root: PathBuf,
}

impl System {
    pub(crate) fn mount(root: &Path) -> Self {
        must(Command::new("mount").args(["-t", "proc", "proc"]).arg(root.join("proc")));
        must(Command::new("mount").args(["--rbind", "/sys"]).arg(root.join("sys")));
        must(Command::new("mount").args(["--rbind", "/dev"]).arg(root.join("dev")));
        Self { root: root.to_path_buf() }
    }

    /// A path of the system, from outside.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside.trim_start_matches('/'))
    }

    /// Runs a program in it as root, which must succeed; gives what it prints.
    pub(crate) fn must(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("chroot");
        command.arg(&self.root).args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        must(&mut command).stdout
    }

    /// A program in it, run by this user with all of the user's groups, in this network namespace. Not by setpriv: that keeps
    /// root's capabilities up to the moment in which it is decided whether the user may run the program.
    pub(crate) fn command(&self, namespace: &Namespace, user: &str, arguments: &[&str]) -> Command {
        let mut command = namespace.command("chroot");
        command.arg(format!("--userspec={user}:{user}")).arg(&self.root).args(arguments);
        command.env("HOME", format!("/home/{user}"));
        command
    }

    /// All that is in it: each path with its kind, mode and owner.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut command = Command::new("find");
        command.arg(&self.root).args(["-xdev", "-mindepth", "1"]);
        for path in NOT_COMPARED {
            command.arg("-path").arg(self.root.join(path)).args(["-prune", "-o"]);
        }
        command.args(["-printf", "%P %y %m %U:%G\\n"]);
        let mut files: Vec<String> = must(&mut command).stdout.lines().map(str::to_string).collect();
        files.sort();
        files
    }
}
