//! The words that the kernel side (`recorder-ebpf`) and the user side (`recorder`) have in common, spelled to the byte.
//!
//! Fixed-width integers only, padding has a name, sizes and offsets are asserted. All integers are in the machine's
//! byte order, except addresses, which are in network order. Nothing here says what the words are used for beyond
//! what both sides must agree on.
#![no_std]

use core::mem::{offset_of, size_of};

/// The bytes of an executable's path that the kernel side takes along, NUL bytes included.
pub const PATH_BYTES: usize = 1024;
/// The same of a cgroup's path.
pub const CGROUP_BYTES: usize = 1024;
/// The same of the arguments.
pub const ARGUMENTS_BYTES: usize = 4096;

/// A [`SocketEvent`] of this kind: this socket has this flow, seen in a packet of it.
pub const KIND_FLOW: u8 = 1;
/// A [`SocketEvent`] of this kind: a SYN of this flow reached this listening socket.
pub const KIND_LISTEN: u8 = 2;
/// A [`SocketEvent`] of this kind: this process uses this socket from `since_ns` on. A flow whose remote port is 0 says
/// nothing about flows.
pub const KIND_USE: u8 = 3;
/// A [`SocketEvent`] of this kind: the socket is closed; its flows are free.
pub const KIND_CLOSE: u8 = 4;
/// A [`SocketEvent`] flag at [`KIND_CLOSE`]: nothing that the socket sent is on its way any more.
pub const SOCKET_DRAINED: u16 = 1;
/// A [`SocketEvent`] flag at [`KIND_CLOSE`]: another process closes it than its user.
pub const SOCKET_CLOSED_BY_OTHER: u16 = 2;
/// A [`SocketEvent`] flag at [`KIND_USE`]: the call was connect, accept or getpeername, which moves no data.
pub const SOCKET_CONNECTS: u16 = 4;
/// Flag: the user began as it is by exec, not by a fork alone.
pub const SOCKET_USER_EXECUTED: u16 = 8;
/// The kind of a [`ProcessEvent`].
pub const KIND_PROCESS: u8 = 5;

/// A [`ProcessEvent`] flag: the process is the recorded command or one of its descendants.
pub const PROCESS_TRACKED: u8 = 1;
/// A [`ProcessEvent`] flag: the cgroup's path lacks its beginning.
pub const PROCESS_CGROUP_CUT: u8 = 2;
/// A [`ProcessEvent`] flag: the arguments lack their end.
pub const PROCESS_ARGUMENTS_CUT: u8 = 4;

/// Which process: its tgid in the upper half, a digest of start time and exec count in the lower, so that neither a
/// reused pid nor another program in the same process has the same id. One word, because it is read and written
/// without a lock. 0 is nobody.
pub const fn process_id(tgid: u32, start_boottime_ns: u64, exec_id: u32) -> u64 {
    let start = (start_boottime_ns ^ (start_boottime_ns >> 32)) as u32;
    // The multiplier spreads consecutive exec counts over the word (2^32 divided by the golden ratio).
    ((tgid as u64) << 32) | (start ^ exec_id.wrapping_mul(0x9E37_79B1)) as u64
}

/// An IPv6 address, or an IPv4 address in mapped form (::ffff:a.b.c.d): the 16 bytes in network order, held as two
/// words of the machine's order so that the kernel side moves and compares words.
pub type Address = [u64; 2];

/// The two words of an address given as bytes in network order.
pub const fn address_from_bytes(bytes: [u8; 16]) -> Address {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
}

