//! Reclaim efficiency: pages scanned and stolen, by kind of reclaim, and the scan priority.
//!
//! `mm_vmscan_lru_shrink_inactive` fires per batch of inactive pages (mm/vmscan.c,
//! shrink_inactive_list, and evict_folios with MGLRU). The scan priority falls from 12 (no
//! pressure) to 0 (all of the LRU was scanned, an OOM kill is next). `file` is non-zero for the
//! file LRU.
//!
//! The kind of reclaim is what the current task is inside; `other` is node reclaim, proactive
//! kernel threads, and a kswapd that was already awake when the programs were attached.
//!
//! Kernels: all from 5.10 on.

use core::mem::offset_of;

use crate::spec::{Arg, Label, Metric, Need, Probe, Program, Shape, Unit};

/// Scan priorities, 0 to DEF_PRIORITY (12).
pub const PRIORITIES: usize = 13;

/// DEF_PRIORITY: the scan priority without pressure.
pub const CALM_PRIORITY: u32 = PRIORITIES as u32 - 1;

/// First of [`PRIORITIES`] words: batches by scan priority. The lowest that moved in a window is
/// the lowest priority of that window.
pub const PRIORITY_WORD: usize = offset_of!(State, at_priority) / 8;

const BY_AND_LRU: &[Label] = &[
    Label::Fixed { key: "by", values: &["kswapd", "direct", "memcg", "other"] },
    Label::Fixed { key: "lru", values: &["anon", "file"] },
];

/// See the module.
pub const PROBE: Probe = Probe {
    name: "reclaim_scan",
    about: "pages scanned and stolen by reclaim, and the scan priority",
    programs: &[Program {
        name: "shrink_inactive",
        event: "vmscan:mm_vmscan_lru_shrink_inactive",
        args: &[
            Arg::int("nr_scanned", "ARG_SCAN_SCANNED"),
            Arg::int("nr_reclaimed", "ARG_SCAN_STOLEN"),
            Arg::int("priority", "ARG_SCAN_PRIORITY"),
            Arg::int("file", "ARG_SCAN_FILE"),
        ],
        one_of: &[],
        fields: &[],
        need: Need::Required,
    }],
    metrics: &[
        Metric {
            name: "reclaim_scanned_pages",
            unit: Unit::None,
            help: "Inactive pages scanned by reclaim",
            shape: Shape::Counter { at: offset_of!(State, scanned) / 8 },
            labels: BY_AND_LRU,
        },
        Metric {
            name: "reclaim_stolen_pages",
            unit: Unit::None,
            help: "Inactive pages freed by reclaim; divided by those scanned, its efficiency",
            shape: Shape::Counter { at: offset_of!(State, stolen) / 8 },
            labels: BY_AND_LRU,
        },
        Metric {
            name: "reclaim_priority_min",
            unit: Unit::None,
            help: "Lowest scan priority in the window: 12 is no pressure, at 0 an OOM kill is near",
            shape: Shape::Lowest { at: PRIORITY_WORD, len: PRIORITIES, calm: CALM_PRIORITY },
            labels: &[],
        },
    ],
    losses: &[],
};

#[repr(C)]
struct State {
    /// By kind of reclaim, then LRU.
    scanned: [u64; 8],
    stolen: [u64; 8],
    at_priority: [u64; PRIORITIES],
}

#[cfg(any(target_arch = "bpf", kernel_check))]
mod kernel {
    use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

    use super::{PROBE, State};
    use crate::{
        bpf::{
            args,
            count::{Counters, row},
            inflight::bucket,
            task,
        },
        probe_id::Id,
        spec::Probe,
        stall_kind::Kind,
    };

    args::arg_global!(ARG_SCAN_SCANNED, ARG_SCAN_STOLEN, ARG_SCAN_PRIORITY, ARG_SCAN_FILE);

    // SAFETY: repr(C) and u64 only.
    unsafe impl Counters for State {
        const ID: Id = Id::reclaim_scan;
        const PROBE: &'static Probe = &PROBE;
    }

    #[raw_tracepoint(tracepoint = "mm_vmscan_lru_shrink_inactive")]
    fn shrink_inactive(ctx: RawTracePointContext) -> u32 {
        let tid = task::tid();
        let by = match bucket(tid).and_then(|b| b.scanner(tid)) {
            Some(Kind::Kswapd) => 0,
            Some(Kind::Direct) => 1,
            Some(Kind::Memcg) => 2,
            _ => 3,
        };
        let i = by * 2 + usize::from(args::get(&ctx, &ARG_SCAN_FILE) as u32 != 0);
        let Some(row) = row::<State>() else { return 0 };
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
