//! The thread that looks at cgroups. Nobody waits for it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tracing::warn;

use super::{CgroupReport, Killed, Published, ShownCgroup, table::Selection};
use crate::{
    directory,
    host::{cgroup_files, clock::monotonic_ns, memcg::CgroupMounts, survive::wait_your_turn},
    identity::WorkloadId,
    sense::Common,
    snapshot::Snapshot,
    who::MemoryUsage,
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
pub struct Collector {
    common: Common,
    directory: directory::SharedPaths,
    killed: Arc<Killed>,
    table: Selection,
    roots: CgroupMounts,
    report: Published,
    /// Ids that have no name after a walk either: not worth another.
    nameless: BTreeSet<u64>,
    /// Ids of groups that were seen to have the memory controller: not asked for again.
    charged: BTreeSet<u64>,
}

impl Collector {
    /// Of the groups in `directory`; publishes in `report`.
    pub fn new(
        common: Common,
        directory: directory::SharedPaths,
        killed: Arc<Killed>,
        table: Selection,
        roots: CgroupMounts,
        report: Published,
    ) -> Self {
        let (nameless, charged) = (BTreeSet::new(), BTreeSet::new());
        Self { common, directory, killed, table, roots, report, nameless, charged }
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

    fn look(&mut self, snapshot: &Snapshot, who: &MemoryUsage) -> CgroupReport {
        let names = self.names(snapshot, who);
        let name = |id: u64| names.get(&id).cloned();
        self.table.look(who.sums.iter().map(|(id, bytes)| (names.get(id).map(|n| &**n), *bytes)));
        self.table.stalls(&snapshot.stall_clock, name);
        self.table.reclaim(&snapshot.reclaim, name);
        for (path, kills) in self.killed.take() {
            let path = path.as_deref().map(|path| cgroup_files::charged(&self.roots, path));
            self.table.kill(path, kills);
        }
        let mut shown = Vec::new();
        let paths: Vec<_> = self.table.shown().map(|(path, _)| Arc::clone(path)).collect();
        for path in paths {
            let found = cgroup_files::found(&self.roots, &path);
            let Some((totals, found)) = self.table.found(&path, found) else {
                self.table.forget(&path);
                continue;
            };
            let (workload, totals) = (WorkloadId::of(&path), totals.clone());
            shown.push(ShownCgroup { path, workload, totals, found });
        }
        CgroupReport { shown, other: self.table.other().clone(), omitted: self.table.omitted() }
    }

    /// What the groups are called that have processes or have stalled. Where nobody tells of new groups (no
    /// probe, or a path that was cut) the tree is walked for those that are not known.
    fn names(&mut self, snapshot: &Snapshot, who: &MemoryUsage) -> HashMap<u64, Arc<str>> {
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
        self.charge(&mut names);
        names
    }

    /// Has what happens in a group without the memory controller count for the one above that has it.
    fn charge(&mut self, names: &mut HashMap<u64, Arc<str>>) {
        self.charged.retain(|id| names.contains_key(id));
        for (id, path) in names {
            if self.charged.contains(id) {
                continue;
            }
            let charged = cgroup_files::charged(&self.roots, path);
            if charged.len() == path.len() {
                self.charged.insert(*id);
            } else {
                *path = Arc::from(charged);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt as _, path::Path, sync::Mutex};

    use super::*;
    use crate::{
        cgroups::Settings, deadlines::LoopLags, directory::CgroupPathCache, kernel::load::Coverage,
        sense::Wake,
    };

    fn snapshot(stall_clock: &[(u64, [u64; 4])]) -> Snapshot {
        Snapshot { stall_clock: stall_clock.into(), ..Snapshot::default() }
    }

    fn watch(root: &Path) -> Collector {
        let common = Common {
            published: Arc::default(),
            coverage: Arc::new(Coverage::blind("not tried")),
            deadlines: Arc::new(LoopLags::new(EVERY)),
            wake: Arc::new(Wake::new().expect("eventfd")),
        };
        let directory = Arc::new(Mutex::new(CgroupPathCache::new(Some(root.to_owned()))));
        let table = Selection::new(&Settings::default()).expect("valid");
        let roots = CgroupMounts { memory: root.to_owned(), v1: false, unified: None };
        Collector::new(common, directory, Arc::default(), table, roots, Arc::default())
    }

    #[test]
    fn a_service_is_shown_that_has_groups_without_the_controller() {
        let root = tempfile::tempdir().expect("tempdir");
        let (service, own) = (root.path().join("a.slice/b.service"), "a.slice/b.service/own");
        fs::create_dir_all(root.path().join(own)).expect("mkdir");
        fs::write(service.join("memory.current"), "7\n").expect("write");
        let id = fs::metadata(root.path().join(own)).expect("stat").ino();
        let mut watch = watch(root.path());
        watch.killed.note(Some(&format!("/{own}").into()));
        let who = MemoryUsage { sums: vec![(id, 5)], ..MemoryUsage::default() };
        let report = watch.look(&snapshot(&[(id, [3, 0, 0, 0])]), &who);
        let [shown] = &report.shown[..] else { panic!("{report:?}") };
        assert_eq!((&*shown.path, shown.found.memory_bytes), ("/a.slice/b.service", Some(7)));
        assert_eq!((shown.totals.stall_ns[0], shown.totals.oom_kills, report.omitted), (3, 1, 0));
        // It gets the controller.
        fs::write(root.path().join(own).join("memory.current"), "6\n").expect("write");
        let report = watch.look(&snapshot(&[]), &who);
        assert!(report.shown.iter().any(|shown| *shown.path == *format!("/{own}")), "{report:?}");
    }
}
