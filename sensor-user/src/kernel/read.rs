//! Reads the kernel half's maps: rows summed over CPUs, tasks in flight, stall clocks, ring
//! buffers.
//!
//! Maps are read as arrays of words; the probes' specs define each word. Nothing is opened here after
//! the start: the sensing thread reads.
//!
//! Not here: passes over the processes (`programs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf},
    programs::Program,
};
use sensor_core::model::counters::{
    ByCause, CgroupReclaim, ProgramCost, RECLAIM_KINDS, limit_unconfirmed, total_ns,
    unsettled_stalls,
};
use sensor_ebpf::{
    hist,
    inflight::{CHUNK_WORDS, CHUNKS, Slot},
    loss, probes,
    spec::{ROW_WORDS, Row},
};

use crate::host::proc_file::numbers;

/// The maps of the loaded object.
#[allow(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Reader {
    counters: PerCpuArray<MapData, Row>,
    inflight: Array<MapData, [u64; CHUNK_WORDS]>,
    stalls: HashMap<MapData, u64, ByCause>,
    reclaim: HashMap<MapData, [u64; 2], [u64; hist::WORDS]>,
    rings: Option<Rings>,
    /// Each program, and its /proc/self/fdinfo; each read starts at the beginning.
    infos: Vec<(&'static str, File)>,
    /// Whether passes over the processes see all tasks, and so end stalls whose ends were missed.
    sees_all_tasks: bool,
    /// While this is open, the kernel measures the cost of programs.
    stats: Option<OwnedFd>,
}

/// The ring buffers.
#[allow(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Rings {
    /// Rare events; each record wakes pollers.
    pub events: RingBuf<MapData>,
    /// Cgroups that were created and removed; records do not wake pollers.
    pub cgroups: RingBuf<MapData>,
}

