//! Reads of kernel memory at the offsets that user space found in BTF.
//!
//! `load` follows a typed pointer: the verifier knows the type, so it costs one load, but only programs that got the
//! pointer typed can do it. `probe` asks a helper: it works on any address and costs 20 ns, for rare paths. `SockHead`
//! asks it once for many fields.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;

use crate::maps::offset;

/// Reads the field at `offset` behind a pointer whose type the verifier knows.
///
/// # Safety
/// `base` is a pointer that the verifier knows as a kernel struct with a `T` at `offset`; the kernel turns a bad
/// address into a read of 0.
#[inline(always)]
pub unsafe fn load<T>(base: *const c_void, offset: usize) -> T {
    // SAFETY: the caller's promise.
    let field = unsafe { base.byte_add(offset) };
    // SAFETY: the caller's promise. Volatile, so that the load keeps its width: the verifier checks it against the type.
    unsafe { core::ptr::read_volatile(field.cast::<T>()) }
}

/// Reads the field at `offset` behind any kernel address; zero where it cannot be read.
#[inline(always)]
pub fn probe<T: Zero>(base: *const c_void, offset: usize) -> T {
    let field = base.wrapping_byte_add(offset);
    let mut value = T::ZERO;
    // SAFETY: the helper checks the address and fills the target, with zeros if the address is bad: so its result says
    // nothing that the value does not, and not to branch on it saves the verifier from exploring both ways.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, field) };
    value
}

/// Reads bytes at `offset` behind any kernel address to where they are wanted, without a copy on the stack; zeros where they
/// cannot be read.
#[inline(always)]
pub fn probe_bytes<const N: usize>(target: &mut [u8; N], base: *const c_void, offset: usize) {
    let field = base.wrapping_byte_add(offset);
    // SAFETY: the helper checks the address and fills the target, with zeros if the address is bad.
    unsafe { bpf_probe_read_kernel(target.as_mut_ptr().cast(), N as u32, field) };
}

/// The same address, as a number in the verifier's eyes: some typed socket pointers may not be added to. The pointer is
/// read back from the stack by the helper, which tells the verifier nothing of its type.
#[inline(always)]
pub fn untyped(pointer: *const c_void) -> *const c_void {
    let slot = pointer;
    probe((&raw const slot).cast(), 0)
}

/// Types whose zero stands for "nothing there".
pub trait Zero: Copy {
    /// The zero.
    const ZERO: Self;
}

impl Zero for u8 {
    const ZERO: Self = 0;
}
impl Zero for u16 {
    const ZERO: Self = 0;
}
impl Zero for u32 {
    const ZERO: Self = 0;
}
impl Zero for u64 {
    const ZERO: Self = 0;
}
impl Zero for [u8; 16] {
    const ZERO: Self = [0; 16];
}
impl Zero for [u64; 2] {
    const ZERO: Self = [0; 2];
}
impl Zero for *const c_void {
    const ZERO: Self = core::ptr::null();
}

/// How much of a `struct sock` is read at once. The fields asked for are at its beginning (`struct sock_common`); where
/// one were not, the verifier would refuse the program.
const HEAD_WORDS: usize = 12;

/// The beginning of a `struct sock`, copied: one call of the helper instead of one for each field.
pub struct SockHead([u64; HEAD_WORDS]);

impl SockHead {
    /// Copies it.
    #[inline(always)]
    pub fn of(sk: *const c_void) -> Self {
        let mut head = Self([0; HEAD_WORDS]);
        let bytes = size_of::<Self>() as u32;
        // SAFETY: the helper checks the address and fills the target, with zeros if the address is bad.
        unsafe { bpf_probe_read_kernel((&raw mut head).cast(), bytes, sk) };
        head
    }

    /// The field at this offset.
    #[inline(always)]
    pub fn field<T: Zero>(&self, offset: usize) -> T {
        // SAFETY: the verifier knows the offset and refuses one that is not within.
        unsafe { load((&raw const self.0).cast(), offset) }
    }

    /// The inode number of the socket's network namespace.
    #[inline(always)]
    pub fn netns(&self) -> u32 {
        let net: *const c_void = self.field(offset!(sock_net));
        probe(net, offset!(net_inum))
    }
}
