//! Every system call of this room but those of the mapped ring, each as a safe function.
//!
//! No decisions here: arguments in, the kernel's answer out.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use libc::{c_int, c_void, socklen_t};

/// Types without padding or pointers, whose every byte pattern is a value: safe to hand to the kernel and back.
pub(super) trait Plain: Copy + Default {}
impl Plain for c_int {}
impl Plain for u32 {}

fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A new socket, closed on exec.
pub(super) fn socket(family: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: three numbers go in, a descriptor or an error comes out.
    let fd = checked(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set<T>(socket: &OwnedFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as socklen_t;
    let value: *const T = value;
    // SAFETY: `value` points to `length` readable bytes for the time of the call; the kernel copies them.
    checked(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.cast(), length) })?;
    Ok(())
}

/// Sets an option that is one number.
pub(super) fn set_number(socket: &OwnedFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    set(socket, level, name, &value)
}

/// Asks for a TPACKET_V3 ring.
pub(super) fn set_ring(socket: &OwnedFd, request: &libc::tpacket_req3) -> io::Result<()> {
    set(socket, libc::SOL_PACKET, libc::PACKET_RX_RING, request)
}

/// Asks for a TPACKET_V2 ring to send from.
pub(super) fn set_send_ring(socket: &OwnedFd, request: &libc::tpacket_req) -> io::Result<()> {
    set(socket, libc::SOL_PACKET, libc::PACKET_TX_RING, request)
}

/// Has the kernel send what the ring of this socket holds. Does not wait. How much of it went out the ring itself tells.
pub(super) fn send_ring(socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: no data goes in: the kernel takes it from the ring.
    let sent = unsafe { libc::send(socket.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets this thread, and none that it starts, run before all that have no real-time priority. Needs CAP_SYS_NICE.
pub(super) fn set_real_time() -> io::Result<()> {
    // SAFETY: a structure of numbers, for which zero is a value; on musl it has more than the priority.
    let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    // The lowest of them.
    parameters.sched_priority = 1;
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: 0 is the calling thread, and `parameters` outlives the call.
    checked(unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) })?;
    Ok(())
}

/// Makes an interface promiscuous for as long as this socket lives.
pub(super) fn set_promiscuous(socket: &OwnedFd, ifindex: c_int) -> io::Result<()> {
    let request = libc::packet_mreq {
        mr_ifindex: ifindex,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set(socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
}

/// Lets the kernel drop what this program does not accept, before it is copied.
pub(super) fn set_filter(socket: &OwnedFd, program: &[libc::sock_filter]) -> io::Result<()> {
    // The kernel's limit is 4096 instructions (BPF_MAXINSNS); what does not even fit the field is refused alike.
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // `filter` points to `len` instructions that outlive the call; the kernel only reads them (sk_attach_filter).
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// Reads and clears the error that poll reported.
pub(super) fn take_error(socket: &OwnedFd) -> io::Result<c_int> {
    let mut value: c_int = 0;
    get(socket, libc::SOL_SOCKET, libc::SO_ERROR, &mut value)?;
    Ok(value)
}

/// Received (dropped included) and dropped since the last call: the kernel begins again at 0 each time.
pub(super) fn take_statistics(socket: &OwnedFd) -> io::Result<(u32, u32)> {
    let mut value = [0u32; 3];
    const _: () = assert!(size_of::<libc::tpacket_stats_v3>() == size_of::<[u32; 3]>());
    get(socket, libc::SOL_PACKET, libc::PACKET_STATISTICS, &mut value)?;
    let [packets, drops, _freezes] = value;
    Ok((packets, drops))
}

impl Plain for [u32; 3] {}

fn get<T: Plain>(socket: &OwnedFd, level: c_int, name: c_int, value: &mut T) -> io::Result<()> {
    let mut length = size_of::<T>() as socklen_t;
    let value: *mut T = value;
    // SAFETY: `value` points to `length` writable bytes, any pattern of which is a T (Plain).
    checked(unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, value.cast(), &raw mut length) })?;
    Ok(())
}

fn bind<T>(socket: &OwnedFd, address: &T) -> io::Result<()> {
    let length = size_of::<T>() as socklen_t;
    let address: *const T = address;
    // SAFETY: `address` points to `length` readable bytes; the kernel copies them.
    checked(unsafe { libc::bind(socket.as_raw_fd(), address.cast(), length) })?;
    Ok(())
}

/// Binds a packet socket to a protocol of an interface (`ETH_P_ALL`: to all; 0: to none, so that it receives nothing); interface
/// 0 is all of them.
pub(super) fn bind_packet(socket: &OwnedFd, ifindex: c_int, protocol: c_int) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (protocol as u16).to_be(),
        sll_ifindex: ifindex,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    bind(socket, &address)
}

/// Binds a netlink socket and subscribes it to these groups.
pub(super) fn bind_netlink(socket: &OwnedFd, groups: u32) -> io::Result<()> {
    // struct sockaddr_nl of linux/netlink.h: family and padding, port (0: the kernel chooses), groups.
    let [low, high] = (libc::AF_NETLINK as u16).to_ne_bytes();
    let address: [u32; 3] = [u32::from_ne_bytes([low, high, 0, 0]), 0, groups];
    bind(socket, &address)
}

/// Sends one message to the kernel. By write(2), which needs no address: whoever may not call send(2) can do this.
pub(super) fn send(socket: &OwnedFd, message: &[u8]) -> io::Result<()> {
    let (data, length) = (message.as_ptr().cast::<c_void>(), message.len());
    // SAFETY: `data` points to `length` readable bytes.
    let sent = unsafe { libc::write(socket.as_raw_fd(), data, length) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives one message into `buffer`. The length is that of the message, even where the buffer is shorter.
pub(super) fn receive(socket: &OwnedFd, buffer: &mut [u8], flags: c_int) -> io::Result<usize> {
    let (data, length) = (buffer.as_mut_ptr().cast::<c_void>(), buffer.len());
    // SAFETY: `data` points to `length` writable bytes.
    let received = unsafe { libc::recv(socket.as_raw_fd(), data, length, flags | libc::MSG_TRUNC) };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}

/// One descriptor to wait for.
pub(super) fn poll_entry(fd: BorrowedFd<'_>, events: i16) -> libc::pollfd {
    libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 }
}

/// Waits until one of the descriptors is ready, a signal comes in (an error of kind `Interrupted`), or the time is up.
pub(super) fn poll(entries: &mut [libc::pollfd], timeout: Duration) -> io::Result<usize> {
    let timeout = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos() as _,
    };
    let (data, length) = (entries.as_mut_ptr(), entries.len() as libc::nfds_t);
    // SAFETY: `data` points to `length` entries, `timeout` outlives the call, and no signal mask is given.
    let ready = checked(unsafe { libc::ppoll(data, length, &raw const timeout, std::ptr::null()) })?;
    Ok(ready as usize)
}
