//! Sleep before direct reclaim: the reserves of the node are nearly used up, and the task waits for
//! kswapd to free some.
//!
//! `throttle_direct_reclaim` (mm/vmscan.c, called by try_to_free_pages) lets nearly every task
//! pass. If less than half of the reserves is free (those that PF_MEMALLOC may use), it puts the
//! task to sleep until kswapd has freed some: for up to a second if the allocation must not enter
//! a file system, else without a time limit. vmstat counts this as `pgscan_direct_throttle`; there
//! is no tracepoint, so the programs attach to the function. It comes before `direct_reclaim`
//! begins.
//!
//! A task slept if its count of voluntary context switches changed. Tasks that may not be
//! throttled (kernel threads, dying tasks) never sleep here. A task that passes uses a slot for a
//! moment and is not counted.
//!
//! An end can be missed: if another tracer attaches to the same function while a task sleeps in it,
//! the kernel skips our end. Such a sleep counts until the task continues to reclaim, which user
//! space sees in the table, or a pass over the tasks finds it outside of reclaim.
//!
//! Kernels: all from 5.10 on that have the function and BPF trampolines (x86_64; arm64 tested from
//! 6.12 on).

use core::mem::offset_of;

use crate::{
    layout,
    loss::Loss,
    spec::{Field, Metric, Need, Probe, Program, Shape, Unit},
    stall_kind::{Cause, Kind},
};

const END_FIELDS: [Field; 7] = {
    let [a, b, c, d, e, f] = layout::CGROUP_OF_TASK;
    [layout::TASK_NVCSW, a, b, c, d, e, f]
};

/// See the module.
pub const PROBE: Probe = Probe {
    name: "pfmemalloc_throttle",
    about: "tasks put to sleep before direct reclaim, because reserves are nearly used up",
    programs: &[
        Program {
            name: "pfmem_end",
            event: "fexit:throttle_direct_reclaim",
            args: &[],
            one_of: &[],
            fields: &END_FIELDS,
            need: Need::Required,
        },
        Program {
            name: "pfmem_begin",
            event: "fentry:throttle_direct_reclaim",
            args: &[],
            one_of: &[],
            fields: &[layout::TASK_NVCSW],
            need: Need::Required,
        },
    ],
    metrics: &[
        Metric {
            name: "pfmemalloc_throttle",
            unit: Unit::Seconds,
            help: "Time that tasks slept before direct reclaim because the reserves were nearly \
                   used up, sleeps in progress included",
            shape: Shape::Stall {
                at: offset_of!(State, slept_ns) / 8,
                cause: None,
                kind: Some(Kind::Pfmemalloc),
            },
            labels: &[],
        },
        Metric::stall(offset_of!(State, stall_ns) / 8, Cause::Throttle, Some(Kind::Pfmemalloc)),
    ],
    losses: &[
        Loss::UnmatchedBegin,
        Loss::InflightEvicted,
        Loss::CgroupsFull,
        Loss::CgroupEvicted,
    ],
};

#[repr(C)]
struct State {
    stall_ns: u64,
    slept_ns: u64,
}

#[cfg(any(target_arch = "bpf", kernel_check))]
mod kernel {
    use aya_ebpf::{
        macros::{fentry, fexit},
        programs::{FEntryContext, FExitContext},
    };

    use super::{PROBE, State};
    use crate::{
        bpf::{
            clock,
            count::{Counters, add_atomic, row},
            inflight::bucket,
            stall, task, track,
        },
        inflight::owner,
        probe_id::Id,
        spec::Probe,
        stall_kind::{Cause, Kind},
    };

    // SAFETY: repr(C) and u64 only.
    unsafe impl Counters for State {
        const ID: Id = Id::pfmemalloc_throttle;
        const PROBE: &'static Probe = &PROBE;
    }

    #[fentry(function = "throttle_direct_reclaim")]
    fn pfmem_begin(_ctx: FEntryContext) -> u32 {
        track::begin::<State>(Kind::Pfmemalloc, task::sleeps());
        0
    }

    #[fexit(function = "throttle_direct_reclaim")]
    fn pfmem_end(_ctx: FExitContext) -> u32 {
        let tid = task::tid();
        // None: it began before the programs were attached, or was evicted, which is counted there.
        let slot = bucket(tid).and_then(|b| b.take(owner(tid, Kind::Pfmemalloc)));
        let Some(slot) = slot.filter(|s| s.aux != task::sleeps()) else { return 0 };
        let now = clock::now();
        let ns = stall::ended_and_removed::<State>(Cause::Throttle, &slot, now);
        let Some(row) = row::<State>() else { return 0 };
        // SAFETY: words of the row, which is a map value.
        unsafe {
            add_atomic(&raw mut row.slept_ns, now.saturating_sub(slot.start_ns));
            add_atomic(&raw mut row.stall_ns, ns);
        }
        0
    }
}
