//! Allocation retries: the allocator's own last steps before it calls the OOM killer.
//!
//! `reclaim_retry_zone` (mm/page_alloc.c, should_reclaim_retry) fires for each zone that is looked
//! at before another round of reclaim; `no_progress_loops` counts rounds that freed nothing, and
//! beyond MAX_RECLAIM_RETRIES (16) the allocator gives up. `compact_retry` (should_compact_retry)
//! fires before another round of compaction.

use core::mem::offset_of;

use crate::spec::{Arg, ArgType, Metric, Need, Probe, Program, Shape, Unit};

/// Loops 0 to MAX_RECLAIM_RETRIES + 1, and one for anything above.
const LOOPS: usize = 19;

/// See the module.
pub const PROBE: Probe = Probe {
    name: "alloc_retry",
    about: "allocations that found no memory after reclaim and try again",
    programs: &[
        Program {
            name: "reclaim_retry",
            event: "oom:reclaim_retry_zone",
            args: &[Arg { param: "no_progress_loops", global: "ARG_RETRY_LOOPS", ty: ArgType::Int }],
            one_of: &[],
            fields: &[],
            need: Need::Required,
        },
        Program {
            name: "compact_retry",
            event: "oom:compact_retry",
            args: &[],
            one_of: &[],
            fields: &[],
            need: Need::Optional {
                lost: "retries of compaction are not counted (a kernel without CONFIG_COMPACTION)",
                present: None,
                metrics: &[],
            },
        },
    ],
    metrics: &[
        Metric {
            name: "alloc_retries",
            unit: Unit::None,
            help: "Zones and compactions that the allocator considered for another try",
            shape: Shape::Counter { at: offset_of!(State, retries) / 8 },
            labels: &[],
        },
        Metric {
            name: "alloc_no_progress_loops_max",
            unit: Unit::None,
            help: "Most rounds of reclaim without progress in the window: above 16 the OOM killer is called",
            shape: Shape::Highest { at: offset_of!(State, at_loops) / 8, len: LOOPS },
            labels: &[],
        },
    ],
};

#[repr(C)]
struct State {
    retries: u64,
    at_loops: [u64; LOOPS],
}

#[cfg(any(target_arch = "bpf", kernel_check))]
mod kernel {
    use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

    use super::{LOOPS, State};
    use crate::{
        bpf::{
            args,
            count::{add_atomic, row},
        },
        probes::Id,
    };

    args::arg_global!(ARG_RETRY_LOOPS);

    #[raw_tracepoint(tracepoint = "reclaim_retry_zone")]
    fn reclaim_retry(ctx: RawTracePointContext) -> u32 {
        let loops = (args::get(&ctx, &ARG_RETRY_LOOPS) as u32 as usize).min(LOOPS - 1);
        // SAFETY: State is repr(C) and u64 only.
        let Some(row) = (unsafe { row::<State>(Id::alloc_retry as u32) }) else { return 0 };
        // SAFETY: a word of a live row; both programs of this probe write it.
        unsafe { add_atomic(&raw mut row.retries, 1) };
        if let Some(n) = row.at_loops.get_mut(loops) {
            *n += 1;
        }
        0
    }

    #[raw_tracepoint(tracepoint = "compact_retry")]
    fn compact_retry(_ctx: RawTracePointContext) -> u32 {
        // SAFETY: State is repr(C) and u64 only.
        if let Some(row) = unsafe { row::<State>(Id::alloc_retry as u32) } {
            // SAFETY: as above.
            unsafe { add_atomic(&raw mut row.retries, 1) };
        }
        0
    }
}
