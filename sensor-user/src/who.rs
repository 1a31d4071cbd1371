//! Who has the memory, and who took it lately: sizes of processes and of cgroups, and how they grew.
//!
//! Pure: a pass over the processes goes in ([`ScanBatch`]), a [`MemoryUsage`] comes out. What is kept is bounded,
//! whatever there is: the [`MOST`] largest processes and cgroups are remembered, of the others only how
//! many there were.
//!
//! *Own* memory is what a process has for itself and the kernel cannot simply drop: anonymous and
//! shared-memory pages, in memory or in swap. Who grows by that is who fills a host. Pages of files are
//! told apart. A cgroup's are the sums of its processes': memory that processes share counts for each,
//! and what belongs to none (page cache, tmpfs, the kernel's) is not among it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sensor_ebpf::event::Process;
use serde::{Deserialize, Serialize};

mod growth;

pub use growth::Growth;
use growth::SizeHistory;

use crate::identity::WorkloadId;

/// Processes, and cgroups, that are remembered.
pub const MOST: usize = 512;

/// Cgroups that are added up in a pass; what is in others is left out, and counted.
const MOST_SUMS: usize = 16_384;

/// Processes without a main thread that are told apart.
const MOST_HEADLESS: usize = 1024;

/// A process, and what it has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ProcessUsage {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// The kernel's name of it; any bytes but control characters.
    pub comm: String,
    /// User id.
    pub uid: u32,
    /// -1000 to 1000.
    pub oom_score_adj: i32,
    /// Id of the cgroup that its memory is charged to.
    pub cgroup: u64,
    /// Its path, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_path: Option<Arc<str>>,
    /// What people call it; filled in for the few that are shown.
    #[serde(flatten)]
    pub workload: WorkloadId,
    /// Seconds since it was started.
    pub age_seconds: u32,
    /// Started since the host was last calm.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_new: bool,
    /// Anonymous and shared memory, in memory or in swap.
    pub own_bytes: u64,
    /// Of that, in swap.
    pub swap_bytes: u64,
    /// Pages of files.
    pub file_bytes: u64,
    /// Page tables.
    pub page_table_bytes: u64,
    /// Of its own memory.
    #[serde(flatten)]
    pub growth: Growth,
    /// Seconds that the minute of its growth covers: fewer if it was first seen since, some more where
    /// looks are far apart. 0 if there is nothing to compare with yet.
    #[serde(skip)]
    pub minute_seconds: u32,
}

/// A cgroup, and what its processes have.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CgroupUsage {
    /// Its id: the inode number of its directory.
    pub cgroup: u64,
    /// Its path, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_path: Option<Arc<str>>,
    /// What people call it; filled in for the few that are shown.
    #[serde(flatten)]
    pub workload: WorkloadId,
    /// Seconds that its tasks spent stalled since the daemon started, those of groups below it not among
    /// them; filled in when somebody asks.
    #[serde(default)]
    pub stall_seconds: f64,
    /// How many are in it, those of its children not among them.
    pub processes: u32,
    /// Their own memory.
    pub own_bytes: u64,
    /// Of that, in swap.
    pub swap_bytes: u64,
    /// Of their own memory.
    #[serde(flatten)]
    pub growth: Growth,
}

/// Who has the memory; largest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryUsage {
    /// When the look began: CLOCK_MONOTONIC nanoseconds.
    #[serde(skip)]
    pub taken_ns: u64,
    /// Read from /proc, for the kernel does not let us iterate.
    pub usage_from_proc: bool,
    /// How long ago the host was last calm; absent if it is, or if it never was since the daemon started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calm_seconds_ago: Option<u32>,
    /// Processes that have memory, those that are not in the list among them.
    pub seen: u32,
    /// Cgroups that have such processes.
    pub cgroups_seen: u32,
    /// The largest processes.
    pub processes: Vec<ProcessUsage>,
    /// The largest cgroups.
    pub cgroups: Vec<CgroupUsage>,
    /// Of every cgroup that was added up: its id, and its processes' own memory in bytes.
    #[serde(skip)]
    pub sums: Vec<(u64, u64)>,
}