/// The bytes of an address, in network order.
pub const fn address_to_bytes(address: Address) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h] = address[0].to_ne_bytes();
    let [i, j, k, l, m, n, o, p] = address[1].to_ne_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// What happened to a socket.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SocketEvent {
    /// One of the `KIND_` values.
    pub kind: u8,
    /// The IP protocol of the packet or the socket.
    pub protocol: u8,
    /// Local port, host order.
    pub local_port: u16,
    /// Remote port, host order.
    pub remote_port: u16,
    /// The `SOCKET_` flags.
    pub flags: u16,
    /// When, in nanoseconds of CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// Which socket: the kernel's cookie, never reused.
    pub cookie: u64,
    /// Its user (see [`process_id`]), or 0 if none is known.
    pub process: u64,
    /// Since when the user is its user, CLOCK_MONOTONIC.
    pub since_ns: u64,
    /// Before this time (CLOCK_MONOTONIC) the socket could not have received anything; 0 if it is not known.
    pub existed_ns: u64,
    /// When the user before this one last received from the socket, CLOCK_MONOTONIC; 0 if it never did.
    pub former_received_ns: u64,
    /// When the user's process began to be what it is (fork or exec), CLOCK_MONOTONIC; 0 if its use began with a connect or
    /// an accept.
    pub began_ns: u64,
    /// Local address.
    pub local: Address,
    /// Remote address.
    pub remote: Address,
    /// The inode number of the socket's network namespace, 0 if it is not known.
    pub netns: u32,
    /// The thread that uses it, 0 if several do.
    pub tid: u32,
    /// The process id of the user's parent, if its use began with a receive, in which it may have waited; else 0.
    pub parent_tgid: u32,
    /// TCP: the initial sequence number of the remote end, where it is known: at [`KIND_LISTEN`], and where the flow is whole. 0 if
    /// it is not known.
    pub remote_isn: u32,
}

/// A process that is about to use a socket for the first time.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ProcessEvent {
    /// [`KIND_PROCESS`].
    pub kind: u8,
    /// The `PROCESS_` flags.
    pub flags: u8,
    /// How many bytes of `path` are used.
    pub path_length: u16,
    /// The process id in the first pid namespace.
    pub tgid: u32,
    /// See [`process_id`].
    pub process: u64,
    /// When it started: nanoseconds since boot, suspend included.
    pub start_boottime_ns: u64,
    /// How often it and its ancestors called exec before (`self_exec_id`).
    pub exec_id: u32,
    /// The process id of its parent.
    pub parent_tgid: u32,
    /// Its real user id.
    pub uid: u32,
    /// How many bytes of `cgroup` are used.
    pub cgroup_length: u16,
    /// How many bytes of arguments follow in a [`ProcessEventWithArguments`]; 0 if they could not be read.
    pub arguments_length: u16,
    /// The name of the thread group's leader, NUL-terminated.
    pub comm: [u8; 16],
    /// The executable's path: its components from the last to the first, each with a NUL behind it.
    pub path: [u8; PATH_BYTES],
    /// The path of its cgroup (version 2) below the root of the host's tree, in the same way.
    pub cgroup: [u8; CGROUP_BYTES],
}

/// The same, where arguments are asked for.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ProcessEventWithArguments {
    /// The process.
    pub process: ProcessEvent,
    /// Its arguments as its memory holds them: each with a NUL behind it.
    pub arguments: [u8; ARGUMENTS_BYTES],
}

/// What the kernel side remembers of a socket. Lives in the socket's own storage, so it ends with it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Socket {
    /// The socket's cookie.
    pub cookie: u64,
    /// Its user; see [`process_id`].
    pub process: u64,
    /// Since when, CLOCK_MONOTONIC.
    pub since_ns: u64,
    /// When it was created or, later, bound; 0 if that was before we watched.
    pub existed_ns: u64,
    /// When its user last received from it, CLOCK_MONOTONIC; 0 for never.
    pub received_ns: u64,
    /// See [`SocketEvent::former_received_ns`].
    pub former_received_ns: u64,
    /// See [`SocketEvent::began_ns`].
    pub began_ns: u64,
    /// See [`SocketEvent::parent_tgid`].
    pub parent_tgid: u32,
    /// 1 if the user has called exec since it was forked, else 0; told as [`SOCKET_USER_EXECUTED`].
    pub executed: u32,
    /// A process that caused a packet without being the known user: believed once it is seen in a send call.
    pub suspect: u64,
    /// When it did so.
    pub suspect_ns: u64,
    /// The flow announced last: local address.
    pub local: Address,
    /// The flow announced last: remote address.
    pub remote: Address,
    /// The flow announced last: ports and protocol, as [`ports`] packs them.
    pub ports: u64,
    /// The inode number of its network namespace.
    pub netns: u32,
    /// The one thread that uses it, 0 if several do.
    pub tid: u32,
    /// The epoch in which the flow was announced; 0 for never.
    pub flow_epoch: u32,
    /// The epoch in which the user was announced; 0 for never.
    pub use_epoch: u32,
    /// `SOCK_STREAM` and so on.
    pub kind: u32,
    /// The IP protocol.
    pub protocol: u32,
}