impl Reader {
    /// `sees_all_tasks`: passes over the processes see all tasks of the host.
    pub(super) fn new(
        ebpf: &mut Ebpf,
        stats: Option<OwnedFd>,
        sees_all_tasks: bool,
    ) -> Result<Self> {
        let mut take = |name: &str| {
            ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))
        };
        let maps = (take("COUNTERS")?, take("INFLIGHT")?, take("STALLS")?, take("RECLAIM")?);
        let rings =
            Rings { events: take("EVENTS")?.try_into()?, cgroups: take("CGROUPS")?.try_into()? };
        let programs = probes::ALL.iter().flat_map(|probe| probe.programs);
        let info = |name: &'static str| Some((name, info_of(ebpf.program(name)?)?));
        Ok(Self {
            counters: maps.0.try_into()?,
            inflight: maps.1.try_into()?,
            stalls: maps.2.try_into()?,
            reclaim: maps.3.try_into()?,
            rings: Some(rings),
            infos: programs.filter_map(|program| info(program.name)).collect(),
            sees_all_tasks,
            stats,
        })
    }

    /// The ring buffers; can be taken once.
    pub fn take_rings(&mut self) -> Option<Rings> {
        self.rings.take()
    }

    /// One row per probe, then that of [`loss`], each summed over CPUs.
    pub fn rows(&self) -> Result<Vec<Row>> {
        let rows = u32::try_from(probes::ALL.len())?;
        debug_assert_eq!(rows, loss::ROW);
        (0..=rows)
            .map(|i| {
                let per_cpu = self.counters.get(&i, 0).context("read the map COUNTERS")?;
                let mut sum = [0u64; ROW_WORDS];
                for row in per_cpu.iter() {
                    for (to, from) in sum.iter_mut().zip(row) {
                        *to = to.wrapping_add(*from);
                    }
                }
                Ok(sum)
            })
            .collect()
    }

    /// Every used slot of the table of tasks in flight, including ended entries; `now` is
    /// CLOCK_MONOTONIC.
    pub fn slots(&self, now: u64) -> Result<Vec<Slot>> {
        let mut slots = Vec::new();
        for i in 0..u32::try_from(CHUNKS)? {
            let chunk = self.inflight.get(&i, 0).context("read the map INFLIGHT")?;
            let (words, _) = chunk.as_chunks::<5>();
            slots.extend(words.iter().filter(|w| w[0] != 0).map(
                |&[owner, start_ns, inner_ns, aux, unsettled_ns]| Slot {
                    owner,
                    start_ns,
                    inner_ns,
                    aux,
                    unsettled_ns,
                },
            ));
        }
        if !self.sees_all_tasks {
            limit_unconfirmed(&mut slots, now);
        }
        Ok(slots)
    }

    /// Nanoseconds that tasks of each of these cgroups were stalled, including stalls in progress.
    /// A cgroup that the kernel half has evicted starts at 0. `slots` are those of `now`. Omits
    /// cgroups that cannot be read now.
    pub fn stalls_of(
        &self,
        cgroups: &BTreeSet<u64>,
        slots: &[Slot],
        now: u64,
    ) -> BTreeMap<u64, u64> {
        if cgroups.is_empty() {
            return BTreeMap::new();
        }
        let unsettled = unsettled_stalls(slots, now);
        let stall = |cgroup: &u64| {
            let ended = match self.stalls.get(cgroup, 0) {
                Ok(by_cause) => total_ns(&by_cause),
                Err(MapError::KeyNotFound) => 0,
                Err(_) => return None,
            };
            let in_progress = unsettled.get(cgroup).map_or(0, total_ns);
            Some((*cgroup, ended.saturating_add(in_progress)))
        };
        cgroups.iter().filter_map(stall).collect()
    }

    /// Events that the kernel skipped, see [`loss::Loss::Recursion`]; `None` before 5.12, which
    /// does not report them, and if they cannot be read for one of the programs.
    pub fn recursion_misses(&self) -> Option<u64> {
        sum_of_all(self.infos.iter().map(|(_, info)| read_info(info)?.misses))
    }

    /// The stall clocks of all cgroups in the kernel half's map, ordered by id, including stalls in
    /// progress; and the number of entries in the map. `slots` are those of `now`, read before: a
    /// stall that is charged in between counts twice instead of not at all (see
    /// [`sensor_core::common::counter`]).
    pub fn stall_clock(&self, slots: &[Slot], now: u64) -> Result<(Vec<(u64, ByCause)>, usize)> {
        let ended: BTreeMap<u64, ByCause> = collect_map(self.stalls.iter(), "STALLS")?;
        let entries = ended.len();
        let mut clock = unsettled_stalls(slots, now);
        for (id, ended) in ended {
            let sums = clock.entry(id).or_default();
            for (sum, ns) in sums.iter_mut().zip(ended) {
                *sum = sum.saturating_add(ns);
            }
        }
        Ok((clock.into_iter().collect(), entries))
    }

    /// Histograms of reclaim of all cgroups in the kernel half's map; empty unless they are
    /// enabled.
    pub fn reclaim(&self) -> Result<Vec<CgroupReclaim>> {
        let entries: BTreeMap<[u64; 2], _> = collect_map(self.reclaim.iter(), "RECLAIM")?;
        let reclaim = |([cgroup, kind], words): ([u64; 2], _)| {
            let kind = RECLAIM_KINDS.into_iter().map(|(k, _)| k).find(|k| *k as u64 == kind)?;
            Some(CgroupReclaim { cgroup, kind, words })
        };
        Ok(entries.into_iter().filter_map(reclaim).collect())
    }

    /// Run time and run count of each program; empty while BPF statistics are off.
    pub fn costs(&self) -> Vec<ProgramCost> {
        let costs = self.infos.iter().filter_map(|(program, info)| {
            let ProgramInfo { run_ns, runs, .. } = read_info(info)?;
            // Statistics may be on for the whole host (kernel.bpf_stats_enabled).
            let is_on = self.stats.is_some() || runs > 0;
            is_on.then_some(ProgramCost { program, run_ns, runs })
        });
        costs.collect()
    }
}

