//! What is kept of a socket, and what is announced about it.
//!
//! Two facts are announced, each when it changes and once more in each epoch: who uses the socket, learnt in system
//! calls; and which flow it has, learnt from packets. Packets cost a look-up and a comparison.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_sk_storage_get};
use recorder_shared::{Address, KIND_CLOSE, KIND_FLOW, KIND_LISTEN, KIND_USE, SOCKET_DRAINED, Socket, SocketEvent, ports};

use crate::kernel::{netns_of, probe, untyped};
use crate::maps::{EVENTS, NO_WAKEUP, SOCKETS, count_loss, epoch, offset};
use crate::packet::{Headers, TCP, mapped};
use crate::process::{Current, announce_current, current};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// `BPF_SK_STORAGE_GET_F_CREATE`
const CREATE: u64 = 1;

/// Two addresses and two ports, seen from the socket. Addresses in network order, IPv4 mapped; ports in host order.
#[derive(Clone, Copy)]
pub struct Flow {
    pub local: Address,
    pub remote: Address,
    pub local_port: u16,
    pub remote_port: u16,
    pub protocol: u8,
}

impl Flow {
    /// The flow of a packet that this socket sent.
    #[inline(always)]
    pub fn sent(headers: &Headers) -> Self {
        Self {
            local: headers.source,
            remote: headers.destination,
            local_port: headers.source_port,
            remote_port: headers.destination_port,
            protocol: headers.protocol,
        }
    }

