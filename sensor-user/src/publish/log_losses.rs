//! Lines of the daemon's log that were dropped. The log is one per process, and so is the count.

use std::sync::atomic::{AtomicU64, Ordering};

/// Lines that found no room in the queue of the log.
pub static LOST_LINES: AtomicU64 = AtomicU64::new(0);

/// Lines that were lost so far.
pub fn lost_lines() -> u64 {
    LOST_LINES.load(Ordering::Relaxed)
}
