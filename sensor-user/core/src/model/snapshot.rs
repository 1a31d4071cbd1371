//! What one sample measured, and the verdicts on it. The sampler publishes it as a whole; readers
//! never change it. Plain data.

use std::sync::Arc;

use sensor_ebpf::spec::Row;

use super::{
    counters::{ByCause, CgroupReclaim, InFlight, ProgramCost},
    event::OomType,
};
use crate::verdict::scope::ScopeVerdict;

/// All counts of the kernel half at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// When it was taken: CLOCK_MONOTONIC nanoseconds.
    pub taken_ns: u64,
    /// When it was taken: seconds since 1970.
    pub taken_unix: f64,
    /// One row per probe, then the row of losses. Stalls under way are included; no word ever
    /// falls.
    pub rows: Arc<Vec<Row>>,
    /// The rows at the beginning of the window of `_min` and `_max` gauges.
    pub window_start: Arc<Vec<Row>>,
    /// The rows ten seconds ago, for the verdict.
    pub recent_start: Arc<Vec<Row>>,
    /// Whether the kernel reports how many events it skipped; if not, that word of the losses has
    /// no meaning.
    pub reports_skipped: bool,
    /// Tasks in reclaim, compaction, throttling or the like.
    pub in_flight: InFlight,
    /// The cost of our programs; empty while BPF statistics are off.
    pub costs: Vec<ProgramCost>,
    /// Nanoseconds that tasks of a cgroup stalled, by cgroup id and cause, in the order of ids,
    /// stalls under way included. Read only every few samples.
    pub stall_clock: Arc<[(u64, ByCause)]>,
    /// When the stall clock was read: CLOCK_MONOTONIC nanoseconds; `None` before the first time.
    /// Rates of stalls are over the time between two of these, not over that between two samples.
    pub stall_clock_ns: Option<u64>,
    /// Durations of reclaim by cgroup and kind, for cgroups with histograms. Read with the stall
    /// clock.
    pub reclaim: Arc<[CgroupReclaim]>,
    /// The maps that could not be read.
    pub unread: UnreadMaps,
}

/// Maps that could not be read for a sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnreadMaps {
    /// The rows are those of an earlier sample, and empty if there was none. Tasks in flight are
    /// not known. The verdict does not use the probes.
    pub counters: bool,
    /// Stall clocks and histograms of cgroups are those of an earlier sample.
    pub cgroups: bool,
}

impl UnreadMaps {
    /// Whether each kind of map was read, by the label of the kind.
    pub fn readable(self) -> [(&'static str, bool); 2] {
        [("counters", !self.counters), ("cgroups", !self.cgroups)]
    }
}

/// A snapshot, and the verdict on each scope at that moment, the host first.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// The measurements.
    pub snapshot: Snapshot,
    /// The verdicts on them.
    pub scopes: Vec<ScopeVerdict>,
    /// OOM kills since the daemon started by [`OomType`], as far as vmstat shows it; `None` where a
    /// probe counts them.
    pub vmstat_kills: Option<[u64; OomType::ALL.len()]>,
}

impl Snapshot {
    /// Words of a probe's row that moved in the window of gauges.
    pub fn moved_in_window(&self, probe: usize, at: usize, len: usize) -> MovedWords<'_> {
        MovedWords::between(&self.window_start[probe], &self.rows[probe], at, len)
    }

    /// Words of a probe's row that moved in the last ten seconds.
    pub fn moved_recently(&self, probe: usize, at: usize, len: usize) -> MovedWords<'_> {
        MovedWords::between(&self.recent_start[probe], &self.rows[probe], at, len)
    }
}

/// The same words of a row at two moments.
#[derive(Debug, Clone, Copy)]
pub struct MovedWords<'a> {
    then: &'a [u64],
    now: &'a [u64],
}

impl<'a> MovedWords<'a> {
    fn between(then: &'a Row, now: &'a Row, at: usize, len: usize) -> Self {
        Self { then: &then[at..at + len], now: &now[at..at + len] }
    }

    /// The lowest index that moved.
    pub fn lowest(self) -> Option<usize> {
        (0..self.then.len()).find(|i| self.now[*i] > self.then[*i])
    }

    /// The highest index that moved.
    pub fn highest(self) -> Option<usize> {
        (0..self.then.len()).rev().find(|i| self.now[*i] > self.then[*i])
    }
}
