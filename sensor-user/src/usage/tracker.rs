//! Follows processes and cgroups from scan to scan, and reports how they grew.
//!
//! Pure: a [`ScanBatch`] goes in, a [`MemoryUsage`] comes out. What is kept is bounded: the [`KEEP`] largest
//! processes and cgroups, and of the others only how many there were.
//!
//! Not here: reading processes (`scanner`, `kernel/read`, `host/proc_walk`).

use std::collections::{BTreeMap, BTreeSet};

use sensor_ebpf::event::Process;

use sensor_core::{
    common::text::name,
    model::{
        memory_usage::{CgroupUsage, Growth, MemoryUsage, ProcessUsage},
        workload::WorkloadId,
    },
};

use super::growth::SizeHistory;

/// Processes, and cgroups, that are kept from scan to scan.
pub const KEEP: usize = 512;

/// Cgroups that are added up in one scan; processes in others count, but are not added up.
const MAX_SUMS: usize = 16_384;

/// Processes without a main thread that are recognized in one scan.
const MAX_HEADLESS: usize = 1024;

/// The sum over the processes of a cgroup, in pages.
#[derive(Debug, Clone, Copy, Default)]
struct CgroupSum {
    processes: u32,
    own: u64,
    swap: u64,
}

/// The processes of one scan.
#[derive(Debug, Default)]
pub struct ScanBatch {
    /// Not more than twice [`KEEP`] at a time.
    largest: Vec<Process>,
    sums: BTreeMap<u64, CgroupSum>,
    /// True if a cgroup was not added up.
    truncated: bool,
    headless: BTreeSet<u32>,
    seen: u32,
}

impl ScanBatch {
    /// Adds a process.
    pub fn add(&mut self, process: &Process) {
        let task = &process.task;
        // A process without a main thread is reported once per thread.
        if task.tid != task.tgid
            && (self.headless.len() >= MAX_HEADLESS || !self.headless.insert(task.tgid))
        {
            return;
        }
        self.seen += 1;
        let full = self.sums.len() >= MAX_SUMS;
        match self.sums.get_mut(&task.cgroup) {
            Some(sum) => sum.add(process),
            None if full => self.truncated = true,
            None => self.sums.entry(task.cgroup).or_default().add(process),
        }
        self.largest.push(*process);
        if self.largest.len() >= 2 * KEEP {
            self.keep_largest();
        }
    }

    fn keep_largest(&mut self) {
        // Of two equal ones always the same: that with the lower id.
        self.largest.sort_unstable_by_key(|p| (std::cmp::Reverse(own_pages(p)), p.task.tgid));
        self.largest.truncate(KEEP);
    }
}

impl CgroupSum {
    fn add(&mut self, process: &Process) {
        self.processes += 1;
        self.own = self.own.saturating_add(own_pages(process));
        self.swap = self.swap.saturating_add(process.sizes.swap_pages);
    }
}

/// Own memory in pages.
fn own_pages(process: &Process) -> u64 {
    let resident = process.sizes.anon_pages.saturating_add(process.sizes.shmem_pages);
    resident.saturating_add(process.sizes.swap_pages)
}

/// Keeps sizes from scan to scan.
#[derive(Debug)]
pub struct UsageTracker {
    page_bytes: u64,
    /// By id and start time: an id is reused, the pair is not.
    processes: BTreeMap<(u32, u64), SizeHistory>,
    cgroups: BTreeMap<u64, SizeHistory>,
    /// When the last scan was, if it had room for all cgroups.
    last_complete: Option<u32>,
}

impl UsageTracker {
    /// Without any scan yet.
    pub fn new(page_bytes: u64) -> Self {
        let (processes, cgroups) = (BTreeMap::new(), BTreeMap::new());
        Self { page_bytes, processes, cgroups, last_complete: None }
    }

