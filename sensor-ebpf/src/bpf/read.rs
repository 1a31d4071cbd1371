//! Reads members of kernel structures: by a helper, or through a pointer with a type.

use aya_ebpf::{Global, helpers::generated::bpf_probe_read_kernel};

use crate::event::COMM;

/// Reads a member at an offset that user space resolved from BTF.
pub(crate) trait Member {
    /// Two bytes.
    fn half(base: u64, offset: &Global<u32>) -> u16;
    /// Four bytes.
    fn word(base: u64, offset: &Global<u32>) -> u32;
    /// Eight bytes: a number, or the address of another structure.
    fn long(base: u64, offset: &Global<u32>) -> u64;
    /// A thread's name.
    fn name(base: u64, offset: &Global<u32>) -> [u8; COMM];
    /// A counter of resident pages.
    fn resident(mm: u64, offset: &Global<u32>) -> u64 {
        Self::long(mm, offset)
    }
}

/// 1 if the verifier knows the type of the counters of resident pages (6.2).
#[unsafe(no_mangle)]
static TYPED_RSS: Global<u32> = Global::new(0);

#[inline(always)]
fn at(base: u64, offset: &Global<u32>) -> u64 {
    base + u64::from(offset.load())
}

/// Reads a member of the kernel structure at `base`; 0 if the address cannot be read.
///
/// The helper writes zeros where it cannot read (kernel/trace/bpf_trace.c,
/// bpf_probe_read_kernel_common, since 5.5), so no branch is needed: twenty reads with a branch
/// each are more paths than the verifier of 6.1 accepts.
#[inline(always)]
pub(crate) fn read<T: Copy + Default>(base: u64, offset: &Global<u32>) -> T {
    let mut value = T::default();
    // SAFETY: `value` has the given size; the helper checks the address itself.
    unsafe {
        bpf_probe_read_kernel(
            (&raw mut value).cast(),
            size_of::<T>() as u32,
            at(base, offset) as *const _,
        );
    }
    value
}

/// Reads by the helper, from any address.
pub(crate) struct Probed;

impl Member for Probed {
    #[inline(always)]
    fn half(base: u64, offset: &Global<u32>) -> u16 {
        read(base, offset)
    }

    #[inline(always)]
    fn word(base: u64, offset: &Global<u32>) -> u32 {
        read(base, offset)
    }

    #[inline(always)]
    fn long(base: u64, offset: &Global<u32>) -> u64 {
        read(base, offset)
    }

    #[inline(always)]
    fn name(base: u64, offset: &Global<u32>) -> [u8; COMM] {
        read(base, offset)
    }
}

/// Reads through a pointer whose type the verifier knows: one instruction, and a fault reads as 0.
/// Four of these cost as much as one bpf_probe_read_kernel.
///
/// The offset is in frozen read-only data, so the verifier sees a constant and checks it against
/// the type. Only assembly keeps the compiler from folding it into the access.
pub(crate) struct Typed;

macro_rules! load {
    ($size:literal, $at:expr) => {{
        let at: u64 = $at;
        #[cfg(target_arch = "bpf")]
        // SAFETY: the verifier checks pointer, offset and size against the type in BTF.
        unsafe {
            let value: u64;
            core::arch::asm!(
                concat!("{value} = *(", $size, " *)({at} + 0)"),
                at = in(reg) at,
                value = lateout(reg) value,
                options(readonly, nostack, preserves_flags),
            );
            value
        }
        #[cfg(not(target_arch = "bpf"))]
        at
    }};
}

impl Member for Typed {
    #[inline(always)]
    fn half(base: u64, offset: &Global<u32>) -> u16 {
        load!("u16", at(base, offset)) as u16
    }

    #[inline(always)]
    fn word(base: u64, offset: &Global<u32>) -> u32 {
        load!("u32", at(base, offset)) as u32
    }

    #[inline(always)]
    fn long(base: u64, offset: &Global<u32>) -> u64 {
        load!("u64", at(base, offset))
    }

    /// The verifier accepts a load of any size that stays within an array of characters.
    #[inline(always)]
    fn name(base: u64, offset: &Global<u32>) -> [u8; COMM] {
        const { assert!(COMM == 16) };
        let halves = [load!("u64", at(base, offset)), load!("u64", at(base, offset) + 8)];
        // SAFETY: both are 16 bytes, and any bits are a name.
        unsafe { core::mem::transmute(halves) }
    }

    #[inline(always)]
    fn resident(mm: u64, offset: &Global<u32>) -> u64 {
        if TYPED_RSS.load() != 0 {
            return Self::long(mm, offset);
        }
        let pages: u64 = read(mm, offset);
        // SAFETY: it was just written. Volatile, or the compiler would read it in both cases and
        // select afterwards, and the verifier rejects a read of memory that was never written.
        unsafe { core::ptr::read_volatile(&raw const pages) }
    }
}
