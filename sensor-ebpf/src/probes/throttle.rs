//! Throttling: reclaim makes no headway, so the kernel puts the reclaiming task to sleep.
//!
//! `mm_vmscan_throttled` (mm/vmscan.c, reclaim_throttle; since 5.16) fires after the sleep and
//! tells how long it was, in whole jiffies. kswapd is throttled too: that counts by reason, but
//! nobody waits for it, so it is no stall.

use core::mem::offset_of;

use crate::{
    probes::Cause,
    spec::{Arg, ArgType, Label, Metric, Need, Probe, Program, Shape, Unit},
};

const REASONS: usize = 8;

/// See the module.
pub const PROBE: Probe = Probe {
    name: "throttle",
    about: "tasks that reclaim put to sleep because it made no headway",
    programs: &[Program {
        name: "throttled",
        event: "vmscan:mm_vmscan_throttled",
        args: &[
            Arg { param: "usec_delayed", global: "ARG_THROTTLE_USEC", ty: ArgType::Int },
            Arg { param: "reason", global: "ARG_THROTTLE_WHY", ty: ArgType::Int },
        ],
        one_of: &[],
        fields: &[],
        need: Need::Required,
    }],
    metrics: &[
        Metric {
            name: "reclaim_throttle",
            unit: Unit::Seconds,
            help: "Time that reclaim put its callers to sleep, kswapd included",
            shape: Shape::Counter { at: offset_of!(State, slept_ns) / 8 },
            labels: &[Label::KernelEnum {
                key: "reason",
                ty: "vmscan_throttle_state",
                prefix: "VMSCAN_THROTTLE_",
                len: REASONS,
            }],
        },
        Metric {
            name: "stall",
            unit: Unit::Seconds,
            help: "Time that tasks spent stalled on memory, by exclusive cause, stalls under way included",
            shape: Shape::Stall {
                at: offset_of!(State, stall_ns) / 8,
                cause: Some(Cause::Throttle.label()),
                kind: None,
            },
            labels: &[],
        },
    ],
};

#[repr(C)]
struct State {
    stall_ns: u64,
    slept_ns: [u64; REASONS],
}

#[cfg(any(target_arch = "bpf", kernel_check))]
mod kernel {
    use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

    use super::State;
    use crate::{
        bpf::{args, count::row, stall},
        probes::{Cause, Id},
    };

    args::arg_global!(ARG_THROTTLE_USEC, ARG_THROTTLE_WHY);

    #[raw_tracepoint(tracepoint = "mm_vmscan_throttled")]
    fn throttled(ctx: RawTracePointContext) -> u32 {
        let slept_ns = u64::from(args::get(&ctx, &ARG_THROTTLE_USEC) as u32) * 1000;
        // SAFETY: State is repr(C) and u64 only.
        let Some(row) = (unsafe { row::<State>(Id::throttle as u32) }) else { return 0 };
        if let Some(ns) = row.slept_ns.get_mut(args::get(&ctx, &ARG_THROTTLE_WHY) as u32 as usize) {
            *ns += slept_ns;
        }
        row.stall_ns += stall::inside(Cause::Throttle, slept_ns);
        0
    }
}
