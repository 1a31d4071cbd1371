//! Selects the cgroups that have metrics, and sums their counters. Pure.
//!
//! Not here: reading files and processes (`collector`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use sensor_ebpf::hist;

use super::{
    patterns::Patterns,
    settings::{MAX_HISTOGRAMS, Settings},
};
use sensor_core::{
    common::{
        counter::{rise_of_clock, rise_of_words},
        recent_labels::RecentLabels,
    },
    model::{
        cgroup_report::{CgroupCounters, CgroupStats},
        counters::{ByCause, CgroupReclaim},
    },
};

/// Collections for which a cgroup without processes stays shown: its service may be restarting.
const LINGER: u32 = 60;

/// Collections for which the path of a cgroup keeps its place among the labels after it was shown:
/// an hour or two.
const KEEP_LABEL: u64 = 720;

/// Places for labels, by the number of cgroups that are shown.
const LABELS: usize = 4;

/// The cgroups that are shown.
#[derive(Debug)]
pub struct Selection {
    paths: Patterns,
    histograms: Patterns,
    most: usize,
    /// Paths that are or were shown: whoever creates and removes cgroups must not make series without
    /// end.
    labels: RecentLabels<Arc<str>>,
    shown: BTreeMap<Arc<str>, Entry>,
    other: CgroupCounters,
    omitted: usize,
    collections: u32,
    /// The highest value of each cgroup's stall clock, by id.
    clocks: HashMap<u64, ByCause>,
    /// The last histograms of reclaim, by id and kind.
    reclaim: HashMap<(u64, u8), [u64; hist::WORDS]>,
}

#[derive(Debug, Default)]
struct Entry {
    counters: CgroupCounters,
    /// The last reading of its files.
    stats: CgroupStats,
    /// The collection at which it last had processes.
    last_used: u32,
}

impl Selection {
    /// An error if a pattern is not valid.
    pub fn new(settings: &Settings) -> Result<Self> {
        Ok(Self {
            paths: Patterns::new(&settings.paths).context("cgroups.paths")?,
            histograms: Patterns::new(&settings.histograms).context("cgroups.histograms")?,
            most: settings.most,
            labels: RecentLabels::keeping(KEEP_LABEL),
            shown: BTreeMap::new(),
            other: CgroupCounters::default(),
            omitted: 0,
            collections: 0,
            clocks: HashMap::new(),
            reclaim: HashMap::new(),
        })
    }