    /// Takes the processes of a scan; `now` is seconds since boot.
    pub fn update(&mut self, mut batch: ScanBatch, now: u32) -> MemoryUsage {
        batch.keep_largest();
        let bytes = |sum: &CgroupSum| sum.own.saturating_mul(self.page_bytes);
        let sums = batch.sums.iter().map(|(id, sum)| (*id, bytes(sum))).collect();
        let mut groups: Vec<_> = batch.sums.iter().map(|(id, sum)| (*id, *sum)).collect();
        groups.sort_unstable_by_key(|(id, sum)| (std::cmp::Reverse(sum.own), *id));
        groups.truncate(KEEP);

        let mut before = std::mem::take(&mut self.processes);
        let mut processes = Vec::with_capacity(batch.largest.len());
        for process in &batch.largest {
            let start = u32::try_from(process.start_ns / 1_000_000_000).unwrap_or(u32::MAX);
            let key = (process.task.tgid, process.start_ns);
            let mut track =
                before.remove(&key).unwrap_or_else(|| SizeHistory::new(now, Some(start)));
            let grown = track.record(now, own_pages(process));
            self.processes.insert(key, track);
            processes.push(self.process_usage(process, now.saturating_sub(start), grown));
        }
        let mut before = std::mem::take(&mut self.cgroups);
        let mut cgroups = Vec::with_capacity(groups.len());
        for (cgroup, sum) in groups {
            // If the last scan was complete, an unknown cgroup was made after it.
            let track = before.remove(&cgroup);
            let mut track = track.unwrap_or_else(|| SizeHistory::new(now, self.last_complete));
            let (grown, _) = track.record(now, sum.own);
            self.cgroups.insert(cgroup, track);
            cgroups.push(CgroupUsage {
                cgroup,
                cgroup_path: None,
                workload: WorkloadId::default(),
                stall_seconds: 0.0,
                processes: sum.processes,
                own_bytes: sum.own.saturating_mul(self.page_bytes),
                swap_bytes: sum.swap.saturating_mul(self.page_bytes),
                growth: self.growth(grown),
            });
        }
        self.last_complete = (!batch.truncated && batch.sums.len() <= KEEP).then_some(now);
        let cgroups_seen = u32::try_from(batch.sums.len()).unwrap_or(u32::MAX);
        MemoryUsage {
            seen: batch.seen,
            cgroups_seen,
            processes,
            cgroups,
            sums,
            ..MemoryUsage::default()
        }
    }

    fn process_usage(
        &self,
        process: &Process,
        age_seconds: u32,
        (grown, minute_seconds): ([i64; 3], u32),
    ) -> ProcessUsage {
        let bytes = |pages: u64| pages.saturating_mul(self.page_bytes);
        let task = &process.task;
        ProcessUsage {
            pid: task.tgid,
            comm: name(&task.comm),
            uid: task.uid,
            oom_score_adj: task.oom_score_adj,
            cgroup: task.cgroup,
            cgroup_path: None,
            workload: WorkloadId::default(),
            age_seconds,
            is_new: false,
            own_bytes: bytes(own_pages(process)),
            swap_bytes: bytes(process.sizes.swap_pages),
            file_bytes: bytes(process.sizes.file_pages),
            page_table_bytes: process.sizes.pgtables_bytes,
            growth: self.growth(grown),
            minute_seconds,
        }
    }

    fn growth(&self, pages: [i64; 3]) -> Growth {
        let page = self.page_bytes.cast_signed();
        let [minute_bytes, ten_minutes_bytes, hour_bytes] = pages.map(|p| p.saturating_mul(page));
        Growth { minute_bytes, ten_minutes_bytes, hour_bytes }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sensor_ebpf::event::{COMM, Sizes, Task};

    use super::*;

    const PAGE: u64 = 4096;

    fn process(pid: u32, start: u64, cgroup: u64, anon_pages: u64) -> Process {
        let comm = [0; COMM];
        let task = Task { tgid: pid, tid: pid, uid: 0, oom_score_adj: 0, cgroup, comm };
        Process {
            task,
            start_ns: start * 1_000_000_000,
            sizes: Sizes {
                anon_pages,
                file_pages: 7,
                shmem_pages: 0,
                swap_pages: 0,
                pgtables_bytes: 4096,
            },
        }
    }

    fn pass<'a>(processes: impl IntoIterator<Item = &'a Process>) -> ScanBatch {
        let mut pass = ScanBatch::default();
        processes.into_iter().for_each(|p| pass.add(p));
        pass
    }

