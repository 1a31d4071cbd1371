//! The open files of one scope's cgroup, on v1 or v2, read at every sample. If the cgroup is
//! removed and created again, as when a service restarts, new files are requested.
//!
//! A v2 cgroup without the memory controller still has PSI, and is measured by it alone. Where the
//! memory controller is on v1, PSI is that of the v2 cgroup with the same path, but only while
//! processes are in it: a container runtime may have joined v1 only.
//!
//! Not here: opening them (`scope_opener`), and files that are opened for one reading (`stats`).

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use sensor_core::{common::counter::FileCounter, verdict::reading::Reading};

use super::{
    files::{FileNames, MemoryStat, parse_bytes, parse_populated},
    scope_opener::Handoff,
};
use crate::host::{
    pressure,
    proc_file::{ProcFile, numbers},
};

/// Files of one cgroup, as the sensing thread reads them.
#[derive(Debug)]
pub struct ScopeFiles {
    v1: bool,
    name: String,
    handoff: Arc<Handoff>,
    files: Option<Arc<OpenFiles>>,
    kills: FileCounter,
    hang: Hang,
    /// Since when nothing can be read: CLOCK_MONOTONIC nanoseconds.
    unread_ns: Option<u64>,
}

/// The open files of a cgroup.
#[derive(Debug)]
pub(super) struct OpenFiles {
    /// Inode of the cgroup's directory and, without PSI, of its descendants.
    pub(super) ids: Vec<u64>,
    /// `None` without the memory controller, on v2.
    pub(super) own: Option<LimitFiles>,
    /// Ancestors that have a limit: their limits bound the cgroup too.
    pub(super) ancestors: Vec<LimitFiles>,
    pub(super) kills: Option<ProcFile>,
    pub(super) psi: PsiFiles,
}

/// PSI of the cgroup.
#[derive(Debug, Default)]
pub(super) struct PsiFiles {
    /// Where the memory controller is on v1: cgroup.events of the v2 cgroup, and whether processes
    /// were in it when it was opened.
    pub(super) twin: Option<(ProcFile, bool)>,
    pub(super) pressure: Option<ProcFile>,
    pub(super) io_pressure: Option<ProcFile>,
}

/// Time in which the cgroup was out of memory without a kill.
#[derive(Debug, Default)]
struct Hang {
    total_ns: u64,
    /// Time of the last reading, if the cgroup was out of memory then.
    last_ns: Option<u64>,
}

/// A scope whose files cannot be read for this long is reported as not measured: the opener may not
/// have had the time to open them.
const PENDING_NS: u64 = 2_000_000_000;

/// Why a scope could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// The reason.
    pub reason: Arc<str>,
    /// New files have been requested, and are probably there at the next sample.
    pub is_pending: bool,
}

impl ScopeFiles {
    /// Files that an opener hands over; none yet.
    pub(super) fn new(v1: bool, name: String, handoff: Arc<Handoff>) -> Self {
        Self {
            v1,
            name,
            handoff,
            files: None,
            kills: FileCounter::default(),
            hang: Hang::default(),
            unread_ns: None,
        }
    }

    /// Ids of the cgroup and, if it has no PSI, its descendants, as the kernel half reports them;
    /// the cgroup's own first. Empty if the cgroup does not exist.
    pub fn ids(&self) -> &[u64] {
        self.files.as_ref().map_or(&[], |files| &files.ids)
    }

    /// Whether the cgroup exists but has no PSI.
    pub fn lacks_psi(&self) -> bool {
        self.files.as_ref().is_some_and(|files| files.psi.pressure.is_none())
    }

    /// Nanoseconds in which the cgroup was out of memory and its tasks waited without a kill: v1
    /// with `oom_kill_disable`. They sleep in mem_cgroup_oom_synchronize (mm/memcontrol-v1.c), which
    /// is neither reclaim nor PSI.
    pub fn hang_ns(&self) -> u64 {
        self.hang.total_ns
    }

