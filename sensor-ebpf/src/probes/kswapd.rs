//! kswapd: the node's background reclaim. Awake is normal; awake without a pause is pressure.
//!
//! `mm_vmscan_kswapd_wake` fires each time it starts on a node, `mm_vmscan_kswapd_sleep` only when
//! it truly goes to sleep (mm/vmscan.c, kswapd and kswapd_try_to_sleep): several wakes may come
//! before a sleep. Its short naps of up to 100 ms between them count as active.

use core::mem::offset_of;

use crate::{
    inflight::Kind,
    spec::{Arg, ArgType, Label, MAX_NODES, Metric, Need, Probe, Program, Shape, Unit},
};

/// See the module.
pub const PROBE: Probe = Probe {
    name: "kswapd",
    about: "background reclaim: how often it is woken and how long it works, per node",
    programs: &[
        Program {
            name: "kswapd_wake",
            event: "vmscan:mm_vmscan_kswapd_wake",
            args: &[Arg { param: "nid", global: "ARG_WAKE_NID", ty: ArgType::Int }],
            one_of: &[],
            fields: &[],
            need: Need::Required,
        },
        Program {
            name: "kswapd_sleep",
            event: "vmscan:mm_vmscan_kswapd_sleep",
            args: &[Arg { param: "nid", global: "ARG_SLEEP_NID", ty: ArgType::Int }],
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
            help: "Time that kswapd was awake, the period under way included",
            shape: Shape::NodeActive { at: offset_of!(State, active_ns) / 8, kind: Kind::Kswapd },
            labels: &[Label::Node],
        },
    ],
};

#[repr(C)]
struct State {
    wakeups: [u64; MAX_NODES],
    active_ns: [u64; MAX_NODES],
}

#[cfg(any(target_arch = "bpf", kernel_check))]
mod kernel {
    use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

    use super::State;
    use crate::{
        bpf::{
            args,
            count::{lost, row},
            task, track,
        },
        inflight::{Kind, owner},
        loss::Loss,
        probes::Id,
    };

    args::arg_global!(ARG_WAKE_NID, ARG_SLEEP_NID);

    /// Ends the period under way, if there is one: its nanoseconds.
    #[inline(always)]
    fn settle(tid: u32) -> u64 {
        let now = track::now();
        let slot = track::bucket(tid).and_then(|b| b.end(owner(tid, Kind::Kswapd), now));
        slot.map_or(0, |s| s.exclusive_ns(now))
    }

    #[raw_tracepoint(tracepoint = "mm_vmscan_kswapd_wake")]
    fn kswapd_wake(ctx: RawTracePointContext) -> u32 {
        let nid = args::get(&ctx, &ARG_WAKE_NID) as u32 as usize;
        let active_ns = settle(task::tid());
        track::begin(Kind::Kswapd, nid as u64);
        // SAFETY: State is repr(C) and u64 only.
        let Some(row) = (unsafe { row::<State>(Id::kswapd as u32) }) else { return 0 };
        match (row.wakeups.get_mut(nid), row.active_ns.get_mut(nid)) {
            (Some(wakeups), Some(active)) => {
                *wakeups += 1;
                *active += active_ns;
            }
            _ => lost(Loss::NodeOutOfRange),
        }
        0
    }

    #[raw_tracepoint(tracepoint = "mm_vmscan_kswapd_sleep")]
    fn kswapd_sleep(ctx: RawTracePointContext) -> u32 {
        let nid = args::get(&ctx, &ARG_SLEEP_NID) as u32 as usize;
        // No period: it was awake already when we attached. That is no loss worth counting.
        let active_ns = settle(task::tid());
        // SAFETY: State is repr(C) and u64 only.
        let Some(row) = (unsafe { row::<State>(Id::kswapd as u32) }) else { return 0 };
        if let Some(active) = row.active_ns.get_mut(nid) {
            *active += active_ns;
        }
        0
    }
}
