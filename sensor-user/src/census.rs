//! When to look who has the memory, and with what: the kernel's iterator, or /proc where it does not
//! let us iterate.
//!
//! Not here: what follows from a look ([`who`](crate::who)).

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use sensor_ebpf::probes;
use tracing::error;

use crate::{
    directory::SharedPaths,
    host::{cgroup, clock::since_boot_ns, process_walk::Walk},
    kernel::{
        load::{AttachState, Coverage},
        read::Reader,
    },
    who::{MemoryUsage, ScanBatch, UsageTracker},
};

/// How soon to look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScanPriority {
    /// Ten seconds after the last look.
    Calm,
    /// A second after it.
    Pressed,
    /// At once.
    Now,
}

impl ScanPriority {
    const fn after(self) -> Duration {
        Duration::from_secs(match self {
            Self::Calm => 10,
            Self::Pressed => 1,
            Self::Now => 0,
        })
    }
}

/// Processes of /proc at a time: some ten milliseconds.
const STEP: usize = 200;

/// Looks who has the memory.
#[derive(Debug)]
pub struct ProcessScanner {
    memory: UsageTracker,
    last: Option<Arc<MemoryUsage>>,
    /// When the last look began: CLOCK_MONOTONIC nanoseconds.
    begun_ns: Option<u64>,
    from: From,
    directory: SharedPaths,
    /// Seconds since boot.
    calm: Option<u32>,
}

#[derive(Debug)]
enum From {
    /// It is switched off.
    Nowhere,
    Kernel,
    /// And a walk may be under way.
    Proc(Option<Walk>),
}

impl ProcessScanner {
    /// Not yet.
    pub fn new(coverage: &Coverage, directory: SharedPaths) -> Self {
        let probe = coverage.probes.get(probes::Id::processes as usize);
        let from = match probe.map(|probe| probe.state) {
            Some(AttachState::Disabled) => From::Nowhere,
            Some(AttachState::Attached) => From::Kernel,
            _ => From::Proc(None),
        };
        let memory = UsageTracker::new(procfs::page_size());
        Self { memory, last: None, begun_ns: None, from, directory, calm: None }
    }

    /// What was found last.
    pub fn last(&self) -> Option<Arc<MemoryUsage>> {
        self.last.clone()
    }

    /// Looks, if it is time to. A walk through /proc goes on by a step.
    pub fn look(&mut self, reader: Option<&mut Reader>, now: u64, when: ScanPriority) {
        if when == ScanPriority::Calm {
            self.calm = Some(boot_seconds());
        }
        let every = u64::try_from(when.after().as_nanos()).unwrap_or(u64::MAX);
        let due = self.begun_ns.is_none_or(|begun| now >= begun.saturating_add(every));
        let pass = match &mut self.from {
            From::Kernel if due => {
                self.begun_ns = Some(now);
                iterate(reader).map(Some)
            }
            From::Proc(walk) if due || walk.is_some() => {
                if walk.is_none() {
                    self.begun_ns = Some(now);
                }
                step(walk)
            }
            _ => return,
        };
        match pass {
            Ok(None) => {}
            Ok(Some(pass)) => {
                let seconds = boot_seconds();
                let usage_from_proc = matches!(self.from, From::Proc(_));
                let mut who = self.memory.update(pass, seconds);
                let calm = self.calm.map(|calm| seconds.saturating_sub(calm));
                who.mark_new(calm.filter(|_| when != ScanPriority::Calm));
                // Whoever holds it may have to wait for a processor: then names are those of the last look.
                if let Ok(directory) = self.directory.try_lock() {
                    who.name(|id| directory.path(id));
                } else if let Some(last) = &self.last {
                    let names = last.names();
                    who.name(|id| names.get(&id).map(|name| Arc::clone(name)));
                }
                // What a walk saw first is as old as that: who was started since may not be in it.
                let taken_ns = self.begun_ns.unwrap_or(now);
                self.last = Some(Arc::new(MemoryUsage { taken_ns, usage_from_proc, ..who }));
            }
            Err(e) => {
                if self.last.take().is_some() {
                    error!("it cannot be told who has the memory: {e:#}");
                }
            }
        }
    }
}

fn boot_seconds() -> u32 {
    u32::try_from(since_boot_ns() / 1_000_000_000).unwrap_or(u32::MAX)
}

fn iterate(reader: Option<&mut Reader>) -> Result<ScanBatch> {
    let mut pass = ScanBatch::default();
    if let Some(reader) = reader {
        reader.processes(|process| pass.add(process))?;
    }
    Ok(pass)
}

fn step(walk: &mut Option<Walk>) -> Result<Option<ScanBatch>> {
    let under_way = match walk {
        Some(walk) => walk,
        None => walk.insert(Walk::begin(&cgroup::memory_root().unwrap_or_default())?),
    };
    let pass = under_way.step(STEP);
    if pass.is_some() {
        *walk = None;
    }
    Ok(pass)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_look_in_steps_is_as_old_as_its_first() {
        let mut census = ProcessScanner {
            memory: UsageTracker::new(procfs::page_size()),
            last: None,
            begun_ns: Some(7),
            from: From::Proc(Some(Walk::begin(Path::new("/")).expect("/proc"))),
            directory: SharedPaths::default(),
            calm: None,
        };
        let more = (8..).find_map(|now| {
            census.look(None, now, ScanPriority::Calm);
            census.last()
        });
        let who = more.expect("its end");
        assert_eq!((who.taken_ns, who.usage_from_proc, who.seen > 0), (7, true, true));
    }
}
