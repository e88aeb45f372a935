//! System calls that no package of ours wraps, and the reading of raw event bytes. The only `unsafe` of this room.

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use recorder_shared::{Offsets, ProcessEvent, ProcessEventWithArguments, SocketEvent};

/// Opens a file system's root directory without mounting it anywhere (fsopen(2), fsmount(2); Linux 5.2).
pub(super) fn open_unmounted(file_system: &str) -> io::Result<OwnedFd> {
    const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
    const FSOPEN_CLOEXEC: libc::c_uint = 1;
    const FSMOUNT_CLOEXEC: libc::c_uint = 1;
    let name = CString::new(file_system)?;
    // SAFETY: the name is a C string that outlives the call.
    let context = unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), FSOPEN_CLOEXEC) };
    let context = owned(context)?;
    let null = std::ptr::null::<libc::c_char>();
    // SAFETY: this command takes no key and no value.
    let created =
        unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, null, null, 0) };
    if created != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all arguments are integers.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) })
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let Ok(descriptor @ 0..) = i32::try_from(result) else { return Err(io::Error::last_os_error()) };
    // SAFETY: the call before gave this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The time of this clock now, in nanoseconds.
pub(crate) fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec that outlives the call; the clocks asked for exist on every Linux.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Reads a socket event; none if the size is not that of one.
pub(super) fn socket_event(bytes: &[u8]) -> Option<SocketEvent> {
    if bytes.len() != size_of::<SocketEvent>() {
        return None;
    }
    // SAFETY: the size was checked, every bit pattern is a valid value, and the read needs no alignment.
    Some(unsafe { bytes.as_ptr().cast::<SocketEvent>().read_unaligned() })
}

/// Reads a process event; none if the size is not that of one.
pub(super) fn process_event(bytes: &[u8]) -> Option<ProcessEvent> {
    if bytes.len() != size_of::<ProcessEvent>() {
        return None;
    }
    // SAFETY: the size was checked, every bit pattern is a valid value, and the read needs no alignment.
    Some(unsafe { bytes.as_ptr().cast::<ProcessEvent>().read_unaligned() })
}

/// Reads a process event that has arguments; none if the size is not that of one.
pub(super) fn process_event_with_arguments(bytes: &[u8]) -> Option<ProcessEventWithArguments> {
    if bytes.len() != size_of::<ProcessEventWithArguments>() {
        return None;
    }
    // SAFETY: the size was checked, every bit pattern is a valid value, and the read needs no alignment.
    Some(unsafe { bytes.as_ptr().cast::<ProcessEventWithArguments>().read_unaligned() })
}

/// A word of the kernel boundary as aya wants it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Wire<T>(pub T);

// SAFETY: `Offsets` is made of u32 only: no padding, every bit pattern valid.
unsafe impl aya::Pod for Wire<Offsets> {}
