//! What is kept of a socket, and what is announced about it.
//!
//! Two facts are announced, each when it changes and once more in each epoch: who uses the socket, learnt in system
//! calls; and which flow it has, learnt from packets. Packets cost a look-up and a comparison.
//!
//! What is kept costs some 2 µs to make and to free, a twelfth of a whole TCP connection. So of a TCP socket nothing is
//! kept before it is bound or moves data: until then each of its few events tells all there is to tell. Its flow is told by
//! its SYN, and by every announcement of its user.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_sk_storage_get};
use recorder_shared::{
    Address, KIND_CLOSE, KIND_FLOW, KIND_USE, SOCKET_CLOSED_BY_OTHER, SOCKET_CONNECTS, SOCKET_DRAINED, SOCKET_USER_EXECUTED, Socket, SocketEvent,
    ports,
};

use crate::kernel::{SockHead, probe, untyped};
use crate::maps::{
    EVENTS, NO_WAKEUP, SOCKETS, SOCKETS_BY_COOKIE, count_loss, epoch, has_tracing_helpers, offset,
};
use crate::packet::{Headers, TCP, mapped};
use crate::process::{Beginning, Current, announce_current, current, current_beginning};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const SOCK_STREAM: u32 = 1;
/// `BPF_SK_STORAGE_GET_F_CREATE`
const CREATE: u64 = 1;
/// `BPF_NOEXIST`
const IF_ABSENT: u64 = 1;

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

/// The cookie of a socket that a tracing program has. Where such programs have no helper for it, the one that some other
/// program caused to be made; 0 if none did.
#[inline(always)]
pub fn traced_cookie(sk: *mut c_void) -> u64 {
    if has_tracing_helpers() { cookie(sk) } else { made_cookie(sk) }
}

#[inline(always)]
fn made_cookie(sk: *const c_void) -> u64 {
    probe(untyped(sk), offset!(sock_cookie))
}

/// What is kept of the socket, if anything is.
#[inline(always)]
pub fn find<'a>(sk: *mut c_void) -> Option<&'a mut Socket> {
    storage(sk, 0)
}

#[inline(always)]
fn storage<'a>(sk: *mut c_void, flags: u64) -> Option<&'a mut Socket> {
    if !has_tracing_helpers() {
        return entry(sk, flags);
    }
    let map = (&raw const SOCKETS).cast_mut().cast::<c_void>();
    // SAFETY: the map is one of socket storage; the verifier accepts only a socket for `sk`.
    let value = unsafe { bpf_sk_storage_get(map, sk, core::ptr::null_mut(), flags) };
    if value.is_null() && flags & CREATE != 0 {
        // No memory. What is not kept is not told either, and that must not pass in silence.
        count_loss();
    }
    // SAFETY: the helper gives null or a value of the map's type that lives as long as the socket. Other programs may
    // write it at the same time; each field is a word that is read and written whole.
    unsafe { value.cast::<Socket>().as_mut() }
}

/// [`storage`] where tracing programs may not use socket storage: all programs use the map by cookie instead, for what they
/// know of a socket must be one thing.
#[inline(always)]
fn entry<'a>(sk: *const c_void, flags: u64) -> Option<&'a mut Socket> {
    let cookie = made_cookie(sk);
    if cookie == 0 {
        return None;
    }
    if flags & CREATE != 0 && SOCKETS_BY_COOKIE.get_ptr(cookie).is_none() {
        // Another CPU may have been faster: then its entry stays.
        let _ = SOCKETS_BY_COOKIE.insert(cookie, &EMPTY, IF_ABSENT);
    }
    let value = SOCKETS_BY_COOKIE.get_ptr_mut(cookie)?;
    // SAFETY: a pointer to a map value, which stays mapped for the run of the program. Other programs may write it at the
    // same time; each field is a word that is read and written whole.
    unsafe { value.as_mut() }
}

/// The socket is closed: what is kept of it by its cookie is deleted. Socket storage goes by itself.
#[inline(always)]
pub fn forget(sk: *const c_void) {
    if !has_tracing_helpers() {
        // Most TCP sockets have none.
        let _ = SOCKETS_BY_COOKIE.remove(made_cookie(sk));
    }
}

