//! The thread that collects the report on cgroups. Nothing waits for it; it runs at normal
//! priority.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use sensor_core::{
    common::{counter::nanos, text::is_at_or_below},
    model::{
        cgroup_report::{CgroupReport, ShownCgroup},
        memory_usage::MemoryUsage,
        snapshot::Snapshot,
        workload::WorkloadId,
    },
    verdict::explain::UncountedLimit,
};
use tracing::warn;

use super::{
    limits::LimitStalls, selection::Selection, served::ServedPatterns, shared_paths::SharedPaths,
    walker::Walker,
};
use crate::{
    host::cgroup::{mounts::CgroupMounts, stats},
    publish::{
        cgroup_report::PublishedCgroups, control::Shutdown, oom_kills::OomKillCounts,
        sample::PublishedSample, served_paths::ServedPaths, usage::PublishedUsage,
    },
};

/// Shortest time between two collections; each follows a scan of processes.
const INTERVAL: Duration = Duration::from_secs(5);

/// How often the thread checks whether there is a new scan.
const POLL: Duration = Duration::from_secs(1);

/// Shortest time between two walks for paths that are not known.
const WALK_INTERVAL: Duration = Duration::from_secs(10);

/// Inputs of the collector.
#[derive(Debug)]
pub struct Inputs {
    /// The last sample.
    pub sample: PublishedSample,
    /// The last scan of processes.
    pub usage: Arc<PublishedUsage>,
    /// OOM kills by path.
    pub kills: Arc<OomKillCounts>,
    /// Paths of cgroups.
    pub paths: SharedPaths,
    /// Mount points of the hierarchies.
    pub mounts: CgroupMounts,
    /// Which cgroups the host serves from.
    pub patterns: ServedPatterns,
    /// Paths of the cgroups that have a verdict of their own.
    pub scopes: Vec<String>,
    /// Where those that exist are published.
    pub served: ServedPaths,
    /// Ends the thread.
    pub shutdown: Arc<Shutdown>,
}

/// Collects the report on cgroups.
#[derive(Debug)]
pub struct Collector {
    inputs: Inputs,
    selection: Selection,
    walker: Walker,
    report: PublishedCgroups,
    limits: LimitStalls,
    /// Ids without a path after the last walk: they cause no other walk.
    unnamed: BTreeSet<u64>,
    /// Ids of cgroups that have the memory controller: not checked again.
    charged: BTreeSet<u64>,
}

impl Collector {
    /// Publishes to `report`.
    pub fn new(inputs: Inputs, selection: Selection, report: PublishedCgroups) -> Self {
        let walker = Walker::new(Arc::clone(&inputs.paths));
        let (unnamed, charged) = (BTreeSet::new(), BTreeSet::new());
        let limits = LimitStalls::default();
        Self { inputs, selection, walker, report, limits, unnamed, charged }
    }

    /// Collects until shutdown.
    pub fn run(mut self) {
        // The time of the scan that the last report is from.
        let mut taken_ns = None;
        while !self.inputs.shutdown.is_requested() {
            self.walker.serve();
            if let Some(sample) = self.inputs.sample.load_full()
                && let Some(usage) = self.inputs.usage.load()
                && taken_ns
                    .is_none_or(|last: u64| usage.taken_ns >= last.saturating_add(nanos(INTERVAL)))
            {
                taken_ns = Some(usage.taken_ns);
                let report = self.collect(&sample.snapshot, &usage);
                self.report.store(Some(Arc::new(report)));
            }
            self.walker.wait(&self.inputs.shutdown, POLL);
        }
    }

    fn collect(&mut self, snapshot: &Snapshot, usage: &MemoryUsage) -> CgroupReport {
        let paths = self.paths(snapshot, usage);
        self.publish_served(&paths);
        let uncounted = self.uncounted(snapshot, &paths);
        let path = |id: u64| paths.get(&id).cloned();
        let sizes = usage.sums.iter().map(|(id, bytes)| (paths.get(id).map(|p| &**p), *bytes));
        self.selection.select(sizes);
        self.selection.add_stalls(&snapshot.stall_clock, path);
        self.selection.add_reclaim(&snapshot.reclaim, path);
        for (path, kills) in &*self.inputs.kills.take_by_path() {
            let path = path.as_deref().map(|path| stats::charged(&self.inputs.mounts, path));
            self.selection.add_kills(path, *kills);
        }
        let mut shown = Vec::new();
        let selected: Vec<_> = self.selection.shown().map(|(path, _)| Arc::clone(path)).collect();
        for path in selected {
            // An event may wait for a walk.
            self.walker.serve();
            let stats = stats::read_stats(&self.inputs.mounts, &path);
            let Some((counters, stats)) = self.selection.update_stats(&path, stats) else {
                self.selection.remove(&path);
                continue;
            };
            let (workload, counters) = (WorkloadId::of(&path), counters.clone());
            shown.push(ShownCgroup { path, workload, counters, stats });
        }
        let (other, omitted) = (self.selection.other().clone(), self.selection.omitted());
        let paths_dropped = self.inputs.paths.lock().dropped();
        CgroupReport { uncounted, shown, other, omitted, paths_dropped }
    }

