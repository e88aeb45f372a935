//! The kernel side of recorder: the programs and where they hook in.
//!
//! Every program only looks. Those attached to cgroups decide whether a packet or a call may pass, and all of them
//! return `PASS` on their one way out. What a hook sees and when is in docs/ARCHITECTURE.md.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "the one way to an atomic addition; see maps::count_loss")]

mod kernel;
mod maps;
mod packet;
mod process;
mod socket;

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::{btf_tracepoint, cgroup_skb, cgroup_sock, cgroup_sock_addr, fentry, fexit, sock_ops};
use aya_ebpf::programs::{
    BtfTracePointContext, FEntryContext, FExitContext, SkBuffContext, SockAddrContext, SockContext,
    SockOpsContext,
};

use crate::kernel::{load, probe};
use crate::maps::{TRACKED, offset};
use crate::packet::{ICMP, ICMPV6, TCP, UDP};
use recorder_shared::{KIND_FLOW, KIND_LISTEN};
use crate::socket::{Facts, Flow, Use};

/// The verdict of every cgroup program. Anything else would drop traffic or fail a call.
const PASS: i32 = 1;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const SOCK_RAW: u32 = 3;
/// `TCP_SYN_SENT` of include/net/tcp_states.h.
const SYN_SENT: u32 = 2;
/// `TCP_LISTEN`.
const LISTEN: u32 = 10;
/// `BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB`
const PASSIVE_ESTABLISHED: u32 = 5;

// ---- Sockets come and go (process context) ----

/// A process creates an IPv4 or IPv6 socket. Not called for accepted ones, nor for the kernel's own.
#[cgroup_sock(sock_create)]
fn sock_create(ctx: SockContext) -> i32 {
    // SAFETY: the context is a socket, valid for the run of the program.
    let (kind, protocol) = unsafe { ((*ctx.sock).type_, (*ctx.sock).protocol) };
    if !is_tcp(kind, protocol) {
        socket::created(ctx.as_ptr(), socket::cookie(ctx.as_ptr()), kind, protocol);
    }
    PASS
}

/// The last descriptor of a socket is closed.
#[cgroup_sock(sock_release)]
fn sock_release(ctx: SockContext) -> i32 {
    socket::closed(ctx.as_ptr(), || {
        // SAFETY: the context is a socket, valid for the run of the program.
        let (kind, protocol) = unsafe { ((*ctx.sock).type_, (*ctx.sock).protocol) };
        Facts { is_tcp: is_tcp(kind, protocol), protocol }
    });
    socket::forget(ctx.as_ptr());
    PASS
}

/// A socket is bound to an IPv4 address.
#[cgroup_sock(post_bind4)]
fn post_bind4(ctx: SockContext) -> i32 {
    bound(&ctx)
}

/// A socket is bound to an IPv6 address.
#[cgroup_sock(post_bind6)]
fn post_bind6(ctx: SockContext) -> i32 {
    bound(&ctx)
}

#[inline(always)]
fn bound(ctx: &SockContext) -> i32 {
    // SAFETY: the context is a socket, valid for the run of the program.
    let (kind, protocol) = unsafe { ((*ctx.sock).type_, (*ctx.sock).protocol) };
    socket::bound(ctx.as_ptr(), socket::cookie(ctx.as_ptr()), kind, protocol);
    PASS
}

#[inline(always)]
fn is_tcp(kind: u32, protocol: u32) -> bool {
    protocol == u32::from(TCP) && kind != SOCK_RAW
}

// ---- Packets pass (any context) ----

/// A socket's packet leaves; before any tap sees it.
#[cgroup_skb(egress)]
fn egress(ctx: SkBuffContext) -> i32 {
    sent(&ctx);
    PASS
}

/// A packet was delivered to a socket; a few microseconds after the tap saw it.
#[cgroup_skb(ingress)]
fn ingress(ctx: SkBuffContext) -> i32 {
    received(&ctx);
    PASS
}

#[inline(always)]
fn socket_of(ctx: &SkBuffContext) -> *mut aya_ebpf::bindings::bpf_sock {
    // SAFETY: the context is valid for the run of the program.
    unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk }
}

#[inline(always)]
fn sent(ctx: &SkBuffContext) {
    let sk = socket_of(ctx);
    if sk.is_null() {
        return;
    }
    // SAFETY: the pointer is a socket, checked for null.
    match unsafe { (*sk).state } {
        SYN_SENT => return sent_by_opener(ctx, sk.cast()),
        // A handshake's answer has the listener for its socket: not the listener's flow.
        LISTEN => return,
        _ => {}
    }
    let Some(socket) = socket::find(sk.cast()) else { return };
    // The flow of a connection is told by its SYN and with its user.
    if is_tcp(socket.kind, socket.protocol) {
        return;
    }
    let Some(headers) = packet::headers(ctx) else { return };
    // A raw socket may send any protocol. Another socket's packet of another protocol is what IPsec made of its own:
    // the outer packet is not the socket's flow.
    if socket.kind != SOCK_RAW && u32::from(headers.protocol) != socket.protocol {
        return;
    }
    socket::suspected(socket);
    socket::has_flow(socket, &Flow::sent(&headers));
}