    /// Reads all files into `reading`. Opens none: if they cannot be read, as when the cgroup was
    /// removed, it requests new ones and fails.
    ///
    /// `host` is the reading of the host at the same moment: memory that is available to the cgroup
    /// cannot exceed the host's. Kills are counted from the first read on.
    pub fn read(&mut self, reading: &mut Reading, host: &Reading) -> Result<(), Unread> {
        if let Some(opened) = self.handoff.take_opened()
            && let Some(replaced) = self.files.replace(opened)
        {
            self.handoff.give_back(replaced);
        }
        let now = reading.at_ns;
        let mut new_reading = *reading;
        let files = self.files.as_mut().and_then(Arc::get_mut);
        let result = files.context("it is not open yet").and_then(|files| {
            files.check_twin()?;
            files.read(self.v1, &mut new_reading, host)
        });
        let is_hanging = result.map_err(|error| self.unread(now, &error))?;
        self.unread_ns = None;
        self.hang.add(now, is_hanging);
        let with_hang = |ns: u64| ns.saturating_add(self.hang.total_ns);
        new_reading.some_ns = new_reading.some_ns.map(with_hang);
        new_reading.full_ns = new_reading.full_ns.map(with_hang);
        new_reading.oom_kills = new_reading.oom_kills.map(|kills| self.kills.update(kills));
        *reading = new_reading;
        Ok(())
    }

    /// Requests new files.
    fn unread(&mut self, now_ns: u64, error: &anyhow::Error) -> Unread {
        self.handoff.request();
        let since = *self.unread_ns.get_or_insert(now_ns);
        match self.handoff.failure() {
            Some(reason) => Unread { reason, is_pending: false },
            None => Unread {
                reason: format!("{}: {error:#}", self.name).into(),
                is_pending: now_ns.saturating_sub(since) < PENDING_NS,
            },
        }
    }
}

pub(super) fn is_populated(events: &mut ProcFile) -> bool {
    events.read().is_ok_and(parse_populated)
}

impl Hang {
    fn add(&mut self, now_ns: u64, is_hanging: bool) {
        // Once alone may be a kill in progress.
        if let (true, Some(last_ns)) = (is_hanging, self.last_ns) {
            self.total_ns = self.total_ns.saturating_add(now_ns.saturating_sub(last_ns));
        }
        self.last_ns = is_hanging.then_some(now_ns);
    }
}

impl OpenFiles {
    /// An error if processes have entered the v2 cgroup since it was opened, or left it: then the
    /// cgroup has other sources.
    fn check_twin(&mut self) -> Result<()> {
        let mut twin = self.psi.twin.iter_mut();
        ensure!(
            twin.all(|(events, was)| is_populated(events) == *was),
            "its processes have entered or left the v2 cgroup"
        );
        Ok(())
    }

    /// Returns whether tasks wait because the cgroup is out of memory.
    pub(super) fn read(&mut self, v1: bool, reading: &mut Reading, host: &Reading) -> Result<bool> {
        let mut headroom = match &mut self.own {
            Some(own) => {
                let stat = MemoryStat::parse(own.stat.read()?, v1);
                fill_counters(&stat, reading);
                own.headroom(v1, &stat)?
            }
            None => Headroom::default(),
        };
        for ancestor in &mut self.ancestors {
            let stat = MemoryStat::parse(ancestor.stat.read()?, v1);
            headroom = headroom.min(ancestor.headroom(v1, &stat)?);
        }
        let host_headroom = Headroom {
            total: host.total_bytes,
            available: host.available_bytes,
            unused: host.unused_bytes,
            swap_free: host.swap_free_bytes,
        };
        let headroom = headroom.min(host_headroom);
        reading.total_bytes = headroom.total;
        reading.available_bytes = headroom.available;
        reading.unused_bytes = headroom.unused;
        // Without swap on the host, the cgroup's limit of swap has no meaning.
        reading.swap_free_bytes = host.swap_free_bytes.and(headroom.swap_free);
        let mut is_hanging = false;
        if let Some(kills) = &mut self.kills {
            let [kills, under_oom] = numbers(kills.read()?, ["oom_kill", "under_oom"]);
            (reading.oom_kills, is_hanging) = (kills, under_oom.is_some_and(|n| n > 0));
        }
        if let Some(pressure) = &mut self.psi.pressure {
            pressure::parse(pressure.read()?)?.fill(reading);
        }
        if let Some(pressure) = &mut self.psi.io_pressure {
            reading.io_full_ns = Some(pressure::parse(pressure.read()?)?.full_ns);
        }
        Ok(is_hanging)
    }
}

