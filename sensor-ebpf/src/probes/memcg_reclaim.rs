//! Limit reclaim: a task must free pages of its memory cgroup, because a limit was reached.
//!
//! `mm_vmscan_memcg_reclaim_begin/_end` (mm/vmscan.c, try_to_free_mem_cgroup_pages) also fire for
//! proactive reclaim (a write to `memory.reclaim` or a lowered `memory.high`). Our own never counts;
//! somebody else's cannot be told apart in the event.
//!
//! Soft-limit reclaim (memcg v1) runs *inside* global direct reclaim or kswapd, which already
//! account for the time. It has a histogram of its own and is no cause of the stall clock, or its
//! seconds would count twice.

use core::mem::offset_of;

use crate::{
    hist::Log2Seconds,
    inflight::Kind,
    layout,
    probes::Cause,
    spec::{Arg, ArgType, Metric, Need, Probe, Program, Shape, Unit},
};

const SOFTLIMIT: Need = Need::Optional {
    lost: "soft-limit reclaim (memcg v1) is not counted",
    present: None,
    metrics: &["softlimit_reclaim", "softlimit_reclaim_pages"],
};

/// See the module.
pub const PROBE: Probe = Probe {
    name: "memcg_reclaim",
    about: "tasks that must free pages of their cgroup, because it reached a limit",
    programs: &[
        Program {
            name: "memcg_begin",
            event: "vmscan:mm_vmscan_memcg_reclaim_begin",
            args: &[],
            one_of: &[],
            fields: &layout::CGROUP_OF_TASK,
            need: Need::Required,
        },
        Program {
            name: "memcg_end",
            event: "vmscan:mm_vmscan_memcg_reclaim_end",
            args: &[Arg { param: "nr_reclaimed", global: "ARG_MEMCG_FREED", ty: ArgType::Int }],
            one_of: &[],
            fields: &[],
            need: Need::Required,
        },
        Program {
            name: "softlimit_begin",
            event: "vmscan:mm_vmscan_memcg_softlimit_reclaim_begin",
            args: &[],
            one_of: &[],
            fields: &[],
            need: SOFTLIMIT,
        },
        Program {
            name: "softlimit_end",
            event: "vmscan:mm_vmscan_memcg_softlimit_reclaim_end",
            args: &[Arg { param: "nr_reclaimed", global: "ARG_SOFT_FREED", ty: ArgType::Int }],
            one_of: &[],
            fields: &[],
            need: SOFTLIMIT,
        },
    ],
    metrics: &[
        Metric {
            name: "memcg_reclaim",
            unit: Unit::Seconds,
            help: "Time that tasks spent in limit reclaim of their memory cgroup, per entry",
            shape: Shape::Histogram { at: offset_of!(State, latency) / 8 },
            labels: &[],
        },
        Metric {
            name: "memcg_reclaim_pages",
            unit: Unit::None,
            help: "Pages freed in limit reclaim",
            shape: Shape::Counter { at: offset_of!(State, pages) / 8 },
            labels: &[],
        },
        Metric {
            name: "softlimit_reclaim",
            unit: Unit::Seconds,
            help: "Time spent in soft-limit reclaim (memcg v1), already part of direct reclaim or kswapd, per entry",
            shape: Shape::Histogram { at: offset_of!(State, soft_latency) / 8 },
            labels: &[],
        },
        Metric {
            name: "softlimit_reclaim_pages",
            unit: Unit::None,
            help: "Pages freed in soft-limit reclaim (memcg v1)",
            shape: Shape::Counter { at: offset_of!(State, soft_pages) / 8 },
            labels: &[],
        },
        Metric {
            name: "reclaiming_tasks",
            unit: Unit::None,
            help: "Tasks that are inside reclaim now",
            shape: Shape::Inside { kind: Kind::Memcg, label: "memcg" },
            labels: &[],
        },
        Metric {
            name: "stall",
            unit: Unit::Seconds,
            help: "Time that tasks spent stalled on memory, by exclusive cause, stalls under way included",
            shape: Shape::Stall {
                at: offset_of!(State, stall_ns) / 8,
                cause: Some(Cause::MemcgReclaim.label()),
                kind: Some(Kind::Memcg),
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
    soft_pages: u64,
    soft_latency: Log2Seconds,
}

#[cfg(any(target_arch = "bpf", kernel_check))]
mod kernel {
    use aya_ebpf::{Global, macros::raw_tracepoint, programs::RawTracePointContext};

    use super::State;
    use crate::{
        bpf::{
            args,
            count::{lost, row},
            histogram, stall, task, track,
        },
        inflight::Kind,
        loss::Loss,
        probes::Id,
    };

    args::arg_global!(ARG_MEMCG_FREED, ARG_SOFT_FREED);

    /// The daemon's own process id, whose reclaim is never pressure.
    #[unsafe(no_mangle)]
    static SELF_TGID: Global<u32> = Global::new(0);

    #[inline(always)]
    fn ours() -> bool {
        SELF_TGID.load() == task::tgid()
    }

    #[raw_tracepoint(tracepoint = "mm_vmscan_memcg_reclaim_begin")]
    fn memcg_begin(_ctx: RawTracePointContext) -> u32 {
        if !ours() {
            track::begin_stall(Kind::Memcg);
        }
        0
    }

    #[raw_tracepoint(tracepoint = "mm_vmscan_memcg_reclaim_end")]
    fn memcg_end(ctx: RawTracePointContext) -> u32 {
        let Some((slot, now)) = track::try_end(Kind::Memcg) else {
            if !ours() {
                lost(Loss::UnmatchedEnd);
            }
            return 0;
        };
        // SAFETY: State is repr(C) and u64 only.
        let Some(row) = (unsafe { row::<State>(Id::memcg_reclaim as u32) }) else { return 0 };
        let ns = now.saturating_sub(slot.start_ns);
        row.latency.observe(ns);
        histogram::observe(Kind::Memcg, &slot, ns);
        row.pages += args::get(&ctx, &ARG_MEMCG_FREED);
        row.stall_ns += stall::ended(&slot, now);
        0
    }

    #[raw_tracepoint(tracepoint = "mm_vmscan_memcg_softlimit_reclaim_begin")]
    fn softlimit_begin(_ctx: RawTracePointContext) -> u32 {
        track::begin(Kind::Softlimit, 0);
        0
    }

    #[raw_tracepoint(tracepoint = "mm_vmscan_memcg_softlimit_reclaim_end")]
    fn softlimit_end(ctx: RawTracePointContext) -> u32 {
        let Some((slot, now)) = track::end(Kind::Softlimit) else { return 0 };
        // SAFETY: State is repr(C) and u64 only.
        let Some(row) = (unsafe { row::<State>(Id::memcg_reclaim as u32) }) else { return 0 };
        row.soft_latency.observe(now.saturating_sub(slot.start_ns));
        row.soft_pages += args::get(&ctx, &ARG_SOFT_FREED);
        0
    }
}
