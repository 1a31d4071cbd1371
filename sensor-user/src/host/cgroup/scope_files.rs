//! The open files of one scope's cgroup, on v1 or v2, read at every sample. When the cgroup is made anew, as
//! for a service that is restarted, they are opened again.

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

/// A cgroup by its path below the roots, e.g. `/system.slice/nginx.service`.
#[derive(Debug)]
pub struct ScopeFiles {
    roots: CgroupMounts,
    path: PathBuf,
    files: Option<OpenFiles>,
    kills: FileCounter,
}

#[derive(Debug)]
struct OpenFiles {
    /// The inodes of the group's directory and of those below it.
    ids: Vec<u64>,
    opened_ns: u64,
    own: LimitFiles,
    /// Groups above it that have a limit: it ends there as well.
    above: Vec<LimitFiles>,
    kills: Option<ProcFile>,
    pressure: Option<ProcFile>,
    io_pressure: Option<ProcFile>,
}

/// Files are opened anew after this: a group above may have got a limit, and there may be others below.
const REOPEN_NS: u64 = 60_000_000_000;
/// Groups below that are known by their ids: a bound, not an expectation.
const MAX_BELOW: usize = 256;

impl ScopeFiles {
    /// Does not look yet: the group need not be there.
    pub fn new(roots: CgroupMounts, path: &str) -> Self {
        let path = path.trim_start_matches('/').into();
        Self { roots, path, files: None, kills: FileCounter::default() }
    }

    /// The ids by which the kernel half knows the group and those below it, its own first; none if it is
    /// not there.
    pub fn ids(&self) -> &[u64] {
        self.files.as_ref().map_or(&[], |files| &files.ids)
    }

    /// Whether it is there and does not tell who stalls.
    pub fn lacks_psi(&self) -> bool {
        self.files.as_ref().is_some_and(|files| files.pressure.is_none())
    }

    /// Fills in what the files tell now. An error if the group is not there.
    ///
    /// `host` is the reading of the host at the same moment: what the group may still take ends
    /// where the host's does. Kills are counted from the first look on.
    pub fn read(&mut self, reading: &mut Reading, host: &Reading) -> Result<()> {
        let now = reading.at_ns;
        let fresh = |files: &OpenFiles| now < files.opened_ns.saturating_add(REOPEN_NS);
        let mut files = match self.files.take().filter(fresh) {
            Some(files) => files,
            None => self.open(now)?,
        };
        let mut found = *reading;
        let read = match files.read(self.roots.v1, &mut found, host) {
            // It is gone, or was made anew since.
            Err(_) => {
                files = self.open(now)?;
                files.read(self.roots.v1, &mut found, host)
            }
            ok => ok,
        };
        read.with_context(|| format!("read the cgroup /{}", self.path.display()))?;
        self.files = Some(files);
        found.oom_kills = found.oom_kills.map(|kills| self.kills.update(kills));
        *reading = found;
        Ok(())
    }

    fn open(&self, now_ns: u64) -> Result<OpenFiles> {
        let dir = self.roots.memory.join(&self.path);
        let v1 = self.roots.v1;
        let own = LimitFiles::open(&dir, v1)?;
        let above = self.path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty());
        let above =
            above.filter_map(|path| LimitFiles::open(&self.roots.memory.join(path), v1).ok());
        let is_limited = |level: &mut LimitFiles| matches!(level.limit(), Ok(Some(_)));
        let above = above.filter_map(|mut level| is_limited(&mut level).then_some(level)).collect();
        // With psi=0 the file is there and cannot be read.
        let unified = self.roots.unified.as_ref().map(|root| root.join(&self.path));
        let psi = |name: &str| ProcFile::readable(&unified.as_ref()?.join(name));
        let (pressure, io_pressure) = (psi("memory.pressure"), psi("io.pressure"));
        let ids = walkdir::WalkDir::new(&dir)
            .into_iter()
            .filter_entry(|entry| entry.file_type().is_dir())
            .filter_map(|entry| Some(entry.ok()?.ino()))
            .take(MAX_BELOW);
        let ids = ids.collect();
        let kills = ProcFile::open(&dir.join(FileNames::of(v1).oom_kills)).ok();
        Ok(OpenFiles { ids, opened_ns: now_ns, own, above, kills, pressure, io_pressure })
    }
}

