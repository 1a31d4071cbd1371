//! Direct reclaim: the allocating task itself frees pages, because its node ran low.
//!
//! `mm_vmscan_direct_reclaim_begin/_end` (mm/vmscan.c, try_to_free_pages) are a pair in one
//! function, so every begin has an end, unless the task oopses inside. The begin comes after
//! `throttle_direct_reclaim()`, so that sleep is not included. `nr_reclaimed` is the only argument
//! read; order and gfp_flags of the begin changed places after 6.18.
//!
//! Kernels: all from 5.10 on.

use core::mem::offset_of;

use crate::{
    hist::Log2Seconds,
    layout,
    loss::Loss,
    spec::{Arg, Metric, Need, Probe, Program, Shape, Unit},
    stall_kind::{Cause, Kind},
};

/// See the module.
pub const PROBE: Probe = Probe {
    name: "direct_reclaim",
    about: "tasks that free pages themselves before their allocation continues",
    programs: &[
        Program {
            name: "direct_end",
            event: "vmscan:mm_vmscan_direct_reclaim_end",
            args: &[Arg::int("nr_reclaimed", "ARG_DIRECT_FREED")],
            one_of: &[],
            fields: &[],
            need: Need::Required,
        },
        Program {
            name: "direct_begin",
            event: "vmscan:mm_vmscan_direct_reclaim_begin",
            args: &[],
            one_of: &[],
            fields: &layout::CGROUP_OF_TASK,
            need: Need::Required,
        },
    ],
    metrics: &[
        Metric {
            name: "direct_reclaim",
            unit: Unit::Seconds,
            help: "Time that tasks spent in global direct reclaim, per entry",
            shape: Shape::Histogram { at: offset_of!(State, latency) / 8 },
            labels: &[],
        },
        Metric {
            name: "direct_reclaim_pages",
            unit: Unit::None,
            help: "Pages freed by direct reclaim",
            shape: Shape::Counter { at: offset_of!(State, pages) / 8 },
            labels: &[],
        },
        Metric::reclaiming_tasks(Kind::Direct, "direct"),
        Metric::stall(offset_of!(State, stall_ns) / 8, Cause::DirectReclaim, Some(Kind::Direct)),
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
    pages: u64,
    latency: Log2Seconds,
}

#[cfg(any(target_arch = "bpf", kernel_check))]
mod kernel {
    use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

    use super::{PROBE, State};
    use crate::{
        bpf::{
            args,
            count::{Counters, row},
            histogram, stall, track,
        },
        probe_id::Id,
        spec::Probe,
        stall_kind::Kind,
    };

    args::arg_global!(ARG_DIRECT_FREED);

    // SAFETY: repr(C) and u64 only.
    unsafe impl Counters for State {
        const ID: Id = Id::direct_reclaim;
        const PROBE: &'static Probe = &PROBE;
    }

    #[raw_tracepoint(tracepoint = "mm_vmscan_direct_reclaim_begin")]
    fn direct_begin(_ctx: RawTracePointContext) -> u32 {
        track::begin_stall::<State>(Kind::Direct);
        0
    }

    #[raw_tracepoint(tracepoint = "mm_vmscan_direct_reclaim_end")]
    fn direct_end(ctx: RawTracePointContext) -> u32 {
        let Some((slot, now)) = track::end::<State>(Kind::Direct) else { return 0 };
        let Some(row) = row::<State>() else { return 0 };
        let ns = now.saturating_sub(slot.start_ns);
        row.latency.observe(ns);
        histogram::observe::<State>(Kind::Direct, &slot, ns);
        row.pages += args::get(&ctx, &ARG_DIRECT_FREED);
        row.stall_ns += stall::ended(&slot, now);
        0
    }
}
