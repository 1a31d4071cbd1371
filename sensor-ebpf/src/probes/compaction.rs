//! Direct compaction: a task waits while the kernel moves pages to make a contiguous block.
//!
//! `mm_compaction_begin/_end` (mm/compaction.c, compact_zone) also fire for kcompactd. Kernel
//! threads are not counted: no task waits for them. A write to `/proc/sys/vm/compact_memory`
//! counts, because its writer waits.
//!
//! Kernels: all from 5.10 on with CONFIG_COMPACTION.

use core::mem::offset_of;

use crate::{
    hist::Log2Seconds,
    layout,
    loss::Loss,
    spec::{Arg, Field, Label, Metric, Need, Probe, Program, Shape, Unit},
    stall_kind::{Cause, Kind},
};

const RESULTS: usize = 16;

const FIELDS: [Field; 7] = {
    let [a, b, c, d, e, f] = layout::CGROUP_OF_TASK;
    [layout::TASK_FLAGS, a, b, c, d, e, f]
};

/// See the module.
pub const PROBE: Probe = Probe {
    name: "compaction",
    about: "tasks that wait while pages are moved to make a contiguous block",
    programs: &[
        Program {
            name: "compact_end",
            event: "compaction:mm_compaction_end",
            args: &[Arg::int("status", "ARG_COMPACT_STATUS")],
            one_of: &[],
            fields: &[layout::TASK_FLAGS],
            need: Need::Required,
        },
        Program {
            name: "compact_begin",
            event: "compaction:mm_compaction_begin",
            args: &[],
            one_of: &[],
            fields: &FIELDS,
            need: Need::Required,
        },
    ],
    metrics: &[
        Metric {
            name: "compaction_stall",
            unit: Unit::Seconds,
            help: "Time that tasks spent in direct compaction of a zone, per entry",
            shape: Shape::Histogram { at: offset_of!(State, latency) / 8 },
            labels: &[],
        },
        Metric {
            name: "compaction_results",
            unit: Unit::None,
            help: "Direct compactions of a zone, by result",
            shape: Shape::Counter { at: offset_of!(State, results) / 8 },
            labels: &[Label::KernelEnum {
                key: "result",
                ty: "compact_result",
                prefix: "COMPACT_",
                len: RESULTS,
            }],
        },
        Metric::stall(offset_of!(State, stall_ns) / 8, Cause::Compaction, Some(Kind::Compaction)),
    ],
    losses: &[
        Loss::UnmatchedEnd,
        Loss::UnmatchedBegin,
        Loss::InflightEvicted,
        Loss::CgroupsFull,
        Loss::CgroupEvicted,
    ],
};

#[repr(C)]
struct State {
    stall_ns: u64,
    latency: Log2Seconds,
    results: [u64; RESULTS],
}

#[cfg(any(target_arch = "bpf", kernel_check))]
mod kernel {
    use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

    use super::{PROBE, State};
    use crate::{
        bpf::{
            args,
            count::{Counters, row},
            stall, task, track,
        },
        probe_id::Id,
        spec::Probe,
        stall_kind::Kind,
    };

    args::arg_global!(ARG_COMPACT_STATUS);

    // SAFETY: repr(C) and u64 only.
    unsafe impl Counters for State {
        const ID: Id = Id::compaction;
        const PROBE: &'static Probe = &PROBE;
    }

    #[raw_tracepoint(tracepoint = "mm_compaction_begin")]
    fn compact_begin(_ctx: RawTracePointContext) -> u32 {
        if !task::is_kernel_thread() {
            track::begin_stall::<State>(Kind::Compaction);
        }
        0
    }

    #[raw_tracepoint(tracepoint = "mm_compaction_end")]
    fn compact_end(ctx: RawTracePointContext) -> u32 {
        if task::is_kernel_thread() {
            return 0;
        }
        let Some((slot, now)) = track::end::<State>(Kind::Compaction) else { return 0 };
        let Some(row) = row::<State>() else { return 0 };
        row.latency.observe(now.saturating_sub(slot.start_ns));
        if let Some(n) = row.results.get_mut(args::get(&ctx, &ARG_COMPACT_STATUS) as u32 as usize) {
            *n += 1;
        }
        row.stall_ns += stall::ended(&slot, now);
        0
    }
}
