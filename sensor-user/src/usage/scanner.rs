//! When processes are scanned, and how: by the BPF iterator, or from /proc if the kernel cannot
//! load it.
//!
//! Not here: sizes and growth (`tracker`).

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use sensor_core::{
    common::{clock::since_boot_ns, counter::nanos},
    model::{
        coverage::{AttachState, Coverage},
        memory_usage::MemoryUsage,
    },
};
use sensor_ebpf::probes;
use tracing::{error, info};

use super::tracker::{ScanBatch, UsageTracker};
use crate::{
    cgroups::shared_paths::SharedPaths,
    host::{cgroup::mounts, proc_walk::ProcWalk},
    kernel::programs::Programs,
    publish::usage::PublishedUsage,
};

/// How soon after the last scan the next is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScanPriority {
    /// Ten seconds: the host is calm.
    Calm,
    /// A second: the host is under pressure.
    Pressed,
    /// At once: the report on a kill waits for it.
    Requested,
}

impl ScanPriority {
    const fn interval(self) -> Duration {
        Duration::from_secs(match self {
            Self::Calm => 10,
            Self::Pressed => 1,
            Self::Requested => 0,
        })
    }
}

/// Processes of /proc that are read at a time: some ten milliseconds.
const PROC_STEP: usize = 200;

/// Scans processes, and publishes the result.
#[derive(Debug)]
pub struct ProcessScanner {
    tracker: UsageTracker,
    published: Arc<PublishedUsage>,
    /// When the last scan began: CLOCK_MONOTONIC nanoseconds.
    begun_ns: Option<u64>,
    source: Source,
    paths: SharedPaths,
    /// When the host was last calm: seconds since boot.
    calm: Option<u32>,
    is_failing: bool,
}

#[derive(Debug)]
enum Source {
    /// The probe is disabled.
    None,
    /// The BPF iterator.
    Iterator,
    /// A walk over /proc, which may be in progress.
    Proc(Option<(ProcWalk, ScanBatch)>),
}

impl ProcessScanner {
    /// Without any scan yet.
    pub fn new(coverage: &Coverage, paths: SharedPaths, published: Arc<PublishedUsage>) -> Self {
        let source = match coverage.probe(probes::Id::processes).map(|probe| probe.state) {
            Some(AttachState::Disabled) => Source::None,
            Some(AttachState::Attached) => Source::Iterator,
            _ => Source::Proc(None),
        };
        let tracker = UsageTracker::new(procfs::page_size());
        Self { tracker, published, begun_ns: None, source, paths, calm: None, is_failing: false }
    }

    /// Scans if a scan is due. Continues a walk over /proc by one step.
    pub fn scan(&mut self, programs: Option<&mut Programs>, now: u64, priority: ScanPriority) {
        if priority == ScanPriority::Calm {
            self.calm = Some(boot_seconds());
        }
        let interval = nanos(priority.interval());
        let due = self.begun_ns.is_none_or(|begun| now >= begun.saturating_add(interval));
        let batch = match &mut self.source {
            Source::Iterator if due => {
                self.begun_ns = Some(now);
                iterate(programs).map(Some)
            }
            Source::Proc(walk) if due || walk.is_some() => {
                if walk.is_none() {
                    self.begun_ns = Some(now);
                }
                walk_step(walk)
            }
            _ => return,
        };
        match batch {
            Ok(None) => {}
            Ok(Some(batch)) => {
                if std::mem::take(&mut self.is_failing) {
                    info!("processes can be scanned again");
                }
                self.publish(batch, now, priority);
            }
            Err(e) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    self.published.store(None);
                    error!("process memory scan failed: {e:#}");
                }
            }
        }
    }

    /// Whether a walk over /proc is in progress.
    pub fn is_walking(&self) -> bool {
        matches!(self.source, Source::Proc(Some(_)))
    }

    fn publish(&mut self, batch: ScanBatch, now: u64, priority: ScanPriority) {
        let seconds = boot_seconds();
        let mut usage = self.tracker.update(batch, seconds);
        let calm = self.calm.map(|calm| seconds.saturating_sub(calm));
        usage.mark_new(calm.filter(|_| priority != ScanPriority::Calm));
        // A thread that holds the lock may have to wait for a processor: then the paths of the last
        // scan are used.
        if let Some(cache) = self.paths.try_lock() {
            usage.fill_paths(|id| cache.path(id));
        } else if let Some(last) = self.published.load() {
            let paths = last.paths();
            usage.fill_paths(|id| paths.get(&id).map(|path| Arc::clone(path)));
        }
        // The age of a walk is counted from its beginning: a process that was started later may be
        // missing.
        let taken_ns = self.begun_ns.unwrap_or(now);
        let usage_from_proc = matches!(self.source, Source::Proc(_));
        self.published.store(Some(Arc::new(MemoryUsage { taken_ns, usage_from_proc, ..usage })));
    }
}

fn boot_seconds() -> u32 {
    u32::try_from(since_boot_ns() / 1_000_000_000).unwrap_or(u32::MAX)
}

fn iterate(programs: Option<&mut Programs>) -> Result<ScanBatch> {
    let mut batch = ScanBatch::default();
    if let Some(programs) = programs {
        programs.processes(|process| batch.add(process))?;
    }
    Ok(batch)
}

fn walk_step(walk: &mut Option<(ProcWalk, ScanBatch)>) -> Result<Option<ScanBatch>> {
    let (proc_walk, batch) = if let Some(walk) = walk {
        walk
    } else {
        let root = mounts::memory_root().unwrap_or_default();
        walk.insert((ProcWalk::begin(&root)?, ScanBatch::default()))
    };
    let is_last = proc_walk.step(PROC_STEP, |process| batch.add(process));
    Ok(if is_last { walk.take().map(|(_, batch)| batch) } else { None })
}
