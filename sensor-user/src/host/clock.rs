//! The kernel half's clock (CLOCK_MONOTONIC), and what its times are on the wall.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_MONOTONIC: what `bpf_ktime_get_ns` returns.
pub fn monotonic_ns() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    t.tv_sec.cast_unsigned() * 1_000_000_000 + t.tv_nsec.cast_unsigned()
}

/// Wall time of a CLOCK_MONOTONIC time, by today's offset between the two.
pub fn wall(monotonic_ns: u64, now_ns: u64, now: SystemTime) -> SystemTime {
    now - Duration::from_nanos(now_ns.saturating_sub(monotonic_ns))
}