/// Packs what tells flows of one socket apart besides addresses into one word.
pub const fn ports(protocol: u8, local_port: u16, remote_port: u16) -> u64 {
    ((protocol as u64) << 32) | ((local_port as u64) << 16) | remote_port as u64
}

/// Index in the control map: how many events found the ring full. Written by the kernel side.
pub const CONTROL_LOST: u32 = 0;
/// Index in the control map: the epoch. Written by user space, which raises it after a loss: everything is announced anew
/// when it is next used. Starts at 1; only the lower 32 bits count.
pub const CONTROL_EPOCH: u32 = 1;
/// How many words the control map has. One word each, so that neither side can overwrite what the other one counts.
pub const CONTROL_WORDS: usize = 2;

/// Where the fields are that the kernel does not promise: byte offsets read from the running kernel's BTF.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "each field is named after the kernel's struct and field")]
pub struct Offsets {
    pub task_group_leader: u32,
    pub task_start_boottime: u32,
    pub task_start_time: u32,
    pub task_self_exec_id: u32,
    pub task_flags: u32,
    pub task_tgid: u32,
    pub task_pid: u32,
    pub task_comm: u32,
    pub task_real_parent: u32,
    pub task_mm: u32,
    pub mm_exe_file: u32,
    pub file_path_mnt: u32,
    pub file_path_dentry: u32,
    pub dentry_parent: u32,
    pub dentry_name: u32,
    pub mount_parent: u32,
    pub mount_mountpoint: u32,
    pub mount_mnt: u32,
    pub vfsmount_root: u32,
    pub task_fs: u32,
    pub mm_arg_start: u32,
    pub mm_arg_end: u32,
    pub task_cgroups: u32,
    pub css_set_dfl_cgrp: u32,
    pub cgroup_kn: u32,
    pub kernfs_node_name: u32,
    pub kernfs_node_parent: u32,
    pub fs_root_mnt: u32,
    pub fs_root_dentry: u32,
    pub sock_family: u32,
    pub sock_protocol: u32,
    pub sock_type: u32,
    pub sock_wmem_alloc: u32,
    pub sock_num: u32,
    pub sock_dport: u32,
    pub sock_rcv_saddr: u32,
    pub sock_daddr: u32,
    pub sock_v6_rcv_saddr: u32,
    pub sock_v6_daddr: u32,
    pub sock_net: u32,
    pub sock_cookie: u32,
    pub tcp_rcv_nxt: u32,
    pub tcp_bytes_received: u32,
    pub socket_sk: u32,
    pub net_inum: u32,
}

const _: () = assert!(size_of::<SocketEvent>() == 112);
const _: () = assert!(offset_of!(SocketEvent, at_ns) == 8);
const _: () = assert!(offset_of!(SocketEvent, local) == 64);
const _: () = assert!(offset_of!(SocketEvent, tid) == 100);
const _: () = assert!(size_of::<ProcessEvent>() == 56 + PATH_BYTES + CGROUP_BYTES);
const _: () = assert!(offset_of!(ProcessEvent, process) == 8);
const _: () = assert!(offset_of!(ProcessEvent, comm) == 40);
const _: () = assert!(offset_of!(ProcessEvent, path) == 56);
const _: () = assert!(offset_of!(ProcessEvent, cgroup) == 56 + PATH_BYTES);
const _: () = assert!(offset_of!(ProcessEventWithArguments, arguments) == size_of::<ProcessEvent>());
const _: () = assert!(size_of::<Socket>() == 144);
const _: () = assert!(size_of::<Offsets>() == 45 * 4);
