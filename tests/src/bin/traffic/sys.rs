//! The few system calls that std has no word for, each behind a safe function.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

fn check(result: i64, call: &str) -> i64 {
    assert!(result >= 0, "{call} failed: {}", io::Error::last_os_error());
    result
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

/// Forks a child that has this process id; none if the id is in use. Needs CAP_CHECKPOINT_RESTORE, and Linux 5.5.
pub(crate) fn fork_as(wanted: i32) -> Option<Fork> {
    // SAFETY: all fields are integers, for which zero is a value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.set_tid = (&raw const wanted) as u64;
    arguments.set_tid_size = 1;
    // SAFETY: the structure is live and of the length that is told; without CLONE_VM the child has its own copy of all,
    // and no other thread exists, hence no lock is held by one that the child does not have.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
    if pid < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EEXIST) {
        return None;
    }
    match check(pid, "clone3") as i32 {
        0 => Some(Fork::Child),
        pid => Some(Fork::Parent(pid)),
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

/// A copy of standard input, as the socket that it is.
pub(crate) fn standard_input() -> OwnedFd {
    io::stdin().as_fd().try_clone_to_owned().expect("there is no standard input")
}

/// Reads one byte from standard error, which whoever started this program made the end of a pipe.
pub(crate) fn wait_on_standard_error() {
    let gate = io::stderr().as_fd().try_clone_to_owned().expect("there is no standard error");
    std::io::Read::read_exact(&mut std::fs::File::from(gate), &mut [0]).expect("cannot read the gate");
}

/// Room for one control message with one descriptor, aligned as the kernel wants it.
#[repr(C, align(8))]
struct ControlMessage {
    header: libc::cmsghdr,
    descriptor: RawFd,
}

/// Passes a descriptor to the process at the other end (SCM_RIGHTS).
pub(crate) fn send_descriptor(through: &UnixStream, descriptor: BorrowedFd<'_>) {
    let header = libc::cmsghdr {
        cmsg_len: size_of::<libc::cmsghdr>() + size_of::<RawFd>(),
        cmsg_level: libc::SOL_SOCKET,
        cmsg_type: libc::SCM_RIGHTS,
    };
    let mut control = ControlMessage { header, descriptor: descriptor.as_raw_fd() };
    let mut byte = [b'.'];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
    let message = message(&mut part, &mut control);
    // SAFETY: the message and all it points to are live for the call.
    let sent = unsafe { libc::sendmsg(through.as_raw_fd(), &raw const message, 0) };
    check(sent as i64, "sendmsg");
}

/// Waits for a descriptor from the process at the other end.
pub(crate) fn receive_descriptor(through: &UnixStream) -> OwnedFd {
    // SAFETY: cmsghdr is integers, for which zero is a value.
    let header = unsafe { std::mem::zeroed() };
    let mut control = ControlMessage { header, descriptor: -1 };
    let mut byte = [0];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
    let mut message = message(&mut part, &mut control);
    // SAFETY: the message and all it points to are live for the call.
    let received = unsafe { libc::recvmsg(through.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    check(received as i64, "recvmsg");
    assert!(control.descriptor >= 0, "no descriptor came");
    // SAFETY: the descriptor is new, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(control.descriptor) }
}

fn message(part: &mut libc::iovec, control: &mut ControlMessage) -> libc::msghdr {
    // SAFETY: msghdr is integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut *control).cast();
    message.msg_controllen = size_of::<ControlMessage>();
    message
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

/// Sends one Ethernet frame, of this kind (ETH_P_IP, ...) as far as the kernel is concerned.
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
