//! The thread that looks at cgroups: every ten seconds, and nobody waits for it.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use super::{Published, Report, Shown, table::Table};
use crate::{
    directory,
    events::{Log, What},
    host::{cgroup_files, memcg::Roots},
    identity::Identity,
    sense::Common,
};

/// How often. Nobody acts on these numbers but people and alerts.
const EVERY: Duration = Duration::from_secs(10);

/// After the first look, which may have been before anybody counted the processes.
const SOON: Duration = Duration::from_secs(1);

/// Looks at cgroups.
#[derive(Debug)]
pub struct Watch {
    /// What threads share.
    pub common: Common,
    /// What each group is called.
    pub directory: directory::Shared,
    /// OOM kills.
    pub events: Arc<Log>,
    /// Which groups are shown.
    pub table: Table,
    /// Where the hierarchies are.
    pub roots: Roots,
    /// Where it is published.
    pub report: Published,
}

impl Watch {
    /// Until it is told to stop.
    pub fn run(mut self) {
        let (mut seq, mut wait) = (0, SOON);
        while !self.common.wake.is_stopped() {
            if let Some(report) = self.look(&mut seq) {
                self.report.store(Some(Arc::new(report)));
                wait = EVERY;
            }
            self.common.wake.wait(wait);
        }
    }

    /// `seq` is that of the last event that was counted. None before processes have been looked at.
    fn look(&mut self, seq: &mut u64) -> Option<Report> {
        let snapshot = self.common.published.load_full()?;
        let who = snapshot.who.as_deref()?;
        let groups = who.cgroups.iter();
        let sizes = groups.filter_map(|g| Some((g.cgroup_path.as_deref()?, g.own_bytes)));
        self.table.look(sizes);
        let paths: Vec<_> = {
            let directory = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
            snapshot.stall_clock.iter().map(|(id, _)| directory.path(*id)).collect()
        };
        let at = |id: u64| {
            let at = snapshot.stall_clock.binary_search_by_key(&id, |(id, _)| *id).ok()?;
            paths[at].clone()
        };
        self.table.stalls(&snapshot.stall_clock, at);
        for event in self.events.since(*seq) {
            *seq = event.seq;
            if let What::OomKill { victim, .. } = &event.what {
                self.table.kill(victim.cgroup.as_deref());
            }
        }
        let mut shown = Vec::new();
        let mut gone = Vec::new();
        for (path, totals) in self.table.shown() {
            let found = cgroup_files::found(&self.roots, path);
            if found.memory_bytes.is_none() {
                gone.push(Arc::clone(path));
                continue;
            }
            let identity = Identity::of(path);
            shown.push(Shown { path: Arc::clone(path), identity, totals: *totals, found });
        }
        for path in gone {
            self.table.forget(&path);
        }
        Some(Report { shown, other: self.table.other(), omitted: self.table.omitted() })
    }
}
