//! Times of records: CLOCK_MONOTONIC, in which everything is measured, as CLOCK_BOOTTIME of this boot
//! and as wall time.

use std::time::{SystemTime, UNIX_EPOCH};

use sensor_core::{
    common::clock::{monotonic_ns, since_boot_ns},
    record::frame::RecordTime,
};

/// Makes times of records.
#[derive(Debug, Clone, Copy)]
pub struct RecordClock {
    boot: [u8; 16],
}

impl RecordClock {
    /// For the boot of this id.
    pub fn new(boot_id: &str) -> Self {
        Self { boot: boot_bytes(boot_id) }
    }

    /// A CLOCK_MONOTONIC time, by the present offsets between the clocks.
    pub fn at(&self, monotonic: u64) -> RecordTime {
        let age = monotonic_ns().saturating_sub(monotonic);
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX);
        RecordTime {
            boot: self.boot,
            boottime_ns: since_boot_ns().saturating_sub(age),
            wall_ns: wall.saturating_sub_unsigned(age),
        }
    }
}

/// The 32 hexadecimal digits of a boot id; zeros if it is not known.
fn boot_bytes(id: &str) -> [u8; 16] {
    let digits = id.bytes().filter_map(|byte| char::from(byte).to_digit(16));
    let digits = digits.filter_map(|digit| u8::try_from(digit).ok());
    let mut bytes = [0; 16];
    for (n, digit) in digits.take(32).enumerate() {
        bytes[n / 2] = bytes[n / 2] << 4 | digit;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_id_is_sixteen_bytes() {
        let bytes = boot_bytes("6d656d73-656e-736f-7200-00000000ff01\n");
        assert_eq!(&bytes[..9], b"memsensor");
        assert_eq!(bytes[14..], [0xff, 1]);
        assert_eq!(boot_bytes(""), [0; 16]);
    }

    #[test]
    fn a_time_in_the_past_is_in_the_past_of_all_clocks() {
        let (clock, now) = (RecordClock::new(""), monotonic_ns());
        let (now, earlier) = (clock.at(now), clock.at(now.saturating_sub(1_000_000_000)));
        let (boottime, wall) =
            (now.boottime_ns - earlier.boottime_ns, now.wall_ns - earlier.wall_ns);
        assert!((900_000_000..1_100_000_000).contains(&boottime), "{boottime}");
        assert!((900_000_000..1_100_000_000).contains(&wall), "{wall}");
    }
}