impl MemoryUsage {
    /// Marks what was started since the host was last calm, so many seconds ago.
    pub fn mark_new(&mut self, calm_seconds_ago: Option<u32>) {
        self.calm_seconds_ago = calm_seconds_ago;
        for held in &mut self.processes {
            held.is_new = calm_seconds_ago.is_some_and(|ago| held.age_seconds < ago);
        }
    }

    /// What its cgroups are called, by their ids.
    pub fn names(&self) -> BTreeMap<u64, &Arc<str>> {
        let of_processes = self.processes.iter().map(|held| (held.cgroup, &held.cgroup_path));
        let of_groups = self.cgroups.iter().map(|group| (group.cgroup, &group.cgroup_path));
        let all = of_processes.chain(of_groups);
        all.filter_map(|(id, path)| Some((id, path.as_ref()?))).collect()
    }

    /// Fills in what the cgroups are called.
    pub fn name(&mut self, path: impl Fn(u64) -> Option<Arc<str>>) {
        for held in &mut self.processes {
            held.cgroup_path = path(held.cgroup);
        }
        for group in &mut self.cgroups {
            group.cgroup_path = path(group.cgroup);
        }
    }
}

impl ProcessUsage {
    /// Fills in what people call its cgroup.
    pub fn identify(&mut self) {
        self.workload = self.cgroup_path.as_deref().map(WorkloadId::of).unwrap_or_default();
    }

    /// Where it is, for a terminal.
    pub fn place(&self) -> String {
        place(self.cgroup, self.cgroup_path.as_deref())
    }
}

impl CgroupUsage {
    /// Fills in what people call it.
    pub fn identify(&mut self) {
        self.workload = self.cgroup_path.as_deref().map(WorkloadId::of).unwrap_or_default();
    }

    /// Which it is, for a terminal.
    pub fn place(&self) -> String {
        place(self.cgroup, self.cgroup_path.as_deref())
    }
}

fn place(id: u64, path: Option<&str>) -> String {
    path.map_or_else(|| format!("(id {id})"), |path| path.escape_debug().to_string())
}

/// What is added up of a cgroup, in pages.
#[derive(Debug, Clone, Copy, Default)]
struct CgroupSum {
    processes: u32,
    own: u64,
    swap: u64,
}

/// One pass over the processes.
#[derive(Debug, Default)]
pub struct ScanBatch {
    /// Not more than twice [`MOST`] at a time.
    largest: Vec<Process>,
    sums: BTreeMap<u64, CgroupSum>,
    /// A cgroup was not added up.
    cut: bool,
    headless: BTreeSet<u32>,
    seen: u32,
}

impl ScanBatch {
    /// Adds one.
    pub fn add(&mut self, process: &Process) {
        let task = &process.task;
        // Each thread of a process without a main thread is told.
        if task.tid != task.tgid
            && (self.headless.len() >= MOST_HEADLESS || !self.headless.insert(task.tgid))
        {
            return;
        }
        self.seen += 1;
        let full = self.sums.len() >= MOST_SUMS;
        match self.sums.get_mut(&task.cgroup) {
            Some(sum) => sum.add(process),
            None if full => self.cut = true,
            None => self.sums.entry(task.cgroup).or_default().add(process),
        }
        self.largest.push(*process);
        if self.largest.len() >= 2 * MOST {
            self.keep_largest();
        }
    }

    fn keep_largest(&mut self) {
        // The same of two that are equal in each pass: the older one.
        self.largest.sort_unstable_by_key(|p| (std::cmp::Reverse(own(p)), p.task.tgid));
        self.largest.truncate(MOST);
    }
}

impl CgroupSum {
    fn add(&mut self, process: &Process) {
        self.processes += 1;
        self.own = self.own.saturating_add(own(process));
        self.swap = self.swap.saturating_add(process.sizes.swap_pages);
    }
}

