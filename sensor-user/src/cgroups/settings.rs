//! Which cgroups have metrics of their own.

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::patterns::Patterns;
use crate::host::cgroup::path;

/// Highest number of cgroups with metrics: about six files of each are read every few seconds.
const MAX_CGROUPS: usize = 1000;
/// Highest number of patterns in a list: each path is compared with each.
const MAX_PATTERNS: usize = 64;
/// Highest number of cgroups with histograms.
pub const MAX_HISTOGRAMS: usize = 20;

/// Which cgroups have metrics of their own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Paths of the cgroups with metrics of their own. A process counts for the deepest cgroup at
    /// or above its own that matches and, on cgroup v2, has the memory controller. The default
    /// covers services, pods, and containers of systemd's cgroup drivers. Narrow it to what you
    /// want to see in Prometheus; an empty list leaves only the sum of all.
    pub paths: Vec<String>,
    /// Number of these cgroups that are shown: the largest. Range: 0 to 1000. All others are one
    /// sum, `cgroup="other"`. memsensor reads about six files of each every few seconds. Lower it
    /// to limit the number of series.
    pub most: usize,
    /// Paths of the cgroups that also have histograms of the duration of reclaim: at most 20, the
    /// first that reclaim. All others are one histogram, `cgroup="other"`. Each has 15 series per
    /// kind of reclaim (30 if `buckets` is `fine`), and every reclaim on the host costs one more
    /// map lookup. Use it for services whose latency you track.
    pub histograms: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        let paths = ["/*", "/*/*", "/*/*/*", "/kubepods*/*/*/*"];
        Self { paths: paths.map(str::to_owned).to_vec(), most: 200, histograms: Vec::new() }
    }
}

impl Settings {
    /// An error if there are too many cgroups or patterns, or a pattern is not valid.
    pub fn check(&self) -> Result<()> {
        let Self { paths, most, histograms } = self;
        ensure!(*most <= MAX_CGROUPS, "cgroups.most: {most} is more than {MAX_CGROUPS}");
        for (key, paths) in [("paths", paths), ("histograms", histograms)] {
            let count = paths.len();
            ensure!(count <= MAX_PATTERNS, "cgroups.{key}: {count} paths, at most {MAX_PATTERNS}");
            for path in paths {
                path::check(path).with_context(|| format!("cgroups.{key}"))?;
            }
            Patterns::new(paths).with_context(|| format!("cgroups.{key}"))?;
        }
        Ok(())
    }
}
