//! Clocks: that of the kernel half (CLOCK_MONOTONIC), its times as wall time, and one for times
//! that are saved over a restart of the daemon (CLOCK_BOOTTIME with the id of the boot).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_MONOTONIC, the clock of `bpf_ktime_get_ns`.
pub fn monotonic_ns() -> u64 {
    nanos(ClockId::Monotonic)
}

/// Nanoseconds of CLOCK_BOOTTIME. It includes the time of suspension and cannot be set.
pub fn since_boot_ns() -> u64 {
    nanos(ClockId::Boottime)
}

/// Id of the boot that [`since_boot_ns`] counts from; empty if the kernel does not report it.
pub fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

fn nanos(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// The latest time with a year of four digits, in seconds since 1970.
const LATEST_SECONDS: u64 = 253_402_300_799;

/// Wall time of a CLOCK_MONOTONIC time, by the present offset between the two clocks. Within 1970
/// to 9999, because other times have no text: a host without a battery may have any clock.
pub fn wall(monotonic_ns: u64, now_ns: u64, now: SystemTime) -> SystemTime {
    let age = Duration::from_nanos(now_ns.saturating_sub(monotonic_ns));
    let latest = UNIX_EPOCH + Duration::from_secs(LATEST_SECONDS);
    now.checked_sub(age).unwrap_or(UNIX_EPOCH).clamp(UNIX_EPOCH, latest)
}
