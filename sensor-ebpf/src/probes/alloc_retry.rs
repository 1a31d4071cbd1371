//! Allocation retries: the allocator's last steps before it calls the OOM killer.
//!
//! `reclaim_retry_zone` (mm/page_alloc.c, should_reclaim_retry) fires for each zone that is
//! considered before another round of reclaim; `no_progress_loops` counts rounds that freed
//! nothing, and above MAX_RECLAIM_RETRIES (16) the allocator gives up. `compact_retry`
//! (should_compact_retry) fires before another round of compaction.
//!
//! Kernels: all from 5.10 on; `compact_retry` with CONFIG_COMPACTION.

use core::mem::offset_of;

use crate::spec::{Arg, Metric, Need, Probe, Program, Shape, Unit};

/// Words by number of loops: 0 to MAX_RECLAIM_RETRIES + 1, and one for all above.
pub const LOOPS: usize = 19;

/// First of [`LOOPS`] words: zones considered, by reclaim rounds without progress. The highest that
/// moved in a window is the largest number of such rounds in that window.
pub const LOOPS_WORD: usize = offset_of!(State, at_loops) / 8;

/// See the module.
pub const PROBE: Probe = Probe {
    name: "alloc_retry",
    about: "allocations that found no memory after reclaim and try again",
    programs: &[
        Program {
            name: "reclaim_retry",
            event: "oom:reclaim_retry_zone",
            args: &[Arg::int("no_progress_loops", "ARG_RETRY_LOOPS")],
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
            help: "Zones and compactions that the allocator considered before another attempt",
            shape: Shape::Counter { at: offset_of!(State, retries) / 8 },
            labels: &[],
        },
        Metric {
            name: "alloc_no_progress_loops_max",
            unit: Unit::None,
            help: "Largest number of reclaim rounds without progress in the window; above 16 the \
                   kernel calls the OOM killer",
            shape: Shape::Highest { at: LOOPS_WORD, len: LOOPS },
            labels: &[],
        },
    ],
    losses: &[],
};

#[repr(C)]
struct State {
    retries: u64,
    at_loops: [u64; LOOPS],
}

#[cfg(any(target_arch = "bpf", kernel_check))]
mod kernel {
    use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

    use super::{LOOPS, PROBE, State};
    use crate::{
        bpf::{
            args,
            count::{Counters, add_atomic, row},
        },
        probe_id::Id,
        spec::Probe,
    };

    args::arg_global!(ARG_RETRY_LOOPS);

    // SAFETY: repr(C) and u64 only.
    unsafe impl Counters for State {
        const ID: Id = Id::alloc_retry;
        const PROBE: &'static Probe = &PROBE;
    }

    #[raw_tracepoint(tracepoint = "reclaim_retry_zone")]
    fn reclaim_retry(ctx: RawTracePointContext) -> u32 {
        let loops = (args::get(&ctx, &ARG_RETRY_LOOPS) as u32 as usize).min(LOOPS - 1);
        let Some(row) = row::<State>() else { return 0 };
        // SAFETY: a word of the row, which is a map value. Both programs of this probe write it.
        unsafe { add_atomic(&raw mut row.retries, 1) };
        if let Some(n) = row.at_loops.get_mut(loops) {
            *n += 1;
        }
        0
    }

    #[raw_tracepoint(tracepoint = "compact_retry")]
    fn compact_retry(_ctx: RawTracePointContext) -> u32 {
        if let Some(row) = row::<State>() {
            // SAFETY: as above.
            unsafe { add_atomic(&raw mut row.retries, 1) };
        }
        0
    }
}
