//! Throttling: reclaim makes no progress, so the kernel puts the reclaiming task to sleep.
//!
//! `mm_vmscan_throttled` (mm/vmscan.c, reclaim_throttle) fires after the sleep and reports its
//! length in whole jiffies. kswapd is throttled too: that counts by reason, but no task waits for
//! it, so it is not a stall. A sleep is charged only inside a stall of another probe, whose losses
//! these are; inside limit reclaim it has a cause of its own, because it is no shortage of the host.
//!
//! Kernels: from 5.16 on.

use core::mem::offset_of;

use crate::{
    spec::{Arg, Label, Metric, Need, Probe, Program, Shape, Unit},
    stall_kind::Cause,
};

const REASONS: usize = 8;

/// See the module.
pub const PROBE: Probe = Probe {
    name: "throttle",
    about: "tasks that reclaim put to sleep because it made no progress",
    programs: &[Program {
        name: "throttled",
        event: "vmscan:mm_vmscan_throttled",
        args: &[
            Arg::int("usec_delayed", "ARG_THROTTLE_USEC"),
            Arg::int("reason", "ARG_THROTTLE_WHY"),
        ],
        one_of: &[],
        fields: &[],
        need: Need::Required,
    }],
    metrics: &[
        Metric {
            name: "reclaim_throttle",
            unit: Unit::Seconds,
            help: "Time that tasks slept because reclaim throttled them, kswapd included",
            shape: Shape::Counter { at: offset_of!(State, slept) / 8 },
            labels: &[Label::KernelEnum {
                key: "reason",
                ty: "vmscan_throttle_state",
                prefix: "VMSCAN_THROTTLE_",
                len: REASONS,
            }],
        },
        Metric::stall(offset_of!(State, stall) / 8, Cause::Throttle, None),
        Metric::stall(offset_of!(State, memcg_stall) / 8, Cause::MemcgThrottle, None),
    ],
    losses: &[],
};

/// Nanoseconds.
#[repr(C)]
struct State {
    stall: u64,
    memcg_stall: u64,
    slept: [u64; REASONS],
}

#[cfg(any(target_arch = "bpf", kernel_check))]
mod kernel {
    use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

    use super::{PROBE, State};
    use crate::{
        bpf::{
            args,
            count::{Counters, row},
            stall,
        },
        probe_id::Id,
        spec::Probe,
    };

    args::arg_global!(ARG_THROTTLE_USEC, ARG_THROTTLE_WHY);

    // SAFETY: repr(C) and u64 only.
    unsafe impl Counters for State {
        const ID: Id = Id::throttle;
        const PROBE: &'static Probe = &PROBE;
    }

    #[raw_tracepoint(tracepoint = "mm_vmscan_throttled")]
    fn throttled(ctx: RawTracePointContext) -> u32 {
        let slept_ns = u64::from(args::get(&ctx, &ARG_THROTTLE_USEC) as u32) * 1000;
        let Some(row) = row::<State>() else { return 0 };
        if let Some(ns) = row.slept.get_mut(args::get(&ctx, &ARG_THROTTLE_WHY) as u32 as usize) {
            *ns += slept_ns;
        }
        match stall::throttled(slept_ns) {
            Some((true, ns)) => row.memcg_stall += ns,
            Some((false, ns)) => row.stall += ns,
            None => {}
        }
        0
    }
}