/// A process created the socket, which is kept from now on.
#[inline(always)]
pub fn created(sk: *mut c_void, cookie: u64, kind: u32, protocol: u32) {
    let Some(user) = current() else { return };
    let Some(socket) = storage(sk, CREATE) else { return };
    let now = now_ns();
    socket.cookie = cookie;
    socket.since_ns = now;
    socket.existed_ns = now;
    socket.netns = SockHead::of(sk).netns();
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
pub fn bound(sk: *mut c_void, cookie: u64, kind: u32, protocol: u32) {
    match find(sk) {
        Some(socket) if socket.existed_ns != 0 => socket.existed_ns = now_ns(),
        Some(_) => {}
        None => created(sk, cookie, kind, protocol),
    }
}

/// How a socket is used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is connected, or was accepted: no data is moved.
    Connection,
    /// Something was received from it.
    Receive,
    /// Anything else.
    Other,
}

/// The current process uses the socket, as it may do again and again: so what is told is kept. `cookie` is asked for only
/// when it was not known.
#[inline(always)]
pub fn used(sk: *mut c_void, how: Use, cookie: impl Fn() -> u64) {
    let Some(user) = current() else { return };
    if !has_tracing_helpers() {
        // What is kept is found by the cookie, and that is made when it is first asked for.
        cookie();
    }
    let Some(socket) = storage(sk, CREATE) else { return };
    if is_told(socket, user) {
        if how == Use::Receive {
            socket.received_ns = now_ns();
        }
        return;
    }
    // The process first: the verifier goes through that once for each way in which it can be reached.
    if !announce_current(user.process) {
        return;
    }
    let head = SockHead::of(sk);
    if socket.cookie == 0 {
        socket.cookie = cookie();
        socket.netns = head.netns();
        let sk = untyped(sk);
        socket.protocol = u32::from(probe::<u16>(sk, offset!(sock_protocol)));
        socket.kind = u32::from(probe::<u16>(sk, offset!(sock_type)));
    }
    tell_user(sk, socket, &head, user, how);
}

/// The current process connects or accepts: for that nothing needs to be kept.
#[inline(always)]
pub fn used_for_connection(sk: *mut c_void, protocol: impl FnOnce() -> u32, cookie: impl FnOnce() -> u64) {
    let Some(user) = current() else { return };
    if !announce_current(user.process) {
        return;
    }
    let head = SockHead::of(sk);
    match find(sk) {
        Some(socket) if is_told(socket, user) => {}
        Some(socket) => tell_user(sk, socket, &head, user, Use::Connection),
        None => {
            let mut socket =
                Socket { cookie: cookie(), netns: head.netns(), protocol: protocol(), ..UNKEPT };
            // Without a cookie it cannot be told which socket it is.
            if socket.cookie != 0 {
                tell_user(sk, &mut socket, &head, user, Use::Connection);
            }
        }
    }
}

/// A socket of which nothing is kept; most of them are of TCP.
const UNKEPT: Socket = Socket {
    cookie: 0,
    process: 0,
    since_ns: 0,
    existed_ns: 0,
    received_ns: 0,
    former_received_ns: 0,
    began_ns: 0,
    parent_tgid: 0,
    executed: 0,
    suspect: 0,
    suspect_ns: 0,
    local: [0; 2],
    remote: [0; 2],
    ports: 0,
    netns: 0,
    tid: 0,
    flow_epoch: 0,
    use_epoch: 0,
    kind: SOCK_STREAM,
    protocol: TCP as u32,
};

/// A socket that is kept from now on, before anything is known of it.
static EMPTY: Socket = Socket { kind: 0, protocol: 0, ..UNKEPT };

/// Whether it was said in this epoch that this is the user.
///
/// One comparison instead of four: the verifier, which tries all ways that lead on from here, has half as many to try.
#[inline(always)]
fn is_told(socket: &Socket, user: Current) -> bool {
    // A product of 32-bit numbers: zero if the thread is the same or several are known to use it.
    let other_thread = u64::from(socket.tid) * u64::from(socket.tid ^ user.tid);
    let other = (socket.process ^ user.process) | other_thread | u64::from(socket.use_epoch ^ epoch());
    // SAFETY: a local variable. Volatile, so that the compiler does not make comparisons of it again.
    unsafe { core::ptr::read_volatile(&raw const other) == 0 }
}

