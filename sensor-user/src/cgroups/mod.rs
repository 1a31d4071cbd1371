//! Which cgroups have metrics of their own, and what is told of each.
//!
//! A host may have ten thousand groups and make a hundred a minute; so the set is bounded, and what is
//! not in it is one sum, `other`. Looked at every few seconds by a thread of its own ([`watch`]); a scrape
//! only writes down what was found.

mod patterns;
pub mod table;
pub mod watch;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwapOption;
use sensor_ebpf::{hist, inflight::Kind, probes::Cause};
use serde::{Deserialize, Serialize};

use crate::{identity::WorkloadId, kernel::read::RECLAIM_KINDS};

/// Where the last report is found; empty until the first.
pub type Published = Arc<ArcSwapOption<CgroupReport>>;

/// Which groups.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Paths of groups that have metrics of their own; `*` is any name or part of one. A process counts
    /// for the deepest group above it that is named here and, on v2, has the memory controller. The default
    /// covers services, pods and the containers of systemd's drivers.
    pub paths: Vec<String>,
    /// At most so many of them, the largest; the others are one sum.
    pub most: usize,
    /// Those of them that have histograms of how long reclaim took, in the same way; at most
    /// [`MOST_HISTOGRAMS`], the first in which anybody reclaimed. Each is 15 series for each kind
    /// (30 with fine `buckets`), and costs the kernel half a look-up at the end of every reclaim: none by
    /// default.
    pub histograms: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        let paths = ["/*", "/*/*", "/*/*/*", "/kubepods*/*/*/*"];
        Self { paths: paths.map(str::to_owned).to_vec(), most: 200, histograms: Vec::new() }
    }
}

/// At most so many groups have histograms.
pub const MOST_HISTOGRAMS: usize = 20;

/// Of each of [`RECLAIM_KINDS`], a [`hist::Log2Seconds`] as words.
pub type Histograms = [[u64; hist::WORDS]; RECLAIM_KINDS.len()];

/// What is counted for a group: since it is among those shown, or since the daemon started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupCounters {
    /// Nanoseconds that its tasks spent stalled, by [`Cause`], stalls under way included.
    pub stall_ns: [u64; Cause::COUNT],
    /// Its processes that the OOM killer killed.
    pub oom_kills: u64,
    /// How long reclaim took, if it has histograms and anybody reclaimed.
    pub reclaim: Option<Box<Histograms>>,
}

impl CgroupCounters {
    fn add(&mut self, more: &Self) {
        for (to, from) in self.stall_ns.iter_mut().zip(more.stall_ns) {
            *to = to.saturating_add(from);
        }
        self.oom_kills = self.oom_kills.saturating_add(more.oom_kills);
    }

    /// Adds to the histogram of a kind.
    fn observe(&mut self, kind: Kind, rose: &[u64; hist::WORDS]) {
        let Some(i) = RECLAIM_KINDS.iter().position(|(k, _)| *k == kind) else { return };
        let histogram = &mut self.reclaim.get_or_insert_default()[i];
        for (to, from) in histogram.iter_mut().zip(rose) {
            *to = to.saturating_add(*from);
        }
    }
}

/// Kills in so many groups are told apart until somebody looks; those in others count for none.
const MOST_KILLED: usize = 4096;

/// OOM kills by the path of their group. The thread that follows events counts them, and [`watch`] takes
/// them: the log of events may have dropped some before it looks.
#[derive(Debug, Default)]
pub struct Killed(Mutex<BTreeMap<Option<Arc<str>>, u64>>);

impl Killed {
    /// Counts one.
    pub fn note(&self, path: Option<&Arc<str>>) {
        let mut kills = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let path = path.cloned();
        let is_room = kills.len() < MOST_KILLED || kills.contains_key(&path);
        *kills.entry(path.filter(|_| is_room)).or_default() += 1;
    }

    /// Those since it was last asked.
    fn take(&self) -> BTreeMap<Option<Arc<str>>, u64> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the files of a group tell, those below it among it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CgroupStats {
    /// What it has.
    pub memory_bytes: Option<u64>,
    /// Its limit; none without one.
    pub limit_bytes: Option<u64>,
    /// What it has in swap.
    pub swap_bytes: Option<u64>,
    /// Bytes that were evicted and had to be read again.
    pub refaulted_bytes: Option<u64>,
    /// How often it was at its limit.
    pub limit_hits: Option<u64>,
    /// PSI `some` and `full`, nanoseconds.
    pub pressure_ns: Option<[u64; 2]>,
}

impl CgroupStats {
    /// What is left to tell of a group that is gone.
    fn counters(self) -> Self {
        Self { memory_bytes: None, limit_bytes: None, swap_bytes: None, ..self }
    }

    fn has_counted(&self) -> bool {
        let [some, full] = self.pressure_ns.unwrap_or_default();
        [self.refaulted_bytes.unwrap_or(0), self.limit_hits.unwrap_or(0), some, full] != [0; 4]
    }
}

/// One group that is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownCgroup {
    /// Its path.
    pub path: Arc<str>,
    /// What people call it.
    pub workload: WorkloadId,
    /// What is counted.
    pub totals: CgroupCounters,
    /// What its files tell.
    pub found: CgroupStats,
}

/// All that is told of cgroups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupReport {
    /// Those that are shown, by path.
    pub shown: Vec<ShownCgroup>,
    /// The sum of what happened in all others, while they were not shown.
    pub other: CgroupCounters,
    /// How many have processes and are not shown, though they are named or their name is not known.
    pub omitted: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kill_is_taken_once_and_what_is_kept_is_bounded() {
        let killed = Killed::default();
        let path = |n: usize| Arc::from(format!("/g{n}"));
        for n in (0..2 * MOST_KILLED).chain(0..1) {
            killed.note(Some(&path(n)));
        }
        killed.note(None);
        let taken = killed.take();
        assert_eq!(
            (taken.len(), taken.values().sum::<u64>()),
            (MOST_KILLED + 1, 2 * MOST_KILLED as u64 + 2)
        );
        assert_eq!((taken[&Some(path(0))], taken[&Some(path(1))]), (2, 1));
        assert!(killed.take().is_empty());
    }
}
