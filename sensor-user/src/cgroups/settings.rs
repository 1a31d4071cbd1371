//! Which cgroups have metrics of their own.

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::patterns::Patterns;

/// Cgroups with metrics: some six files of each are read every few seconds.
const MAX_CGROUPS: usize = 1000;
/// Patterns: each path is compared with each.
const MAX_PATTERNS: usize = 64;
/// Cgroups with histograms.
pub const MAX_HISTOGRAMS: usize = 20;

/// Which cgroups have metrics of their own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Paths of cgroups with metrics of their own; `*` is any name or part of one. A process counts
    /// for the deepest cgroup above it that matches and, on v2, has the memory controller. The
    /// default covers services, pods, and the containers of systemd's cgroup drivers.
    pub paths: Vec<String>,
    /// Number of these cgroups that are shown, the largest; 0 to 1000. All others are one sum.
    pub most: usize,
    /// Paths of cgroups that also have histograms of the duration of reclaim; at most 20 cgroups,
    /// the first that reclaim. Each has 15 series per kind of reclaim (30 with fine `buckets`), and
    /// every reclaim on the host then costs a map look-up.
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
            if let Some(path) = paths.iter().find(|path| !path.starts_with('/')) {
                bail!("cgroups.{key}: {path:?} does not begin with / as /system.slice/* does");
            }
            Patterns::new(paths).with_context(|| format!("cgroups.{key}"))?;
        }
        Ok(())
    }
}