#[inline(always)]
fn sent_by_opener(ctx: &SkBuffContext, sk: *mut c_void) {
    let Some(headers) = packet::headers(ctx) else { return };
    if headers.protocol == TCP {
        socket::opened(KIND_FLOW, sk, socket::cookie(ctx.as_ptr()), &Flow::sent(&headers), 0);
    }
}

#[inline(always)]
fn received(ctx: &SkBuffContext) {
    let sk = socket_of(ctx);
    if sk.is_null() {
        return;
    }
    // SAFETY: the pointer is a socket, checked for null.
    if unsafe { (*sk).state } == LISTEN {
        return received_by_listener(ctx, sk.cast());
    }
    let Some(socket) = socket::find(sk.cast()) else { return };
    if is_tcp(socket.kind, socket.protocol) {
        return;
    }
    // Raw sockets get copies of what belongs to others.
    if socket.kind == SOCK_RAW && has_flows_of_its_own(socket.protocol) {
        return;
    }
    let Some(headers) = packet::headers(ctx) else { return };
    socket::has_flow(socket, &Flow::received(&headers));
}

#[inline(always)]
fn has_flows_of_its_own(protocol: u32) -> bool {
    protocol == u32::from(TCP)
        || protocol == u32::from(UDP)
        || protocol == u32::from(ICMP)
        || protocol == u32::from(ICMPV6)
}

#[inline(always)]
fn received_by_listener(ctx: &SkBuffContext, sk: *mut c_void) {
    let Some(headers) = packet::headers(ctx) else { return };
    if headers.protocol != TCP {
        return;
    }
    if let Some(isn) = packet::opening_isn(ctx, &headers) {
        socket::opened(KIND_LISTEN, sk, socket::cookie(ctx.as_ptr()), &Flow::received(&headers), isn);
    }
}

// ---- System calls tell who uses a socket ----

#[inline(always)]
fn used_by_address_call(ctx: &SockAddrContext, how: Use) -> i32 {
    // SAFETY: the context is valid for the run of the program.
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    if !sk.is_null() {
        socket::used(sk.cast(), how, || socket::cookie(ctx.as_ptr()));
    }
    PASS
}

#[inline(always)]
fn connects_or_accepts(ctx: &SockAddrContext) -> i32 {
    // SAFETY: the context is valid for the run of the program.
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    // SAFETY: the same.
    let protocol = || unsafe { (*ctx.sock_addr).protocol };
    if !sk.is_null() {
        socket::used_for_connection(sk.cast(), protocol, || socket::cookie(ctx.as_ptr()));
    }
    PASS
}

/// connect(2) on an IPv4 socket.
#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    connects_or_accepts(&ctx)
}

/// connect(2) on an IPv6 socket.
#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    connects_or_accepts(&ctx)
}

/// sendto(2) or sendmsg(2) on an unconnected IPv4 UDP socket, before anything is sent.
#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    used_by_address_call(&ctx, Use::Other)
}

/// sendto(2) or sendmsg(2) on an unconnected IPv6 UDP socket, before anything is sent.
#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    used_by_address_call(&ctx, Use::Other)
}

/// recvfrom(2) on an IPv4 UDP socket. Unlike fexit/inet_recvmsg it also sees a call that began before it was attached. Only
/// attached where `sock_recv_length` is missing (before 6.3).
#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(ctx: SockAddrContext) -> i32 {
    used_by_address_call(&ctx, Use::Receive)
}

/// recvfrom(2) on an IPv6 UDP socket. Only attached where `sock_recv_length` is missing (before 6.3).
#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(ctx: SockAddrContext) -> i32 {
    used_by_address_call(&ctx, Use::Receive)
}

/// getpeername(2), and accept(2) when it asks for the address: then `sk` is the accepted socket.
#[cgroup_sock_addr(getpeername4)]
fn getpeername4(ctx: SockAddrContext) -> i32 {
    connects_or_accepts(&ctx)
}

/// The same for IPv6.
#[cgroup_sock_addr(getpeername6)]
fn getpeername6(ctx: SockAddrContext) -> i32 {
    connects_or_accepts(&ctx)
}

/// Any send returns: (sk, result, flags).
#[btf_tracepoint(function = "sock_send_length")]
fn sock_send_length(ctx: BtfTracePointContext) -> i32 {
    used_by_traced_call(ctx.arg(0), ctx.arg(1), Use::Other)
}

/// Any receive returns: (sk, result, flags).
#[btf_tracepoint(function = "sock_recv_length")]
fn sock_recv_length(ctx: BtfTracePointContext) -> i32 {
    used_by_traced_call(ctx.arg(0), ctx.arg(1), Use::Receive)
}

/// A TCP send begins: (sk, msg, skb, size goal). Since 6.16.
#[btf_tracepoint(function = "tcp_sendmsg_locked")]
fn tcp_sendmsg_locked(ctx: BtfTracePointContext) -> i32 {
    used_by_traced_call(ctx.arg(0), 0, Use::Other)
}

