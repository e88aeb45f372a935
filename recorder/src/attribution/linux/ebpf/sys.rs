//! System calls that no package of ours wraps, and the reading of raw event bytes. The only `unsafe` of this room.

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use recorder_shared::{
    CONTROL_EPOCH, CONTROL_LOST, CONTROL_WORDS, Offsets, ProcessEvent, ProcessEventWithArguments, SocketEvent,
};

/// The bytes of the control words: an array map of them is mapped as they are, in whole pages.
const CONTROL_BYTES: usize = CONTROL_WORDS * size_of::<u64>();

/// The words that both sides read and write, mapped: no system call is needed for them.
#[derive(Debug)]
pub(super) struct Control {
    words: NonNull<[AtomicU64; CONTROL_WORDS]>,
}

impl Control {
    /// Maps the control words; the descriptor is that of their map, which has BPF_F_MMAPABLE.
    pub(super) fn map(descriptor: BorrowedFd<'_>) -> io::Result<Self> {
        let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address that the kernel chooses; nothing that is there is touched.
        let words =
            unsafe { libc::mmap(ptr::null_mut(), CONTROL_BYTES, access, shared, descriptor.as_raw_fd(), 0) };
        if words == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let words = NonNull::new(words.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { words })
    }

    fn words(&self) -> &[AtomicU64; CONTROL_WORDS] {
        // SAFETY: the mapping is there as long as `self`, begins with the words, and is aligned to a page. The kernel side
        // changes them meanwhile, which atomics allow.
        unsafe { self.words.as_ref() }
    }

    /// How many events the ring could not take.
    pub(super) fn lost(&self) -> u64 {
        self.words()[CONTROL_LOST as usize].load(Ordering::Relaxed)
    }

    /// Begins an epoch.
    pub(super) fn set_epoch(&self, epoch: u64) {
        self.words()[CONTROL_EPOCH as usize].store(epoch, Ordering::Relaxed);
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this address and size, and nothing refers to it any more.
        unsafe { libc::munmap(self.words.as_ptr().cast(), CONTROL_BYTES) };
    }
}

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
