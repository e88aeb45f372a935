//! The few system calls that std has no word for, each behind a safe function.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

fn check(result: i64, call: &str) -> i64 {
    assert!(result >= 0, "{call} failed: {}", io::Error::last_os_error());
    result
}

/// The id of this thread.
pub(crate) fn thread_id() -> i32 {
    // SAFETY: gettid takes nothing and cannot fail.
    unsafe { libc::gettid() }
}

/// Which side of a fork this is.
pub(crate) enum Fork {
    Child,
    Parent(i32),
}

/// Forks. This program has one thread, so that the child may do what it likes.
pub(crate) fn fork() -> Fork {
    // SAFETY: no other thread exists, hence no lock is held by one that the child does not have.
    let pid = unsafe { libc::fork() };
    match check(i64::from(pid), "fork") as i32 {
        0 => Fork::Child,
        pid => Fork::Parent(pid),
    }
}

/// Leaves the session, as a daemon does.
pub(crate) fn new_session() {
    // SAFETY: setsid takes nothing.
    check(i64::from(unsafe { libc::setsid() }), "setsid");
}

/// Waits until a child has ended.
pub(crate) fn wait_for(pid: i32) {
    // SAFETY: a null status pointer is allowed: the status is not stored.
    check(i64::from(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) }), "waitpid");
}

/// Has this process killed when its parent ends, so that no server outlives a test.
pub(crate) fn die_with_parent() {
    // SAFETY: PR_SET_PDEATHSIG takes a signal number.
    check(i64::from(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }), "prctl");
}

/// Accepts a connection with a null address, so that the kernel is not asked who the peer is.
pub(crate) fn accept_without_address(listener: &impl AsRawFd) -> TcpStream {
    let none = std::ptr::null_mut();
    // SAFETY: accept4 allows both pointers to be null together.
    let fd = unsafe { libc::accept4(listener.as_raw_fd(), none, std::ptr::null_mut(), libc::SOCK_CLOEXEC) };
    let fd = check(i64::from(fd), "accept4") as RawFd;
    // SAFETY: the descriptor is new, and nobody else has it.
    TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An AF_PACKET socket that only sends.
pub(crate) fn packet_socket() -> OwnedFd {
    // SAFETY: socket takes three numbers. Protocol 0 receives nothing.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    let fd = check(i64::from(fd), "socket(AF_PACKET)") as RawFd;
    // SAFETY: the descriptor is new, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// The index of a network interface.
pub(crate) fn interface_index(name: &str) -> i32 {
    let name = std::ffi::CString::new(name).expect("an interface name has no NUL");
    // SAFETY: the pointer is to a string that ends with NUL and lives until the call returns.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert!(index != 0, "if_nametoindex failed: {}", io::Error::last_os_error());
    index as i32
}

/// Sends one Ethernet frame.
pub(crate) fn send_frame(socket: &OwnedFd, interface: i32, frame: &[u8]) {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_IP as u16).to_be(),
        sll_ifindex: interface,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    let (fd, target) = (socket.as_raw_fd(), (&raw const address).cast());
    // SAFETY: frame and address are live for the call, and the lengths are theirs.
    let sent = unsafe { libc::sendto(fd, frame.as_ptr().cast(), frame.len(), 0, target, length) };
    check(sent as i64, "sendto");
}
