//! Programs that are never attached in service: for start-up and for benchmarks.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use super::task;

/// Run once at start through BPF_PROG_TEST_RUN: our own process id in the initial pid namespace,
/// which in another pid namespace getpid() does not return.
///
/// Without aya's macro, which makes every program return 0.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
extern "C" fn whoami(_ctx: *mut aya_ebpf::cty::c_void) -> u32 {
    task::tgid()
}

/// Does nothing: the cost of calling any program, for benchmarks.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub(crate) fn empty(_ctx: RawTracePointContext) -> u32 {
    0
}