/// Takes note that the user, a process that was announced, is another one than before, and says so.
#[inline(always)]
fn tell_user(sk: *const c_void, socket: &mut Socket, head: &SockHead, user: Current, how: Use) {
    let now = now_ns();
    change_user(socket, user, how, now);
    if how == Use::Receive {
        socket.received_ns = now;
    }
    let flow = flow_of(head, socket.protocol as u8);
    let flags = if how == Use::Connection { SOCKET_CONNECTS } else { 0 };
    if announce(socket, KIND_USE, flags, now, &flow, remote_isn(sk, socket, &flow)) {
        socket.use_epoch = epoch();
    }
}

#[inline(always)]
fn change_user(socket: &mut Socket, user: Current, how: Use, now: u64) {
    if socket.process != user.process {
        let beginning = match how {
            Use::Connection => Beginning { at_ns: 0, executed: false, parent_tgid: 0 },
            Use::Receive => current_beginning((user.process >> 32) as u32),
            // It did not wait in a call; but what came before it was there at all is not its.
            _ => Beginning { parent_tgid: 0, ..current_beginning((user.process >> 32) as u32) },
        };
        socket.began_ns = beginning.at_ns;
        socket.executed = u32::from(beginning.executed);
        socket.parent_tgid = beginning.parent_tgid;
    }
    if socket.process == 0 {
        socket.tid = user.tid;
        socket.since_ns = now;
    } else if socket.process != user.process {
        // Order matters to a reader on another CPU: no thread of the old process with the new process.
        socket.tid = 0;
        socket.former_received_ns = socket.received_ns;
        socket.received_ns = 0;
        socket.since_ns = if socket.suspect == user.process { socket.suspect_ns } else { now };
        // Settled: a later change of user must not be dated back to this time.
        socket.suspect = 0;
    } else if socket.tid != user.tid {
        socket.tid = 0;
    }
    socket.process = user.process;
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
    if announce(socket, KIND_FLOW, 0, now_ns(), flow, 0) {
        socket.local = flow.local;
        socket.remote = flow.remote;
        socket.ports = packed;
        socket.flow_epoch = epoch;
    }
}

/// A SYN of this flow leaves the connecting socket ([`KIND_FLOW`]) or reached the listening one ([`KIND_LISTEN`]), with the
/// remote end's sequence number.
#[inline(always)]
pub fn opened(kind: u8, sk: *mut c_void, cookie: u64, flow: &Flow, remote_isn: u32) {
    let now = now_ns();
    if let Some(socket) = find(sk) {
        announce(socket, kind, 0, now, flow, remote_isn);
    } else {
        // Nobody answers a SYN before it was sent. A listener of which nothing is kept is older than we are.
        let existed_ns = if kind == KIND_FLOW { now } else { 0 };
        let socket = Socket { cookie, existed_ns, netns: SockHead::of(sk).netns(), ..UNKEPT };
        announce(&socket, kind, 0, now, flow, remote_isn);
    }
}

const NOBODY: Current = Current { process: 0, tid: 0 };

/// What a closed socket was.
pub struct Facts {
    pub is_tcp: bool,
    pub protocol: u32,
}

