//! Arguments of tracepoints and functions, by the index that user space resolved from BTF.

use aya_ebpf::{
    EbpfContext, Global,
    programs::{FEntryContext, RawTracePointContext},
};

use crate::spec::NO_ARG;

/// Declares the global that carries one argument's index; unresolved until user space sets it.
macro_rules! arg_global {
    ($($name:ident),* $(,)?) => {
        $(
            #[unsafe(no_mangle)]
            static $name: aya_ebpf::Global<u32> = aya_ebpf::Global::new(crate::spec::NO_ARG);
        )*
    };
}
pub(crate) use arg_global;

/// A context that is an array of `u64`, one for each argument.
pub(crate) trait Args: EbpfContext {}

impl Args for RawTracePointContext {}
impl Args for FEntryContext {}

/// Whether user space resolved the argument.
#[inline(always)]
pub(crate) fn has(index: &Global<u32>) -> bool {
    index.load() != NO_ARG
}

/// The argument, or 0 if user space did not resolve it.
///
/// The context can only be read at constant offsets. The index is in frozen read-only data, so the
/// verifier knows it and removes all arms but one.
#[inline(always)]
pub(crate) fn get(ctx: &impl Args, index: &Global<u32>) -> u64 {
    match index.load() {
        0 => slot::<0>(ctx),
        1 => slot::<1>(ctx),
        2 => slot::<2>(ctx),
        3 => slot::<3>(ctx),
        4 => slot::<4>(ctx),
        5 => slot::<5>(ctx),
        6 => slot::<6>(ctx),
        7 => slot::<7>(ctx),
        _ => 0,
    }
}

/// A whole slot of the context, read in one instruction at a constant offset.
///
/// Only assembly keeps the compiler from changing the read: it would narrow `arg as u32` to half a
/// slot, and fold the arms above into one read at a computed address; the verifier rejects both.
#[inline(always)]
fn slot<const N: usize>(ctx: &impl Args) -> u64 {
    let at = ctx.as_ptr().cast::<u64>();
    #[cfg(target_arch = "bpf")]
    // SAFETY: the context is an array of u64; the verifier checks N against the event's arguments.
    unsafe {
        let value: u64;
        core::arch::asm!(
            "{value} = *(u64 *)({at} + {offset})",
            at = in(reg) at,
            value = out(reg) value,
            offset = const N * 8,
            options(readonly, nostack, preserves_flags),
        );
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: never run: it exists for clippy on the host.
    unsafe {
        at.add(N).read()
    }
}
