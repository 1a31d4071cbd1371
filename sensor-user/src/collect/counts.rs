//! Reads the counts of the kernel half for one sample. If maps cannot be read, the sample goes on
//! without them, because PSI alone gives a verdict.
//!
//! Not here: how a map is read (`kernel/read`), and rows of earlier samples (`history`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhow::Result;
use sensor_core::{
    common::clock::monotonic_ns,
    model::{
        counters::{ByCause, CgroupReclaim, InFlight, ProgramCost},
        snapshot::UnreadMaps,
    },
};
use sensor_ebpf::{
    inflight::Slot,
    loss::{self, Loss},
    spec::Row,
};
use tracing::{error, info};

use crate::kernel::read::Reader;

/// Samples per reading of the stall clocks of all cgroups, which takes two system calls for each.
const SAMPLES_PER_CLOCK: u64 = 10;

/// The maps that a sample is made of; tests have some that fail.
pub trait CountMaps {
    /// See [`Reader::rows`].
    fn rows(&self) -> Result<Vec<Row>>;
    /// See [`Reader::slots`].
    fn slots(&self, now: u64) -> Result<Vec<Slot>>;
    /// See [`Reader::stall_clock`].
    fn stall_clock(&self, slots: &[Slot], now: u64) -> Result<(Vec<(u64, ByCause)>, usize)>;
    /// See [`Reader::reclaim`].
    fn reclaim(&self) -> Result<Vec<CgroupReclaim>>;
    /// See [`Reader::stalls_of`].
    fn stalls_of(&self, cgroups: &BTreeSet<u64>, slots: &[Slot], now: u64) -> BTreeMap<u64, u64>;
    /// See [`Reader::recursion_misses`].
    fn recursion_misses(&self) -> Option<u64>;
    /// See [`Reader::costs`].
    fn costs(&self) -> Vec<ProgramCost>;
}

impl CountMaps for Reader {
    fn rows(&self) -> Result<Vec<Row>> {
        self.rows()
    }

    fn slots(&self, now: u64) -> Result<Vec<Slot>> {
        self.slots(now)
    }

    fn stall_clock(&self, slots: &[Slot], now: u64) -> Result<(Vec<(u64, ByCause)>, usize)> {
        self.stall_clock(slots, now)
    }

    fn reclaim(&self) -> Result<Vec<CgroupReclaim>> {
        self.reclaim()
    }

    fn stalls_of(&self, cgroups: &BTreeSet<u64>, slots: &[Slot], now: u64) -> BTreeMap<u64, u64> {
        self.stalls_of(cgroups, slots, now)
    }

    fn recursion_misses(&self) -> Option<u64> {
        self.recursion_misses()
    }

    fn costs(&self) -> Vec<ProgramCost> {
        self.costs()
    }
}

/// The counts of one sample.
#[derive(Debug, Default)]
pub struct Counts {
    /// When the counters were read: CLOCK_MONOTONIC nanoseconds.
    pub taken_ns: u64,
    /// Empty if there are no maps, or if they could not be read.
    pub rows: Vec<Row>,
    /// Tasks in flight.
    pub in_flight: InFlight,
    /// The cost of programs.
    pub costs: Vec<ProgramCost>,
    /// Whether the kernel reports skipped events.
    pub reports_skipped: bool,
    /// Stall clocks of scopes without PSI, by cgroup id.
    pub scope_stalls: BTreeMap<u64, u64>,
    /// Clocks of all cgroups, of this sample or an earlier one.
    pub clocks: CgroupClocks,
    /// The maps that could not be read.
    pub unread: UnreadMaps,
}

/// Clocks that are read only every few samples.
#[derive(Debug, Clone, Default)]
pub struct CgroupClocks {
    /// Stall clocks of cgroups.
    pub stalls: Arc<[(u64, ByCause)]>,
    /// Histograms of cgroups.
    pub reclaim: Arc<[CgroupReclaim]>,
    /// Time of the reading: CLOCK_MONOTONIC nanoseconds.
    pub read_ns: Option<u64>,
    /// Entries that the kernel half has evicted so far.
    evicted: u64,
}

/// Reads the maps for one sample after the other.
#[derive(Debug, Default)]
pub struct CountReader {
    clocks: CgroupClocks,
    samples: u64,
    /// Events that the kernel had skipped when that was last read.
    skipped: Option<u64>,
    unread: UnreadMaps,
}

impl CountReader {
    /// Reads `maps`, which are `None` where nothing could be loaded. `without_psi` are the ids of
    /// cgroups whose stall clocks the verdict needs.
    pub fn read(&mut self, maps: Option<&impl CountMaps>, without_psi: &BTreeSet<u64>) -> Counts {
        let Some(maps) = maps else {
            return Counts { taken_ns: monotonic_ns(), ..Counts::default() };
        };
        let read = self.read_counters(maps, without_psi);
        log_change("counters", &mut self.unread.counters, read.as_ref().err());
        let counts = read.unwrap_or_else(|_| Counts {
            taken_ns: monotonic_ns(),
            reports_skipped: self.skipped.is_some(),
            ..Counts::default()
        });
        Counts { clocks: self.clocks.clone(), unread: self.unread, ..counts }
    }