/// The current process closes the socket for good. Whoever closes an accepted socket that nobody read from is its user all
/// the same, and a FIN is its doing.
#[inline(always)]
pub fn closed(sk: *mut c_void, facts: impl FnOnce() -> Facts) {
    // No `Option`: the verifier before 6.3 loses sight of whether there is something in it.
    let user = match current() {
        Some(user) if announce_current(user.process) => user,
        _ => NOBODY,
    };
    let (now, head, Facts { is_tcp, protocol }) = (now_ns(), SockHead::of(sk), facts());
    // Of a socket that is older than we are nothing may be kept, and yet user space knows of it, by its snapshot.
    let mut socket = match find(sk) {
        Some(socket) => *socket,
        None => Socket { cookie: cookie(sk), netns: head.netns(), protocol, ..UNKEPT },
    };
    if socket.process == NOBODY.process && user.process != NOBODY.process {
        change_user(&mut socket, user, Use::Other, now);
    }
    // Who closes last need not be who used it: an inetd may be slower to close its copy than its program to answer and end.
    let by_other = socket.process != user.process;
    // sk_wmem_alloc counts the bytes of all packets under way, and 1 for the socket itself (include/net/sock.h).
    let drained = !is_tcp && probe::<u32>(untyped(sk), offset!(sock_wmem_alloc)) <= 1;
    let flags = if drained { SOCKET_DRAINED } else { 0 } | if by_other { SOCKET_CLOSED_BY_OTHER } else { 0 };
    let flow = flow_of(&head, socket.protocol as u8);
    announce(&socket, KIND_CLOSE, flags, now, &flow, remote_isn(sk, &socket, &flow));
}

/// Sends one event about a socket. Whether the ring took it.
#[inline(always)]
fn announce(socket: &Socket, kind: u8, flags: u16, at_ns: u64, flow: &Flow, remote_isn: u32) -> bool {
    let Some(mut entry) = EVENTS.reserve_untyped::<SocketEvent>(0) else {
        count_loss();
        return false;
    };
    let executed = if socket.executed == 0 { 0 } else { SOCKET_USER_EXECUTED };
    entry.write(SocketEvent {
        kind,
        protocol: flow.protocol,
        local_port: flow.local_port,
        remote_port: flow.remote_port,
        flags: flags | executed,
        at_ns,
        cookie: socket.cookie,
        process: socket.process,
        since_ns: socket.since_ns,
        existed_ns: socket.existed_ns,
        former_received_ns: socket.former_received_ns,
        began_ns: socket.began_ns,
        local: flow.local,
        remote: flow.remote,
        netns: socket.netns,
        tid: socket.tid,
        parent_tgid: socket.parent_tgid,
        remote_isn,
    });
    entry.submit(NO_WAKEUP);
    true
}

/// The initial sequence number of the remote end of a TCP connection: what was received since is counted (`tcp_rcv_nxt_update`
/// in net/ipv4/tcp_input.c), and the SYN is one more. By it a SYN and the socket that came of it find each other: the flow
/// may be that of an earlier connection too, which was reset while it waited to be accepted. 0, for not known, where there is
/// no connection, for a socket of MPTCP, which is not a `struct tcp_sock`, and where a packet came in between two reads.
#[inline(always)]
fn remote_isn(sk: *const c_void, socket: &Socket, flow: &Flow) -> u32 {
    if socket.protocol != u32::from(TCP) || flow.remote_port == 0 {
        return 0;
    }
    let sk = untyped(sk);
    let received: u64 = probe(sk, offset!(tcp_bytes_received));
    let next: u32 = probe(sk, offset!(tcp_rcv_nxt));
    if received != probe(sk, offset!(tcp_bytes_received)) {
        // A packet came in meanwhile, and the two do not belong together.
        return 0;
    }
    next.wrapping_sub(received as u32).wrapping_sub(1)
}

/// The flow that stands in the socket itself: complete for connected ones, remote port 0 for others.
#[inline(always)]
fn flow_of(head: &SockHead, protocol: u8) -> Flow {
    let mut flow = Flow {
        local: [0; 2],
        remote: [0; 2],
        local_port: head.field(offset!(sock_num)),
        remote_port: u16::from_be(head.field(offset!(sock_dport))),
        protocol,
    };
    match head.field::<u16>(offset!(sock_family)) {
        AF_INET => {
            flow.local = mapped(head.field(offset!(sock_rcv_saddr)));
            flow.remote = mapped(head.field(offset!(sock_daddr)));
        }
        AF_INET6 => {
            flow.local = head.field(offset!(sock_v6_rcv_saddr));
            flow.remote = head.field(offset!(sock_v6_daddr));
        }
        _ => {}
    }
    flow
}
