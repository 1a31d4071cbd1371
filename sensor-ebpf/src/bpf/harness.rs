//! Programs that are never attached in service: for start-up and for measuring.

use aya_ebpf::{EbpfContext as _, macros::raw_tracepoint, programs::RawTracePointContext};

/// Run once at start through BPF_PROG_TEST_RUN: our own process id as the kernel counts it, which
/// inside a pid namespace is not what getpid() says.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub(crate) fn whoami(ctx: RawTracePointContext) -> u32 {
    ctx.tgid()
}

/// Does nothing: what calling any program costs, for benchmarks.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub(crate) fn empty(_ctx: RawTracePointContext) -> u32 {
    0
}
