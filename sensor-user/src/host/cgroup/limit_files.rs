//! Limits and usage of one cgroup, as open files, and the memory that they leave.
//!
//! Not here: the other files of a scope, and what is done if one fails (`scope_files`).

use std::path::Path;

use anyhow::{Context as _, Result};
use sensor_core::verdict::reading::Reading;

use super::files::{FileNames, MemoryStat, parse_bytes};
use crate::host::proc_file::ProcFile;

/// The files of one cgroup's limits and usage.
#[derive(Debug)]
pub(super) struct LimitFiles {
    usage: ProcFile,
    limits: Vec<ProcFile>,
    swap_usage: Option<ProcFile>,
    swap_limit: Option<ProcFile>,
    stat: ProcFile,
}

/// Memory that can still be allocated, in bytes; `None` is no limit.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Headroom {
    total: Option<u64>,
    /// `unused` and reclaimable cache.
    available: Option<u64>,
    unused: Option<u64>,
    swap_free: Option<u64>,
}

impl Headroom {
    /// The smaller value of each field.
    pub(super) fn min(self, other: Self) -> Self {
        let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        Self {
            total: least(self.total, other.total),
            available: least(self.available, other.available),
            unused: least(self.unused, other.unused),
            swap_free: least(self.swap_free, other.swap_free),
        }
    }

    /// Stores what is also within the host's memory.
    pub(super) fn fill(self, reading: &mut Reading, host: &Reading) {
        let within_host = self.min(Self {
            total: host.total_bytes,
            available: host.available_bytes,
            unused: host.unused_bytes,
            swap_free: host.swap_free_bytes,
        });
        reading.total_bytes = within_host.total;
        reading.available_bytes = within_host.available;
        reading.unused_bytes = within_host.unused;
        // Without swap on the host, the cgroup's limit of swap has no meaning.
        reading.swap_free_bytes = host.swap_free_bytes.and(within_host.swap_free);
    }
}

impl LimitFiles {
    /// Opens the files in the directory of a cgroup.
    pub(super) fn open(dir: &Path, v1: bool) -> Result<Self> {
        let open = |name: &str| ProcFile::open(&dir.join(name));
        let stat = open("memory.stat")?;
        let names = FileNames::of(v1);
        Ok(Self {
            usage: open(names.usage)?,
            // Above `high`, tasks must reclaim before they allocate: it acts as a limit.
            limits: std::iter::once(names.limit)
                .chain(names.high)
                .map(open)
                .collect::<Result<_>>()?,
            swap_usage: open(names.swap_usage).ok(),
            swap_limit: open(names.swap_limit).ok(),
            stat,
        })
    }

    /// The limit in bytes; `None` if it is not set.
    pub(super) fn limit(&mut self) -> Result<Option<u64>> {
        let mut least = None;
        for limit in &mut self.limits {
            least = parse_bytes(limit.read()?).into_iter().chain(least).min();
        }
        Ok(least)
    }

    /// The cgroup's memory.stat.
    pub(super) fn stat(&mut self, v1: bool) -> Result<MemoryStat> {
        Ok(MemoryStat::parse(self.stat.read()?, v1))
    }

    /// What the limits leave.
    pub(super) fn headroom(&mut self, v1: bool, stat: &MemoryStat) -> Result<Headroom> {
        let usage = parse_bytes(self.usage.read()?).context("the usage is not a number")?;
        let total = self.limit()?;
        // Page cache and slab can be reclaimed; tmpfs counts as page cache but cannot.
        let cache = stat.file.saturating_sub(stat.shmem).saturating_add(stat.slab);
        let unused = total.map(|total| total.saturating_sub(usage));
        let available = unused.map(|unused| unused.saturating_add(cache.min(usage)));
        // The pool of huge pages is neither free nor reclaimable.
        let total = total.map(|total| total.saturating_sub(stat.hugetlb));
        let mut swap_free = None;
        if let (Some(swapped), Some(limit)) = (&mut self.swap_usage, &mut self.swap_limit)
            && let Some(limit) = parse_bytes(limit.read()?)
        {
            let free = limit.saturating_sub(parse_bytes(swapped.read()?).unwrap_or(0));
            // v1 limits memory and swap together.
            swap_free = Some(if v1 { free.saturating_sub(unused.unwrap_or(0)) } else { free });
        }
        Ok(Headroom { total, available, unused, swap_free })
    }
}
