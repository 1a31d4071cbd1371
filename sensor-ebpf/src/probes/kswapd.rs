//! kswapd: the node's background reclaim. Awake is normal; awake without a pause is pressure.
//!
//! `mm_vmscan_kswapd_wake` fires each time it starts on a node, `mm_vmscan_kswapd_sleep` only when
//! it really goes to sleep (mm/vmscan.c, kswapd and kswapd_try_to_sleep): several wakes may come
//! before a sleep. Its short pauses of up to 100 ms between them count as active.
//!
//! Kernels: all from 5.10 on.

use core::mem::offset_of;

use crate::{
    loss::Loss,
    spec::{Arg, Label, MAX_NODES, Metric, Need, Probe, Program, Shape, Unit},
    stall_kind::Kind,
};

/// See the module.
pub const PROBE: Probe = Probe {
    name: "kswapd",
    about: "background reclaim: how often it is woken and how long it works, per node",
    programs: &[
        Program {
            name: "kswapd_sleep",
            event: "vmscan:mm_vmscan_kswapd_sleep",
            args: &[Arg::int("nid", "ARG_SLEEP_NID")],
            one_of: &[],
            fields: &[],
            need: Need::Required,
        },
        Program {
            name: "kswapd_wake",
            event: "vmscan:mm_vmscan_kswapd_wake",
            args: &[Arg::int("nid", "ARG_WAKE_NID")],
            one_of: &[],
            fields: &[],
            need: Need::Required,
        },
    ],
    metrics: &[
        Metric {
            name: "kswapd_wakeups",
            unit: Unit::None,
            help: "Times that kswapd started to reclaim",
            shape: Shape::Counter { at: offset_of!(State, wakeups) / 8 },
            labels: &[Label::Node],
        },
        Metric {
            name: "kswapd_active",
            unit: Unit::Seconds,
            help: "Time that kswapd was awake, the current period included",
            shape: Shape::NodeActive { at: offset_of!(State, active_ns) / 8, kind: Kind::Kswapd },
            labels: &[Label::Node],
        },
    ],
    losses: &[Loss::UnmatchedBegin, Loss::InflightEvicted, Loss::NodeOutOfRange],
};

#[repr(C)]
struct State {
    wakeups: [u64; MAX_NODES],
    active_ns: [u64; MAX_NODES],
}

#[cfg(any(target_arch = "bpf", kernel_check))]
mod kernel {
    use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

    use super::{PROBE, State};
    use crate::{
        bpf::{
            args, clock,
            count::{Counters, row},
            inflight::bucket,
            lost::lost,
            task, track,
        },
        inflight::owner,
        loss::Loss,
        probe_id::Id,
        spec::Probe,
        stall_kind::Kind,
    };

    args::arg_global!(ARG_WAKE_NID, ARG_SLEEP_NID);

    // SAFETY: repr(C) and u64 only.
    unsafe impl Counters for State {
        const ID: Id = Id::kswapd;
        const PROBE: &'static Probe = &PROBE;
    }

    /// Ends the current period, if there is one, and returns its nanoseconds.
    #[inline(always)]
    fn settle(tid: u32) -> u64 {
        let now = clock::now();
        let slot = bucket(tid).and_then(|b| b.end(owner(tid, Kind::Kswapd), now));
        slot.map_or(0, |s| s.exclusive_ns(now))
    }

    #[raw_tracepoint(tracepoint = "mm_vmscan_kswapd_wake")]
    fn kswapd_wake(ctx: RawTracePointContext) -> u32 {
        let nid = args::get(&ctx, &ARG_WAKE_NID) as u32 as usize;
        let active_ns = settle(task::tid());
        track::begin::<State>(Kind::Kswapd, nid as u64);
        let Some(row) = row::<State>() else { return 0 };
        if let Some(wakeups) = row.wakeups.get_mut(nid)
            && let Some(active) = row.active_ns.get_mut(nid)
        {
            *wakeups += 1;
            *active += active_ns;
        } else {
            lost!(State, Loss::NodeOutOfRange, "node", nid as u64);
        }
        0
    }

    #[raw_tracepoint(tracepoint = "mm_vmscan_kswapd_sleep")]
    fn kswapd_sleep(ctx: RawTracePointContext) -> u32 {
        let nid = args::get(&ctx, &ARG_SLEEP_NID) as u32 as usize;
        // No period: it was already awake when the programs were attached, which is not a loss.
        let active_ns = settle(task::tid());
        let Some(row) = row::<State>() else { return 0 };
        if let Some(active) = row.active_ns.get_mut(nid) {
            *active += active_ns;
        }
        0
    }
}
