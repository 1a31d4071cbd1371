//! The thread that looks at cgroups. Nobody waits for it.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use tracing::warn;

use super::{Published, Report, Shown, Totals, table::Table};
use crate::{
    directory,
    events::{Log, What},
    host::{cgroup_files, memcg::Roots, survive::wait_your_turn},
    identity::Identity,
    sense::Common,
    snapshot::Snapshot,
    who::Who,
};

/// How often: after each look at processes, but not more often than this; nobody acts on these numbers but
/// people and alerts.
const EVERY: Duration = Duration::from_secs(5);

/// Between two questions whether processes have been looked at.
const POLL: Duration = Duration::from_secs(1);

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
        // Hundreds of files may be many milliseconds of work in the kernel.
        if let Err(e) = wait_your_turn() {
            warn!("reading the files of cgroups may delay answers: {e}");
        }
        let every = u64::try_from(EVERY.as_nanos()).unwrap_or(u64::MAX);
        // Of the last event that was counted, and of the look at processes that was taken in.
        let (mut seq, mut taken_ns) = (0, None);
        while !self.common.wake.is_stopped() {
            if let Some(snapshot) = self.common.published.load_full()
                && let Some(who) = snapshot.who.as_deref()
                && taken_ns.is_none_or(|last: u64| who.taken_ns >= last.saturating_add(every))
            {
                taken_ns = Some(who.taken_ns);
                let report = self.look(&snapshot, who, &mut seq);
                self.report.store(Some(Arc::new(report)));
            }
            self.common.wake.wait(POLL);
        }
    }

    fn look(&mut self, snapshot: &Snapshot, who: &Who, seq: &mut u64) -> Report {
        let groups = who.cgroups.iter();
        let sizes = groups.filter_map(|g| Some((g.cgroup_path.as_deref()?, g.own_bytes)));
        self.table.look(sizes);
        let directory = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        self.table.stalls(&snapshot.stall_clock, |id| directory.path(id));
        self.table.reclaim(&snapshot.reclaim, |id| directory.path(id));
        drop(directory);
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
            // One that is gone still tells what it counted; a counter that dies with its container is of no
            // use to whoever asks why it died.
            if found.memory_bytes.is_none() && *totals == Totals::default() {
                gone.push(Arc::clone(path));
                continue;
            }
            let identity = Identity::of(path);
            shown.push(Shown { path: Arc::clone(path), identity, totals: totals.clone(), found });
        }
        for path in gone {
            self.table.forget(&path);
        }
        Report { shown, other: self.table.other().clone(), omitted: self.table.omitted() }
    }
}
