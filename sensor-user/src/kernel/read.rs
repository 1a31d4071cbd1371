//! Reads the kernel half's maps: rows summed over CPUs, tasks in flight, stall clocks, ring
//! buffers.
//!
//! Maps are read as arrays of words; the probes' specs define each word.

use std::{
    borrow::BorrowMut,
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read as _,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf},
    programs::{Iter, Program},
};
use sensor_core::model::counters::{
    ByCause, CgroupReclaim, ProgramCost, RECLAIM_KINDS, limit_unconfirmed, total_ns,
    unsettled_stalls,
};
use sensor_ebpf::{
    event::Process,
    hist,
    inflight::{CHUNK_WORDS, CHUNKS, Slot},
    loss, probes,
    spec::{ROW_WORDS, Row},
};
use tracing::info;

/// The iterator over processes.
const ITERATOR: &str = probes::processes::PROBE.programs[0].name;

/// Most bytes that the kernel returns per read of an iterator (8 pages, kernel/bpf/bpf_iter.c).
const PAGE_BYTES: usize = 32 << 10;

/// The maps of the loaded object, and the object itself: dropping it detaches everything.
#[allow(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Reader {
    counters: PerCpuArray<MapData, Row>,
    inflight: Array<MapData, [u64; CHUNK_WORDS]>,
    stalls: HashMap<MapData, u64, ByCause>,
    reclaim: HashMap<MapData, [u64; 2], [u64; hist::WORDS]>,
    /// Killing time and process id of each OOM victim whose memory is not free yet.
    victims: HashMap<MapData, u64, [u64; 2]>,
    rings: Option<Rings>,
    /// /proc/self/fdinfo of each program; each read starts at the beginning.
    infos: Vec<File>,
    ebpf: Ebpf,
    /// Whether passes over the processes see all tasks, and so end stalls whose ends were missed.
    sees_all_tasks: bool,
    /// Buffer for a pass over the processes.
    page: Box<[u8]>,
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
    /// `same_pids`: this process is in the initial pid namespace.
    pub(super) fn new(mut ebpf: Ebpf, stats: Option<OwnedFd>, same_pids: bool) -> Result<Self> {
        let mut take = |name: &str| {
            ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))
        };
        let maps = (take("COUNTERS")?, take("INFLIGHT")?, take("STALLS")?, take("RECLAIM")?);
        let victims = take("VICTIMS")?.try_into()?;
        let rings =
            Rings { events: take("EVENTS")?.try_into()?, cgroups: take("CGROUPS")?.try_into()? };
        Ok(Self {
            counters: maps.0.try_into()?,
            inflight: maps.1.try_into()?,
            stalls: maps.2.try_into()?,
            reclaim: maps.3.try_into()?,
            victims,
            rings: Some(rings),
            infos: ebpf.programs().filter_map(|(_, program)| info_of(program)).collect(),
            sees_all_tasks: same_pids && ebpf.program(ITERATOR).is_some_and(|p| p.fd().is_ok()),
            ebpf,
            page: vec![0; PAGE_BYTES].into(),
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
    /// does not report them.
    pub fn recursion_misses(&self) -> Option<u64> {
        self.infos.iter().filter_map(read_misses).reduce(u64::saturating_add)
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

    /// Makes room for later OOM victims, see [`drop_old_victims`]; `now` is CLOCK_MONOTONIC.
    pub fn drop_old_victims(&mut self, now: u64) {
        let dropped = drop_old_victims(&mut self.victims, now);
        if dropped > 0 {
            info!("the exits of {dropped} OOM victims are not timed: they took more than an hour");
        }
    }

    /// Run time and run count of each program; empty while BPF statistics are off.
    pub fn costs(&self) -> Vec<ProgramCost> {
        let programs = probes::ALL.iter().flat_map(|p| p.programs);
        programs
            .filter_map(|spec| {
                let info = self.ebpf.program(spec.name)?.info().ok()?;
                // Statistics may be on for the whole host (kernel.bpf_stats_enabled).
                (self.stats.is_some() || info.run_count() > 0).then(|| ProgramCost {
                    program: spec.name,
                    run_ns: u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX),
                    runs: info.run_count(),
                })
            })
            .collect()
    }

    /// Calls `each` for every process that has memory (see [`probes::processes`]). Each pass needs
    /// a new descriptor, because an iterator's cannot be rewound.
    pub fn processes(&mut self, mut each: impl FnMut(&Process)) -> Result<()> {
        let program =
            self.ebpf.program_mut(ITERATOR).context("the object has no process iterator")?;
        let program: &mut Iter = program.try_into()?;
        let link = program.attach().context("begin a pass over the processes")?;
        let mut file = program.take_link(link)?.into_file().context("open the processes")?;
        let mut filled = 0;
        loop {
            let free = self.page.get_mut(filled..).context("a record larger than the buffer")?;
            let len = file.read(free).context("read the processes")?;
            if len == 0 {
                break;
            }
            filled += len;
            let records =
                self.page.get(..filled).unwrap_or_default().chunks_exact(size_of::<Process>());
            let rest = records.remainder().len();
            for record in records {
                each(&bytemuck::pod_read_unaligned(record));
            }
            self.page.copy_within(filled - rest..filled, 0);
            filled = rest;
        }
        anyhow::ensure!(filled == 0, "the kernel returned an incomplete process");
        Ok(())
    }
}

/// How long an OOM victim may take to exit.
const VICTIM_AGE_NS: u64 = 3_600_000_000_000;

/// Drops victims that were killed over an hour ago, and returns their number. The kernel may have
/// skipped the program that sees them exit (see [`loss::Loss::Recursion`]): such victims would fill
/// the table in the end, and the exit of a later process in the same address space would be taken
/// for theirs.
pub fn drop_old_victims<T: BorrowMut<MapData>>(
    victims: &mut HashMap<T, u64, [u64; 2]>,
    now: u64,
) -> usize {
    let is_old = |killed_ns: u64| now.saturating_sub(killed_ns) > VICTIM_AGE_NS;
    let all = victims.iter().take(MAX_ENTRIES).filter_map(Result::ok);
    let old: Vec<_> = all.filter(|(_, [killed_ns, _])| is_old(*killed_ns)).collect();
    old.iter().filter(|(key, _)| victims.remove(key).is_ok()).count()
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

/// Opens /proc/self/fdinfo of a loaded program, before capabilities are dropped.
fn info_of(program: &Program) -> Option<File> {
    let fd = program.fd().ok()?.as_fd().as_raw_fd();
    File::open(format!("/proc/self/fdinfo/{fd}")).ok()
}

fn read_misses(info: &File) -> Option<u64> {
    // The text has about 300 bytes.
    let mut text = [0; 1024];
    let len = info.read_at(&mut text, 0).ok()?;
    parse_misses(std::str::from_utf8(text.get(..len)?).ok()?)
}

fn parse_misses(info: &str) -> Option<u64> {
    info.lines().find_map(|l| l.strip_prefix("recursion_misses:")?.trim().parse().ok())
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
    fn misses_that_a_kernel_does_not_report_are_not_0() {
        // bpf_prog_show_fdinfo of 5.10, and of 5.12 and later.
        let old = "pos:\t0\nflags:\t02000002\nprog_type:\t17\nrun_time_ns:\t0\nrun_cnt:\t0\n";
        for (more, misses) in [
            ("", None),
            ("recursion_misses:\t0\n", Some(0)),
            ("recursion_misses:\t7\nverified_insns:\t92\n", Some(7)),
        ] {
            assert_eq!(parse_misses(&format!("{old}{more}")), misses, "{more:?}");
        }
    }
}
