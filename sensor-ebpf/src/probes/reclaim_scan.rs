//! Reclaim efficiency: pages scanned and stolen, by whom, and at which priority.
//!
//! `mm_vmscan_lru_shrink_inactive` fires per batch of inactive pages (mm/vmscan.c,
//! shrink_inactive_list, and evict_folios with MGLRU). The scan priority falls from 12 (calm) to 0
//! (all of the LRU was scanned: an OOM kill is next). `file` is non-zero for the file LRU.
//!
//! Who scans follows from what the current task is inside of; `other` is node reclaim, proactive
//! kernel threads, and a kswapd that was awake already when we attached.

use core::mem::offset_of;

use crate::spec::{Arg, ArgType, Label, Metric, Need, Probe, Program, Shape, Unit};

/// Priorities 0 to DEF_PRIORITY (12).
const PRIORITIES: usize = 13;

const BY_AND_LRU: &[Label] = &[
    Label::Fixed { key: "by", values: &["kswapd", "direct", "memcg", "other"] },
    Label::Fixed { key: "lru", values: &["anon", "file"] },
];

/// See the module.
pub const PROBE: Probe = Probe {
    name: "reclaim_scan",
    about: "pages scanned and stolen by reclaim, and how hard it had to look",
    programs: &[Program {
        name: "shrink_inactive",
        event: "vmscan:mm_vmscan_lru_shrink_inactive",
        args: &[
            Arg { param: "nr_scanned", global: "ARG_SCAN_SCANNED", ty: ArgType::Int },
            Arg { param: "nr_reclaimed", global: "ARG_SCAN_STOLEN", ty: ArgType::Int },
            Arg { param: "priority", global: "ARG_SCAN_PRIORITY", ty: ArgType::Int },
            Arg { param: "file", global: "ARG_SCAN_FILE", ty: ArgType::Int },
        ],
        one_of: &[],
        fields: &[],
        need: Need::Required,
    }],
    metrics: &[
        Metric {
            name: "reclaim_scanned_pages",
            unit: Unit::None,
            help: "Inactive pages that reclaim looked at",
            shape: Shape::Counter { at: offset_of!(State, scanned) / 8 },
            labels: BY_AND_LRU,
        },
        Metric {
            name: "reclaim_stolen_pages",
            unit: Unit::None,
            help: "Inactive pages that reclaim freed; divided by scanned, its efficiency",
            shape: Shape::Counter { at: offset_of!(State, stolen) / 8 },
            labels: BY_AND_LRU,
        },
        Metric {
            name: "reclaim_priority_min",
            unit: Unit::None,
            help: "Lowest scan priority in the window: 12 is calm, at 0 an OOM kill is near",
            shape: Shape::Lowest {
                at: offset_of!(State, at_priority) / 8,
                len: PRIORITIES,
                calm: PRIORITIES as u32 - 1,
            },
            labels: &[],
        },
    ],
};

#[repr(C)]
struct State {
    /// By who, then LRU.
    scanned: [u64; 8],
    stolen: [u64; 8],
    /// Batches per priority: the minimum of a window is the lowest that moved.
    at_priority: [u64; PRIORITIES],
}

#[cfg(any(target_arch = "bpf", kernel_check))]
mod kernel {
    use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

    use super::State;
    use crate::{
        bpf::{args, count::row, task, track},
        inflight::Kind,
        probes::Id,
    };

    args::arg_global!(ARG_SCAN_SCANNED, ARG_SCAN_STOLEN, ARG_SCAN_PRIORITY, ARG_SCAN_FILE);

    #[raw_tracepoint(tracepoint = "mm_vmscan_lru_shrink_inactive")]
    fn shrink_inactive(ctx: RawTracePointContext) -> u32 {
        let tid = task::tid();
        let by = match track::bucket(tid).and_then(|b| b.scanner(tid)) {
            Some(Kind::Kswapd) => 0,
            Some(Kind::Direct) => 1,
            Some(Kind::Memcg) => 2,
            _ => 3,
        };
        let i = by * 2 + usize::from(args::get(&ctx, &ARG_SCAN_FILE) as u32 != 0);
        // SAFETY: State is repr(C) and u64 only.
        let Some(row) = (unsafe { row::<State>(Id::reclaim_scan as u32) }) else { return 0 };
        if let (Some(scanned), Some(stolen)) = (row.scanned.get_mut(i), row.stolen.get_mut(i)) {
            *scanned += args::get(&ctx, &ARG_SCAN_SCANNED);
            *stolen += args::get(&ctx, &ARG_SCAN_STOLEN);
        }
        let priority = args::get(&ctx, &ARG_SCAN_PRIORITY) as u32 as usize;
        if let Some(n) = row.at_priority.get_mut(priority) {
            *n += 1;
        }
        0
    }
}
