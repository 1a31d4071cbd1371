//! The kernel half's clock (CLOCK_MONOTONIC), what its times are on the wall, and a clock for what is
//! kept over a restart of the daemon.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_MONOTONIC: what `bpf_ktime_get_ns` returns.
pub fn monotonic_ns() -> u64 {
    nanos(ClockId::Monotonic)
}

/// Nanoseconds of CLOCK_BOOTTIME, in which time asleep counts; nobody can set it.
pub fn since_boot_ns() -> u64 {
    nanos(ClockId::Boottime)
}

/// Which boot [`since_boot_ns`] is of: empty if the kernel does not tell.
pub fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

fn nanos(clock: ClockId) -> u64 {
    let t = clock_gettime(clock);
    t.tv_sec.cast_unsigned() * 1_000_000_000 + t.tv_nsec.cast_unsigned()
}

/// Wall time of a CLOCK_MONOTONIC time, by today's offset between the two.
pub fn wall(monotonic_ns: u64, now_ns: u64, now: SystemTime) -> SystemTime {
    now - Duration::from_nanos(now_ns.saturating_sub(monotonic_ns))
}
