//! Clocks: that of the kernel half (CLOCK_MONOTONIC), its times as wall time, and one for times
//! that are saved over a restart of the daemon (CLOCK_BOOTTIME with the id of the boot). Both are
//! those of the host: in a time namespace, its offsets are subtracted.

use std::{
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_MONOTONIC, the clock of `bpf_ktime_get_ns`.
pub fn monotonic_ns() -> u64 {
    on_host(nanos(ClockId::Monotonic), offsets()[0])
}

/// Nanoseconds of CLOCK_BOOTTIME. It includes the time of suspension and cannot be set.
pub fn since_boot_ns() -> u64 {
    on_host(nanos(ClockId::Boottime), offsets()[1])
}

/// Id of the boot that [`since_boot_ns`] counts from; empty if the kernel does not report it.
pub fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// What the time namespace of this process adds to CLOCK_MONOTONIC and CLOCK_BOOTTIME, in
/// nanoseconds. Read once: a process cannot change its own namespace's offsets.
fn offsets() -> [i64; 2] {
    static OFFSETS: OnceLock<[i64; 2]> = OnceLock::new();
    *OFFSETS.get_or_init(|| {
        // Absent before 5.6, which has no time namespaces.
        let text = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        ["monotonic", "boottime"].map(|clock| parse_offset(&text, clock).unwrap_or(0))
    })
}

/// Parses the line `CLOCK SECONDS NANOSECONDS`.
fn parse_offset(offsets: &str, clock: &str) -> Option<i64> {
    let mut words = offsets.lines().map(str::split_ascii_whitespace).find_map(|mut words| {
        let name = words.next()?;
        (name == clock).then_some(words)
    })?;
    let (seconds, nanos): (i64, i64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// The time without the offset.
const fn on_host(ns: u64, offset_ns: i64) -> u64 {
    if offset_ns >= 0 {
        ns.saturating_sub(offset_ns.unsigned_abs())
    } else {
        ns.saturating_add(offset_ns.unsigned_abs())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_of_a_time_namespace_are_subtracted() {
        // timens_offsets of proc(5).
        let text = "monotonic      864000         5\nboottime         -100         0\n";
        assert_eq!(parse_offset(text, "monotonic"), Some(864_000_000_000_005));
        assert_eq!(parse_offset(text, "boottime"), Some(-100_000_000_000));
        assert_eq!(parse_offset(text, "mono"), None);
        assert_eq!(parse_offset("monotonic x 0\n", "monotonic"), None);
        assert_eq!((on_host(7, 5), on_host(7, -5), on_host(7, 9)), (2, 12, 0));
    }
}
