//! What the kernel side tells, and what was seen in the kernel's tables, as plain values. The join takes nothing else.

use crate::model::{CommandLine, Flow, Found, MonoTime, ProcessKey};

/// A socket, as the kernel names it: unique until reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cookie(pub u64);

/// A network namespace, by the inode number that /proc/PID/ns/net shows; 0 if it is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetNs(pub u32);

/// A process, by the word that the kernel side gives it (`recorder_shared::process_id`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId(pub u64);

impl ProcessId {
    /// Its pid on the host.
    pub const fn pid(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Who uses a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The process.
    pub process: ProcessId,
    /// The thread; 0 where several do.
    pub tid: u32,
    /// Since when it is the user, without a break.
    pub since: MonoTime,
    /// How the socket came to it from another user; none where there was none, or that is not known.
    pub handover: Option<Handover>,
}

/// What is known of the time between two users of a socket. Hooks tell of a receive when it returns, so that the later one
/// may have waited in it when a packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handover {
    /// When the former user last received from the socket; boot if it never did.
    pub former_received: MonoTime,
    /// When the later user was forked or called exec, if that was looked up.
    pub began: Option<MonoTime>,
    /// Whether it began by exec, as a program that has to be linked first, and not by a fork alone.
    pub executed: bool,
    /// The process id of its parent, if its use began with a receive, in which it may have waited.
    pub parent_pid: Option<u32>,
}

/// What happened to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// A packet of this flow was sent or received by the socket.
    HasFlow,
    /// A SYN of this flow reached the socket, which listens.
    IsOpened,
    /// The user is seen using it. The flow is the socket's own; its remote port is 0 where it has none.
    IsUsed,
    /// It is closed for good.
    IsClosed,
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketNews {
    /// What happened.
    pub happening: Happening,
    /// When.
    pub at: MonoTime,
    /// To which socket.
    pub cookie: Cookie,
    /// In which network namespace.
    pub netns: NetNs,
    /// The flow, seen from the socket.
    pub flow: Flow,
    /// Who uses the socket, if it is known.
    pub user: Option<User>,
    /// Before this time nothing could reach the socket; boot if it is not known.
    pub existed: MonoTime,
    /// TCP: the initial sequence number of the remote end, at an opening and where the flow has a remote end. A SYN and the
    /// socket that came of it have it in common. 0 if it is not known (MPTCP).
    pub remote_isn: u32,
    /// The socket is connected, or was accepted: no data was moved.
    pub connects: bool,
    /// The socket is closed, and nothing that it sent is on its way any more.
    pub drained: bool,
    /// The socket is closed, and by another process than its user.
    pub closed_by_other: bool,
}

impl SocketNews {
    /// Whether it tells of data that was sent or received.
    pub fn moves_data(&self) -> bool {
        self.happening == Happening::IsUsed && !self.connects
    }
}

/// A process that uses sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessNews {
    /// The word by which sockets refer to it.
    pub id: ProcessId,
    /// Its pid on the host.
    pub pid: u32,
    /// When it started: nanoseconds since boot, suspend included.
    pub start_boottime_ns: u64,
    /// How often it and its ancestors had called exec.
    pub exec_id: u32,
    /// Its parent's pid.
    pub parent_pid: u32,
    /// Its real user id.
    pub uid: u32,
    /// The path of its cgroup (version 2) from the root of the host's tree; without a slash before it if its beginning is
    /// missing, empty if it could not be read.
    pub cgroup: Vec<u8>,
    /// Its cgroups of version 1, where there are any and that of version 2 leaves its container or unit open.
    pub older_cgroups: Vec<OlderCgroup>,
    /// The name of its thread group's leader: at most 15 bytes.
    pub comm: Vec<u8>,
    /// The path of its executable, empty if it could not be read.
    pub path: Vec<u8>,
    /// Its arguments, where they were asked for and could be read.
    pub arguments: Option<CommandLine>,
    /// Whether it is the recorded command or a descendant of it.
    pub tracked: bool,
}

impl ProcessNews {
    /// What makes it that process.
    pub const fn key(&self) -> ProcessKey {
        ProcessKey { pid: self.pid, start_boottime_ns: self.start_boottime_ns, exec_id: self.exec_id }
    }
}

/// A cgroup of version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OlderCgroup {
    /// Whether it is in the hierarchy that systemd keeps for itself.
    pub is_systemd: bool,
    /// Its path.
    pub path: String,
}

/// Who has a socket open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// No process: the kernel's own, or in a message between two processes.
    Nobody,
    /// One process.
    One(ProcessId),
    /// Several, or it cannot be told how many.
    Unclear,
}

/// The packets that a socket without a remote end can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// IPv4 ones.
    pub v4: bool,
    /// IPv6 ones.
    pub v6: bool,
    /// Only those of one device, whichever that is.
    pub one_device: bool,
}

/// A socket that was seen in the kernel's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Which socket.
    pub cookie: Cookie,
    /// In which network namespace.
    pub netns: NetNs,
    /// The flow, seen from the socket; its remote port is 0 where it has no remote end.
    pub flow: Flow,
    /// What reaches it, if it has no remote end.
    pub reach: Reach,
    /// Who has it open.
    pub holder: Holder,
}

/// One look at the sockets of all network namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// When it began: what was seen was not seen before this time.
    pub began: MonoTime,
    /// When it ended: what was seen was seen before this time.
    pub ended: MonoTime,
    /// `Found::Snapshot`: one look, while the kernel side tells what changes. `Found::Procfs`: one of many, and nobody
    /// tells what happens between them.
    pub found: Found,
    /// The holders, as far as they were not told by an earlier scan.
    pub processes: Vec<ProcessNews>,
    /// What was seen.
    pub sockets: Vec<Sighting>,
}

/// What the kernel side tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// About a socket.
    Socket(SocketNews),
    /// About a process; comes before the first event of a socket that it uses.
    Process(ProcessNews),
}
