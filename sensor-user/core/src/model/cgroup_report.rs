//! The cgroups that have metrics of their own, as of one collection.
//!
//! Not here: which cgroups those are (`cgroups/selection` of the daemon).

use std::sync::Arc;

use sensor_ebpf::{hist, inflight::Kind, probes::Cause};

use super::{counters::RECLAIM_KINDS, workload::WorkloadId};
use crate::verdict::explain::UncountedLimit;

/// A [`hist::Log2Seconds`] as words, for each of [`RECLAIM_KINDS`].
pub type ReclaimHistograms = [[u64; hist::WORDS]; RECLAIM_KINDS.len()];

/// Counts for a cgroup since it is shown, or since the daemon started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupCounters {
    /// Nanoseconds that its tasks stalled, by [`Cause`], stalls under way included.
    pub stall_ns: [u64; Cause::COUNT],
    /// Its processes that the OOM killer killed.
    pub oom_kills: u64,
    /// Durations of reclaim, if it has histograms and there was any.
    pub reclaim: Option<Box<ReclaimHistograms>>,
}

impl CgroupCounters {
    /// Adds stalls and kills; histograms are added by [`Self::add_reclaim`].
    pub fn add(&mut self, more: &Self) {
        for (to, from) in self.stall_ns.iter_mut().zip(more.stall_ns) {
            *to = to.saturating_add(from);
        }
        self.oom_kills = self.oom_kills.saturating_add(more.oom_kills);
    }

    /// Adds to the histogram of a kind.
    pub fn add_reclaim(&mut self, kind: Kind, rose: &[u64; hist::WORDS]) {
        let Some(i) = RECLAIM_KINDS.iter().position(|(k, _)| *k == kind) else { return };
        let histogram = &mut self.reclaim.get_or_insert_default()[i];
        for (to, from) in histogram.iter_mut().zip(rose) {
            *to = to.saturating_add(*from);
        }
    }
}

/// The files of a cgroup, cgroups below it included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CgroupStats {
    /// Memory charged to it.
    pub memory_bytes: Option<u64>,
    /// Its limit; `None` without one.
    pub limit_bytes: Option<u64>,
    /// Memory in swap.
    pub swap_bytes: Option<u64>,
    /// Bytes that were evicted and read again.
    pub refaulted_bytes: Option<u64>,
    /// How often it reached its limit.
    pub limit_hits: Option<u64>,
    /// PSI `some` and `full`, nanoseconds.
    pub pressure_ns: Option<[u64; 2]>,
}

impl CgroupStats {
    /// The counters alone, which stay valid after the cgroup was removed.
    #[must_use]
    pub fn counters(self) -> Self {
        Self { memory_bytes: None, limit_bytes: None, swap_bytes: None, ..self }
    }

    /// Whether any counter is above 0.
    pub fn has_counted(&self) -> bool {
        let [some, full] = self.pressure_ns.unwrap_or_default();
        [self.refaulted_bytes.unwrap_or(0), self.limit_hits.unwrap_or(0), some, full] != [0; 4]
    }
}

/// One cgroup that is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownCgroup {
    /// Its path.
    pub path: Arc<str>,
    /// Unit, container and pod.
    pub workload: WorkloadId,
    /// What the kernel half counted.
    pub counters: CgroupCounters,
    /// What its files hold.
    pub stats: CgroupStats,
}

/// All cgroups that are shown, and the rest as one sum.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CgroupReport {
    /// The cgroup whose limit stalls tasks most, if the host's verdict does not include it.
    pub uncounted: Option<UncountedLimit>,
    /// Those that are shown, by path.
    pub shown: Vec<ShownCgroup>,
    /// The sum over all others, while they were not shown.
    pub other: CgroupCounters,
    /// Cgroups that have processes and are not shown, although a pattern matches or their path is
    /// not known.
    pub omitted: usize,
    /// How often the path of a cgroup was not kept.
    pub paths_dropped: u64,
}
