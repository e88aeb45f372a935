//! What the programs share with each other and with user space.

use aya_ebpf::btf_maps::{Array, LruHashMap, RingBuf, SkStorage};
use aya_ebpf::macros::btf_map;
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use recorder_shared::{CONTROL_EPOCH, CONTROL_LOST, CONTROL_WORDS, Offsets, Socket};

/// All events, in the order in which they were reserved. 16 MiB hold some 170 000 socket events.
#[btf_map]
pub static EVENTS: RingBuf<u8, { 16 << 20 }> = RingBuf::new();

/// What is known of each socket; lives and dies with the socket.
#[btf_map]
pub static SOCKETS: SkStorage<Socket> = SkStorage::new();

/// The same, by the socket's cookie, where tracing programs may not use socket storage (see [`has_tracing_helpers`]); elsewhere
/// user space makes it with one entry. LRU, because sockets end without a word (a connection that nobody accepts); one
/// that is pushed out is known again when it is next used.
#[btf_map]
pub static SOCKETS_BY_COOKIE: LruHashMap<u64, Socket, 65536> = LruHashMap::new();

/// Processes that were announced, by process id word, with the epoch in which they were.
#[btf_map]
pub static PROCESSES: LruHashMap<u64, u32, 16384> = LruHashMap::new();

/// The recorded command and its descendants: tgid to start time. LRU, so that it can never be full; a process that
/// forks or opens sockets is never the least recently used.
#[btf_map]
pub static TRACKED: LruHashMap<u32, u64, 65536> = LruHashMap::new();

/// When processes last called exec: tgid to CLOCK_MONOTONIC. What is pushed out was long ago.
#[btf_map]
pub static EXECS: LruHashMap<u32, u64, 16384> = LruHashMap::new();

/// The epoch and the loss counter. User space maps them: it calls bpf(2) no more once it has restricted itself.
#[btf_map]
pub static CONTROL: Array<u64, CONTROL_WORDS, MMAPABLE> = Array::new();

/// BPF_F_MMAPABLE of include/uapi/linux/bpf.h, since Linux 5.5.
const MMAPABLE: usize = 1 << 10;

/// Filled in before loading. The map is frozen, so that the verifier knows the values and takes loads at these offsets
/// through typed pointers for what they are.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = {
    // SAFETY: all fields are integers.
    unsafe { core::mem::zeroed() }
};

/// Filled in before loading: see [`has_tracing_helpers`].
#[unsafe(no_mangle)]
static TRACING_HELPERS: u32 = 0;

/// Filled in before loading: whether arguments are asked for. Where they are not, the verifier drops what reads them.
#[unsafe(no_mangle)]
static WITH_ARGUMENTS: u32 = 0;

/// The offsets of this kernel.
#[inline(always)]
pub fn offsets() -> *const Offsets {
    &raw const OFFSETS
}

/// Reads one offset. A plain read would be folded to the zero that the object file holds.
macro_rules! offset {
    ($field:ident) => {{
        // SAFETY: the static is there and initialised.
        let offset = unsafe { core::ptr::read_volatile(&raw const (*$crate::maps::offsets()).$field) };
        offset as usize
    }};
}
pub(crate) use offset;

/// Whether there are the helpers that came with Linux 5.11 (`bpf_get_current_task_btf`, socket storage for tracing programs)
/// and 5.12 (`bpf_get_socket_cookie` for tracing programs). The verifier knows the answer, and does not look at what is
/// for the other case.
#[inline(always)]
pub fn has_tracing_helpers() -> bool {
    // SAFETY: the static is there and initialised.
    let has = unsafe { core::ptr::read_volatile(&raw const TRACING_HELPERS) };
    has != 0
}

/// Whether the arguments of processes are asked for.
#[inline(always)]
pub fn wants_arguments() -> bool {
    // SAFETY: the static is there and initialised.
    let wants = unsafe { core::ptr::read_volatile(&raw const WITH_ARGUMENTS) };
    wants != 0
}

/// The current epoch; 0, which no announcement has, if the map is missing.
#[inline(always)]
pub fn epoch() -> u32 {
    // The look-up is of an array and is inlined by the kernel.
    match CONTROL.get(CONTROL_EPOCH) {
        Some(epoch) => *epoch as u32,
        None => 0,
    }
}

/// Counts an event that found the ring full.
#[inline(always)]
pub fn count_loss() {
    if let Some(lost) = CONTROL.get_ptr_mut(CONTROL_LOST) {
        // SAFETY: the pointer is to a map value, which is aligned and only ever added to. The intrinsic, because
        // AtomicU64 has no fetch_add on a target without compare-and-swap, which BPF of Linux 5.10 is.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(lost, 1) };
    }
}


/// User space looks every 20 ms at the latest; waking it would cost the recorded program an interrupt.
pub const NO_WAKEUP: u64 = aya_ebpf::bindings::BPF_RB_NO_WAKEUP as u64;
