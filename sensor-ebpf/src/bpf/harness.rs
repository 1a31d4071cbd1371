//! Programs that are never attached in service: for start-up and for measuring.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

/// Run once at start through BPF_PROG_TEST_RUN: our own process id as the kernel counts it, which
/// inside a pid namespace is not what getpid() says.
///
/// Without aya's macro, which makes every program return 0.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
extern "C" fn whoami(_ctx: *mut aya_ebpf::cty::c_void) -> u32 {
    super::task::tgid()
}

/// Does nothing: what calling any program costs, for benchmarks.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub(crate) fn empty(_ctx: RawTracePointContext) -> u32 {
    0
}
