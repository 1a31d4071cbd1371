//! Times that people write, and times as they are printed: always UTC, as in events.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use serde::Serializer;

const DAY: Duration = Duration::from_hours(24);

/// Reads a time: `2026-11-28T03:12:00Z`, `2026-11-28 03:12`, `2026-11-28`, `03:12` (of today), `now`,
/// `today`, `yesterday`, or so long ago, such as `90m` or `2h 30m`.
pub fn parse(text: &str, now: SystemTime) -> anyhow::Result<SystemTime> {
    let text = text.trim();
    match text {
        "now" => return Ok(now),
        "today" => return Ok(midnight(now)),
        "yesterday" => return Ok(midnight(now) - DAY),
        _ => {}
    }
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(now.checked_sub(ago).unwrap_or(UNIX_EPOCH).max(UNIX_EPOCH));
    }
    let today = humantime::format_rfc3339_seconds(midnight(now)).to_string();
    let date = today.split('T').next().unwrap_or_default();
    let full = match text.len() {
        5 => format!("{date} {text}:00"),
        8 => format!("{date} {text}"),
        10 => format!("{text} 00:00:00"),
        16 => format!("{text}:00"),
        _ => text.to_owned(),
    };
    match humantime::parse_rfc3339_weak(&full) {
        Ok(time) => Ok(time),
        Err(_) => bail!(
            "{text:?} is not a time such as \"2026-11-28 03:12\" (UTC), \"03:12\", \"yesterday\", \
             or so long ago, such as \"2h\""
        ),
    }
}

fn midnight(time: SystemTime) -> SystemTime {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + DAY * u32::try_from(since_epoch.as_secs() / DAY.as_secs()).unwrap_or(0)
}

/// Nanoseconds since 1970 of a record.
pub fn wall_ns(time: SystemTime) -> i64 {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)
}

/// A time of a record as events have it: `2026-11-28T03:12:00.123Z`.
pub fn rfc3339(wall_ns: i64) -> String {
    // Years of four digits; the clock of a host may have been anything.
    let since_epoch = Duration::from_nanos(u64::try_from(wall_ns).unwrap_or(0));
    humantime::format_rfc3339_millis(UNIX_EPOCH + since_epoch).to_string()
}

/// Serializes such a time as text, for `serialize_with`.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub fn serialize<S: Serializer>(wall_ns: &i64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&rfc3339(*wall_ns))
}

/// A time of a record, to a tenth of a second: `2026-11-28 03:12:00.1`.
pub fn text(wall_ns: i64) -> String {
    let text = rfc3339(wall_ns);
    text.replace('T', " ").chars().take("2026-11-28 03:12:00.1".len()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let now = humantime::parse_rfc3339("2026-11-29T12:00:00Z").expect("a time");
        for (text, expected) in [
            ("now", "2026-11-29T12:00:00Z"),
            ("today", "2026-11-29T00:00:00Z"),
            ("yesterday", "2026-11-28T00:00:00Z"),
            ("2h", "2026-11-29T10:00:00Z"),
            ("1h 30m", "2026-11-29T10:30:00Z"),
            ("03:12", "2026-11-29T03:12:00Z"),
            ("03:12:30", "2026-11-29T03:12:30Z"),
            ("2026-11-28", "2026-11-28T00:00:00Z"),
            ("2026-11-28 03:12", "2026-11-28T03:12:00Z"),
            (" 2026-11-28 03:12:05 ", "2026-11-28T03:12:05Z"),
            ("2026-11-28T03:12:05Z", "2026-11-28T03:12:05Z"),
        ] {
            let time = parse(text, now).expect(text);
            assert_eq!(humantime::format_rfc3339(time).to_string(), expected, "{text}");
        }
        for text in ["", "noon", "28.11.2026", "2026-13-01", "25:00", "2026-11-28 03:12 CET"] {
            let error = parse(text, now).expect_err(text).to_string();
            assert!(error.contains("is not a time such as"), "{text}: {error}");
        }
        assert_eq!(parse("900y", now).expect("long ago"), UNIX_EPOCH);
    }

    #[test]
    fn times_are_printed_to_a_tenth_of_a_second() {
        let time = humantime::parse_rfc3339("2026-11-28T03:12:00.150Z").expect("a time");
        assert_eq!(text(wall_ns(time)), "2026-11-28 03:12:00.1");
        assert_eq!(text(-5), "1970-01-01 00:00:00.0");
    }
}
