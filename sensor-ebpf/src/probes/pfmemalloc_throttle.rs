//! Sleep before direct reclaim: the node's reserves are nearly gone, and kswapd must catch up first.
//!
//! `throttle_direct_reclaim` (mm/vmscan.c, called by try_to_free_pages) lets nearly every task pass.
//! Where less than half of the reserves is free (those that PF_MEMALLOC may use), it puts the task to
//! sleep until kswapd has freed some: for up to a second if the allocation must not enter a file
//! system, else for as long as it takes. vmstat counts that as `pgscan_direct_throttle`; no tracepoint
//! tells of it, hence the programs at the function itself. It comes before `direct_reclaim` begins.
//!
//! Whether a task slept is what the kernel says of it: its count of voluntary context switches moved.
//! Those that may not be throttled (kernel threads, dying tasks) never do. Who passes costs a slot
//! for the moment, and counts as nothing.
//!
//! The end attaches first: a task that begins between the two would otherwise never end. An end can
//! still be missed: when somebody else attaches to the same function while a task sleeps in it, the
//! kernel leaves our end out. Such a sleep counts until the task goes on to reclaim, which user space
//! sees in the table, and is lost after that.

use core::mem::offset_of;

use crate::{
    inflight::Kind,
    layout,
    probes::Cause,
    spec::{Field, Metric, Need, Probe, Program, Shape, Unit},
};

const END_FIELDS: [Field; 7] = {
    let [a, b, c, d, e, f] = layout::CGROUP_OF_TASK;
    [layout::TASK_NVCSW, a, b, c, d, e, f]
};

/// See the module.
pub const PROBE: Probe = Probe {
    name: "pfmemalloc_throttle",
    about: "tasks put to sleep before direct reclaim, because the reserves are nearly gone",
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
            help: "Time that tasks were put to sleep before direct reclaim because the reserves were nearly gone, sleeps under way included",
            shape: Shape::Stall {
                at: offset_of!(State, slept_ns) / 8,
                cause: None,
                kind: Some(Kind::Pfmemalloc),
            },
            labels: &[],
        },
        Metric {
            name: "stall",
            unit: Unit::Seconds,
            help: "Time that tasks spent stalled on memory, by exclusive cause, stalls under way included",
            shape: Shape::Stall {
                at: offset_of!(State, stall_ns) / 8,
                cause: Some(Cause::Throttle.label()),
                kind: Some(Kind::Pfmemalloc),
            },
            labels: &[],
        },
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

    use super::State;
    use crate::{
        bpf::{
            count::{add_atomic, row},
            stall, task, track,
        },
        inflight::{Kind, owner},
        probes::{Cause, Id},
    };

    #[fentry(function = "throttle_direct_reclaim")]
    fn pfmem_begin(_ctx: FEntryContext) -> u32 {
        track::begin(Kind::Pfmemalloc, task::sleeps());
        0
    }

    #[fexit(function = "throttle_direct_reclaim")]
    fn pfmem_end(_ctx: FExitContext) -> u32 {
        let tid = task::tid();
        // None: it began before we attached, or was pushed out, which is counted there.
        let slot = track::bucket(tid).and_then(|b| b.take(owner(tid, Kind::Pfmemalloc)));
        let Some(slot) = slot.filter(|s| s.aux != task::sleeps()) else { return 0 };
        let now = track::now();
        let ns = stall::ended_and_gone(Cause::Throttle, &slot, now);
        // SAFETY: State is repr(C) and u64 only.
        let Some(row) = (unsafe { row::<State>(Id::pfmemalloc_throttle as u32) }) else { return 0 };
        // SAFETY: words of the row, which is a map value.
        unsafe {
            add_atomic(&raw mut row.slept_ns, now.saturating_sub(slot.start_ns));
            add_atomic(&raw mut row.stall_ns, ns);
        }
        0
    }
}