    /// Updates the selection by the own memory of each cgroup's processes: path, if it is known,
    /// and bytes.
    pub fn select<'a>(&mut self, cgroups: impl IntoIterator<Item = (Option<&'a str>, u64)>) {
        self.collections = self.collections.saturating_add(1);
        let mut sizes = BTreeMap::<&str, u64>::new();
        let mut unnamed = 0;
        for (path, bytes) in cgroups {
            unnamed += usize::from(path.is_none());
            if let Some(cgroup) = path.and_then(|path| self.paths.deepest(path)) {
                let sum = sizes.entry(cgroup).or_default();
                *sum = sum.saturating_add(bytes);
            }
        }
        let collections = self.collections;
        for (path, entry) in &mut self.shown {
            if sizes.contains_key(&**path) {
                entry.last_used = collections;
            }
        }
        let mut ranked: Vec<_> = sizes
            .iter()
            .map(|(path, bytes)| {
                // A shown cgroup stays unless another has twice its memory: series should be
                // stable.
                let weight = if self.shown.contains_key(*path) { 2 } else { 1 };
                (std::cmp::Reverse(bytes.saturating_mul(weight)), *path)
            })
            .collect();
        ranked.sort_unstable();
        let mut keep: BTreeSet<Arc<str>> = BTreeSet::new();
        for (_, path) in &ranked {
            if keep.len() < self.most && self.admit(path) {
                keep.insert(Arc::from(*path));
            }
        }
        let linger = self.shown.iter().filter(|(path, entry)| {
            !sizes.contains_key(&***path) && entry.last_used.saturating_add(LINGER) >= collections
        });
        let room = self.most.saturating_sub(keep.len());
        let lingering: Vec<_> = linger.map(|(path, _)| Arc::clone(path)).take(room).collect();
        keep.extend(lingering);
        self.omitted = unnamed + sizes.keys().filter(|path| !keep.contains(**path)).count();
        self.shown.retain(|path, _| keep.contains(path));
        for path in keep {
            self.shown.entry(path).or_insert(Entry { last_used: collections, ..Entry::default() });
        }
    }

    /// Stores a reading of a cgroup's files. Returns the cgroup's counters and last reading, or
    /// `None` if all are empty. A removed cgroup keeps its counters: they help to find out why its
    /// container died.
    pub fn update_stats(
        &mut self,
        path: &str,
        stats: CgroupStats,
    ) -> Option<(&CgroupCounters, CgroupStats)> {
        let entry = self.shown.get_mut(path)?;
        let exists = stats.memory_bytes.is_some();
        entry.stats = if exists { stats } else { entry.stats.counters() };
        let has_data =
            exists || entry.stats.has_counted() || entry.counters != CgroupCounters::default();
        has_data.then_some((&entry.counters, entry.stats))
    }

    /// Removes a cgroup from the selection. Its counts are dropped: added to `other`, they would
    /// appear as a burst there.
    pub fn remove(&mut self, path: &str) {
        self.shown.remove(path);
    }

    /// Adds the rise of each cgroup's stall clock; `path` returns the path of an id. The first
    /// value counts completely: clocks start when the probes are attached.
    pub fn add_stalls(&mut self, clock: &[(u64, ByCause)], path: impl Fn(u64) -> Option<Arc<str>>) {
        let mut clocks = HashMap::with_capacity(clock.len());
        for (id, now) in clock {
            let mut last = self.clocks.get(id).copied().unwrap_or_default();
            let stall_ns = std::array::from_fn(|i| rise_of_clock(&mut last[i], now[i]));
            let rose = CgroupCounters { stall_ns, ..CgroupCounters::default() };
            clocks.insert(*id, last);
            if rose != CgroupCounters::default() {
                self.counters_of(path(*id).as_deref()).add(&rose);
            }
        }
        self.clocks = clocks;
    }

    /// Adds durations of reclaim in the same way. A cgroup without a histogram counts for `other`.
    pub fn add_reclaim(&mut self, clock: &[CgroupReclaim], path: impl Fn(u64) -> Option<Arc<str>>) {
        let mut clocks = HashMap::with_capacity(clock.len());
        for CgroupReclaim { cgroup, kind, words } in clock {
            let key = (*cgroup, *kind as u8);
            let rose = match self.reclaim.get(&key) {
                Some(last) => rise_of_words(words, last),
                None => *words,
            };
            clocks.insert(key, *words);
            if rose.iter().any(|word| *word > 0) {
                let path = path(*cgroup);
                let path = path.as_deref().filter(|path| self.has_histograms(path));
                self.counters_of(path).add_reclaim(*kind, &rose);
            }
        }
        self.reclaim = clocks;
    }

    fn has_histograms(&self, path: &str) -> bool {
        let Some(cgroup) = self.paths.deepest(path) else { return false };
        let has = |entry: &Entry| entry.counters.reclaim.is_some();
        self.histograms.match_path(cgroup)
            && (self.shown.get(cgroup).is_some_and(has)
                || self.shown.values().filter(|entry| has(entry)).count() < MAX_HISTOGRAMS)
    }

    /// Adds OOM kills in the cgroup with that path, if it is known.
    pub fn add_kills(&mut self, path: Option<&str>, kills: u64) {
        self.counters_of(path)
            .add(&CgroupCounters { oom_kills: kills, ..CgroupCounters::default() });
    }

    /// Whether a cgroup may be shown: its label is a recent one, or there is a place for it.
    fn admit(&mut self, path: &str) -> bool {
        let (now, places) = (u64::from(self.collections), LABELS.saturating_mul(self.most));
        self.labels.admit(path, now, places, || Arc::from(path))
    }

    fn counters_of(&mut self, path: Option<&str>) -> &mut CgroupCounters {
        let Some(cgroup) = path.and_then(|path| self.paths.deepest(path)) else {
            return &mut self.other;
        };
        // A process may be killed before its cgroup is selected for the first time.
        if !self.shown.contains_key(cgroup) && self.shown.len() < self.most && self.admit(cgroup) {
            let entry = Entry { last_used: self.collections, ..Entry::default() };
            self.shown.insert(Arc::from(cgroup), entry);
        }
        self.shown.get_mut(cgroup).map_or(&mut self.other, |entry| &mut entry.counters)
    }

    /// The cgroups that are shown, by path.
    pub fn shown(&self) -> impl Iterator<Item = (&Arc<str>, &CgroupCounters)> {
        self.shown.iter().map(|(path, entry)| (path, &entry.counters))
    }

    /// The sum over all other cgroups.
    pub fn other(&self) -> &CgroupCounters {
        &self.other
    }

    /// Cgroups that have processes and are not shown, although a pattern matches or their path is
    /// not known.
    pub fn omitted(&self) -> usize {
        self.omitted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sensor_ebpf::inflight::Kind;

    use super::*;

    fn selection(most: usize) -> Selection {
        Selection::new(&Settings { most, ..Settings::default() }).expect("valid")
    }

    fn settings(path: &str) -> Settings {
        Settings { paths: vec![path.into()], most: 1, ..Settings::default() }
    }

    fn counters(stall_ns: ByCause, oom_kills: u64) -> CgroupCounters {
        CgroupCounters { stall_ns, oom_kills, reclaim: None }
    }

    fn paths(selection: &Selection) -> Vec<&str> {
        selection.shown().map(|(path, _)| &**path).collect()
    }

    #[test]
    fn a_process_counts_for_the_deepest_matching_cgroup() {
        let defaults = selection(1);
        for (path, cgroup) in [
            ("/", None),
            ("/init.scope", Some("/init.scope")),
            ("/system.slice/nginx.service", Some("/system.slice/nginx.service")),
            (
                "/user.slice/user-1.slice/user@1.service/app.slice/x",
                Some("/user.slice/user-1.slice/user@1.service"),
            ),
            (
                "/kubepods.slice/b.slice/pod.slice/cri-1.scope/inner",
                Some("/kubepods.slice/b.slice/pod.slice/cri-1.scope"),
            ),
            ("/a/b/c/d", Some("/a/b/c")),
        ] {
            assert_eq!(defaults.paths.deepest(path), cgroup, "{path}");
        }
        let services = Selection::new(&settings("/x/*.service")).expect("valid");
        assert_eq!(services.paths.deepest("/x/y.service/z"), Some("/x/y.service"));
        assert_eq!(services.paths.deepest("/x/y/z.service"), None, "* matches no slash");
        assert!(Selection::new(&settings("/[")).is_err());
    }

    #[test]
    fn the_largest_are_shown_and_do_not_flap() {
        let mut selection = selection(2);
        selection.select([(Some("/a"), 10), (Some("/b"), 20), (Some("/c"), 30)]);
        assert_eq!((paths(&selection), selection.omitted()), (vec!["/b", "/c"], 1));
        selection.select([(Some("/a"), 39), (Some("/b"), 20), (Some("/c"), 30)]);
        assert_eq!(paths(&selection), ["/b", "/c"], "not twice as much");
        selection.select([(Some("/a"), 41), (Some("/b"), 20), (Some("/c"), 30)]);
        assert_eq!((paths(&selection), selection.omitted()), (vec!["/a", "/c"], 1));
        selection.select([
            (Some("/a"), 41),
            (Some("/b"), 20),
            (Some("/c"), 30),
            (None, 5),
            (None, 0),
        ]);
        assert_eq!(
            (paths(&selection), selection.omitted()),
            (vec!["/a", "/c"], 3),
            "and two without a path"
        );
        // /c, which may be a restarting service, stays for a while, unless its place is needed.
        selection.select([(Some("/a"), 41)]);
        assert_eq!(paths(&selection), ["/a", "/c"]);
        selection.select([(Some("/a"), 41), (Some("/d"), 1)]);
        assert_eq!(paths(&selection), ["/a", "/d"]);
        for _ in 0..=LINGER {
            selection.select([(Some("/d"), 1)]);
        }
        assert_eq!(paths(&selection), ["/d"]);
    }

    /// A user creates and removes cgroups all day, each with a new name.
    #[test]
    fn new_labels_are_bounded_over_time() {
        let mut selection = selection(2);
        let (mut labels, mut omitted) = (BTreeSet::new(), 0);
        // Every five seconds.
        let collections = 24 * 720;
        for at in 0..collections {
            let new = [format!("/u/{at}"), format!("/v/{at}")];
            let new = new.iter().map(|path| (Some(path.as_str()), 50));
            selection.select(new.chain([(Some("/service"), 100)]));
            selection.add_kills(Some(&format!("/killed/{at}")), 1);
            labels.extend(paths(&selection).into_iter().map(str::to_owned));
            assert!(paths(&selection).contains(&"/service"), "its label is recent");
            omitted += selection.omitted();
        }
        assert!(labels.len() <= 24 * 2 * LABELS + 1, "{}", labels.len());
        assert!(omitted >= collections, "{omitted}");
        assert!(selection.other().oom_kills > 17_000, "{}", selection.other().oom_kills);
    }

    #[test]
    fn a_removed_cgroup_keeps_its_counters_for_a_while() {
        let mut selection = selection(2);
        selection.select([(Some("/a"), 10)]);
        selection.add_kills(Some("/short"), 1);
        for _ in 0..LINGER {
            selection.select([(Some("/a"), 10)]);
        }
        assert_eq!(paths(&selection), ["/a", "/short"]);
        selection.select([(Some("/a"), 10)]);
        assert_eq!((paths(&selection), selection.other().oom_kills), (vec!["/a"], 0));
    }

    #[test]
    fn counters_of_files_outlive_the_cgroup() {
        let mut selection = selection(2);
        selection.select([(Some("/a"), 10), (Some("/idle"), 10)]);
        let busy = CgroupStats {
            memory_bytes: Some(5),
            limit_bytes: Some(6),
            swap_bytes: Some(7),
            refaulted_bytes: Some(8),
            limit_hits: Some(9),
            pressure_ns: Some([2, 1]),
        };
        let idle =
            CgroupStats { limit_hits: Some(0), memory_bytes: Some(5), ..CgroupStats::default() };
        let mut update = |path, stats| selection.update_stats(path, stats).map(|(_, stats)| stats);
        assert_eq!(update("/a", busy), Some(busy));
        let counters =
            CgroupStats { memory_bytes: None, limit_bytes: None, swap_bytes: None, ..busy };
        for _ in 0..3 {
            assert_eq!(update("/a", CgroupStats::default()), Some(counters), "removed");
        }
        assert_eq!(update("/a", idle), Some(idle), "created again");
        assert_eq!(update("/idle", idle), Some(idle));
        assert_eq!(update("/idle", CgroupStats::default()), None, "it counted nothing");
        assert_eq!(update("/unknown", busy), None);
    }

    #[test]
    fn stalls_and_kills_count_once_for_a_cgroup_or_other() {
        let mut selection = Selection::new(&settings("/*")).expect("valid");
        selection.select([(Some("/a"), 10), (Some("/b"), 5)]);
        let path = |id: u64| {
            [None, Some("/a/x"), Some("/b")][usize::try_from(id).unwrap_or(0)].map(Arc::from)
        };
        selection
            .add_stalls(&[(0, [1, 0, 0, 0, 0]), (1, [5, 0, 0, 2, 0]), (2, [7, 0, 0, 0, 0])], path);
        selection.add_stalls(&[(1, [6, 0, 0, 2, 0]), (2, [7, 1, 0, 0, 0])], path);
        selection.add_kills(Some("/a/x/y/z"), 1);
        selection.add_kills(Some("/b"), 1);
        selection.add_kills(None, 1);
        let shown = |selection: &Selection| {
            selection.shown().map(|(_, counters)| counters.clone()).collect::<Vec<_>>()
        };
        assert_eq!(shown(&selection), [counters([6, 0, 0, 2, 0], 1)]);
        assert_eq!(*selection.other(), counters([8, 1, 0, 0, 0], 2));
        // The kernel half evicted the clock, or dropped a stall without an end: it rises from there.
        selection.add_stalls(&[(1, [1, 0, 0, 0, 0])], path);
        selection.add_stalls(&[(1, [2, 0, 0, 0, 0])], path);
        assert_eq!(shown(&selection), [counters([7, 0, 0, 2, 0], 1)]);
        // A removed cgroup's counts are not added to the others'.
        let other = selection.other().clone();
        selection.remove("/a");
        assert_eq!((selection.shown().count(), selection.other()), (0, &other));
    }

    /// A histogram with `stalls` in the first bucket.
    fn reclaim(cgroup: u64, kind: Kind, stalls: u64) -> CgroupReclaim {
        let mut words = [0; hist::WORDS];
        [words[0], words[1]] = [stalls * 900, stalls];
        CgroupReclaim { cgroup, kind, words }
    }

    /// Reclaims in the first bucket, by kind.
    fn reclaims(counters: &CgroupCounters) -> Option<[u64; 2]> {
        counters.reclaim.as_deref().map(|histograms| histograms.map(|words| words[1]))
    }

    #[test]
    fn reclaim_counts_for_a_cgroup_with_histograms_or_other() {
        let paths = vec!["/*".into(), "/*/*".into()];
        let histograms = vec!["/web/*".into(), "/odd/x/y".into()];
        let mut selection =
            Selection::new(&Settings { paths, most: 9, histograms }).expect("valid");
        selection.select([(Some("/web/a"), 1), (Some("/db"), 1)]);
        let path = |id: u64| {
            let paths = ["/web/a", "/web/a/below", "/db", "/web", "/odd/x/y"];
            paths.get(usize::try_from(id).ok()?).map(|path| Arc::from(*path))
        };
        selection.add_reclaim(
            &[
                reclaim(0, Kind::Direct, 1),
                reclaim(0, Kind::Memcg, 10),
                reclaim(1, Kind::Memcg, 100),
                reclaim(2, Kind::Direct, 1),
                reclaim(3, Kind::Direct, 10),
                // Shown as /odd/x, which has no histograms.
                reclaim(4, Kind::Direct, 100),
                reclaim(77, Kind::Memcg, 5),
            ],
            path,
        );
        let web = |selection: &Selection| {
            let mut shown = selection.shown();
            reclaims(shown.find(|(path, _)| &***path == "/web/a").expect("shown").1)
        };
        assert_eq!(web(&selection), Some([1, 110]));
        assert_eq!(reclaims(selection.other()), Some([111, 5]));
        // The kernel half evicted the first histogram; the other rises by 1. Repeated values add
        // nothing.
        selection.add_reclaim(&[reclaim(0, Kind::Memcg, 3), reclaim(1, Kind::Memcg, 101)], path);
        selection.add_reclaim(&[reclaim(0, Kind::Memcg, 3), reclaim(1, Kind::Memcg, 101)], path);
        assert_eq!(web(&selection), Some([1, 114]));
    }

    #[test]
    fn histograms_are_bounded() {
        let histograms = vec!["/*".into()];
        let mut selection =
            Selection::new(&Settings { histograms, ..Settings::default() }).expect("valid");
        let path = |id: u64| Some(Arc::from(format!("/g{id}")));
        for _ in 0..2 {
            let clock: Vec<_> = (0..50).map(|id| reclaim(id, Kind::Direct, 1)).collect();
            selection.add_reclaim(&clock, path);
        }
        let shown = selection.shown().filter(|(_, counters)| counters.reclaim.is_some()).count();
        assert_eq!(shown, MAX_HISTOGRAMS);
        assert_eq!(reclaims(selection.other()), Some([50 - MAX_HISTOGRAMS as u64, 0]));
    }

    proptest! {
        #[test]
        fn the_selection_is_bounded_and_a_kill_counts_once(
            scans in prop::collection::vec(
                prop::collection::vec((0u8..40, 0u64..1000), 0..40),
                1..30,
            ),
        ) {
            let mut selection = selection(7);
            for scan in &scans {
                let sizes: Vec<_> =
                    scan.iter().map(|(n, size)| (format!("/g{n}"), *size)).collect();
                let other = selection.other().clone();
                selection.select(sizes.iter().map(|(path, size)| (Some(path.as_str()), *size)));
                prop_assert_eq!(selection.other(), &other, "a selection counts nothing");
                let kills = |selection: &Selection| {
                    let shown = selection.shown().map(|(_, counters)| counters.oom_kills);
                    shown.sum::<u64>() + selection.other().oom_kills
                };
                let before = kills(&selection);
                selection.add_kills(sizes.first().map(|(path, _)| path.as_str()), 1);
                prop_assert_eq!(kills(&selection), before + 1);
                prop_assert!(selection.shown().count() <= 7);
            }
        }
    }
}
