//! The open files of one scope's cgroup, on v1 or v2, read at every sample. If the cgroup is
//! removed and created again, as when a service restarts, new files are requested.
//!
//! A v2 cgroup without the memory controller still has PSI, and is measured by it alone. Where the
//! memory controller is on v1, PSI is that of the v2 cgroup with the same path, but only while
//! processes are in it: a container runtime may have joined v1 only.
//!
//! A file that cannot be read leaves its part of the reading empty. Only if the cgroup does not exist
//! is there no reading.
//!
//! Not here: opening them (`scope_opener`), and files that are opened for one reading (`stats`).

use std::{io, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use rustix::io::Errno;
use sensor_core::{common::counter::FileCounter, verdict::reading::Reading};
use tracing::{error, info};

use super::{
    files::{MemoryStat, parse_populated},
    limit_files::{Headroom, LimitFiles},
};
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
    /// Why a part of the last reading is missing.
    failure: Option<anyhow::Error>,
    kills: FileCounter,
    hang: Hang,
    /// Since when nothing can be read: CLOCK_MONOTONIC nanoseconds.
    unread_ns: Option<u64>,
}

/// From where the sensing thread gets the files of a cgroup.
#[derive(Debug, Clone)]
pub struct FileSource {
    /// Path of the cgroup.
    pub path: Arc<str>,
    pub(super) v1: bool,
    pub(super) handoff: Arc<Handoff<OpenFiles>>,
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
    pub fn new(source: &FileSource) -> Self {
        Self {
            v1: source.v1,
            name: format!("read the cgroup {}", source.path),
            handoff: Arc::clone(&source.handoff),
            files: None,
            failure: None,
            kills: FileCounter::default(),
            hang: Hang::default(),
            unread_ns: None,
        }
    }

    /// Whether the files come from this source.
    pub fn is_from(&self, source: &FileSource) -> bool {
        Arc::ptr_eq(&self.handoff, &source.handoff)
    }

    /// Leaves all files to the opener, which closes them.
    pub fn close(mut self) {
        if let Some(files) = self.files.take() {
            self.handoff.give_back(files);
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

    /// Why a part of the last reading is missing.
    pub const fn failure(&self) -> Option<&anyhow::Error> {
        self.failure.as_ref()
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
        let Parts { is_hanging, failure } = result.map_err(|error| self.unread(now, &error))?;
        self.unread_ns = None;
        self.log_change(failure.as_ref());
        self.failure = failure;
        self.hang.add(now, is_hanging);
        let with_hang = |ns: u64| ns.saturating_add(self.hang.total_ns);
        new_reading.some_ns = new_reading.some_ns.map(with_hang);
        new_reading.full_ns = new_reading.full_ns.map(with_hang);
        new_reading.oom_kills = new_reading.oom_kills.map(|kills| self.kills.update(kills));
        *reading = new_reading;
        Ok(())
    }

    /// Logs the first failure and the end of a run of failures.
    fn log_change(&self, failure: Option<&anyhow::Error>) {
        match failure {
            Some(e) if self.failure.is_none() => {
                error!("{}: a part of its samples is missing: {e:#}", self.name);
            }
            None if self.failure.is_some() => info!("{}: all files again", self.name),
            _ => {}
        }
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

    /// An error if the cgroup was removed.
    pub(super) fn read(
        &mut self,
        v1: bool,
        reading: &mut Reading,
        host: &Reading,
    ) -> Result<Parts> {
        let mut parts = Parts::default();
        let own = match &mut self.own {
            Some(own) => match parts.take(own.stat(v1))? {
                Some(stat) => {
                    fill_counters(&stat, reading);
                    parts.take(own.headroom(v1, &stat))?
                }
                None => None,
            },
            None => Some(Headroom::default()),
        };
        let above = parts.take(headroom_of(&mut self.ancestors, v1))?;
        // A limit that is not known must not look like a limit that is not set.
        if let (Some(own), Some(above), Some(_)) = (own, above, host.total_bytes) {
            own.min(above).fill(reading, host);
        }
        if let Some(kills) = &mut self.kills
            && let Some(text) = parts.take(kills.read())?
        {
            let [kills, under_oom] = numbers(text, ["oom_kill", "under_oom"]);
            (reading.oom_kills, parts.is_hanging) = (kills, under_oom.is_some_and(|n| n > 0));
        }
        let parse = |file: &mut ProcFile| file.read().and_then(pressure::parse);
        if let Some(pressure) = &mut self.psi.pressure
            && let Some(totals) = parts.take(parse(pressure))?
        {
            totals.fill(reading);
        }
        if let Some(pressure) = &mut self.psi.io_pressure {
            let totals = parts.take(parse(pressure))?;
            reading.io_some_ns = totals.map(|totals| totals.some_ns);
            reading.io_full_ns = totals.map(|totals| totals.full_ns);
        }
        Ok(parts)
    }
}

/// What the limits of these cgroups leave.
fn headroom_of(cgroups: &mut [LimitFiles], v1: bool) -> Result<Headroom> {
    let mut least = Headroom::default();
    for files in cgroups {
        let stat = files.stat(v1)?;
        least = least.min(files.headroom(v1, &stat)?);
    }
    Ok(least)
}

/// What is known beside the reading.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// Whether tasks wait because the cgroup is out of memory.
    is_hanging: bool,
    /// Why a part could not be read.
    failure: Option<anyhow::Error>,
}

impl Parts {
    /// Notes a failure of a part. It is an error if the cgroup was removed.
    fn take<T>(&mut self, part: Result<T>) -> Result<Option<T>> {
        match part {
            Ok(part) => Ok(Some(part)),
            Err(e) if is_removed(&e) => Err(e),
            Err(e) => {
                self.failure.get_or_insert(e);
                Ok(None)
            }
        }
    }
}

/// Whether the cgroup of an open file was removed (`kernfs_get_active`, fs/kernfs).
fn is_removed(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.and_then(Errno::from_io_error) == Some(Errno::NODEV)
}

fn fill_counters(stat: &MemoryStat, reading: &mut Reading) {
    let page = rustix::param::page_size() as u64;
    let bytes = |pages: Option<u64>| pages.map(|pages| pages.saturating_mul(page));
    (reading.refaulted_bytes, reading.lost_bytes) = (bytes(stat.refaulted), bytes(stat.lost));
    reading.swapped_in_bytes = bytes(stat.swapped_in);
    reading.swapped_out_bytes = bytes(stat.swapped_out);
    (reading.scanned_pages, reading.reclaimed_pages) = (stat.scanned, stat.reclaimed);
}
