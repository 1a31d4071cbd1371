//! Raw tracepoint arguments by an index that user space resolved from BTF.

use aya_ebpf::{Global, programs::RawTracePointContext};

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

/// Whether user space found the argument.
#[inline(always)]
pub(crate) fn has(index: &Global<u32>) -> bool {
    index.load() != NO_ARG
}

/// The argument, or 0 if user space did not find it.
///
/// The context can only be read at constant offsets. The index is in frozen read-only data, so the
/// verifier knows it and removes all arms but one.
#[inline(always)]
pub(crate) fn get(ctx: &RawTracePointContext, index: &Global<u32>) -> u64 {
    match index.load() {
        0 => ctx.arg(0),
        1 => ctx.arg(1),
        2 => ctx.arg(2),
        3 => ctx.arg(3),
        4 => ctx.arg(4),
        5 => ctx.arg(5),
        6 => ctx.arg(6),
        7 => ctx.arg(7),
        _ => 0,
    }
}
