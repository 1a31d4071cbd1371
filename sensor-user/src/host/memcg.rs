//! One named cgroup's memory, on v1 or v2. It may come and go (a service that is restarted): then its
//! files are opened again.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::{
    cgroup, pressure,
    text::{Text, numbers},
};
use crate::verdict::reading::Reading;

/// Where the hierarchies are mounted that tell of a cgroup's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// The memory controller's.
    pub memory: PathBuf,
    /// Whether that is v1.
    pub v1: bool,
    /// The v2 hierarchy, where PSI is, also if the memory controller is elsewhere.
    pub unified: Option<PathBuf>,
}

impl Roots {
    /// This host's.
    pub fn find() -> Result<Self> {
        let memory = cgroup::memory_root().context("no hierarchy with the memory controller")?;
        Ok(Self { memory, v1: cgroup::memory_on_v1(), unified: cgroup::unified_root() })
    }
}

/// A cgroup by its path below the roots, e.g. `/system.slice/nginx.service`.
#[derive(Debug)]
pub struct Group {
    roots: Roots,
    path: PathBuf,
    files: Option<Files>,
}

#[derive(Debug)]
struct Files {
    usage: Text,
    limit: Text,
    swap_usage: Option<Text>,
    swap_limit: Option<Text>,
    stat: Text,
    kills: Option<Text>,
    pressure: Option<Text>,
}

impl Group {
    /// Does not look yet: the group need not be there.
    pub fn new(roots: Roots, path: &str) -> Self {
        Self { roots, path: path.trim_start_matches('/').into(), files: None }
    }

    /// Fills in what the files tell now. An error if the group is not there.
    ///
    /// `host` is the reading of the host at the same moment: what the group may still take ends
    /// where the host's does.
    pub fn read(&mut self, reading: &mut Reading, host: &Reading) -> Result<()> {
        let mut files = match self.files.take() {
            Some(files) => files,
            None => self.open()?,
        };
        let mut found = *reading;
        let read = match files.read(self.roots.v1, &mut found, host) {
            // It is gone, or was made anew since.
            Err(_) => {
                files = self.open()?;
                files.read(self.roots.v1, &mut found, host)
            }
            ok => ok,
        };
        read.with_context(|| format!("read the cgroup /{}", self.path.display()))?;
        self.files = Some(files);
        *reading = found;
        Ok(())
    }

    fn open(&self) -> Result<Files> {
        let dir = self.roots.memory.join(&self.path);
        let must = |name: &str| Text::open(&dir.join(name));
        let may = |name: &str| must(name).ok();
        // With psi=0 the file is there and cannot be read.
        let unified = self.roots.unified.as_ref().map(|root| root.join(&self.path));
        let pressure = unified.and_then(|dir| Text::readable(&dir.join("memory.pressure")));
        let [usage, limit, swap_usage, swap_limit, kills] = if self.roots.v1 {
            [
                "memory.usage_in_bytes",
                "memory.limit_in_bytes",
                "memory.memsw.usage_in_bytes",
                "memory.memsw.limit_in_bytes",
                "memory.oom_control",
            ]
        } else {
            [
                "memory.current",
                "memory.max",
                "memory.swap.current",
                "memory.swap.max",
                "memory.events",
            ]
        };
        Ok(Files {
            usage: must(usage)?,
            limit: must(limit)?,
            swap_usage: may(swap_usage),
            swap_limit: may(swap_limit),
            stat: must("memory.stat")?,
            kills: may(kills),
            pressure,
        })
    }
}

impl Files {
    fn read(&mut self, v1: bool, reading: &mut Reading, host: &Reading) -> Result<()> {
        let usage = number(self.usage.read()?).context("no number")?;
        let limit = number(self.limit.read()?).unwrap_or(u64::MAX);
        let stat = Stat::parse(self.stat.read()?, v1);
        let total = limit.min(host.total_bytes.unwrap_or(u64::MAX));
        // Clean page cache and slab can go; tmpfs is counted as page cache and cannot.
        let cache = stat.file.saturating_sub(stat.shmem).saturating_add(stat.slab);
        let free = total.saturating_sub(usage).saturating_add(cache.min(usage));
        reading.total_bytes = Some(total);
        reading.available_bytes = Some(free.min(host.available_bytes.unwrap_or(u64::MAX)));
        reading.swap_free_bytes = self.swap_free(v1, usage, limit, host)?;
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
        Ok(())
    }

