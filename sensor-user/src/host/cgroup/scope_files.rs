//! The open files of one scope's cgroup, on v1 or v2, read at every sample. If the cgroup is
//! removed and created again, as when a service restarts, the files are opened again.
//!
//! Not here: files that are opened for one reading (`stats`).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use walkdir::DirEntryExt as _;

use sensor_core::{common::counter::FileCounter, verdict::reading::Reading};

use super::{
    files::{FileNames, MemoryStat, parse_bytes},
    mounts::CgroupMounts,
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
    files: Option<OpenFiles>,
    kills: FileCounter,
}

#[derive(Debug)]
struct OpenFiles {
    /// Inodes of the cgroup's directory and of its descendants.
    ids: Vec<u64>,
    opened_ns: u64,
    own: LimitFiles,
    /// Ancestors that have a limit: their limits bound the cgroup too.
    ancestors: Vec<LimitFiles>,
    kills: Option<ProcFile>,
    pressure: Option<ProcFile>,
    io_pressure: Option<ProcFile>,
}

/// Files are opened again after this time: an ancestor's limit or the set of descendants may have
/// changed.
const REOPEN_NS: u64 = 60_000_000_000;
/// Most ids that are listed of a cgroup and its descendants.
const MAX_IDS: usize = 256;

impl ScopeFiles {
    /// Opens no file yet: the cgroup need not exist.
    pub fn new(mounts: CgroupMounts, path: &str) -> Self {
        let path = path.trim_start_matches('/').into();
        Self { mounts, path, files: None, kills: FileCounter::default() }
    }

    /// Ids of the cgroup and its descendants as the kernel half reports them, the cgroup's own
    /// first; empty if the cgroup does not exist.
    pub fn ids(&self) -> &[u64] {
        self.files.as_ref().map_or(&[], |files| &files.ids)
    }

    /// Whether the cgroup exists but has no PSI.
    pub fn lacks_psi(&self) -> bool {
        self.files.as_ref().is_some_and(|files| files.pressure.is_none())
    }

    /// Reads all files into `reading`. An error if the cgroup does not exist.
    ///
    /// `host` is the reading of the host at the same moment: memory that is available to the cgroup
    /// cannot exceed the host's. Kills are counted from the first read on.
    pub fn read(&mut self, reading: &mut Reading, host: &Reading) -> Result<()> {
        let now = reading.at_ns;
        let fresh = |files: &OpenFiles| now < files.opened_ns.saturating_add(REOPEN_NS);
        let mut files = match self.files.take().filter(fresh) {
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
        result.with_context(|| format!("read the cgroup /{}", self.path.display()))?;
        self.files = Some(files);
        new_reading.oom_kills = new_reading.oom_kills.map(|kills| self.kills.update(kills));
        *reading = new_reading;
        Ok(())
    }

    fn open(&self, now_ns: u64) -> Result<OpenFiles> {
        let CgroupMounts { memory, v1, unified } = &self.mounts;
        let (dir, v1) = (memory.join(&self.path), *v1);
        let own = LimitFiles::open(&dir, v1)?;
        let paths = self.path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty());
        let ancestors = paths.filter_map(|path| LimitFiles::open(&memory.join(path), v1).ok());
        let has_limit = |files: &mut LimitFiles| matches!(files.limit(), Ok(Some(_)));
        let ancestors =
            ancestors.filter_map(|mut files| has_limit(&mut files).then_some(files)).collect();
        // With psi=0 the file exists, but reading it fails.
        let unified = unified.as_ref().map(|root| root.join(&self.path));
        let psi = |name: &str| ProcFile::readable(&unified.as_ref()?.join(name));
        let (pressure, io_pressure) = (psi("memory.pressure"), psi("io.pressure"));
        let ids = walkdir::WalkDir::new(&dir)
            .into_iter()
            .filter_entry(|entry| entry.file_type().is_dir())
            .filter_map(|entry| Some(entry.ok()?.ino()))
            .take(MAX_IDS)
            .collect();
        let kills = ProcFile::open(&dir.join(FileNames::of(v1).oom_kills)).ok();
        Ok(OpenFiles { ids, opened_ns: now_ns, own, ancestors, kills, pressure, io_pressure })
    }
}

impl OpenFiles {
    fn read(&mut self, v1: bool, reading: &mut Reading, host: &Reading) -> Result<()> {
        let stat = MemoryStat::parse(self.own.stat.read()?, v1);
        let mut headroom = self.own.headroom(v1, &stat)?;
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
        let page = rustix::param::page_size() as u64;
        reading.refaulted_bytes = stat.refaulted.map(|pages| pages.saturating_mul(page));
        reading.swapped_in_bytes = stat.swapped_in.map(|pages| pages.saturating_mul(page));
        reading.swapped_out_bytes = stat.swapped_out.map(|pages| pages.saturating_mul(page));
        (reading.scanned_pages, reading.reclaimed_pages) = (stat.scanned, stat.reclaimed);
        if let Some(kills) = &mut self.kills {
            [reading.oom_kills] = numbers(kills.read()?, ["oom_kill"]);
        }
        if let Some(pressure) = &mut self.pressure {
            pressure::parse(pressure.read()?)?.fill(reading);
        }
        if let Some(pressure) = &mut self.io_pressure {
            reading.io_full_ns = Some(pressure::parse(pressure.read()?)?.full_ns);
        }
        Ok(())
    }
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    fn a_missing_cgroup_is_an_error_with_its_path() {
        let (_dir, mut scope) = scope_files(false, &[]);
        let error = scope.read(&mut Reading::default(), &HOST).expect_err("nothing to read");
        assert!(format!("{error:#}").contains("a/web/memory."), "{error:#}");
    }
}