/// Pages of its own.
fn own(process: &Process) -> u64 {
    let resident = process.sizes.anon_pages.saturating_add(process.sizes.shmem_pages);
    resident.saturating_add(process.sizes.swap_pages)
}

/// Remembers sizes from pass to pass.
#[derive(Debug)]
pub struct UsageTracker {
    page_bytes: u64,
    /// By id and start: an id is used again, the pair is not.
    processes: BTreeMap<(u32, u64), SizeHistory>,
    cgroups: BTreeMap<u64, SizeHistory>,
    /// When the last pass was, if it told of all cgroups.
    whole: Option<u32>,
}

impl UsageTracker {
    /// Nothing is known yet.
    pub fn new(page_bytes: u64) -> Self {
        let (processes, cgroups) = (BTreeMap::new(), BTreeMap::new());
        Self { page_bytes, processes, cgroups, whole: None }
    }

    /// Takes in a pass; `now` is seconds since boot.
    pub fn update(&mut self, mut pass: ScanBatch, now: u32) -> MemoryUsage {
        pass.keep_largest();
        let bytes = |sum: &CgroupSum| sum.own.saturating_mul(self.page_bytes);
        let sums = pass.sums.iter().map(|(id, sum)| (*id, bytes(sum))).collect();
        let mut groups: Vec<_> = pass.sums.iter().map(|(id, sum)| (*id, *sum)).collect();
        groups.sort_unstable_by_key(|(id, sum)| (std::cmp::Reverse(sum.own), *id));
        groups.truncate(MOST);

        let mut before = std::mem::take(&mut self.processes);
        let mut processes = Vec::with_capacity(pass.largest.len());
        for process in &pass.largest {
            let start = u32::try_from(process.start_ns / 1_000_000_000).unwrap_or(u32::MAX);
            let key = (process.task.tgid, process.start_ns);
            let mut track =
                before.remove(&key).unwrap_or_else(|| SizeHistory::new(now, Some(start)));
            let grown = track.record(now, own(process));
            self.processes.insert(key, track);
            processes.push(self.holder(process, now.saturating_sub(start), grown));
        }
        let mut before = std::mem::take(&mut self.cgroups);
        let mut cgroups = Vec::with_capacity(groups.len());
        for (cgroup, sum) in groups {
            // One that was not there is as new as the pass; one that was not told may be old.
            let track = before.remove(&cgroup);
            let mut track = track.unwrap_or_else(|| SizeHistory::new(now, self.whole));
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
        self.whole = (!pass.cut && pass.sums.len() <= MOST).then_some(now);
        let cgroups_seen = u32::try_from(pass.sums.len()).unwrap_or(u32::MAX);
        MemoryUsage {
            seen: pass.seen,
            cgroups_seen,
            processes,
            cgroups,
            sums,
            ..MemoryUsage::default()
        }
    }

    fn holder(
        &self,
        process: &Process,
        age_seconds: u32,
        (grown, minute_seconds): ([i64; 3], u32),
    ) -> ProcessUsage {
        let bytes = |pages: u64| pages.saturating_mul(self.page_bytes);
        let task = &process.task;
        ProcessUsage {
            pid: task.tgid,
            comm: crate::events::name(&task.comm),
            uid: task.uid,
            oom_score_adj: task.oom_score_adj,
            cgroup: task.cgroup,
            cgroup_path: None,
            workload: WorkloadId::default(),
            age_seconds,
            is_new: false,
            own_bytes: bytes(own(process)),
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
            assert_eq!((who.seen, who.processes.len()), (20_000, MOST));
            assert_eq!(who.processes[0].pid, 20_000);
            assert_eq!(who.processes[MOST - 1].own_bytes, (20_001 - MOST as u64) * PAGE);
            assert_eq!(memory.processes.len(), MOST);
            // The cgroups after the first so many are not known to have been small before.
            assert_eq!((who.cgroups_seen as usize, who.cgroups.len()), (MOST_SUMS, MOST));
            assert_eq!((who.sums.len(), who.sums[9]), (MOST_SUMS, (10, 10 * PAGE)));
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