    fn pages(growth: Growth) -> [i64; 3] {
        let Growth { minute_bytes, ten_minutes_bytes, hour_bytes } = growth;
        [minute_bytes, ten_minutes_bytes, hour_bytes].map(|b| b / PAGE.cast_signed())
    }

    #[test]
    fn growth_is_told_over_each_horizon() {
        // One that was there long before us, with a page more each second from 10,000 s on.
        let mut memory = UsageTracker::new(PAGE);
        let mut grown = BTreeMap::new();
        for now in (10_000..=14_000).step_by(10) {
            let size = 1000 + u64::from(now - 10_000);
            let who = memory.update(pass(&[process(1, 5, 9, size)]), now);
            assert_eq!(who.processes[0].own_bytes, size * PAGE);
            grown.insert(now - 10_000, pages(who.processes[0].growth));
            assert_eq!(pages(who.cgroups[0].growth), grown[&(now - 10_000)]);
        }
        assert_eq!(grown[&0], [0, 0, 0]);
        // Until the horizon is reached, since it was first seen.
        assert_eq!(grown[&30], [30, 30, 30]);
        assert_eq!(grown[&300], [60, 300, 300]);
        // Points are a twelfth of a horizon apart.
        let [minute, ten, hour] = grown[&4000];
        assert_eq!(minute, 60);
        assert!((600..650).contains(&ten), "{ten}");
        assert!((3600..3900).contains(&hour), "{hour}");
    }

    #[test]
    fn who_is_new_has_grown_from_nothing() {
        let mut memory = UsageTracker::new(PAGE);
        let old = process(1, 5, 9, 100);
        let who = memory.update(pass(&[old, process(2, 9_990, 9, 50)]), 10_000);
        let of = |who: &MemoryUsage, pid| {
            let found = who.processes.iter().find(|p| p.pid == pid).expect("in the list");
            (found.age_seconds, pages(found.growth))
        };
        assert_eq!(of(&who, 1), (9_995, [0, 0, 0]));
        assert_eq!(of(&who, 2), (10, [50, 50, 50]));
        // The same id again, another process: it has not the other's past. A cgroup that was not there.
        let who = memory.update(pass(&[old, process(2, 10_005, 8, 70)]), 10_010);
        assert_eq!(of(&who, 2), (5, [70, 70, 70]));
        let group = |cgroup| who.cgroups.iter().find(|g| g.cgroup == cgroup).expect("in the list");
        assert_eq!(pages(group(8).growth), [70, 70, 70]);
        assert_eq!(pages(group(9).growth), [-50, -50, -50]);
    }

    #[test]
    fn growth_says_how_long_it_took() {
        // When it was started and how often it is looked at, from 10,000 s on; then for some of the looks
        // what their minute covers.
        for (why, start, every, expected) in [
            ("there before us", 5, 10, &[(0, 0), (10, 10), (50, 50), (60, 60), (300, 60)][..]),
            ("a look each second", 5, 1, &[(0, 0), (1, 1), (59, 59), (60, 60), (62, 62), (65, 60)]),
            ("looks are far apart", 5, 45, &[(0, 0), (45, 45), (90, 90), (135, 90)]),
            ("started 20 s before", 9_980, 10, &[(0, 20), (10, 30), (40, 60), (60, 60)]),
            ("started just now", 10_000, 10, &[(0, 0), (10, 10), (60, 60)]),
            ("older than the minute", 9_939, 10, &[(0, 0), (10, 10)]),
        ] {
            let mut memory = UsageTracker::new(PAGE);
            let looks: BTreeMap<_, _> = (10_000..=10_300)
                .step_by(every)
                .map(|now| {
                    // A page each second since it was started: what it grew is how long that took.
                    let one = process(1, start, 9, u64::from(now) - start);
                    let held = memory.update(pass(&[one]), now).processes.remove(0);
                    assert_eq!(
                        pages(held.growth)[0],
                        i64::from(held.minute_seconds),
                        "{why}, {now}"
                    );
                    (now - 10_000, held.minute_seconds)
                })
                .collect();
            let found: Vec<_> = expected.iter().map(|(at, _)| (*at, looks[at])).collect();
            assert_eq!(found, expected, "{why}");
        }
    }