    fn read_counters(
        &mut self,
        maps: &impl CountMaps,
        without_psi: &BTreeSet<u64>,
    ) -> Result<Counts> {
        self.samples += 1;
        // Rows before slots: see RowHistory::settle.
        let mut rows = maps.rows()?;
        // Read before the slots: a task in a slot was in flight at this time, or entered later.
        // With a time read afterwards, a stall that has ended in the meantime would count until
        // then.
        let taken_ns = monotonic_ns();
        let slots = maps.slots(taken_ns)?;
        if self.samples % SAMPLES_PER_CLOCK == 1 || self.unread.cgroups {
            let read = read_clocks(maps, &rows[loss::ROW as usize], &slots, taken_ns);
            log_change("cgroups", &mut self.unread.cgroups, read.as_ref().err());
            self.clocks = read.unwrap_or_else(|_| self.clocks.clone());
        }
        let losses = &mut rows[loss::ROW as usize];
        losses[Loss::CgroupEvicted as usize] = self.clocks.evicted;
        self.skipped = maps.recursion_misses().or(self.skipped);
        losses[Loss::Recursion as usize] = self.skipped.unwrap_or_default();
        Ok(Counts {
            taken_ns,
            rows,
            in_flight: InFlight::of(&slots, taken_ns),
            costs: maps.costs(),
            reports_skipped: self.skipped.is_some(),
            scope_stalls: maps.stalls_of(without_psi, &slots, taken_ns),
            ..Counts::default()
        })
    }
}

fn read_clocks(
    maps: &impl CountMaps,
    losses: &Row,
    slots: &[Slot],
    taken_ns: u64,
) -> Result<CgroupClocks> {
    let evicted = |added: usize, present: usize| losses[added].saturating_sub(present as u64);
    let (stalls, present) = maps.stall_clock(slots, taken_ns)?;
    let reclaim: Arc<[_]> = maps.reclaim()?.into();
    let evicted =
        evicted(loss::CGROUPS_ADDED, present) + evicted(loss::HISTOGRAMS_ADDED, reclaim.len());
    Ok(CgroupClocks { stalls: stalls.into(), reclaim, read_ns: Some(taken_ns), evicted })
}

/// Logs the first failure and the end of a run of failures.
fn log_change(maps: &str, unread: &mut bool, failure: Option<&anyhow::Error>) {
    match failure {
        Some(e) if !*unread => error!(
            "BPF maps ({maps}) cannot be read: their counters keep the last values, the verdict \
             uses PSI: {e:#}"
        ),
        None if *unread => info!("BPF maps ({maps}) can be read again"),
        _ => {}
    }
    *unread = failure.is_some();
}

#[cfg(test)]
pub(super) mod tests {
    use anyhow::bail;
    use sensor_ebpf::{probes, spec::ROW_WORDS};

    use super::*;

    /// Maps whose every word is `word`, and which fail by kind.
    #[derive(Debug, Clone, Copy, Default)]
    pub(in crate::collect) struct FakeMaps {
        pub(in crate::collect) word: u64,
        pub(in crate::collect) fails: UnreadMaps,
    }

    impl CountMaps for FakeMaps {
        fn rows(&self) -> Result<Vec<Row>> {
            if self.fails.counters {
                bail!("EPERM");
            }
            Ok(vec![[self.word; ROW_WORDS]; probes::ALL.len() + 1])
        }

        fn slots(&self, _: u64) -> Result<Vec<Slot>> {
            Ok(Vec::new())
        }

        fn stall_clock(&self, _: &[Slot], _: u64) -> Result<(Vec<(u64, ByCause)>, usize)> {
            if self.fails.cgroups {
                bail!("ENOMEM");
            }
            Ok((vec![(7, [self.word; 5])], 1))
        }

        fn reclaim(&self) -> Result<Vec<CgroupReclaim>> {
            Ok(Vec::new())
        }

        fn stalls_of(&self, _: &BTreeSet<u64>, _: &[Slot], _: u64) -> BTreeMap<u64, u64> {
            BTreeMap::new()
        }

        fn recursion_misses(&self) -> Option<u64> {
            (self.word > 1).then_some(self.word)
        }

        fn costs(&self) -> Vec<ProgramCost> {
            Vec::new()
        }
    }

    #[test]
    fn the_count_of_skipped_events_does_not_fall() {
        let mut reader = CountReader::default();
        let mut read = |word| {
            let maps = FakeMaps { word, ..FakeMaps::default() };
            let counts = reader.read(Some(&maps), &BTreeSet::new());
            (counts.reports_skipped, counts.rows[loss::ROW as usize][Loss::Recursion as usize])
        };
        assert_eq!(read(0), (false, 0), "the kernel does not report it");
        assert_eq!(read(7), (true, 7));
        assert_eq!(read(0), (true, 7), "it cannot be read");
        assert_eq!(read(8), (true, 8));
    }

    #[test]
    fn each_kind_of_map_fails_and_recovers_alone() {
        let mut reader = CountReader::default();
        let mut read = |word, counters, cgroups| {
            let fails = UnreadMaps { counters, cgroups };
            let counts = reader.read(Some(&FakeMaps { word, fails }), &BTreeSet::new());
            assert!(counts.taken_ns > 0);
            let clock = counts.clocks.stalls.first().map(|(_, ns)| ns[0]);
            (counts.rows.first().map(|row| row[0]), clock, counts.unread)
        };
        let unread = |counters, cgroups| UnreadMaps { counters, cgroups };
        assert_eq!(read(1, true, true), (None, None, unread(true, false)));
        assert_eq!(read(2, false, false), (Some(2), None, unread(false, false)));
        for word in 3..=11 {
            read(word, false, true);
        }
        assert_eq!(read(12, false, true), (Some(12), None, unread(false, true)));
        assert_eq!(read(13, false, false), (Some(13), Some(13), unread(false, false)));
        assert_eq!(read(14, true, false), (None, Some(13), unread(true, false)));
    }
}
