//! Disks of our own that can be filled, frozen and broken, each in a mount namespace that nobody else sees.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::process::{Running, must};
use crate::recorder::binary;

/// A file system. Dropped, it is gone.
pub struct Disk {
    /// Keeps the mount namespace.
    holder: Running,
    /// Where it is mounted there.
    folder: PathBuf,
}

impl Disk {
    /// Of so many KiB, in memory.
    pub fn in_memory(lab: &Lab, kib: u32) -> Self {
        Self::mounted(lab, &format!("mount -t tmpfs -o size={kib}k none \"$0\""))
    }

    /// In memory, on which there can be so many files and folders, its root among them.
    pub fn of_files(lab: &Lab, files: u32) -> Self {
        Self::mounted(lab, &format!("mount -t tmpfs -o size=100m,nr_inodes={files} none \"$0\""))
    }

    /// ext4 in a file of the lab, which becomes read-only at its first error.
    pub fn ext4(lab: &Lab) -> Self {
        let make =
            "truncate -s 64M image && mkfs.ext4 -q image && mount -o loop,errors=remount-ro image \"$0\"";
        Self::mounted(lab, make)
    }

    /// btrfs in a file of the lab, with a folder in which there may be so many KiB.
    pub fn with_quota(lab: &Lab, kib: u32) -> Self {
        let make = format!(
            "truncate -s 200M image && mkfs.btrfs -q image && mount -o loop image \"$0\" && btrfs -q quota enable \"$0\" \
             && btrfs -q subvolume create \"$0/user\" && btrfs -q qgroup limit {kib}K \"$0/user\""
        );
        Self::mounted(lab, &make)
    }

    fn mounted(lab: &Lab, how: &str) -> Self {
        let folder = lab.path("disk");
        fs::create_dir(&folder).expect("cannot make a folder");
        let script = format!("cd \"$1\" && {{ {how}; }} >&2 && echo mounted && exec sleep infinity");
        let mut command = Command::new("unshare");
        // It goes with us, however we end.
        command.args(["--mount", "--propagation", "private", "setpriv", "--pdeathsig", "KILL"]);
        let holder = Running::start(command.args(["sh", "-c", &script]).arg(&folder).arg(lab.path("")));
        holder.wait_for_stdout("that it is mounted", |line| line == "mounted");
        Self { holder, folder }
    }

    /// A path on it, for those who are in its mount namespace.
    pub fn text(&self, name: &str) -> String {
        self.folder.join(name).to_str().expect("our paths are UTF-8").to_string()
    }

    /// The same for everybody.
    pub fn path(&self, name: &str) -> PathBuf {
        let folder = self.folder.strip_prefix("/").expect("our paths are absolute");
        Path::new("/proc").join(self.holder.pid().to_string()).join("root").join(folder).join(name)
    }

    /// Runs a script where it is mounted.
    pub fn shell(&self, script: &str) {
        must(self.inside(&mut Command::new("nsenter")).args(["sh", "-c", script]).arg(&self.folder));
    }

    /// `recorder record ARGUMENTS` in this network namespace, with the disk in sight.
    pub fn record(&self, namespace: &Namespace, arguments: &[&str]) -> Command {
        let mut command = namespace.command("nsenter");
        self.inside(&mut command).arg(binary()).arg("record").args(arguments);
        command
    }

    fn inside<'a>(&self, nsenter: &'a mut Command) -> &'a mut Command {
        nsenter.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.pid()))
    }

    /// From now on whoever writes to it waits.
    pub fn freeze(&self) {
        self.shell("fsfreeze --freeze \"$0\"");
    }

    /// They go on.
    pub fn thaw(&self) {
        self.shell("fsfreeze --unfreeze \"$0\"");
    }

    /// Has ext4 find an error in itself, as a failing disk makes it.
    pub fn fail(&self) {
        self.shell(
            "echo 1 > \"/sys/fs/ext4/$(basename \"$(findmnt -n -o SOURCE \"$0\")\")/trigger_fs_error\"",
        );
    }
}
