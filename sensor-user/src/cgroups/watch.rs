//! The thread that looks at cgroups. Nobody waits for it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tracing::warn;

use super::{Killed, Published, Report, Shown, table::Table};
use crate::{
    directory,
    host::{cgroup_files, clock::monotonic_ns, memcg::Roots, survive::wait_your_turn},
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

/// Between two walks for names that no event asked for.
const WALK_EVERY: Duration = Duration::from_secs(10);

/// Looks at cgroups.
#[derive(Debug)]
pub struct Watch {
    common: Common,
    directory: directory::Shared,
    killed: Arc<Killed>,
    table: Table,
    roots: Roots,
    report: Published,
    /// Ids that have no name after a walk either: not worth another.
    nameless: BTreeSet<u64>,
}

impl Watch {
    /// Of the groups in `directory`; publishes in `report`.
    pub fn new(
        common: Common,
        directory: directory::Shared,
        killed: Arc<Killed>,
        table: Table,
        roots: Roots,
        report: Published,
    ) -> Self {
        Self { common, directory, killed, table, roots, report, nameless: BTreeSet::new() }
    }

    /// Until it is told to stop.
    pub fn run(mut self) {
        // Hundreds of files may be many milliseconds of work in the kernel.
        if let Err(e) = wait_your_turn() {
            warn!("reading the files of cgroups may delay answers: {e}");
        }
        let every = u64::try_from(EVERY.as_nanos()).unwrap_or(u64::MAX);
        // Of the look at processes that was taken in.
        let mut taken_ns = None;
        while !self.common.wake.is_stopped() {
            if let Some(snapshot) = self.common.published.load_full()
                && let Some(who) = snapshot.who.as_deref()
                && taken_ns.is_none_or(|last: u64| who.taken_ns >= last.saturating_add(every))
            {
                taken_ns = Some(who.taken_ns);
                let report = self.look(&snapshot, who);
                self.report.store(Some(Arc::new(report)));
            }
            self.common.wake.wait(POLL);
        }
    }

    fn look(&mut self, snapshot: &Snapshot, who: &Who) -> Report {
        let names = self.names(snapshot, who);
        let name = |id: u64| names.get(&id).cloned();
        self.table.look(who.sums.iter().map(|(id, bytes)| (names.get(id).map(|n| &**n), *bytes)));
        self.table.stalls(&snapshot.stall_clock, name);
        self.table.reclaim(&snapshot.reclaim, name);
        for (path, kills) in self.killed.take() {
            self.table.kill(path.as_deref(), kills);
        }
        let mut shown = Vec::new();
        let paths: Vec<_> = self.table.shown().map(|(path, _)| Arc::clone(path)).collect();
        for path in paths {
            let found = cgroup_files::found(&self.roots, &path);
            let Some((totals, found)) = self.table.found(&path, found) else {
                self.table.forget(&path);
                continue;
            };
            let (identity, totals) = (Identity::of(&path), totals.clone());
            shown.push(Shown { path, identity, totals, found });
        }
        Report { shown, other: self.table.other().clone(), omitted: self.table.omitted() }
    }

    /// What the groups are called that have processes or have stalled. Where nobody tells of new groups (no
    /// probe, or a path that was cut) the tree is walked for those that are not known.
    fn names(&mut self, snapshot: &Snapshot, who: &Who) -> HashMap<u64, Arc<str>> {
        let ids: BTreeSet<u64> = (who.sums.iter().map(|(id, _)| *id))
            .chain(snapshot.stall_clock.iter().map(|(id, _)| *id))
            .chain(snapshot.reclaim.iter().map(|one| one.cgroup))
            .collect();
        let known = || directory::names(&self.directory, ids.iter().copied());
        let mut names = known();
        let nameless = |names: &HashMap<u64, _>| -> BTreeSet<u64> {
            ids.iter().filter(|id| !names.contains_key(id)).copied().collect()
        };
        if !nameless(&names).is_subset(&self.nameless)
            && directory::walk(&self.directory, monotonic_ns(), WALK_EVERY)
        {
            names = known();
            self.nameless = nameless(&names);
        }
        names
    }
}
