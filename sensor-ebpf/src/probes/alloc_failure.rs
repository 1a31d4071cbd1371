//! Allocation failures: the kernel gave up on an allocation, and its caller gets no memory.
//!
//! The page allocator calls `warn_alloc` (mm/page_alloc.c) when it has no page to return, and
//! vmalloc does so too. The function decides whether a warning is printed: most are not, because
//! the caller asked for none (__GFP_NOWARN) or because of the rate limit. So a count here is not a
//! fault by itself: callers try huge pages, network buffers and other large blocks first, and have
//! a fallback. A vmalloc that fails for lack of pages counts twice, once for the pages and once
//! for itself.
//!
//! A kprobe, because the function is variadic (`...`), which fentry does not support.
//!
//! Kernels: all from 5.10 on with CONFIG_KPROBE_EVENTS.

use core::mem::offset_of;

use crate::spec::{Metric, Need, Probe, Program, Shape, Unit};

/// See the module.
pub const PROBE: Probe = Probe {
    name: "alloc_failure",
    about: "allocations that failed in the kernel, also where no warning is printed",
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
        help: "Allocations that failed in the kernel, also where the caller has a fallback and no \
               warning is printed (__GFP_NOWARN)",
        shape: Shape::Counter { at: offset_of!(State, failures) / 8 },
        labels: &[],
    }],
    losses: &[],
};

#[repr(C)]
struct State {
    failures: u64,
}

#[cfg(any(target_arch = "bpf", kernel_check))]
mod kernel {
    use aya_ebpf::{macros::kprobe, programs::ProbeContext};

    use super::{PROBE, State};
    use crate::{
        bpf::count::{Counters, add_atomic, row},
        probe_id::Id,
        spec::Probe,
    };

    // SAFETY: repr(C) and u64 only.
    unsafe impl Counters for State {
        const ID: Id = Id::alloc_failure;
        const PROBE: &'static Probe = &PROBE;
    }

    #[kprobe(function = "warn_alloc")]
    fn alloc_failed(_ctx: ProbeContext) -> u32 {
        if let Some(row) = row::<State>() {
            // SAFETY: a word of the row, which is a map value.
            unsafe { add_atomic(&raw mut row.failures, 1) };
        }
        0
    }
}
