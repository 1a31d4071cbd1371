//! Limit reclaim: a task frees pages of its memory cgroup, because the cgroup reached a limit.
//!
//! `mm_vmscan_memcg_reclaim_begin/_end` (mm/vmscan.c, try_to_free_mem_cgroup_pages) also fire for
//! proactive reclaim (a write to `memory.reclaim` or a lowered `memory.high`). The daemon's own is
//! never counted; that of other processes is, because the event does not show the difference.
//!
//! Soft-limit reclaim (memcg v1) runs inside global direct reclaim or kswapd, which already include
//! its time. It has a histogram of its own and is not a cause of the stall clock, or its seconds
//! would count twice.
//!
//! Kernels: all from 5.10 on with memory cgroups; soft-limit reclaim where the kernel still has
//! memcg v1.

use core::mem::offset_of;

use crate::{
    hist::Log2Seconds,
    layout,
    loss::Loss,
    spec::{Arg, Metric, Need, Probe, Program, Shape, Unit},
    stall_kind::{Cause, Kind},
};

const SOFTLIMIT: Need = Need::Optional {
    lost: "soft-limit reclaim (memcg v1) is not counted",
    present: None,
    metrics: &["softlimit_reclaim", "softlimit_reclaim_pages"],
};

/// See the module.
pub const PROBE: Probe = Probe {
    name: "memcg_reclaim",
    about: "tasks that free pages of their cgroup, because it reached a limit",
    programs: &[
        Program {
            name: "memcg_end",
            event: "vmscan:mm_vmscan_memcg_reclaim_end",
            args: &[Arg::int("nr_reclaimed", "ARG_MEMCG_FREED")],
            one_of: &[],
            fields: &[],
            need: Need::Required,
        },
        Program {
            name: "memcg_begin",
            event: "vmscan:mm_vmscan_memcg_reclaim_begin",
            args: &[],
            one_of: &[],
            fields: &layout::CGROUP_OF_TASK,
            need: Need::Required,
        },
        Program {
            name: "softlimit_end",
            event: "vmscan:mm_vmscan_memcg_softlimit_reclaim_end",
            args: &[Arg::int("nr_reclaimed", "ARG_SOFT_FREED")],
            one_of: &[],
            fields: &[],
            need: SOFTLIMIT,
        },
        Program {
            name: "softlimit_begin",
            event: "vmscan:mm_vmscan_memcg_softlimit_reclaim_begin",
            args: &[],
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
            help: "Pages freed by limit reclaim",
            shape: Shape::Counter { at: offset_of!(State, pages) / 8 },
            labels: &[],
        },
        Metric {
            name: "softlimit_reclaim",
            unit: Unit::Seconds,
            help: "Time that tasks spent in soft-limit reclaim (memcg v1), per entry; \
                   direct reclaim or kswapd includes it",
            shape: Shape::Histogram { at: offset_of!(State, soft_latency) / 8 },
            labels: &[],
        },
        Metric {
            name: "softlimit_reclaim_pages",
            unit: Unit::None,
            help: "Pages freed by soft-limit reclaim (memcg v1)",
            shape: Shape::Counter { at: offset_of!(State, soft_pages) / 8 },
            labels: &[],
        },
        Metric::reclaiming_tasks(Kind::Memcg, "memcg"),
        Metric::stall(offset_of!(State, stall_ns) / 8, Cause::MemcgReclaim, Some(Kind::Memcg)),
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
    soft_pages: u64,
    soft_latency: Log2Seconds,
}

#[cfg(any(target_arch = "bpf", kernel_check))]
mod kernel {
    use aya_ebpf::{Global, macros::raw_tracepoint, programs::RawTracePointContext};

    use super::{PROBE, State};
    use crate::{
        bpf::{
            args,
            count::{Counters, row},
            histogram, stall, task, track,
        },
        probe_id::Id,
        spec::Probe,
        stall_kind::Kind,
    };

    args::arg_global!(ARG_MEMCG_FREED, ARG_SOFT_FREED);

    // SAFETY: repr(C) and u64 only.
    unsafe impl Counters for State {
        const ID: Id = Id::memcg_reclaim;
        const PROBE: &'static Probe = &PROBE;
    }

    /// The daemon's own process id, whose reclaim is not pressure.
    #[unsafe(no_mangle)]
    static SELF_TGID: Global<u32> = Global::new(0);

    #[inline(always)]
    fn ours() -> bool {
        SELF_TGID.load() == task::tgid()
    }

    #[raw_tracepoint(tracepoint = "mm_vmscan_memcg_reclaim_begin")]
    fn memcg_begin(_ctx: RawTracePointContext) -> u32 {
        if !ours() {
            track::begin_stall::<State>(Kind::Memcg);
        }
        0
    }

    #[raw_tracepoint(tracepoint = "mm_vmscan_memcg_reclaim_end")]
    fn memcg_end(ctx: RawTracePointContext) -> u32 {
        let Some((slot, now)) = track::try_end(Kind::Memcg) else {
            if !ours() {
                track::unmatched_end::<State>();
            }
            return 0;
        };
        let Some(row) = row::<State>() else { return 0 };
        let ns = now.saturating_sub(slot.start_ns);
        row.latency.observe(ns);
        histogram::observe::<State>(Kind::Memcg, &slot, ns);
        row.pages += args::get(&ctx, &ARG_MEMCG_FREED);
        row.stall_ns += stall::ended(&slot, now);
        0
    }

    #[raw_tracepoint(tracepoint = "mm_vmscan_memcg_softlimit_reclaim_begin")]
    fn softlimit_begin(_ctx: RawTracePointContext) -> u32 {
        track::begin::<State>(Kind::Softlimit, 0);
        0
    }

    #[raw_tracepoint(tracepoint = "mm_vmscan_memcg_softlimit_reclaim_end")]
    fn softlimit_end(ctx: RawTracePointContext) -> u32 {
        let Some((slot, now)) = track::end::<State>(Kind::Softlimit) else { return 0 };
        let Some(row) = row::<State>() else { return 0 };
        row.soft_latency.observe(now.saturating_sub(slot.start_ns));
        row.soft_pages += args::get(&ctx, &ARG_SOFT_FREED);
        0
    }
}
