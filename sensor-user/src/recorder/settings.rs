//! Where the record is kept, and how much of it.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::segments::{Limits, MIN_SEGMENTS, SEGMENT};

/// Largest record in MiB.
const MAX_MIB: u64 = 16_384;
/// Shortest age.
const MIN_AGE: Duration = Duration::from_hours(1);

/// Where the record is kept, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Directory of the record, from which `memsensor history` and `memsensor postmortem` read, also on
    /// another host. It is handed over to `user`, unless it contains other files. `""` records
    /// nothing.
    pub directory: String,
    /// Size of the record in MiB. Range: 4 to 16384. It is allocated at the start. 64 MiB are about a
    /// week of a calm host.
    pub max_mib: u64,
    /// Age at which a part of the record is cleared, if it was not used again before. Range: at least
    /// 1h.
    #[serde(with = "humantime_serde")]
    #[cfg_attr(feature = "schema", schemars(with = "String", extend("format" = "duration")))]
    pub max_age: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            directory: "/var/lib/memsensor".to_owned(),
            max_mib: 64,
            max_age: Duration::from_hours(7 * 24),
        }
    }
}

impl Settings {
    /// An error if a setting is out of range.
    pub fn check(&self) -> Result<()> {
        let (mib, least) = (self.max_mib, (MIN_SEGMENTS * SEGMENT) >> 20);
        ensure!(
            (least..=MAX_MIB).contains(&mib),
            "record.max_mib: {mib} is not between {least} and {MAX_MIB}"
        );
        ensure!(self.max_age >= MIN_AGE, "record.max_age: less than 1h");
        let is_path = self.directory.is_empty() || self.directory.starts_with('/');
        ensure!(is_path, "record.directory: {:?} does not begin with /", self.directory);
        Ok(())
    }

    /// The directory; `None` if nothing is to be recorded.
    pub fn directory(&self) -> Option<PathBuf> {
        (!self.directory.is_empty()).then(|| PathBuf::from(&self.directory))
    }

    /// How much is kept.
    pub const fn limits(&self) -> Limits {
        Limits { bytes: self.max_mib * SEGMENT, age: self.max_age }
    }
}
