//! The open files of one scope's cgroup, on v1 or v2, read at every sample. If the cgroup is
//! removed and created again, as when a service restarts, the files are opened again.
//!
//! A v2 cgroup without the memory controller still has PSI, and is measured by it alone. Where the
//! memory controller is on v1, PSI is that of the v2 cgroup with the same path, but only while
//! processes are in it: a container runtime may have joined v1 only.
//!
//! Not here: files that are opened for one reading (`stats`).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use walkdir::DirEntryExt as _;

use sensor_core::{common::counter::FileCounter, verdict::reading::Reading};

use super::{
    files::{FileNames, MemoryStat, parse_bytes, parse_populated},
    mounts::{self, CgroupMounts},
};
use crate::host::{
    pressure,
    proc_file::{ProcFile, numbers},
};

/// Files of one cgroup. Its path is relative to the mount points, e.g.
/// `/system.slice/nginx.service`.
#[derive(Debug)]
pub struct ScopeFiles {
    mounts: CgroupMounts,
    path: PathBuf,
    reopen_after_ns: u64,
    files: Option<OpenFiles>,
    kills: FileCounter,
    hang: Hang,
}

#[derive(Debug)]
struct OpenFiles {
    /// Inode of the cgroup's directory and, without PSI, of its descendants.
    ids: Vec<u64>,
    reopen_ns: u64,
    /// `None` without the memory controller, on v2.
    own: Option<LimitFiles>,
    /// Ancestors that have a limit: their limits bound the cgroup too.
    ancestors: Vec<LimitFiles>,
    kills: Option<ProcFile>,
    psi: PsiFiles,
}

/// PSI of the cgroup.
#[derive(Debug, Default)]
struct PsiFiles {
    /// Where the memory controller is on v1: cgroup.events of the v2 cgroup, and whether processes
    /// were in it when it was opened.
    twin: Option<(ProcFile, bool)>,
    pressure: Option<ProcFile>,
    io_pressure: Option<ProcFile>,
}

/// Time in which the cgroup was out of memory without a kill.
#[derive(Debug, Default)]
struct Hang {
    total_ns: u64,
    /// Time of the last reading, if the cgroup was out of memory then.
    last_ns: Option<u64>,
}

/// Files are opened again after at most this time: an ancestor's limit or the set of descendants
/// may have changed.
const REOPEN_NS: u64 = 60_000_000_000;
/// Most ids that are listed of a cgroup and its descendants.
const MAX_IDS: usize = 256;

