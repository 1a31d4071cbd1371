//! The per-CPU rows of counters: one map with a row per probe, so an event touches one row.

use aya_ebpf::{macros::map, maps::PerCpuArray};

use crate::{
    loss,
    probe_id::Id,
    spec::{Probe, ROW_WORDS, Row},
};

#[map]
static COUNTERS: PerCpuArray<Row> = PerCpuArray::with_max_entries(loss::ROW + 1, 0);

/// A probe's state: how it uses the words of its row.
///
/// # Safety
/// The type is `repr(C)` and made of `u64` only.
pub(crate) unsafe trait Counters: Sized {
    /// The probe's row.
    const ID: Id;
    /// The probe, for its name and its losses.
    const PROBE: &'static Probe;
}

/// This CPU's row of a probe, as the probe's own state.
#[inline(always)]
pub(crate) fn row<S: Counters>() -> Option<&'static mut S> {
    const { assert!(size_of::<S>() <= ROW_WORDS * 8 && align_of::<S>() == 8) };
    let row = COUNTERS.get_ptr_mut(S::ID as u32)?;
    // SAFETY: the map value is as large as a Row, S fits into it (above), and any bits are a valid
    // S (its Counters). On one CPU the kernel never runs a program twice at a time, but it may
    // preempt it (programs at functions; from 7.x tracepoints too): for words that two programs
    // write, use `add_atomic`.
    Some(unsafe { &mut *row.cast::<S>() })
}

/// Adds one to a word of the row of losses.
#[inline(always)]
pub(crate) fn add(word: usize) {
    let Some(row) = COUNTERS.get_ptr_mut(loss::ROW) else { return };
    if word < ROW_WORDS {
        // SAFETY: `word` is one of the row. Another program may interrupt this one here.
        unsafe { add_atomic(row.cast::<u64>().add(word), 1) };
    }
}

/// Adds to a word that another task may add to at the same time.
///
/// The target has no `AtomicU64::fetch_add` (no compare-and-swap before BPF v3), only this.
///
/// # Safety
/// `word` points into a map value, and is 8-byte aligned.
#[inline(always)]
pub(crate) unsafe fn add_atomic(word: *mut u64, n: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: map values are never unmapped while a program runs (an LRU element is only reused).
    unsafe {
        core::arch::asm!("lock *(u64 *)({word} + 0) += {n}", word = in(reg) word, n = in(reg) n);
    }
    #[cfg(not(target_arch = "bpf"))]
    let _ = (word, n);
}