fn fill_counters(stat: &MemoryStat, reading: &mut Reading) {
    let page = rustix::param::page_size() as u64;
    let bytes = |pages: Option<u64>| pages.map(|pages| pages.saturating_mul(page));
    reading.refaulted_bytes = bytes(stat.refaulted);
    reading.swapped_in_bytes = bytes(stat.swapped_in);
    reading.swapped_out_bytes = bytes(stat.swapped_out);
    (reading.scanned_pages, reading.reclaimed_pages) = (stat.scanned, stat.reclaimed);
}

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
struct Headroom {
    total: Option<u64>,
    /// `unused` and reclaimable cache.
    available: Option<u64>,
    unused: Option<u64>,
    swap_free: Option<u64>,
}

impl Headroom {
    /// The smaller value of each field.
    fn min(self, other: Self) -> Self {
        let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        Self {
            total: least(self.total, other.total),
            available: least(self.available, other.available),
            unused: least(self.unused, other.unused),
            swap_free: least(self.swap_free, other.swap_free),
        }
    }
}

impl LimitFiles {
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

    pub(super) fn limit(&mut self) -> Result<Option<u64>> {
        let mut least = None;
        for limit in &mut self.limits {
            least = parse_bytes(limit.read()?).into_iter().chain(least).min();
        }
        Ok(least)
    }

