//! Which processes have a socket open, and what is known of them: /proc/PID/fd and its neighbours (proc(5)).
//!
//! Processes come and go meanwhile: what is gone is left out. All of a process is read through one descriptor of its
//! folder, so that a reused pid cannot mix two processes.

use std::io::{self, Read};

use foldhash::{HashMap, HashMapExt, HashSet};
use procfs::ProcError;
use procfs::process::{Process, Stat};
use recorder_shared::process_id;
use rustix::fs::{Dir, OFlags, readlinkat_raw};

use super::ScanError;
use crate::attribution::event::{Holder, ProcessId, ProcessNews};

/// `PF_KTHREAD` of include/linux/sched.h: a kernel thread has no descriptors.
const PF_KTHREAD: u32 = 0x0020_0000;
/// Longer than any `socket:[N]`.
const LINK_BYTES: usize = 32;

/// Looks for holders, and remembers them so that each is described once.
#[derive(Debug, Default)]
pub(super) struct Holders {
    /// By pid.
    known: HashMap<i32, Known>,
}

/// A process that held a socket.
#[derive(Debug)]
struct Known {
    start_ticks: u64,
    /// How many programs it has been seen to run before this one.
    programs: u32,
    comm: Vec<u8>,
    path: Vec<u8>,
    /// Page faults of its children that have ended: they change when one more has.
    faults_of_children: u64,
    id: ProcessId,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By inode; a socket that nobody holds is not there.
    pub(super) holders: HashMap<u32, Holder>,
    /// Those that were not known before.
    pub(super) processes: Vec<ProcessNews>,
    /// How many processes could not be looked into.
    pub(super) unreadable: usize,
}

impl Holders {
    /// Finds who holds these sockets. A process that cannot be looked into may share what its relatives hold. With
    /// `in_between`, one whose child has ended since the last call may have lent its sockets to that child.
    pub(super) fn find(&mut self, wanted: &HashSet<u32>, in_between: bool) -> Result<Found, ScanError> {
        let mut found = Found::default();
        let mut seen = HashMap::new();
        let (mut holding, mut unreadable) = (Vec::new(), Vec::new());
        for process in procfs::process::all_processes().map_err(|error| ScanError::Processes(to_io(error)))? {
            let Ok(process) = process else { continue };
            match sockets_of(&process, wanted) {
                Ok(inodes) if inodes.is_empty() => {}
                Ok(inodes) => {
                    let Some((known, is_lent)) = self.identify(&process, &mut found.processes) else {
                        continue;
                    };
                    let holder = if is_lent && in_between { Holder::Unclear } else { Holder::One(known.id) };
                    seen.insert(process.pid, known);
                    holding.push((process.pid, holder, inodes));
                }
                Err(error) if is_denied(&error) && has_descriptors(&process) => unreadable.push(process.pid),
                Err(_) => {}
            }
        }
        found.unreadable = unreadable.len();
        let strangers = Strangers::new(unreadable);
        for (pid, holder, inodes) in holding {
            let holder = if strangers.may_share_with(pid) { Holder::Unclear } else { holder };
            inodes.into_iter().for_each(|inode| found.add(inode, holder));
        }
        self.known = seen;
        Ok(found)
    }

    /// The process, and whether a child of it has ended since it was seen last. None if it is gone.
    fn identify(&mut self, process: &Process, news: &mut Vec<ProcessNews>) -> Option<(Known, bool)> {
        let stat = process.stat().ok()?;
        let comm = comm(process)?;
        let path = path(process);
        let faults_of_children = stat.cminflt + stat.cmajflt;
        let known = self.known.remove(&process.pid).filter(|known| known.start_ticks == stat.starttime);
        let programs = match known {
            Some(known) if known.comm == comm && known.path == path => {
                let is_lent = known.faults_of_children != faults_of_children;
                return Some((Known { faults_of_children, ..known }, is_lent));
            }
            Some(known) => known.programs + 1,
            None => 0,
        };
        let start_boottime_ns = stat.starttime * crate::attribution::identities::TICK_NS;
        let pid = u32::try_from(process.pid).ok()?;
        let id = ProcessId(process_id(pid, start_boottime_ns, programs));
        let known = Known { start_ticks: stat.starttime, programs, comm, path, faults_of_children, id };
        news.push(describe(process, &stat, &known, start_boottime_ns)?);
        Some((known, false))
    }
}

impl Found {
    fn add(&mut self, inode: u32, holder: Holder) {
        let known = self.holders.entry(inode).or_insert(holder);
        if *known != holder {
            *known = Holder::Unclear;
        }
    }
}

/// Processes that cannot be looked into. Sockets are shared by fork: what such a process has, its parents may have, and its
/// children. The first process is everybody's ancestor in the end; only what it has started itself counts.
struct Strangers {
    /// With their ancestors.
    families: Vec<(i32, Vec<i32>)>,
    /// Not even all processes are shown (mount option hidepid=2); the first one is always there.
    are_hidden: bool,
}

impl Strangers {
    fn new(unreadable: Vec<i32>) -> Self {
        let families = unreadable.into_iter().map(|pid| (pid, ancestors(pid))).collect();
        Self { families, are_hidden: Process::new(1).is_err() }
    }

    fn may_share_with(&self, pid: i32) -> bool {
        if self.families.is_empty() {
            return self.are_hidden;
        }
        let own = ancestors(pid);
        let is_related =
            |(stranger, ancestors): &(i32, Vec<i32>)| own.contains(stranger) || ancestors.contains(&pid);
        self.are_hidden || self.families.iter().any(is_related)
    }
}