    #[test]
    fn who_was_started_since_it_was_calm_is_new() {
        let mut memory = UsageTracker::new(PAGE);
        let mut who = memory.update(pass(&[process(1, 900, 9, 2), process(2, 980, 9, 1)]), 1000);
        let new = |who: &MemoryUsage| who.processes.iter().map(|p| p.is_new).collect::<Vec<_>>();
        who.mark_new(Some(50));
        assert_eq!((new(&who), who.calm_seconds_ago), (vec![false, true], Some(50)));
        who.mark_new(None);
        assert_eq!((new(&who), who.calm_seconds_ago), (vec![false, false], None));
    }

    #[test]
    fn threads_without_a_main_thread_are_one_process() {
        let mut one = process(5, 5, 9, 100);
        one.task.tid = 6;
        let mut other = one;
        other.task.tid = 7;
        let who = UsageTracker::new(PAGE).update(pass(&[one, other]), 10);
        assert_eq!((who.seen, who.processes.len()), (1, 1));
        assert_eq!(who.cgroups[0].own_bytes, 100 * PAGE);
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_largest() {
        let mut memory = UsageTracker::new(PAGE);
        let all: Vec<_> = (1..=20_000).map(|i| process(i, 5, u64::from(i), u64::from(i))).collect();
        for now in [100, 110] {
            let who = memory.update(pass(&all), now);
            assert_eq!((who.seen, who.processes.len()), (20_000, KEEP));
            assert_eq!(who.processes[0].pid, 20_000);
            assert_eq!(who.processes[KEEP - 1].own_bytes, (20_001 - KEEP as u64) * PAGE);
            assert_eq!(memory.processes.len(), KEEP);
            // The cgroups after the first so many are not known to have been small before.
            assert_eq!((who.cgroups_seen as usize, who.cgroups.len()), (MAX_SUMS, KEEP));
            assert_eq!((who.sums.len(), who.sums[9]), (MAX_SUMS, (10, 10 * PAGE)));
            assert!(who.cgroups.iter().all(|g| g.growth == Growth::default()));
        }
    }

    proptest! {
        /// Whatever comes: as many as there are, in order, and no growth beyond what there is.
        #[test]
        fn a_pass_is_never_misread(
            passes in proptest::collection::vec(
                proptest::collection::btree_map(1u32..40, (0u64..50, 0u64..5, 0u64..1000), 0..40), 1..20),
        ) {
            let mut memory = UsageTracker::new(PAGE);
            for (i, all) in (0u32..).zip(passes) {
                let all: Vec<_> =
                    all.iter().map(|(pid, (start, group, size))| process(*pid, *start, *group, *size)).collect();
                let who = memory.update(pass(&all), 60 + i * 7);
                prop_assert_eq!(who.processes.len(), all.len());
                prop_assert!(who.processes.is_sorted_by_key(|p| std::cmp::Reverse(p.own_bytes)));
                let sum = |all: &mut dyn Iterator<Item = u64>| all.sum::<u64>();
                prop_assert_eq!(
                    sum(&mut who.processes.iter().map(|p| p.own_bytes)),
                    sum(&mut who.cgroups.iter().map(|g| g.own_bytes))
                );
                for held in &who.processes {
                    prop_assert!(pages(held.growth).iter().all(|g| *g <= (held.own_bytes / PAGE).cast_signed()));
                }
            }
        }
    }
}