/// Most entries that are read of a map; larger than every map.
const MAX_ENTRIES: usize = 65_536;

/// All entries of a map from which the kernel may evict an entry at any time. If it evicts the
/// entry that was just read, the kernel starts again with the first (htab_map_get_next_key,
/// kernel/bpf/hashtab.c): collecting by key counts each entry once. An incomplete read is an error,
/// because missing entries would be taken for evicted ones.
fn collect_map<K: Ord, V>(
    entries: impl Iterator<Item = Result<(K, V), MapError>>,
    name: &'static str,
) -> Result<BTreeMap<K, V>> {
    let all: Result<_, _> = entries.take(MAX_ENTRIES).collect();
    all.with_context(|| format!("read the map {name}"))
}

/// `None` if one of the values is missing, or if there is none: a sum without it would be a counter
/// that falls.
fn sum_of_all(mut values: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    let first = values.next()??;
    values.try_fold(first, |sum, value| Some(sum.saturating_add(value?)))
}

/// Opens /proc/self/fdinfo of a loaded program, before capabilities are dropped.
fn info_of(program: &Program) -> Option<File> {
    let fd = program.fd().ok()?.as_fd().as_raw_fd();
    File::open(format!("/proc/self/fdinfo/{fd}")).ok()
}

/// What the kernel reports of a program.
#[derive(Debug, Default, PartialEq, Eq)]
struct ProgramInfo {
    run_ns: u64,
    runs: u64,
    /// `None` before 5.12.
    misses: Option<u64>,
}

fn read_info(info: &File) -> Option<ProgramInfo> {
    // The text has about 300 bytes.
    let mut text = [0; 1024];
    let len = info.read_at(&mut text, 0).ok()?;
    Some(parse_info(std::str::from_utf8(text.get(..len)?).ok()?))
}

fn parse_info(text: &str) -> ProgramInfo {
    let [run_ns, runs, misses] = numbers(text, ["run_time_ns", "run_cnt", "recursion_misses"]);
    ProgramInfo { run_ns: run_ns.unwrap_or(0), runs: runs.unwrap_or(0), misses }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_read_completely_and_each_entry_counts_once() {
        let read =
            |entries: Vec<Result<(u64, u64), MapError>>| collect_map(entries.into_iter(), "X");
        // The kernel starts again after the second entry.
        let twice = vec![Ok((7, 1)), Ok((8, 2)), Ok((7, 3)), Ok((9, 4))];
        assert_eq!(read(twice).expect("complete"), BTreeMap::from([(7, 3), (8, 2), (9, 4)]));
        let error = read(vec![Ok((7, 1)), Err(MapError::ElementNotFound)]).expect_err("incomplete");
        assert!(format!("{error:#}").starts_with("read the map X: "), "{error:#}");
        let endless = std::iter::repeat_with(|| Ok((1, 1)));
        assert_eq!(collect_map(endless, "X").expect("bounded").len(), 1);
    }

    #[test]
    fn a_sum_lacks_no_value() {
        for (values, sum) in [
            (&[Some(2), Some(0), Some(3)][..], Some(5)),
            (&[Some(2), None, Some(3)], None),
            (&[None, Some(3)], None),
            (&[], None),
        ] {
            assert_eq!(sum_of_all(values.iter().copied()), sum, "{values:?}");
        }
    }

    #[test]
    fn misses_that_a_kernel_does_not_report_are_not_0() {
        // bpf_prog_show_fdinfo of 5.10, and of 5.12 and later.
        let old = "pos:\t0\nflags:\t02000002\nprog_type:\t17\nrun_time_ns:\t12\nrun_cnt:\t3\n";
        for (more, misses) in [
            ("", None),
            ("recursion_misses:\t0\n", Some(0)),
            ("recursion_misses:\t7\nverified_insns:\t92\n", Some(7)),
        ] {
            let expected = ProgramInfo { run_ns: 12, runs: 3, misses };
            assert_eq!(parse_info(&format!("{old}{more}")), expected, "{more:?}");
        }
    }
}