/// Parent, its parent and so on, without the first process unless that is the parent.
fn ancestors(pid: i32) -> Vec<i32> {
    let parent_of = |pid| Process::new(pid).and_then(|process| process.stat()).map_or(0, |stat| stat.ppid);
    let parent = parent_of(pid);
    let further = std::iter::successors(Some(parent), |pid| Some(parent_of(*pid))).take_while(|pid| *pid > 1);
    // Longer than any line of descent, for the case that pids are reused meanwhile.
    [parent].into_iter().chain(further.skip(1).take(64)).collect()
}

/// The wanted sockets among the descriptors of a process.
fn sockets_of(process: &Process, wanted: &HashSet<u32>) -> io::Result<Vec<u32>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut folder = Dir::new(process.open_relative_flags("fd", flags).map_err(to_io)?)?;
    let mut inodes = Vec::new();
    let mut link = [0; LINK_BYTES];
    while let Some(entry) = folder.read() {
        let entry = entry?;
        if !entry.file_name().to_bytes().first().is_some_and(u8::is_ascii_digit) {
            continue;
        }
        match readlinkat_raw(folder.fd()?, entry.file_name(), &mut link[..]) {
            Ok(length) => {
                let inode = link.get(..length).and_then(socket_inode);
                inodes.extend(inode.filter(|inode| wanted.contains(inode)));
            }
            // Closed by now.
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    inodes.sort_unstable();
    inodes.dedup();
    Ok(inodes)
}

/// The number in `socket:[N]`.
fn socket_inode(link: &[u8]) -> Option<u32> {
    let digits = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn is_denied(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// Kernel threads and processes that have ended have no descriptors, and may not be looked into either.
fn has_descriptors(process: &Process) -> bool {
    process.stat().is_ok_and(|stat| stat.flags & PF_KTHREAD == 0 && !matches!(stat.state, 'Z' | 'X'))
}

/// The name of the thread group's leader, as bytes. None if the process is gone.
fn comm(process: &Process) -> Option<Vec<u8>> {
    let mut name = bytes_of(process, "comm")?;
    name.pop_if(|last| *last == b'\n');
    Some(name)
}

/// A file of a process as bytes: it chooses its name and its cgroups', which need not be text. None if it is gone.
fn bytes_of(process: &Process, file: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    process.open_relative(file).ok()?.read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The real user id in /proc/PID/status. The kernel escapes line breaks in the name, which stands before it.
fn real_uid(status: &[u8]) -> Option<u32> {
    let ids = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:"))?;
    std::str::from_utf8(ids).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

/// The path of the cgroup of version 2 in /proc/PID/cgroup; empty if there is none.
fn unified_cgroup(cgroups: &[u8]) -> Vec<u8> {
    let path = cgroups.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"));
    path.unwrap_or_default().to_vec()
}

/// The path of the executable; empty if it cannot be read.
fn path(process: &Process) -> Vec<u8> {
    let path = process.exe().unwrap_or_default().into_os_string().into_encoded_bytes();
    // What the kernel appends where the file is no more; the kernel side does not see it.
    path.strip_suffix(b" (deleted)").map(<[u8]>::to_vec).unwrap_or(path)
}

fn describe(process: &Process, stat: &Stat, known: &Known, start_boottime_ns: u64) -> Option<ProcessNews> {
    Some(ProcessNews {
        id: known.id,
        pid: u32::try_from(process.pid).ok()?,
        start_boottime_ns,
        exec_id: known.programs,
        parent_pid: u32::try_from(stat.ppid).ok()?,
        uid: real_uid(&bytes_of(process, "status")?)?,
        cgroup: unified_cgroup(&bytes_of(process, "cgroup").unwrap_or_default()),
        older_cgroups: Vec::new(),
        comm: known.comm.clone(),
        path: known.path.clone(),
        arguments: None,
        tracked: false,
    })
}

fn to_io(error: ProcError) -> io::Error {
    match error {
        ProcError::PermissionDenied(_) => io::ErrorKind::PermissionDenied.into(),
        ProcError::NotFound(_) => io::ErrorKind::NotFound.into(),
        ProcError::Io(error, _) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_link_of_a_socket_is_one() {
        assert_eq!(socket_inode(b"socket:[4711]"), Some(4711));
        for link in
            [&b"pipe:[4711]"[..], b"socket:[]", b"socket:[4711", b"/tmp/socket:[1]", b"socket:[99999999999]"]
        {
            assert_eq!(socket_inode(link), None);
        }
    }

    #[test]
    fn what_stands_behind_a_name_that_is_no_text_is_read_all_the_same() {
        let status =
            b"Name:\t\xff\xfe:\\nUid:\t0\nUmask:\t0022\nPid:\t7\nUid:\t1000\t1001\t1002\t1003\nGid:\t5\n";
        assert_eq!(real_uid(status), Some(1000));
        assert_eq!(real_uid(b"Name:\tcat\n"), None);
        let cgroups = b"12:pids:/old\n1:name=systemd:/a\n0::/user.slice/\xff\n";
        assert_eq!(unified_cgroup(cgroups), b"/user.slice/\xff");
        assert_eq!(unified_cgroup(b"1:cpu:/a\n"), b"");
    }

    #[test]
    fn a_socket_that_two_processes_hold_has_no_one_holder() {
        let mut found = Found::default();
        let (one, other) = (Holder::One(ProcessId(1)), Holder::One(ProcessId(2)));
        found.add(7, one);
        found.add(7, one);
        assert_eq!(found.holders[&7], one);
        found.add(7, other);
        found.add(7, one);
        assert_eq!(found.holders[&7], Holder::Unclear);
    }
}