    fn headroom(&mut self, v1: bool, stat: &MemoryStat) -> Result<Headroom> {
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

#[cfg(test)]
mod tests {
    use std::{fs, ops::Deref, path::PathBuf};

    use super::{
        super::{mounts::CgroupMounts, scope_opener::ScopeOpeners},
        *,
    };

    /// A scope whose requests are served at once.
    struct Served(ScopeFiles, ScopeOpeners);

    impl Served {
        fn new(memory: PathBuf, v1: bool, unified: PathBuf) -> Self {
            let mut openers = ScopeOpeners::new().expect("an eventfd");
            let mounts = CgroupMounts { memory, v1, unified: Some(unified) };
            Self(openers.add(mounts, "/a/web"), openers)
        }

        fn read(&mut self, reading: &mut Reading, host: &Reading) -> Result<(), Unread> {
            self.0.read(reading, host).or_else(|_| {
                self.1.serve(reading.at_ns);
                self.0.read(reading, host)
            })
        }
    }

    impl Deref for Served {
        type Target = ScopeFiles;

        fn deref(&self) -> &ScopeFiles {
            &self.0
        }
    }

    const HOST: Reading = Reading {
        at_ns: 0,
        some_ns: Some(1),
        full_ns: Some(1),
        before: None,
        io_full_ns: None,
        stall_ns: None,
        refaulted_bytes: None,
        swapped_in_bytes: None,
        swapped_out_bytes: None,
        scanned_pages: None,
        reclaimed_pages: None,
        oom_kills: None,
        total_bytes: Some(1 << 30),
        available_bytes: Some(512 << 20),
        unused_bytes: Some(256 << 20),
        swap_free_bytes: Some(64 << 20),
        above_low_bytes: None,
        priority: None,
        no_progress: None,
    };

    /// The cgroup `/a/web` with these files.
    fn scope_files(v1: bool, files: &[(&str, &str)]) -> (tempfile::TempDir, Served) {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("a/web")).expect("mkdir");
        for (name, text) in files {
            fs::write(dir.path().join("a/web").join(name), text).expect("write");
        }
        let root = dir.path().to_path_buf();
        let scope = Served::new(root.clone(), v1, root);
        (dir, scope)
    }

    const MIB: u64 = 1 << 20;

    const PRESSURE: &str =
        "some avg10=0 avg60=0 avg300=0 total=7\nfull avg10=0 avg60=0 avg300=0 total=5\n";

    const V1_FILES: [(&str, &str); 4] = [
        ("memory.usage_in_bytes", "5"),
        ("memory.limit_in_bytes", "9223372036854771712"),
        ("memory.stat", "total_cache 1\n"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n"),
    ];

    #[test]
    fn v2_is_read_and_bounded_by_the_host() {
        let stat = format!(
            "file {}\nshmem {}\nslab_reclaimable 0\nworkingset_refault_anon 2\n\
             workingset_refault_file 3\npgscan 100\npgsteal 50\n",
            30 * MIB,
            10 * MIB
        );
        let pressure =
            "some avg10=0 avg60=0 avg300=0 total=7\nfull avg10=0 avg60=0 avg300=0 total=5\n";
        let (_dir, mut scope) = scope_files(
            false,
            &[
                ("memory.current", &(80 * MIB).to_string()),
                ("memory.max", &(100 * MIB).to_string()),
                ("memory.high", "max"),
                ("memory.swap.current", "0"),
                ("memory.swap.max", "max"),
                ("memory.stat", &stat),
                ("memory.events", "low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\n"),
                ("memory.pressure", pressure),
            ],
        );
        let mut reading = Reading::default();
        scope.read(&mut reading, &HOST).expect("reads");
        assert_eq!(reading.total_bytes, Some(100 * MIB));
        assert_eq!(reading.available_bytes, Some(40 * MIB), "20 free, 20 of reclaimable cache");
        assert_eq!(reading.unused_bytes, Some(20 * MIB));
        assert_eq!(reading.swap_free_bytes, Some(64 * MIB), "the host's");
        assert_eq!(reading.full_ns, Some(5000));
        assert_eq!(reading.oom_kills, Some(0), "earlier kills do not count");
        assert_eq!(reading.refaulted_bytes, Some(5 * rustix::param::page_size() as u64));
        assert_eq!((reading.scanned_pages, reading.reclaimed_pages), (Some(100), Some(50)));
    }

    #[test]
    fn v1_limits_memory_and_swap_together() {
        let stat = format!(
            "cache 1\nshmem 1\ntotal_cache {}\ntotal_shmem {}\ntotal_workingset_refault_file 3\n",
            15 * MIB,
            5 * MIB
        );
        let (dir, mut scope) = scope_files(
            true,
            &[
                ("memory.usage_in_bytes", &(80 * MIB).to_string()),
                ("memory.limit_in_bytes", &(100 * MIB).to_string()),
                ("memory.memsw.usage_in_bytes", &(90 * MIB).to_string()),
                ("memory.memsw.limit_in_bytes", &(120 * MIB).to_string()),
                ("memory.stat", &stat),
                ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"),
            ],
        );
        let mut reading = Reading::default();
        scope.read(&mut reading, &HOST).expect("reads");
        assert_eq!(reading.swap_free_bytes, Some(10 * MIB), "30 of both, 20 of them memory");
        assert_eq!(reading.oom_kills, Some(0));
        assert_eq!(
            reading.available_bytes,
            Some(30 * MIB),
            "20 free, 10 of cache including descendants"
        );
        assert_eq!(reading.full_ns, None, "PSI cannot be read");
        let write = |name: &str, text: &str| {
            fs::write(dir.path().join("a/web").join(name), text).expect("write");
        };
        for (counter, so_far) in [(6, 2), (6, 2), (0, 2), (1, 3), (2, 4)] {
            write("memory.oom_control", &format!("under_oom 0\noom_kill {counter}\n"));
            scope.read(&mut reading, &HOST).expect("reads");
            assert_eq!(reading.oom_kills, Some(so_far), "a new cgroup starts at 0");
        }
        write("memory.limit_in_bytes", "9223372036854771712");
        write("memory.memsw.limit_in_bytes", "9223372036854771712");
        scope.read(&mut reading, &HOST).expect("reads");
        assert_eq!(reading.total_bytes, HOST.total_bytes, "no limit but the host's size");
        assert_eq!(reading.swap_free_bytes, HOST.swap_free_bytes);
    }

    #[test]
    fn limits_of_ancestors_bound_a_cgroup() {
        let files_of = |dir: &str, max: &str, high: &str, current: u64, swap: &str| {
            [
                (format!("{dir}memory.max"), max.to_owned()),
                (format!("{dir}memory.high"), high.to_owned()),
                (format!("{dir}memory.current"), (current * MIB).to_string()),
                (format!("{dir}memory.stat"), "file 0\n".to_owned()),
                (format!("{dir}memory.swap.current"), "0".to_owned()),
                (format!("{dir}memory.swap.max"), swap.to_owned()),
            ]
        };
        let mib = |n: u64| (n * MIB).to_string();
        for (limit, own, parent, total, available, swap) in [
            ("none", ["max", "max", "max"], ["max", "max", "max"], 1024, 512, 64),
            ("its own", [&mib(200), "max", &mib(9)], ["max", "max", "max"], 200, 120, 9),
            ("high", [&mib(200), &mib(100), "max"], ["max", "max", "max"], 100, 20, 64),
            ("the parent's", [&mib(200), "max", "max"], [&mib(150), "max", &mib(5)], 150, 30, 5),
        ] {
            let files = [
                files_of("", own[0], own[1], 80, own[2]),
                files_of("../", parent[0], parent[1], 120, parent[2]),
            ]
            .concat();
            let files: Vec<_> = files.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
            let (_dir, mut scope) = scope_files(false, &files);
            let mut reading = Reading::default();
            scope.read(&mut reading, &HOST).expect("reads");
            let headroom = [reading.total_bytes, reading.available_bytes, reading.swap_free_bytes];
            let expected = [total, available, swap].map(|n| Some(n * MIB));
            assert_eq!(headroom, expected, "limit: {limit}");
        }
    }

    #[test]
    fn huge_pages_that_are_charged_do_not_count() {
        let stat = format!("file 0\nhugetlb {}\n", 60 * MIB);
        let (_dir, mut scope) = scope_files(
            false,
            &[
                ("memory.max", &(100 * MIB).to_string()),
                ("memory.high", "max"),
                ("memory.current", &(80 * MIB).to_string()),
                ("memory.stat", &stat),
            ],
        );
        let mut reading = Reading::default();
        scope.read(&mut reading, &HOST).expect("reads");
        assert_eq!(reading.total_bytes, Some(40 * MIB));
        assert_eq!(reading.available_bytes, Some(20 * MIB));
    }

    #[test]
    fn a_missing_cgroup_is_an_error_with_its_path() {
        for v1 in [false, true] {
            let (dir, mut scope) = scope_files(v1, &[]);
            fs::remove_dir(dir.path().join("a/web")).expect("rmdir");
            let error = scope.read(&mut Reading::default(), &HOST).expect_err("nothing to read");
            assert!(error.reason.contains("a/web/memory."), "{error:?}");
        }
    }

    #[test]
    fn a_cgroup_without_the_memory_controller_is_measured_by_its_psi() {
        let (dir, mut scope) = scope_files(false, &[("memory.pressure", PRESSURE)]);
        for (name, text) in [
            ("a/memory.max", (100 * MIB).to_string()),
            ("a/memory.high", "max".to_owned()),
            ("a/memory.current", (30 * MIB).to_string()),
            ("a/memory.stat", "file 0\n".to_owned()),
        ] {
            fs::write(dir.path().join(name), text).expect("write");
        }
        let mut reading = Reading::default();
        scope.read(&mut reading, &HOST).expect("reads");
        assert_eq!((reading.full_ns, reading.refaulted_bytes), (Some(5000), None));
        assert_eq!(reading.total_bytes, Some(100 * MIB), "the parent's limit");
        assert!(!scope.lacks_psi());
    }

    #[test]
    fn a_missing_controller_is_named_with_the_remedy() {
        for (controllers, remedy) in [
            ("cpu io memory pids", "cgroup.subtree_control"),
            ("cpu pids", "cgroup_disable=memory"),
        ] {
            let (dir, mut scope) = scope_files(false, &[]);
            fs::write(dir.path().join("cgroup.controllers"), controllers).expect("write");
            let error = scope.read(&mut Reading::default(), &HOST).expect_err("no PSI").reason;
            assert!(error.contains("memory controller") && error.contains(remedy), "{error}");
            assert!(error.contains("/a/web"), "{error}");
        }
    }

    /// The v1 cgroup `/a/web`, and the v2 cgroup with the same path and these events.
    fn hybrid(events: &str) -> (tempfile::TempDir, Served) {
        let (dir, _) = scope_files(true, &V1_FILES);
        let unified = dir.path().join("unified");
        fs::create_dir_all(unified.join("a/web")).expect("mkdir");
        for name in ["memory.pressure", "io.pressure"] {
            fs::write(unified.join("a/web").join(name), PRESSURE).expect("write");
        }
        fs::write(unified.join("a/web/cgroup.events"), events).expect("write");
        let scope = Served::new(dir.path().to_path_buf(), true, unified);
        (dir, scope)
    }

    #[test]
    fn psi_of_a_v2_twin_counts_only_while_processes_are_in_it() {
        let (dir, mut scope) = hybrid("populated 0\nfrozen 0\n");
        for (events, expected) in [
            ("populated 0\nfrozen 0\n", None),
            ("populated 1\nfrozen 0\n", Some(5000)),
            ("populated 0\nfrozen 0\n", None),
        ] {
            fs::write(dir.path().join("unified/a/web/cgroup.events"), events).expect("write");
            let mut reading = Reading::default();
            scope.read(&mut reading, &HOST).expect("reads");
            assert_eq!((reading.full_ns, reading.io_full_ns), (expected, expected), "{events}");
            assert_eq!(scope.lacks_psi(), expected.is_none());
        }
    }

    #[test]
    fn descendants_are_listed_only_without_psi() {
        for (events, ids) in [("populated 1\n", 1), ("populated 0\n", 2)] {
            let (dir, mut scope) = hybrid(events);
            fs::create_dir(dir.path().join("a/web/worker")).expect("mkdir");
            scope.read(&mut Reading::default(), &HOST).expect("reads");
            assert_eq!(scope.ids().len(), ids, "{events}");
        }
    }

    /// With `oom_kill_disable`, tasks at the limit sleep until memory is free.
    #[test]
    fn time_out_of_memory_without_a_kill_is_stalled_time() {
        let (dir, mut scope) = hybrid("populated 1\n");
        let mut seconds = 0;
        let mut read = |under_oom: u32| {
            let text = format!("oom_kill_disable 1\nunder_oom {under_oom}\noom_kill 0\n");
            fs::write(dir.path().join("a/web/memory.oom_control"), text).expect("write");
            seconds += 1;
            let mut reading = Reading { at_ns: seconds * 1_000_000_000, ..Reading::default() };
            scope.read(&mut reading, &HOST).expect("reads");
            (reading.full_ns, scope.hang_ns())
        };
        for (under_oom, hung_seconds) in [(0, 0), (1, 0), (1, 1), (1, 2), (0, 2), (1, 2), (1, 3)] {
            let hang_ns = hung_seconds * 1_000_000_000;
            assert_eq!(read(under_oom), (Some(5000 + hang_ns), hang_ns));
        }
    }
}