/// A send begins on an IPv4 socket of any protocol: (socket, message, size). Only attached where one of the tracepoints is
/// missing.
#[fentry(function = "inet_sendmsg")]
fn inet_sendmsg(ctx: FEntryContext) -> i32 {
    used_by_inet_call(ctx.arg(0), 0, Use::Other)
}

/// The same for IPv6.
#[fentry(function = "inet6_sendmsg")]
fn inet6_sendmsg(ctx: FEntryContext) -> i32 {
    used_by_inet_call(ctx.arg(0), 0, Use::Other)
}

/// sendfile(2) or splice(2) begins to send, on IPv4 and IPv6: (socket, page, offset, size, flags). Until 6.4; later they
/// call `inet_sendmsg`.
#[fentry(function = "inet_sendpage")]
fn inet_sendpage(ctx: FEntryContext) -> i32 {
    used_by_inet_call(ctx.arg(0), 0, Use::Other)
}

/// A receive returns on an IPv4 socket of any protocol: (socket, message, size, flags), returns the length. Only attached
/// where the tracepoint is missing.
#[fexit(function = "inet_recvmsg")]
fn inet_recvmsg(ctx: FExitContext) -> i32 {
    used_by_inet_call(ctx.arg(0), ctx.arg(4), Use::Receive)
}

/// The same for IPv6.
#[fexit(function = "inet6_recvmsg")]
fn inet6_recvmsg(ctx: FExitContext) -> i32 {
    used_by_inet_call(ctx.arg(0), ctx.arg(4), Use::Receive)
}

/// `socket` is a `struct socket`.
#[inline(always)]
fn used_by_inet_call(socket: *const c_void, result: i32, how: Use) -> i32 {
    let offset = offset!(socket_sk);
    // SAFETY: the verifier knows `socket`, and the offset is that of a pointer.
    let sk: *const c_void = unsafe { load(socket, offset) };
    used_by_traced_call(sk, result, how)
}

/// accept(2) took a connection. Before 6.10: (sk, flags, err, kern), returns the new socket.
#[fexit(function = "inet_csk_accept")]
fn inet_csk_accept_4(ctx: FExitContext) -> i32 {
    accepted(ctx.arg(4))
}

/// accept(2) took a connection. Since 6.10: (sk, arg), returns the new socket.
#[fexit(function = "inet_csk_accept")]
fn inet_csk_accept_2(ctx: FExitContext) -> i32 {
    accepted(ctx.arg(2))
}

/// Something happens to a TCP connection. When one has come in and stands, its socket is given a cookie, by which fexit of
/// `inet_csk_accept` can name it. Only attached where that program cannot have the cookie made (before 5.12).
#[sock_ops]
fn connection_stands(ctx: SockOpsContext) -> u32 {
    if ctx.op() == PASSIVE_ESTABLISHED {
        socket::cookie(ctx.as_ptr());
    }
    // 0 would be a refusal. The reply, which this does not touch, stands at 0: to the kernel's questions that is "as usual".
    PASS as u32
}

#[inline(always)]
fn accepted(sk: *mut c_void) -> i32 {
    if !sk.is_null() {
        socket::used_for_connection(sk, || u32::from(TCP), || socket::traced_cookie(sk));
    }
    0
}

#[inline(always)]
fn used_by_traced_call(sk: *const c_void, result: i32, how: Use) -> i32 {
    // A call that failed moved nothing.
    if sk.is_null() || result < 0 {
        return 0;
    }
    let family = offset!(sock_family);
    // SAFETY: the verifier knows `sk` as a socket, and the offset is that of a u16.
    let family: u16 = unsafe { load(sk, family) };
    if family == AF_INET || family == AF_INET6 {
        socket::used(sk.cast_mut(), how, || socket::traced_cookie(sk.cast_mut()));
    }
    0
}

// ---- Processes ----

/// A process has replaced its program.
#[btf_tracepoint(function = "sched_process_exec")]
fn sched_process_exec(_ctx: BtfTracePointContext) -> i32 {
    process::executed();
    0
}

/// A process or thread is forked: (parent, child).
#[btf_tracepoint(function = "sched_process_fork")]
fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let (parent, child): (*const c_void, *const c_void) = (ctx.arg(0), ctx.arg(1));
    let parent_leader: *const c_void = probe(parent, offset!(task_group_leader));
    let child_leader: *const c_void = probe(child, offset!(task_group_leader));
    let tgid: u32 = probe(parent, offset!(task_tgid));
    // User space puts itself into the map while it forks the command, so that the command gets in here.
    if process::is_tracked(tgid, probe(parent_leader, offset!(task_start_boottime))) {
        let child_tgid: u32 = probe(child, offset!(task_tgid));
        let start: u64 = probe(child_leader, offset!(task_start_boottime));
        // LRU: cannot be full.
        let _ = TRACKED.insert(child_tgid, start, 0);
    }
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The verifier allows GPL-only helpers to programs that say so; the sources are MIT OR Apache-2.0.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
