//! Options that select a part of a record, and reading it.

use std::{
    fmt,
    io::Write as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use sensor_core::common::text::Sentence;

use crate::{
    history::{timeline::Timeline, times},
    recorder::archive::Archive,
};

/// Losses that are printed; the others are counted.
const SHOWN_LOSSES: usize = 10;

/// A mistake in options that the parser of the command line cannot see.
#[derive(Debug)]
pub struct WrongOptions;

impl fmt::Display for WrongOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("command line")
    }
}

/// The directory of a record.
#[derive(Debug, clap::Args)]
pub struct DirArg {
    /// Directory of the record, or of a copy of it from another host
    #[arg(long, value_name = "PATH", default_value = "/var/lib/memsensor")]
    pub dir: PathBuf,
}

/// Nanoseconds since 1970, from and to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Begin.
    pub since: i64,
    /// End.
    pub until: i64,
}

impl Range {
    /// Reads both times as people write them.
    pub fn parse(since: &str, until: &str, now: SystemTime) -> Result<Self> {
        let time = |option: &str, text: &str| {
            let time = times::parse(text, now).with_context(|| format!("--{option}"));
            time.context(WrongOptions)
        };
        let (since_time, until_time) = (time("since", since)?, time("until", until)?);
        let range = Self { since: times::wall_ns(since_time), until: times::wall_ns(until_time) };
        if range.since > range.until {
            let message = format!("--since {since:?} is after --until {until:?}");
            return Err(anyhow!(message).context(WrongOptions));
        }
        Ok(range)
    }
}

/// Reads a part of a record. What cannot be read is named on stderr; it is an error if there is
/// nothing else.
pub fn read(dir: &Path, range: Range) -> Result<Timeline> {
    let archive = Archive::open(dir).map_err(|e| {
        anyhow!(
            "{e:#}; is memsensor running, and `record.directory` another one? Only root and \
             memsensor's user can read a record"
        )
    })?;
    let timeline = Timeline::read(&archive, range.since, range.until);
    let mut stderr = std::io::stderr().lock();
    for loss in timeline.losses.iter().take(SHOWN_LOSSES) {
        let _ = writeln!(stderr, "warning: {}", Sentence(&loss.to_string()));
    }
    let more = timeline.losses.len().saturating_sub(SHOWN_LOSSES);
    if more > 0 {
        let _ = writeln!(stderr, "warning: {more} more losses");
    }
    let is_readable = !timeline.entries.is_empty() || timeline.losses.is_empty();
    ensure!(is_readable, "nothing between these times can be read");
    Ok(timeline)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_range_is_two_times_in_order() {
        let now = UNIX_EPOCH + Duration::from_hours(24 * 365 * 56);
        let range = Range::parse("2h", "now", now).expect("a range");
        assert_eq!(range.until - range.since, 7_200_000_000_000);
        for (since, until, message) in [
            ("now", "1h", "--since \"now\" is after --until \"1h\""),
            ("noon", "now", "--since: \"noon\" is not a time"),
            ("1h", "", "--until: \"\" is not a time"),
        ] {
            let error = Range::parse(since, until, now).expect_err("not a range");
            assert!(error.is::<WrongOptions>(), "exit code 2");
            assert!(format!("{error:#}").contains(message), "{error:#}");
        }
    }
}
