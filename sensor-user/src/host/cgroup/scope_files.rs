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

use super::files::{FileNames, MemoryStat, parse_bytes, parse_populated};
use crate::host::{
    handoff::Handoff,
    pressure,
    proc_file::{ProcFile, numbers},
};

/// Files of one cgroup, as the sensing thread reads them.
#[derive(Debug)]
pub struct ScopeFiles {
    v1: bool,
    name: String,
    handoff: Arc<Handoff<OpenFiles>>,
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
    pub(super) fn new(v1: bool, name: String, handoff: Arc<Handoff<OpenFiles>>) -> Self {
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
