//! The per-CPU rows of counters: one map, one row per probe, one touch per event.

use aya_ebpf::{macros::map, maps::PerCpuArray};

use crate::{
    loss::{self, Loss},
    probes,
    spec::{ROW_WORDS, Row},
};

#[map]
static COUNTERS: PerCpuArray<Row> = PerCpuArray::with_max_entries(probes::ALL.len() as u32 + 1, 0);

/// This CPU's row of a probe, as the probe's own state.
///
/// # Safety
/// `T` is `repr(C)` and made of `u64` only.
#[inline(always)]
pub(crate) unsafe fn row<T>(index: u32) -> Option<&'static mut T> {
    const { assert!(size_of::<T>() <= ROW_WORDS * 8 && align_of::<T>() == 8) };
    let row = COUNTERS.get_ptr_mut(index)?;
    // SAFETY: the map value is as large as a Row, T fits into it (above) and any bits are valid
    // for it (caller). On one CPU the kernel never runs a program twice at a time, though it may
    // preempt it (functions; from 7.x tracepoints too): words that two programs write want
    // `add_atomic`.
    Some(unsafe { &mut *row.cast::<T>() })
}

/// Counts something that could not be kept.
#[inline(always)]
pub(crate) fn lost(why: Loss) {
    add(why as usize);
}

/// Adds one to a word of the row of losses.
#[inline(always)]
pub(crate) fn add(word: usize) {
    // SAFETY: a Row is an array of u64.
    if let Some(row) = unsafe { row::<Row>(loss::ROW) }
        && let Some(n) = row.get_mut(word)
    {
        // SAFETY: a word of a Row. Any program may have been interrupted here by another.
        unsafe { add_atomic(n, 1) };
    }
}

/// Adds to a word that another task may be adding to.
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