    /// The flow of a packet that this socket received.
    #[inline(always)]
    pub fn received(headers: &Headers) -> Self {
        Self {
            local: headers.destination,
            remote: headers.source,
            local_port: headers.destination_port,
            remote_port: headers.source_port,
            protocol: headers.protocol,
        }
    }
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// The cookie of the socket behind `sk`, which is any pointer that the program type's cookie helper takes.
#[inline(always)]
pub fn cookie(sk: *mut c_void) -> u64 {
    // SAFETY: the verifier accepts only a socket or a context that has one.
    unsafe { bpf_get_socket_cookie(sk) }
}

/// What is kept of the socket, if anything is.
#[inline(always)]
pub fn find<'a>(sk: *mut c_void) -> Option<&'a mut Socket> {
    storage(sk, 0)
}

#[inline(always)]
fn storage<'a>(sk: *mut c_void, flags: u64) -> Option<&'a mut Socket> {
    let map = (&raw const SOCKETS).cast_mut().cast::<c_void>();
    // SAFETY: the map is one of socket storage; the verifier accepts only a socket for `sk`.
    let value = unsafe { bpf_sk_storage_get(map, sk, core::ptr::null_mut(), flags) };
    // SAFETY: the helper gives null or a value of the map's type that lives as long as the socket. Other programs may
    // write it at the same time; each field is a word that is read and written whole.
    unsafe { value.cast::<Socket>().as_mut() }
}

/// A process created the socket.
#[inline(always)]
pub fn created(sk: *mut c_void, cookie: u64, kind: u32, protocol: u32) {
    let Some(user) = current() else { return };
    let Some(socket) = storage(sk, CREATE) else { return };
    let now = now_ns();
    socket.cookie = cookie;
    socket.since_ns = now;
    socket.existed_ns = now;
    socket.netns = netns_of(untyped(sk));
    socket.kind = kind;
    socket.protocol = protocol;
    socket.tid = user.tid;
    socket.process = user.process;
    // A socket that never has a flow is nobody's business: it is announced with its first flow. But its process is
    // announced now, because later we may be in a softirq.
    if announce_current(user.process) {
        socket.use_epoch = epoch();
    }
}

/// The socket was bound: before this nothing could reach it.
#[inline(always)]
pub fn bound(sk: *mut c_void) {
    if let Some(socket) = find(sk) {
        if socket.existed_ns != 0 {
            socket.existed_ns = now_ns();
        }
    }
}

/// The socket is about to be connected, perhaps not for the first time: its flow will be another one.
#[inline(always)]
pub fn connects(sk: *mut c_void) {
    if let Some(socket) = find(sk) {
        socket.flow_epoch = 0;
    }
}

/// The current process uses the socket. `cookie` is asked for only when the socket was not known.
#[inline(always)]
pub fn used(sk: *mut c_void, cookie: impl FnOnce() -> u64) {
    let Some(user) = current() else { return };
    let Some(socket) = storage(sk, CREATE) else { return };
    if socket.process == user.process && socket.use_epoch == epoch() {
        if socket.tid == user.tid || socket.tid == 0 {
            return;
        }
    }
    if socket.cookie == 0 {
        socket.cookie = cookie();
        let sk = untyped(sk);
        socket.netns = netns_of(sk);
        socket.protocol = u32::from(probe::<u8>(sk, offset!(sock_protocol)));
        socket.kind = u32::from(probe::<u16>(sk, offset!(sock_type)));
    }
    change_user(socket, untyped(sk), user);
}

/// Takes note that the user is another one than before, and says so.
#[inline(always)]
fn change_user(socket: &mut Socket, sk: *const c_void, user: Current) {
    let now = now_ns();
    if socket.process == 0 {
        socket.tid = user.tid;
        socket.since_ns = now;
    } else if socket.process != user.process {
        // Order matters to a reader on another CPU: no thread of the old process with the new process.
        socket.tid = 0;
        socket.since_ns = if socket.suspect == user.process { socket.suspect_ns } else { now };
        // Settled: a later change of user must not be dated back to this time.
        socket.suspect = 0;
    } else if socket.tid != user.tid {
        socket.tid = 0;
    }
    socket.process = user.process;
    let flow = flow_of(sk, socket.protocol as u8);
    if announce_current(user.process) && announce(socket, KIND_USE, now, &flow) {
        let epoch = epoch();
        socket.use_epoch = epoch;
        if flow.protocol == TCP && flow.remote_port != 0 {
            socket.ports = ports(flow.protocol, flow.local_port, flow.remote_port);
            socket.flow_epoch = epoch;
        }
    }
}

/// A process other than the user may have sent a packet. Only a suspicion: the current task of a packet can be a
/// bystander, so it counts only if this very process is seen to return from a send call.
#[inline(always)]
pub fn suspected(socket: &mut Socket) {
    let Some(user) = current() else { return };
    if user.process != socket.process {
        socket.suspect_ns = now_ns();
        socket.suspect = user.process;
    }
}

/// The socket has this flow. Cheap when it is the flow announced last.
#[inline(always)]
pub fn has_flow(socket: &mut Socket, flow: &Flow) {
    let packed = ports(flow.protocol, flow.local_port, flow.remote_port);
    let epoch = epoch();
    if socket.flow_epoch == epoch
        && socket.ports == packed
        && socket.remote[0] == flow.remote[0]
        && socket.remote[1] == flow.remote[1]
        && socket.local[0] == flow.local[0]
        && socket.local[1] == flow.local[1]
    {
        return;
    }
    if announce(socket, KIND_FLOW, now_ns(), flow) {
        socket.local = flow.local;
        socket.remote = flow.remote;
        socket.ports = packed;
        socket.flow_epoch = epoch;
    }
}

/// A SYN reached the listening socket. `socket` is what is kept of it, if anything.
#[inline(always)]
pub fn received_open(socket: Option<&mut Socket>, sk: *const c_void, cookie: u64, flow: &Flow) {
    let Some(mut entry) = EVENTS.reserve_untyped::<SocketEvent>(0) else {
        count_loss();
        return;
    };
    let mut event = event_of(KIND_LISTEN, now_ns(), flow);
    event.cookie = cookie;
    match socket {
        Some(socket) => {
            event.process = socket.process;
            event.tid = socket.tid;
            event.since_ns = socket.since_ns;
            event.existed_ns = socket.existed_ns;
            event.netns = socket.netns;
        }
        None => event.netns = netns_of(untyped(sk)),
    }
    entry.write(event);
    entry.submit(NO_WAKEUP);
}

/// The current process closes the socket for good.
#[inline(always)]
pub fn closed(sk: *mut c_void) {
    let Some(socket) = find(sk) else { return };
    if socket.ports == 0 && socket.use_epoch == 0 {
        return;
    }
    let sk = untyped(sk);
    // sk_wmem_alloc counts the bytes of all packets under way, and 1 for the socket itself (include/net/sock.h).
    let drained = probe::<u32>(sk, offset!(sock_wmem_alloc)) <= 1;
    let flags = if drained { SOCKET_DRAINED } else { 0 };
    announce_flagged(socket, KIND_CLOSE, flags, now_ns(), &flow_of(sk, socket.protocol as u8));
}

/// Sends one event about a socket. Whether the ring took it.
#[inline(always)]
fn announce(socket: &Socket, kind: u8, at_ns: u64, flow: &Flow) -> bool {
    announce_flagged(socket, kind, 0, at_ns, flow)
}

#[inline(always)]
fn announce_flagged(socket: &Socket, kind: u8, flags: u16, at_ns: u64, flow: &Flow) -> bool {
    let Some(mut entry) = EVENTS.reserve_untyped::<SocketEvent>(0) else {
        count_loss();
        return false;
    };
    let mut event = event_of(kind, at_ns, flow);
    event.flags = flags;
    event.cookie = socket.cookie;
    event.process = socket.process;
    event.since_ns = socket.since_ns;
    event.existed_ns = socket.existed_ns;
    event.netns = socket.netns;
    event.tid = socket.tid;
    entry.write(event);
    entry.submit(NO_WAKEUP);
    true
}

#[inline(always)]
fn event_of(kind: u8, at_ns: u64, flow: &Flow) -> SocketEvent {
    SocketEvent {
        kind,
        protocol: flow.protocol,
        local_port: flow.local_port,
        remote_port: flow.remote_port,
        flags: 0,
        at_ns,
        cookie: 0,
        process: 0,
        since_ns: 0,
        existed_ns: 0,
        local: flow.local,
        remote: flow.remote,
        netns: 0,
        tid: 0,
    }
}

/// The flow that stands in the socket itself: complete for connected ones, remote port 0 for others. `sk` is untyped.
#[inline(always)]
fn flow_of(sk: *const c_void, protocol: u8) -> Flow {
    let mut flow = Flow {
        local: [0; 2],
        remote: [0; 2],
        local_port: probe(sk, offset!(sock_num)),
        remote_port: u16::from_be(probe(sk, offset!(sock_dport))),
        protocol,
    };
    match probe::<u16>(sk, offset!(sock_family)) {
        AF_INET => {
            flow.local = mapped(probe(sk, offset!(sock_rcv_saddr)));
            flow.remote = mapped(probe(sk, offset!(sock_daddr)));
        }
        AF_INET6 => {
            flow.local = probe(sk, offset!(sock_v6_rcv_saddr));
            flow.remote = probe(sk, offset!(sock_v6_daddr));
        }
        _ => {}
    }
    flow
}