    /// The cgroup whose limit stalls tasks most and is not counted for the host; logs it once.
    fn uncounted(
        &mut self,
        snapshot: &Snapshot,
        paths: &HashMap<u64, Arc<str>>,
    ) -> Option<UncountedLimit> {
        let Inputs { patterns, scopes, .. } = &self.inputs;
        let is_scope = |path: &str| scopes.iter().any(|scope| is_at_or_below(path, scope));
        let path = |id: u64| {
            paths.get(&id).filter(|path| !patterns.covers(path) && !is_scope(path)).cloned()
        };
        let found = self.limits.update(snapshot.stall_clock_ns, &snapshot.stall_clock, path)?;
        if self.limits.is_new(&found.cgroup) {
            warn!("{found}");
        }
        Some(found)
    }

    fn publish_served(&self, paths: &HashMap<u64, Arc<str>>) {
        let served = self.inputs.patterns.matching(paths.values());
        if **self.inputs.served.load() != served {
            self.inputs.served.store(Arc::new(served));
        }
    }

    /// Paths of the cgroups that have processes or have stalled. Where the kernel half reports no
    /// new cgroups (no probe, or a path that was cut), a walk finds those that are not known.
    fn paths(&mut self, snapshot: &Snapshot, usage: &MemoryUsage) -> HashMap<u64, Arc<str>> {
        let ids: BTreeSet<u64> = (usage.sums.iter().map(|(id, _)| *id))
            .chain(snapshot.stall_clock.iter().map(|(id, _)| *id))
            .chain(snapshot.reclaim.iter().map(|reclaim| reclaim.cgroup))
            .collect();
        let cache = Arc::clone(&self.inputs.paths);
        let known = || cache.of(ids.iter().copied());
        let mut paths = known();
        let unnamed = |paths: &HashMap<u64, _>| -> BTreeSet<u64> {
            ids.iter().filter(|id| !paths.contains_key(id)).copied().collect()
        };
        if !unnamed(&paths).is_subset(&self.unnamed) && self.walker.walk(WALK_INTERVAL) {
            paths = known();
            self.unnamed = unnamed(&paths);
        }
        self.charge(&mut paths);
        paths
    }

    /// Replaces the path of a cgroup without the memory controller by that of the one above that
    /// has it.
    fn charge(&mut self, paths: &mut HashMap<u64, Arc<str>>) {
        self.charged.retain(|id| paths.contains_key(id));
        for (id, path) in paths {
            if self.charged.contains(id) {
                continue;
            }
            let charged = stats::charged(&self.inputs.mounts, path);
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
    use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

    use sensor_core::model::counters::ByCause;

    use super::*;
    use crate::cgroups::{settings::Settings, shared_paths::CgroupPaths};

    fn snapshot(stall_clock: &[(u64, ByCause)]) -> Snapshot {
        Snapshot { stall_clock: stall_clock.into(), ..Snapshot::default() }
    }

    fn collector(root: &Path) -> Collector {
        let inputs = Inputs {
            sample: Arc::default(),
            usage: Arc::default(),
            kills: Arc::default(),
            paths: Arc::new(CgroupPaths::new(Some(root.to_owned())).expect("eventfd")),
            mounts: CgroupMounts { memory: root.to_owned(), v1: false, unified: None },
            patterns: ServedPatterns::new(&[]).expect("valid"),
            scopes: Vec::new(),
            served: Arc::default(),
            shutdown: Arc::new(Shutdown::new().expect("eventfd")),
        };
        let selection = Selection::new(&Settings::default()).expect("valid");
        Collector::new(inputs, selection, Arc::default())
    }

    #[test]
    fn a_service_counts_for_its_cgroups_without_the_controller() {
        let root = tempfile::tempdir().expect("tempdir");
        let (service, own) = (root.path().join("a.slice/b.service"), "a.slice/b.service/own");
        fs::create_dir_all(root.path().join(own)).expect("mkdir");
        fs::write(service.join("memory.current"), "7\n").expect("write");
        let id = fs::metadata(root.path().join(own)).expect("stat").ino();
        let mut collector = collector(root.path());
        collector.inputs.kills.count(Some(&format!("/{own}").into()), |_| false);
        let usage = MemoryUsage { sums: vec![(id, 5)], ..MemoryUsage::default() };
        let report = collector.collect(&snapshot(&[(id, [3, 0, 0, 0, 0])]), &usage);
        let [shown] = &report.shown[..] else { panic!("{report:?}") };
        assert_eq!((&*shown.path, shown.stats.memory_bytes), ("/a.slice/b.service", Some(7)));
        let counters = (shown.counters.stall_ns[0], shown.counters.oom_kills);
        assert_eq!((counters, report.omitted), ((3, 1), 0));
        // The cgroup gets the controller.
        fs::write(root.path().join(own).join("memory.current"), "6\n").expect("write");
        let report = collector.collect(&snapshot(&[]), &usage);
        let path = format!("/{own}");
        assert!(report.shown.iter().any(|shown| *shown.path == *path), "{report:?}");
    }
}
