//! Follows processes and cgroups from scan to scan, and reports how they grew.
//!
//! Pure: turns a [`ScanBatch`] into a [`MemoryUsage`]. Bounded: keeps the [`KEEP`] largest
//! processes and cgroups, and only counts the others.
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

/// Most cgroups with a sum in one scan; processes in others are counted, but in no sum.
const MAX_SUMS: usize = 16_384;

/// Most processes without a main thread that are recognized in one scan.
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
    /// At most twice [`KEEP`].
    largest: Vec<Process>,
    sums: BTreeMap<u64, CgroupSum>,
    /// True if a cgroup has no sum.
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
        // By id if sizes are equal, so that the order is stable.
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
    /// By id and start time: ids are reused, pairs are not.
    processes: BTreeMap<(u32, u64), SizeHistory>,
    cgroups: BTreeMap<u64, SizeHistory>,
    /// Time of the last scan, if it kept all cgroups.
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
        let processes = self.update_processes(&batch.largest, now);
        let cgroups = self.update_cgroups(&batch, now);
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

    fn update_processes(&mut self, largest: &[Process], now: u32) -> Vec<ProcessUsage> {
        let mut before = std::mem::take(&mut self.processes);
        let mut processes = Vec::with_capacity(largest.len());
        for process in largest {
            let start = u32::try_from(process.start_ns / 1_000_000_000).unwrap_or(u32::MAX);
            let key = (process.task.tgid, process.start_ns);
            let mut history =
                before.remove(&key).unwrap_or_else(|| SizeHistory::new(now, Some(start)));
            let growth = history.record(now, own_pages(process));
            self.processes.insert(key, history);
            processes.push(self.process_usage(process, now.saturating_sub(start), growth));
        }
        processes
    }

    fn update_cgroups(&mut self, batch: &ScanBatch, now: u32) -> Vec<CgroupUsage> {
        let mut sums: Vec<_> = batch.sums.iter().map(|(id, sum)| (*id, *sum)).collect();
        sums.sort_unstable_by_key(|(id, sum)| (std::cmp::Reverse(sum.own), *id));
        sums.truncate(KEEP);
        let mut before = std::mem::take(&mut self.cgroups);
        let mut cgroups = Vec::with_capacity(sums.len());
        for (cgroup, sum) in sums {
            // If the last scan was complete, an unknown cgroup was created after it.
            let history = before.remove(&cgroup);
            let mut history = history.unwrap_or_else(|| SizeHistory::new(now, self.last_complete));
            let (growth, _) = history.record(now, sum.own);
            self.cgroups.insert(cgroup, history);
            cgroups.push(CgroupUsage {
                cgroup,
                cgroup_path: None,
                workload: WorkloadId::default(),
                stall_seconds: 0.0,
                processes: sum.processes,
                own_bytes: sum.own.saturating_mul(self.page_bytes),
                swap_bytes: sum.swap.saturating_mul(self.page_bytes),
                growth: self.growth(growth),
            });
        }
        cgroups
    }

    fn process_usage(
        &self,
        process: &Process,
        age_seconds: u32,
        (growth, minute_seconds): ([i64; 3], u32),
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
            growth: self.growth(growth),
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

    fn batch<'a>(processes: impl IntoIterator<Item = &'a Process>) -> ScanBatch {
        let mut batch = ScanBatch::default();
        processes.into_iter().for_each(|process| batch.add(process));
        batch
    }

    fn pages(growth: Growth) -> [i64; 3] {
        let Growth { minute_bytes, ten_minutes_bytes, hour_bytes } = growth;
        [minute_bytes, ten_minutes_bytes, hour_bytes].map(|b| b / PAGE.cast_signed())
    }

    #[test]
    fn growth_is_reported_over_each_span() {
        // An old process that grows by a page per second from 10,000 s on.
        let mut tracker = UsageTracker::new(PAGE);
        let mut grown = BTreeMap::new();
        for now in (10_000..=14_000).step_by(10) {
            let size = 1000 + u64::from(now - 10_000);
            let usage = tracker.update(batch(&[process(1, 5, 9, size)]), now);
            assert_eq!(usage.processes[0].own_bytes, size * PAGE);
            grown.insert(now - 10_000, pages(usage.processes[0].growth));
            assert_eq!(pages(usage.cgroups[0].growth), grown[&(now - 10_000)]);
        }
        assert_eq!(grown[&0], [0, 0, 0]);
        // Growth since the first scan, until the span is reached.
        assert_eq!(grown[&30], [30, 30, 30]);
        assert_eq!(grown[&300], [60, 300, 300]);
        // Points are a twelfth of a span apart.
        let [minute, ten, hour] = grown[&4000];
        assert_eq!(minute, 60);
        assert!((600..650).contains(&ten), "{ten}");
        assert!((3600..3900).contains(&hour), "{hour}");
    }

    #[test]
    fn a_new_process_or_cgroup_has_grown_from_0() {
        let mut tracker = UsageTracker::new(PAGE);
        let old = process(1, 5, 9, 100);
        let usage = tracker.update(batch(&[old, process(2, 9_990, 9, 50)]), 10_000);
        let process_growth = |usage: &MemoryUsage, pid| {
            let process = usage.processes.iter().find(|p| p.pid == pid).expect("in the list");
            (process.age_seconds, pages(process.growth))
        };
        assert_eq!(process_growth(&usage, 1), (9_995, [0, 0, 0]));
        assert_eq!(process_growth(&usage, 2), (10, [50, 50, 50]));
        // Another process with the same id, in a new cgroup: it does not inherit the history.
        let usage = tracker.update(batch(&[old, process(2, 10_005, 8, 70)]), 10_010);
        assert_eq!(process_growth(&usage, 2), (5, [70, 70, 70]));
        let cgroup_growth = |id| {
            let cgroup = usage.cgroups.iter().find(|c| c.cgroup == id).expect("in the list");
            pages(cgroup.growth)
        };
        assert_eq!(cgroup_growth(8), [70, 70, 70]);
        assert_eq!(cgroup_growth(9), [-50, -50, -50]);
    }

    #[test]
    fn growth_covers_the_reported_seconds() {
        // Start of the process and interval of the scans, from 10,000 s on; then, for some scans,
        // the seconds that their minute covers.
        for (case, start, interval, expected) in [
            (
                "older than the daemon",
                5,
                10,
                &[(0, 0), (10, 10), (50, 50), (60, 60), (300, 60)][..],
            ),
            ("a scan per second", 5, 1, &[(0, 0), (1, 1), (59, 59), (60, 60), (62, 62), (65, 60)]),
            ("scans far apart", 5, 45, &[(0, 0), (45, 45), (90, 90), (135, 90)]),
            ("started 20 s before", 9_980, 10, &[(0, 20), (10, 30), (40, 60), (60, 60)]),
            ("started just now", 10_000, 10, &[(0, 0), (10, 10), (60, 60)]),
            ("older than the minute", 9_939, 10, &[(0, 0), (10, 10)]),
        ] {
            let mut tracker = UsageTracker::new(PAGE);
            let covered: BTreeMap<_, _> = (10_000..=10_300)
                .step_by(interval)
                .map(|now| {
                    // It grows by a page per second, so pages of growth equal seconds.
                    let process = process(1, start, 9, u64::from(now) - start);
                    let usage = tracker.update(batch(&[process]), now).processes.remove(0);
                    let seconds = usage.minute_seconds;
                    assert_eq!(pages(usage.growth)[0], i64::from(seconds), "{case}, {now}");
                    (now - 10_000, seconds)
                })
                .collect();
            let covered: Vec<_> = expected.iter().map(|(at, _)| (*at, covered[at])).collect();
            assert_eq!(covered, expected, "{case}");
        }
    }

    #[test]
    fn processes_started_since_the_host_was_calm_are_new() {
        let mut tracker = UsageTracker::new(PAGE);
        let mut usage =
            tracker.update(batch(&[process(1, 900, 9, 2), process(2, 980, 9, 1)]), 1000);
        let new =
            |usage: &MemoryUsage| usage.processes.iter().map(|p| p.is_new).collect::<Vec<_>>();
        usage.mark_new(Some(50));
        assert_eq!((new(&usage), usage.calm_seconds_ago), (vec![false, true], Some(50)));
        usage.mark_new(None);
        assert_eq!((new(&usage), usage.calm_seconds_ago), (vec![false, false], None));
    }

    #[test]
    fn threads_without_a_main_thread_are_one_process() {
        let mut thread = process(5, 5, 9, 100);
        thread.task.tid = 6;
        let mut other = thread;
        other.task.tid = 7;
        let usage = UsageTracker::new(PAGE).update(batch(&[thread, other]), 10);
        assert_eq!((usage.seen, usage.processes.len()), (1, 1));
        assert_eq!(usage.cgroups[0].own_bytes, 100 * PAGE);
    }

    #[test]
    fn only_the_largest_are_kept() {
        let mut tracker = UsageTracker::new(PAGE);
        let all: Vec<_> = (1..=20_000).map(|i| process(i, 5, u64::from(i), u64::from(i))).collect();
        for now in [100, 110] {
            let usage = tracker.update(batch(&all), now);
            assert_eq!((usage.seen, usage.processes.len()), (20_000, KEEP));
            assert_eq!(usage.processes[0].pid, 20_000);
            assert_eq!(usage.processes[KEEP - 1].own_bytes, (20_001 - KEEP as u64) * PAGE);
            assert_eq!(tracker.processes.len(), KEEP);
            // A scan that did not keep all cgroups does not prove that an unknown one is new.
            assert_eq!((usage.cgroups_seen as usize, usage.cgroups.len()), (MAX_SUMS, KEEP));
            assert_eq!((usage.sums.len(), usage.sums[9]), (MAX_SUMS, (10, 10 * PAGE)));
            assert!(usage.cgroups.iter().all(|cgroup| cgroup.growth == Growth::default()));
        }
    }

    proptest! {
        /// Every process is reported, in order, and none grew by more than its size.
        #[test]
        fn usage_agrees_with_the_scanned_processes(
            scans in prop::collection::vec(
                prop::collection::btree_map(1u32..40, (0u64..50, 0u64..5, 0u64..1000), 0..40),
                1..20,
            ),
        ) {
            let mut tracker = UsageTracker::new(PAGE);
            for (i, scan) in (0u32..).zip(scans) {
                let processes: Vec<_> = scan
                    .iter()
                    .map(|(pid, (start, cgroup, size))| process(*pid, *start, *cgroup, *size))
                    .collect();
                let usage = tracker.update(batch(&processes), 60 + i * 7);
                prop_assert_eq!(usage.processes.len(), processes.len());
                prop_assert!(usage.processes.is_sorted_by_key(|p| std::cmp::Reverse(p.own_bytes)));
                prop_assert_eq!(
                    usage.processes.iter().map(|p| p.own_bytes).sum::<u64>(),
                    usage.cgroups.iter().map(|c| c.own_bytes).sum::<u64>()
                );
                for process in &usage.processes {
                    let size = (process.own_bytes / PAGE).cast_signed();
                    prop_assert!(pages(process.growth).iter().all(|grown| *grown <= size));
                }
            }
        }
    }
}
