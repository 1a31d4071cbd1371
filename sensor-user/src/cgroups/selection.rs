//! Which cgroups are shown, and what they counted. Pure: sizes, stalls and kills go in.

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
    common::counter::{rise_of_clock, rise_of_words},
    model::{
        cgroup_report::{CgroupCounters, CgroupStats},
        counters::{ByCause, CgroupReclaim},
    },
};

/// A cgroup without processes is shown for so many collections more: its service may be restarting.
const LINGER: u32 = 60;

/// The cgroups that are shown.
#[derive(Debug)]
pub struct Selection {
    paths: Patterns,
    histograms: Patterns,
    most: usize,
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
            shown: BTreeMap::new(),
            other: CgroupCounters::default(),
            omitted: 0,
            collections: 0,
            clocks: HashMap::new(),
            reclaim: HashMap::new(),
        })
    }

    /// Updates the selection by the own memory of each cgroup's processes: path, if it is known, and bytes.
    pub fn select<'a>(&mut self, groups: impl IntoIterator<Item = (Option<&'a str>, u64)>) {
        self.collections = self.collections.saturating_add(1);
        let mut sizes = BTreeMap::<&str, u64>::new();
        let mut unnamed = 0;
        for (path, bytes) in groups {
            unnamed += usize::from(path.is_none());
            if let Some(group) = path.and_then(|path| self.paths.deepest(path)) {
                let sum = sizes.entry(group).or_default();
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
                // A cgroup that is shown stays unless another has twice as much: series should be stable.
                let weight = if self.shown.contains_key(*path) { 2 } else { 1 };
                (std::cmp::Reverse(bytes.saturating_mul(weight)), *path)
            })
            .collect();
        ranked.sort_unstable();
        let linger = self.shown.iter().filter(|(path, entry)| {
            !sizes.contains_key(&***path) && entry.last_used.saturating_add(LINGER) >= collections
        });
        let mut keep: BTreeSet<Arc<str>> = BTreeSet::new();
        keep.extend(ranked.iter().take(self.most).map(|(_, path)| Arc::from(*path)));
        let room = self.most.saturating_sub(keep.len());
        let lingering: Vec<_> = linger.map(|(path, _)| Arc::clone(path)).take(room).collect();
        keep.extend(lingering);
        self.omitted = unnamed + sizes.keys().filter(|path| !keep.contains(**path)).count();
        let gone: Vec<_> = self.shown.keys().filter(|p| !keep.contains(*p)).cloned().collect();
        for path in gone {
            self.remove(&path);
        }
        for path in keep {
            self.shown.entry(path).or_insert(Entry { last_used: collections, ..Entry::default() });
        }
    }

    /// Stores a reading of a cgroup's files; returns all that is known of the cgroup, or `None` if that is
    /// nothing. A removed cgroup keeps its counters: they help to find out why its container died.
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

    /// Removes a cgroup from the selection. Its counts are dropped: added to `other`, they would look like a
    /// burst there.
    pub fn remove(&mut self, path: &str) {
        self.shown.remove(path);
    }

    /// Adds the rise of each cgroup's stall clock; `path` returns the path of an id. The first value counts
    /// too: it is since the probes were attached.
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
                let group = path.as_deref().filter(|path| self.has_histograms(path));
                self.counters_of(group).add_reclaim(*kind, &rose);
            }
        }
        self.reclaim = clocks;
    }

    fn has_histograms(&self, path: &str) -> bool {
        let Some(group) = self.paths.deepest(path) else { return false };
        let has = |entry: &Entry| entry.counters.reclaim.is_some();
        self.histograms.match_path(group)
            && (self.shown.get(group).is_some_and(has)
                || self.shown.values().filter(|entry| has(entry)).count() < MAX_HISTOGRAMS)
    }

    /// Adds OOM kills in the cgroup with that path, if it is known.
    pub fn add_kills(&mut self, path: Option<&str>, kills: u64) {
        self.counters_of(path)
            .add(&CgroupCounters { oom_kills: kills, ..CgroupCounters::default() });
    }

    fn counters_of(&mut self, path: Option<&str>) -> &mut CgroupCounters {
        let Some(group) = path.and_then(|path| self.paths.deepest(path)) else {
            return &mut self.other;
        };
        // A process may be killed before its cgroup was ever selected.
        if !self.shown.contains_key(group) && self.shown.len() < self.most {
            let entry = Entry { last_used: self.collections, ..Entry::default() };
            self.shown.insert(Arc::from(group), entry);
        }
        self.shown.get_mut(group).map_or(&mut self.other, |entry| &mut entry.counters)
    }

    /// The cgroups that are shown, by path.
    pub fn shown(&self) -> impl Iterator<Item = (&Arc<str>, &CgroupCounters)> {
        self.shown.iter().map(|(path, entry)| (path, &entry.counters))
    }

    /// The sum over all others.
    pub fn other(&self) -> &CgroupCounters {
        &self.other
    }

    /// Cgroups that have processes and are not shown, although a pattern matches or their path is not known.
    pub fn omitted(&self) -> usize {
        self.omitted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sensor_ebpf::inflight::Kind;

    use super::*;

    fn table(most: usize) -> Selection {
        Selection::new(&Settings { most, ..Settings::default() }).expect("valid")
    }

    fn settings(path: &str) -> Settings {
        Settings { paths: vec![path.into()], most: 1, ..Settings::default() }
    }

    fn totals(stall_ns: ByCause, oom_kills: u64) -> CgroupCounters {
        CgroupCounters { stall_ns, oom_kills, reclaim: None }
    }

    fn paths(table: &Selection) -> Vec<&str> {
        table.shown().map(|(path, _)| &**path).collect()
    }

    #[test]
    fn a_process_counts_for_the_deepest_group_that_is_named() {
        let table = table(1);
        for (path, group) in [
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
            assert_eq!(table.paths.deepest(path), group, "{path}");
        }
        let one = settings("/x/*.service");
        let one = Selection::new(&one).expect("valid");
        assert_eq!(one.paths.deepest("/x/y.service/z"), Some("/x/y.service"));
        assert_eq!(one.paths.deepest("/x/y/z.service"), None, "no name goes over a slash");
        assert!(Selection::new(&settings("/[")).is_err());
    }

    #[test]
    fn the_largest_are_shown_and_do_not_flap() {
        let mut table = table(2);
        table.select([(Some("/a"), 10), (Some("/b"), 20), (Some("/c"), 30)]);
        assert_eq!((paths(&table), table.omitted()), (vec!["/b", "/c"], 1));
        table.select([(Some("/a"), 39), (Some("/b"), 20), (Some("/c"), 30)]);
        assert_eq!(paths(&table), ["/b", "/c"], "not twice as much");
        table.select([(Some("/a"), 41), (Some("/b"), 20), (Some("/c"), 30)]);
        assert_eq!((paths(&table), table.omitted()), (vec!["/a", "/c"], 1));
        table.select([(Some("/a"), 41), (Some("/b"), 20), (Some("/c"), 30), (None, 5), (None, 0)]);
        assert_eq!(
            (paths(&table), table.omitted()),
            (vec!["/a", "/c"], 3),
            "and two without a name"
        );
        // A service that is started anew; its place is nobody's for a while, unless it is needed.
        table.select([(Some("/a"), 41)]);
        assert_eq!(paths(&table), ["/a", "/c"]);
        table.select([(Some("/a"), 41), (Some("/d"), 1)]);
        assert_eq!(paths(&table), ["/a", "/d"]);
        for _ in 0..=LINGER {
            table.select([(Some("/d"), 1)]);
        }
        assert_eq!(paths(&table), ["/d"]);
    }

    #[test]
    fn a_group_that_is_gone_tells_what_it_counted_for_a_while() {
        let mut table = table(2);
        table.select([(Some("/a"), 10)]);
        table.add_kills(Some("/short"), 1);
        for _ in 0..LINGER {
            table.select([(Some("/a"), 10)]);
        }
        assert_eq!(paths(&table), ["/a", "/short"]);
        table.select([(Some("/a"), 10)]);
        assert_eq!((paths(&table), table.other().oom_kills), (vec!["/a"], 0));
    }

    #[test]
    fn the_counters_of_a_group_s_files_outlive_it() {
        let mut table = table(2);
        table.select([(Some("/a"), 10), (Some("/idle"), 10)]);
        let found = CgroupStats {
            memory_bytes: Some(5),
            limit_bytes: Some(6),
            swap_bytes: Some(7),
            refaulted_bytes: Some(8),
            limit_hits: Some(9),
            pressure_ns: Some([2, 1]),
        };
        let idle =
            CgroupStats { limit_hits: Some(0), memory_bytes: Some(5), ..CgroupStats::default() };
        let mut tell = |path, found| table.update_stats(path, found).map(|(_, found)| found);
        assert_eq!(tell("/a", found), Some(found));
        let left = CgroupStats { memory_bytes: None, limit_bytes: None, swap_bytes: None, ..found };
        for _ in 0..3 {
            assert_eq!(tell("/a", CgroupStats::default()), Some(left), "it is gone");
        }
        assert_eq!(tell("/a", idle), Some(idle), "it was made anew");
        assert_eq!(
            (tell("/idle", idle), tell("/idle", CgroupStats::default())),
            (Some(idle), None)
        );
        assert_eq!(tell("/none", found), None);
    }

    #[test]
    fn what_happens_counts_once_for_the_group_or_for_the_others() {
        let top = settings("/*");
        let mut table = Selection::new(&top).expect("valid");
        table.select([(Some("/a"), 10), (Some("/b"), 5)]);
        let path = |id: u64| {
            [None, Some("/a/x"), Some("/b")][usize::try_from(id).unwrap_or(0)].map(Arc::from)
        };
        table.add_stalls(&[(0, [1, 0, 0, 0]), (1, [5, 0, 0, 2]), (2, [7, 0, 0, 0])], path);
        table.add_stalls(&[(1, [6, 0, 0, 2]), (2, [7, 1, 0, 0])], path);
        table.add_kills(Some("/a/x/y/z"), 1);
        table.add_kills(Some("/b"), 1);
        table.add_kills(None, 1);
        let of_a = totals([6, 0, 0, 2], 1);
        assert_eq!(table.shown().map(|(_, t)| t.clone()).collect::<Vec<_>>(), [of_a]);
        assert_eq!(*table.other(), totals([8, 1, 0, 0], 2));
        // The kernel half forgot it and begins anew.
        table.add_stalls(&[(1, [1, 0, 0, 0])], path);
        let of_a = totals([7, 0, 0, 2], 1);
        assert_eq!(table.shown().map(|(_, t)| t.clone()).collect::<Vec<_>>(), [of_a]);
        // Not told anew as the others'.
        let other = table.other().clone();
        table.remove("/a");
        assert_eq!((table.shown().count(), table.other()), (0, &other));
    }

    /// So many stalls of a microsecond at most, in a histogram of which nothing else is looked at.
    fn took(cgroup: u64, kind: Kind, stalls: u64) -> CgroupReclaim {
        let mut words = [0; hist::WORDS];
        [words[0], words[1]] = [stalls * 900, stalls];
        CgroupReclaim { cgroup, kind, words }
    }

    fn stalls(totals: &CgroupCounters) -> Option<[u64; 2]> {
        totals.reclaim.as_deref().map(|histograms| histograms.map(|words| words[1]))
    }

    #[test]
    fn reclaim_counts_for_the_group_that_has_histograms_or_for_the_others() {
        let paths = vec!["/*".into(), "/*/*".into()];
        let histograms = vec!["/web/*".into(), "/odd/x/y".into()];
        let mut table = Selection::new(&Settings { paths, most: 9, histograms }).expect("valid");
        table.select([(Some("/web/a"), 1), (Some("/db"), 1)]);
        let path = |id: u64| {
            let paths = ["/web/a", "/web/a/below", "/db", "/web", "/odd/x/y"];
            paths.get(usize::try_from(id).ok()?).map(|path| Arc::from(*path))
        };
        table.add_reclaim(
            &[
                took(0, Kind::Direct, 1),
                took(0, Kind::Memcg, 10),
                took(1, Kind::Memcg, 100),
                took(2, Kind::Direct, 1),
                took(3, Kind::Direct, 10),
                // Shown as /odd/x, which has none.
                took(4, Kind::Direct, 100),
                took(77, Kind::Memcg, 5),
            ],
            path,
        );
        let of_a = |table: &Selection| {
            let (_, totals) = table.shown().find(|(path, _)| &***path == "/web/a").expect("shown");
            stalls(totals)
        };
        assert_eq!(of_a(&table), Some([1, 110]));
        assert_eq!(stalls(table.other()), Some([111, 5]));
        // It goes on; one was forgotten by the kernel half; and what is seen again counts no more.
        table.add_reclaim(&[took(0, Kind::Memcg, 3), took(1, Kind::Memcg, 101)], path);
        table.add_reclaim(&[took(0, Kind::Memcg, 3), took(1, Kind::Memcg, 101)], path);
        assert_eq!(of_a(&table), Some([1, 114]));
    }

    #[test]
    fn histograms_are_bounded() {
        let histograms = vec!["/*".into()];
        let mut table =
            Selection::new(&Settings { histograms, ..Settings::default() }).expect("valid");
        let path = |id: u64| Some(Arc::from(format!("/g{id}")));
        for _ in 0..2 {
            let clock: Vec<_> = (0..50).map(|id| took(id, Kind::Direct, 1)).collect();
            table.add_reclaim(&clock, path);
        }
        let shown = table.shown().filter(|(_, totals)| totals.reclaim.is_some()).count();
        assert_eq!(shown, MAX_HISTOGRAMS);
        assert_eq!(stalls(table.other()), Some([50 - MAX_HISTOGRAMS as u64, 0]));
    }

    proptest! {
        #[test]
        fn it_is_bounded_and_a_kill_counts_once(
            looks in prop::collection::vec(prop::collection::vec((0u8..40, 0u64..1000), 0..40), 1..30),
        ) {
            let mut table = table(7);
            for groups in &looks {
                let named: Vec<_> = groups.iter().map(|(n, size)| (format!("/g{n}"), *size)).collect();
                let other = table.other().clone();
                table.select(named.iter().map(|(path, size)| (Some(path.as_str()), *size)));
                prop_assert_eq!(table.other(), &other, "to look is not to count");
                let kills = |table: &Selection| {
                    let shown = table.shown().map(|(_, totals)| totals.oom_kills).sum::<u64>();
                    shown + table.other().oom_kills
                };
                let before = kills(&table);
                table.add_kills(named.first().map(|(path, _)| path.as_str()), 1);
                prop_assert_eq!(kills(&table), before + 1);
                prop_assert!(table.shown().count() <= 7);
            }
        }
    }
}
