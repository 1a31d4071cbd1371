//! Allocation failures: the kernel gave up on an allocation, and its caller gets nothing.
//!
//! `warn_alloc` (mm/page_alloc.c) is where the page allocator ends when it has no page to return, and
//! where vmalloc reports the same. Whether a warning is printed is decided inside: most are not, for
//! the caller said so (__GFP_NOWARN) or the rate is limited. So a count here is no disaster: huge
//! pages, network buffers and other large blocks are tried for, and done without. A vmalloc that
//! fails for lack of pages counts twice, once for the pages and once for itself.
//!
//! A kprobe, for the function has `...` at the end, which an fentry cannot have.

use core::mem::offset_of;

use crate::spec::{Metric, Need, Probe, Program, Shape, Unit};

/// See the module.
pub const PROBE: Probe = Probe {
    name: "alloc_failure",
    about: "allocations that the kernel gave up on, those that hide it included",
    programs: &[Program {
        name: "alloc_failed",
        event: "kprobe:warn_alloc",
        args: &[],
        one_of: &[],
        fields: &[],
        need: Need::Required,
    }],
    metrics: &[Metric {
        name: "alloc_failures",
        unit: Unit::None,
        help: "Allocations that the kernel gave up on, also where the caller hides it (__GFP_NOWARN) and does without",
        shape: Shape::Counter { at: offset_of!(State, failures) / 8 },
        labels: &[],
    }],
};

#[repr(C)]
struct State {
    failures: u64,
}

#[cfg(any(target_arch = "bpf", kernel_check))]
mod kernel {
    use aya_ebpf::{macros::kprobe, programs::ProbeContext};

    use super::State;
    use crate::{
        bpf::count::{add_atomic, row},
        probes::Id,
    };

    #[kprobe(function = "warn_alloc")]
    fn alloc_failed(_ctx: ProbeContext) -> u32 {
        // SAFETY: State is repr(C) and u64 only.
        if let Some(row) = unsafe { row::<State>(Id::alloc_failure as u32) } {
            // SAFETY: a word of the row, which is a map value.
            unsafe { add_atomic(&raw mut row.failures, 1) };
        }
        0
    }
}
