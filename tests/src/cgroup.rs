//! Cgroups of our own, so that a test can say where its programs are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::namespace::Namespace;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// After this long, a cgroup that no process is in any more does not get free.
const DEADLINE: Duration = Duration::from_secs(20);

/// The cgroups of one path, the last of which programs can be put into. Dropped, they are removed.
pub struct Cgroup {
    mount: PathBuf,
    /// From the root of the tree, with a slash before it.
    path: String,
}

impl Cgroup {
    /// New cgroups of version 2: these, one within the other, below one whose name is only ours.
    pub fn new(inner: &str) -> Self {
        let mount = mounts("cgroup2").into_iter().next().expect("cgroup2 is mounted");
        Self::below(mount, inner)
    }

    /// The same in some hierarchy of version 1; none where there is none.
    pub fn version_1(inner: &str) -> Option<Self> {
        // cpuset lets no process in before it has processors and memory.
        let takes_all = |mount: &PathBuf| !mount.ends_with("cpuset");
        Some(Self::below(mounts("cgroup").into_iter().find(takes_all)?, inner))
    }

    fn below(mount: PathBuf, inner: &str) -> Self {
        sweep(&mount);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = format!("/recorder-{}-{number}/{inner}", std::process::id());
        let cgroup = Self { mount, path };
        let folder = cgroup.folder();
        fs::create_dir_all(&folder)
            .unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
        cgroup
    }

    /// Its path from the root of the tree.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A command that runs in this cgroup and this namespace, from before its program begins.
    pub fn command(&self, namespace: &Namespace, program: &str) -> Command {
        let mut command = namespace.command("sh");
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        command.arg(self.folder().join("cgroup.procs")).arg(program);
        command
    }

    /// Removes it, once no process is in it.
    pub fn remove(self) {
        let start = Instant::now();
        while !remove(&self.mount, &self.path) {
            assert!(start.elapsed() < DEADLINE, "{} does not get free", self.folder().display());
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn folder(&self) -> PathBuf {
        self.mount.join(self.path.trim_start_matches('/'))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // All that can be done here, also on the way out of a panic.
        remove(&self.mount, &self.path);
    }
}

/// Removes the cgroups of this path, from the last to the first. Whether they are gone.
fn remove(mount: &Path, path: &str) -> bool {
    let mut rest = Path::new(path.trim_start_matches('/'));
    while !rest.as_os_str().is_empty() {
        // A cgroup that is gone already is gone.
        if fs::remove_dir(mount.join(rest)).is_err() && mount.join(rest).exists() {
            return false;
        }
        rest = rest.parent().unwrap_or_else(|| Path::new(""));
    }
    true
}

/// Removes what test programs left behind that were killed.
fn sweep(mount: &Path) {
    let Ok(folder) = fs::read_dir(mount) else { return };
    for name in folder.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let pid = name.strip_prefix("recorder-").and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove_tree(&mount.join(name));
        }
    }
}

fn remove_tree(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path());
        }
    }
    // Another test program may be sweeping too.
    let _ = fs::remove_dir(folder);
}

/// Where file systems of this type are mounted whole.
fn mounts(file_system: &str) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    // proc_pid_mountinfo(5): (4) root, (5) mount point, ... a dash, type.
    let mounted = |line: &str| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let is_whole = fields.next() == Some("/") && kind.split(' ').next() == Some(file_system);
        fields.next().filter(|_| is_whole).map(PathBuf::from)
    };
    table.lines().filter_map(mounted).collect()
}