impl ScopeFiles {
    /// Opens no file yet: the cgroup need not exist.
    pub fn new(mounts: CgroupMounts, path: &str) -> Self {
        Self {
            mounts,
            path: path.trim_start_matches('/').into(),
            reopen_after_ns: reopen_after_ns(path),
            files: None,
            kills: FileCounter::default(),
            hang: Hang::default(),
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

    /// Reads all files into `reading`. An error if the cgroup does not exist.
    ///
    /// `host` is the reading of the host at the same moment: memory that is available to the cgroup
    /// cannot exceed the host's. Kills are counted from the first read on.
    pub fn read(&mut self, reading: &mut Reading, host: &Reading) -> Result<()> {
        let now = reading.at_ns;
        let fresh = |mut files: OpenFiles| files.is_fresh(now).then_some(files);
        let mut files = match self.files.take().and_then(fresh) {
            Some(files) => files,
            None => self.open(now)?,
        };
        let mut new_reading = *reading;
        let result = match files.read(self.mounts.v1, &mut new_reading, host) {
            // The cgroup was removed, and may have been created again.
            Err(_) => {
                files = self.open(now)?;
                files.read(self.mounts.v1, &mut new_reading, host)
            }
            ok => ok,
        };
        let is_hanging = result.with_context(|| self.name())?;
        self.files = Some(files);
        self.hang.add(now, is_hanging);
        let with_hang = |ns: u64| ns.saturating_add(self.hang.total_ns);
        new_reading.some_ns = new_reading.some_ns.map(with_hang);
        new_reading.full_ns = new_reading.full_ns.map(with_hang);
        new_reading.oom_kills = new_reading.oom_kills.map(|kills| self.kills.update(kills));
        *reading = new_reading;
        Ok(())
    }

    fn name(&self) -> String {
        format!("read the cgroup /{}", self.path.display())
    }

    fn open(&self, now_ns: u64) -> Result<OpenFiles> {
        let CgroupMounts { memory, v1, .. } = &self.mounts;
        let (dir, v1) = (memory.join(&self.path), *v1);
        let own = match LimitFiles::open(&dir, v1) {
            Err(_) if !v1 && dir.exists() && !dir.join("memory.stat").exists() => None,
            own => Some(own?),
        };
        let psi = self.open_psi();
        if own.is_none() && psi.pressure.is_none() {
            let why = mounts::why_no_controller(memory);
            bail!("{}: it has no memory.pressure, and {why}", self.name());
        }
        let paths = self.path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty());
        let ancestors = paths.filter_map(|path| LimitFiles::open(&memory.join(path), v1).ok());
        let has_limit = |files: &mut LimitFiles| matches!(files.limit(), Ok(Some(_)));
        let ancestors =
            ancestors.filter_map(|mut files| has_limit(&mut files).then_some(files)).collect();
        let lists_descendants = psi.pressure.is_none();
        let ids = walkdir::WalkDir::new(&dir)
            .max_depth(if lists_descendants { usize::MAX } else { 0 })
            .into_iter()
            .filter_entry(|entry| entry.file_type().is_dir())
            .filter_map(|entry| Some(entry.ok()?.ino()))
            .take(MAX_IDS)
            .collect();
        let kills = ProcFile::open(&dir.join(FileNames::of(v1).oom_kills)).ok();
        let reopen_ns = now_ns.saturating_add(self.reopen_after_ns);
        Ok(OpenFiles { ids, reopen_ns, own, ancestors, kills, psi })
    }

    fn open_psi(&self) -> PsiFiles {
        let Some(root) = &self.mounts.unified else { return PsiFiles::default() };
        let dir = root.join(&self.path);
        let events = self.mounts.v1.then(|| ProcFile::open(&dir.join("cgroup.events")).ok());
        let twin = events.flatten().map(|mut events| {
            let populated = is_populated(&mut events);
            (events, populated)
        });
        if self.mounts.v1 && !twin.as_ref().is_some_and(|(_, populated)| *populated) {
            return PsiFiles { twin, ..PsiFiles::default() };
        }
        // With psi=0 the file exists, but reading it fails.
        let psi = |name: &str| ProcFile::readable(&dir.join(name));
        PsiFiles { twin, pressure: psi("memory.pressure"), io_pressure: psi("io.pressure") }
    }
}

/// Between half of [`REOPEN_NS`] and all of it, by the path: the files of all scopes must not be
/// opened within the same second.
fn reopen_after_ns(path: &str) -> u64 {
    // FNV-1a.
    let hash = path.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    REOPEN_NS / 2 + hash % (REOPEN_NS / 2)
}

fn is_populated(events: &mut ProcFile) -> bool {
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
    /// Whether the files need not be opened again.
    fn is_fresh(&mut self, now_ns: u64) -> bool {
        // Processes may have entered the v2 cgroup, or left it.
        let mut twin = self.psi.twin.iter_mut();
        now_ns < self.reopen_ns && twin.all(|(events, was)| is_populated(events) == *was)
    }

    /// Returns whether tasks wait because the cgroup is out of memory.
    fn read(&mut self, v1: bool, reading: &mut Reading, host: &Reading) -> Result<bool> {
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
struct LimitFiles {
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
    fn open(dir: &Path, v1: bool) -> Result<Self> {
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

    fn limit(&mut self) -> Result<Option<u64>> {
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
    use std::fs;

    use super::*;

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
    fn scope_files(v1: bool, files: &[(&str, &str)]) -> (tempfile::TempDir, ScopeFiles) {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("a/web")).expect("mkdir");
        for (name, text) in files {
            fs::write(dir.path().join("a/web").join(name), text).expect("write");
        }
        let root = dir.path().to_path_buf();
        let mounts = CgroupMounts { memory: root.clone(), v1, unified: Some(root) };
        (dir, ScopeFiles::new(mounts, "/a/web"))
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
            assert!(format!("{error:#}").contains("a/web/memory."), "{error:#}");
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
            let error = scope.read(&mut Reading::default(), &HOST).expect_err("no PSI");
            let error = format!("{error:#}");
            assert!(error.contains("memory controller") && error.contains(remedy), "{error}");
            assert!(error.contains("/a/web"), "{error}");
        }
    }

    /// The v1 cgroup `/a/web`, and the v2 cgroup with the same path and these events.
    fn hybrid(events: &str) -> (tempfile::TempDir, ScopeFiles) {
        let (dir, mut scope) = scope_files(true, &V1_FILES);
        let unified = dir.path().join("unified");
        fs::create_dir_all(unified.join("a/web")).expect("mkdir");
        for name in ["memory.pressure", "io.pressure"] {
            fs::write(unified.join("a/web").join(name), PRESSURE).expect("write");
        }
        fs::write(unified.join("a/web/cgroup.events"), events).expect("write");
        scope.mounts.unified = Some(unified);
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

    #[test]
    fn scopes_are_not_opened_again_in_the_same_second() {
        let mut seconds: Vec<_> = (0..32)
            .map(|i| reopen_after_ns(&format!("/system.slice/web-{i}.service")) / 1_000_000_000)
            .collect();
        assert!(seconds.iter().all(|s| (30..60).contains(s)), "{seconds:?}");
        seconds.sort_unstable();
        let most = seconds.chunk_by(|a, b| a == b).map(<[u64]>::len).max();
        assert!(most <= Some(4), "{seconds:?}");
    }
}