    /// v1 limits memory and swap together.
    fn swap_free(
        &mut self,
        v1: bool,
        memory: u64,
        memory_limit: u64,
        host: &Reading,
    ) -> Result<Option<u64>> {
        let Some(on_host) = host.swap_free_bytes else { return Ok(None) };
        let (Some(usage), Some(limit)) = (&mut self.swap_usage, &mut self.swap_limit) else {
            return Ok(Some(on_host));
        };
        let usage = number(usage.read()?).unwrap_or(0);
        let limit = number(limit.read()?).unwrap_or(u64::MAX);
        let free = if v1 {
            let room = limit.saturating_sub(usage);
            room.saturating_sub(memory_limit.saturating_sub(memory))
        } else {
            limit.saturating_sub(usage)
        };
        Ok(Some(free.min(on_host)))
    }
}

/// `max` and v1's "no limit" are none.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|n| *n < i64::MAX.cast_unsigned() / 2)
}

/// Of memory.stat: bytes, and pages for what is counted as events.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stat {
    file: u64,
    shmem: u64,
    slab: u64,
    refaulted: Option<u64>,
    swapped_in: Option<u64>,
    swapped_out: Option<u64>,
    scanned: Option<u64>,
    reclaimed: Option<u64>,
}

impl Stat {
    fn parse(text: &str, v1: bool) -> Self {
        // v1's total_ lines include the groups below, as v2's all do.
        let names = if v1 {
            [
                "total_cache",
                "total_shmem",
                "",
                "total_workingset_refault_anon",
                "total_workingset_refault_file",
                "total_pswpin",
                "total_pswpout",
                "",
                "",
            ]
        } else {
            [
                "file",
                "shmem",
                "slab_reclaimable",
                "workingset_refault_anon",
                "workingset_refault_file",
                "pswpin",
                "pswpout",
                "pgscan",
                "pgsteal",
            ]
        };
        let [file, shmem, slab, anon, cache, swapped_in, swapped_out, scanned, reclaimed] =
            numbers(text, names);
        Self {
            file: file.unwrap_or(0),
            shmem: shmem.unwrap_or(0),
            slab: slab.unwrap_or(0),
            refaulted: anon.map(|a| a.saturating_add(cache.unwrap_or(0))).or(cache),
            swapped_in,
            swapped_out,
            scanned,
            reclaimed,
        }
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
        swap_free_bytes: Some(64 << 20),
        above_low_bytes: None,
        priority: None,
        no_progress: None,
    };

    fn group(v1: bool, files: &[(&str, &str)]) -> (tempfile::TempDir, Group) {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("a/web")).expect("mkdir");
        for (name, text) in files {
            fs::write(dir.path().join("a/web").join(name), text).expect("write");
        }
        let root = dir.path().to_path_buf();
        let roots = Roots { memory: root.clone(), v1, unified: Some(root) };
        (dir, Group::new(roots, "/a/web"))
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
        assert_eq!(reading.swap_free_bytes, Some(64 * MIB), "the host's");
        assert_eq!((reading.oom_kills, reading.full_ns), (Some(1), Some(5000)));
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
        assert_eq!(
            reading.available_bytes,
            Some(30 * MIB),
            "20 free, 10 of cache below it as well"
        );
        assert_eq!(reading.oom_kills, Some(4));
        assert_eq!(reading.full_ns, None, "PSI cannot be read");
        let dir = dir.path().join("a/web");
        fs::write(dir.join("memory.limit_in_bytes"), "9223372036854771712").expect("write");
        group.read(&mut reading, &HOST).expect("reads");
        assert_eq!(reading.total_bytes, HOST.total_bytes, "no limit but the host's size");
    }

    #[test]
    fn a_group_that_is_not_there_is_an_error_that_names_it() {
        let (_dir, mut group) = group(false, &[]);
        let error = group.read(&mut Reading::default(), &HOST).expect_err("nothing to read");
        assert!(format!("{error:#}").contains("a/web/memory.current"), "{error:#}");
    }
}
