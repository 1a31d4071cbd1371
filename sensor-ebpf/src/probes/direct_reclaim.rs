//! Direct reclaim: the allocating task itself has to free pages, because its node ran low.
//!
//! `mm_vmscan_direct_reclaim_begin/_end` (mm/vmscan.c, try_to_free_pages) are a pair in one
//! function, so an end always follows, save for a task that oopses inside. The pair opens *after*
//! `throttle_direct_reclaim()`, whose sleep is therefore not in it. `nr_reclaimed` is the only
//! argument read; begin's order and gfp_flags changed places after 6.18 and are not.

use crate::{
    inflight::Kind,
    probes::Cause,
    spec::{Arg, ArgType, Metric, Need, Probe, Program, Shape, Unit},
};
use crate::{hist::Log2Seconds, layout};
use core::mem::offset_of;

/// See the module.
pub const PROBE: Probe = Probe {
    name: "direct_reclaim",
    about: "tasks that must free pages themselves before their allocation goes on",
    programs: &[
        Program {
            name: "direct_begin",
            event: "vmscan:mm_vmscan_direct_reclaim_begin",
            args: &[],
            one_of: &[],
            fields: &layout::CGROUP_OF_TASK,
            need: Need::Required,
        },
        Program {
            name: "direct_end",
            event: "vmscan:mm_vmscan_direct_reclaim_end",
            args: &[Arg { param: "nr_reclaimed", global: "ARG_DIRECT_FREED", ty: ArgType::Int }],
            one_of: &[],
            fields: &[],
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
            help: "Pages freed in direct reclaim",
            shape: Shape::Counter { at: offset_of!(State, pages) / 8 },
            labels: &[],
        },
        Metric {
            name: "reclaiming_tasks",
            unit: Unit::None,
            help: "Tasks that are inside reclaim now",
            shape: Shape::Inside { kind: Kind::Direct, label: "direct" },
            labels: &[],
        },
        Metric {
            name: "stall",
            unit: Unit::Seconds,
            help: "Time that tasks spent stalled on memory, by exclusive cause, stalls under way included",
            shape: Shape::Stall {
                at: offset_of!(State, stall_ns) / 8,
                cause: Some(Cause::DirectReclaim.label()),
                kind: Some(Kind::Direct),
            },
            labels: &[],
        },
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

    use super::State;
    use crate::{
        bpf::{args, count::row, histogram, stall, track},
        inflight::Kind,
        probes::Id,
    };

    args::arg_global!(ARG_DIRECT_FREED);

    #[raw_tracepoint(tracepoint = "mm_vmscan_direct_reclaim_begin")]
    fn direct_begin(_ctx: RawTracePointContext) -> u32 {
        track::begin_stall(Kind::Direct);
        0
    }

    #[raw_tracepoint(tracepoint = "mm_vmscan_direct_reclaim_end")]
    fn direct_end(ctx: RawTracePointContext) -> u32 {
        let Some((slot, now)) = track::end(Kind::Direct) else { return 0 };
        // SAFETY: State is repr(C) and u64 only.
        let Some(row) = (unsafe { row::<State>(Id::direct_reclaim as u32) }) else { return 0 };
        let ns = now.saturating_sub(slot.start_ns);
        row.latency.observe(ns);
        histogram::observe(Kind::Direct, &slot, ns);
        row.pages += args::get(&ctx, &ARG_DIRECT_FREED);
        row.stall_ns += stall::ended(&slot, now);
        0
    }
}