impl OpenFiles {
    fn read(&mut self, v1: bool, reading: &mut Reading, host: &Reading) -> Result<()> {
        let stat = MemoryStat::parse(self.own.stat.read()?, v1);
        let mut room = self.own.room(v1, &stat)?;
        for level in &mut self.above {
            let stat = MemoryStat::parse(level.stat.read()?, v1);
            room = room.within(level.room(v1, &stat)?);
        }
        let on_host = Room {
            total: host.total_bytes,
            free: host.available_bytes,
            unused: host.unused_bytes,
            swap_free: host.swap_free_bytes,
        };
        let room = room.within(on_host);
        reading.total_bytes = room.total;
        reading.available_bytes = room.free;
        reading.unused_bytes = room.unused;
        // Without any on the host, what the group might have of it is nothing.
        reading.swap_free_bytes = host.swap_free_bytes.and(room.swap_free);
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

/// One group's limits and how far they are used.
#[derive(Debug)]
struct LimitFiles {
    usage: ProcFile,
    limits: Vec<ProcFile>,
    swap_usage: Option<ProcFile>,
    swap_limit: Option<ProcFile>,
    stat: ProcFile,
}

/// What may still be taken, in bytes; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    total: Option<u64>,
    /// With what can be dropped.
    free: Option<u64>,
    unused: Option<u64>,
    swap_free: Option<u64>,
}

impl Room {
    /// Both at once: the smaller of each.
    fn within(self, other: Self) -> Self {
        let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        Self {
            total: least(self.total, other.total),
            free: least(self.free, other.free),
            unused: least(self.unused, other.unused),
            swap_free: least(self.swap_free, other.swap_free),
        }
    }
}

impl LimitFiles {
    fn open(dir: &Path, v1: bool) -> Result<Self> {
        let must = |name: &str| ProcFile::open(&dir.join(name));
        let may = |name: &str| must(name).ok();
        let stat = must("memory.stat")?;
        let names = FileNames::of(v1);
        Ok(Self {
            usage: must(names.usage)?,
            // Above `high` tasks that allocate must reclaim first: for them it is a limit.
            limits: std::iter::once(names.limit)
                .chain(names.high)
                .map(must)
                .collect::<Result<_>>()?,
            swap_usage: may(names.swap_usage),
            swap_limit: may(names.swap_limit),
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

    fn room(&mut self, v1: bool, stat: &MemoryStat) -> Result<Room> {
        let usage = parse_bytes(self.usage.read()?).context("no number")?;
        let total = self.limit()?;
        // Clean page cache and slab can go; tmpfs is counted as page cache and cannot.
        let cache = stat.file.saturating_sub(stat.shmem).saturating_add(stat.slab);
        let unused = total.map(|total| total.saturating_sub(usage));
        let free = unused.map(|unused| unused.saturating_add(cache.min(usage)));
        let mut swap_free = None;
        if let (Some(swapped), Some(limit)) = (&mut self.swap_usage, &mut self.swap_limit)
            && let Some(limit) = parse_bytes(limit.read()?)
        {
            let left = limit.saturating_sub(parse_bytes(swapped.read()?).unwrap_or(0));
            // v1 limits memory and swap together.
            swap_free = Some(if v1 { left.saturating_sub(unused.unwrap_or(0)) } else { left });
        }
        Ok(Room { total, free, unused, swap_free })
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

    fn group(v1: bool, files: &[(&str, &str)]) -> (tempfile::TempDir, ScopeFiles) {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("a/web")).expect("mkdir");
        for (name, text) in files {
            fs::write(dir.path().join("a/web").join(name), text).expect("write");
        }
        let root = dir.path().to_path_buf();
        let roots = CgroupMounts { memory: root.clone(), v1, unified: Some(root) };
        (dir, ScopeFiles::new(roots, "/a/web"))
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
        let (_dir, mut group) = group(
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
        group.read(&mut reading, &HOST).expect("reads");
        assert_eq!(reading.total_bytes, Some(100 * MIB));
        assert_eq!(reading.available_bytes, Some(40 * MIB), "20 free, 20 of cache that can go");
        assert_eq!(reading.unused_bytes, Some(20 * MIB));
        assert_eq!(reading.swap_free_bytes, Some(64 * MIB), "the host's");
        assert_eq!(reading.full_ns, Some(5000));
        assert_eq!(reading.oom_kills, Some(0), "what was before us is not ours");
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
        let (dir, mut group) = group(
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
        group.read(&mut reading, &HOST).expect("reads");
        assert_eq!(reading.swap_free_bytes, Some(10 * MIB), "30 of both, 20 of them memory");
        assert_eq!(reading.oom_kills, Some(0));
        assert_eq!(
            reading.available_bytes,
            Some(30 * MIB),
            "20 free, 10 of cache below it as well"
        );
        assert_eq!(reading.full_ns, None, "PSI cannot be read");
        let put = |name: &str, text: &str| {
            fs::write(dir.path().join("a/web").join(name), text).expect("write");
        };
        for (counter, so_far) in [(6, 2), (6, 2), (0, 2), (1, 3), (2, 4)] {
            put("memory.oom_control", &format!("under_oom 0\noom_kill {counter}\n"));
            group.read(&mut reading, &HOST).expect("reads");
            assert_eq!(reading.oom_kills, Some(so_far), "a group made anew begins at 0");
        }
        put("memory.limit_in_bytes", "9223372036854771712");
        put("memory.memsw.limit_in_bytes", "9223372036854771712");
        group.read(&mut reading, &HOST).expect("reads");
        assert_eq!(reading.total_bytes, HOST.total_bytes, "no limit but the host's size");
        assert_eq!(reading.swap_free_bytes, HOST.swap_free_bytes);
    }

    #[test]
    fn a_group_ends_where_those_above_it_do() {
        let level = |dir: &str, max: &str, high: &str, current: u64, swap: &str| {
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
        for (what, own, above, total, available, swap) in [
            ("none", ["max", "max", "max"], ["max", "max", "max"], 1024, 512, 64),
            ("its own", [&mib(200), "max", &mib(9)], ["max", "max", "max"], 200, 120, 9),
            ("high", [&mib(200), &mib(100), "max"], ["max", "max", "max"], 100, 20, 64),
            ("above", [&mib(200), "max", "max"], [&mib(150), "max", &mib(5)], 150, 30, 5),
        ] {
            let files = [
                level("", own[0], own[1], 80, own[2]),
                level("../", above[0], above[1], 120, above[2]),
            ]
            .concat();
            let files: Vec<_> = files.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
            let (_dir, mut group) = group(false, &files);
            let mut reading = Reading::default();
            group.read(&mut reading, &HOST).expect("reads");
            let found = [reading.total_bytes, reading.available_bytes, reading.swap_free_bytes];
            let expected = [total, available, swap].map(|n| Some(n * MIB));
            assert_eq!(found, expected, "limit: {what}");
        }
    }

    #[test]
    fn a_group_that_is_not_there_is_an_error_that_names_it() {
        let (_dir, mut group) = group(false, &[]);
        let error = group.read(&mut Reading::default(), &HOST).expect_err("nothing to read");
        assert!(format!("{error:#}").contains("a/web/memory."), "{error:#}");
    }
}
