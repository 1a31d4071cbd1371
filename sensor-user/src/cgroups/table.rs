//! The groups that are shown, and their sums. Pure: sizes, stalls and kills go in.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use glob::{MatchOptions, Pattern};
use sensor_ebpf::probes::Cause;

use super::{Settings, Totals};

/// A group that nobody is in is shown for so many looks more: a service that is started anew.
const LINGER: u32 = 60;

/// `*` stays within a name.
const MATCH: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// The groups.
#[derive(Debug)]
pub struct Table {
    patterns: Vec<Pattern>,
    most: usize,
    shown: BTreeMap<Arc<str>, Entry>,
    other: Totals,
    omitted: usize,
    looks: u32,
    /// What was last read of each group's stall clock, by id.
    clocks: HashMap<u64, [u64; Cause::COUNT]>,
}

#[derive(Debug, Default)]
struct Entry {
    totals: Totals,
    /// The look at which it last had processes.
    seen: u32,
}

impl Table {
    /// An error if a pattern is none.
    pub fn new(settings: &Settings) -> Result<Self> {
        let parse =
            |path: &String| Pattern::new(path).with_context(|| format!("the path {path:?}"));
        Ok(Self {
            patterns: settings.paths.iter().map(parse).collect::<Result<_>>()?,
            most: settings.most,
            shown: BTreeMap::new(),
            other: Totals::default(),
            omitted: 0,
            looks: 0,
            clocks: HashMap::new(),
        })
    }

    /// The deepest group above or at `path` that may be shown.
    fn group<'a>(&self, path: &'a str) -> Option<&'a str> {
        let mut at = path.trim_end_matches('/');
        // `*` may be nothing, and the root is no group.
        while !at.is_empty() {
            if self.patterns.iter().any(|pattern| pattern.matches_with(at, MATCH)) {
                return Some(at);
            }
            at = at.rsplit_once('/')?.0;
        }
        None
    }

    /// Takes in which groups have processes, and how much of their own these have: path and bytes.
    pub fn look<'a>(&mut self, groups: impl IntoIterator<Item = (&'a str, u64)>) {
        self.looks = self.looks.saturating_add(1);
        let mut sizes = BTreeMap::<&str, u64>::new();
        for (path, bytes) in groups {
            if let Some(group) = self.group(path) {
                let sum = sizes.entry(group).or_default();
                *sum = sum.saturating_add(bytes);
            }
        }
        let looks = self.looks;
        for (path, entry) in &mut self.shown {
            if sizes.contains_key(&**path) {
                entry.seen = looks;
            }
        }
        let mut ranked: Vec<_> = sizes
            .iter()
            .map(|(path, bytes)| {
                // One that is shown stays unless another has twice as much: series should not come and go.
                let weight = if self.shown.contains_key(*path) { 2 } else { 1 };
                (std::cmp::Reverse(bytes.saturating_mul(weight)), *path)
            })
            .collect();
        ranked.sort_unstable();
        let linger = self.shown.iter().filter(|(path, entry)| {
            !sizes.contains_key(&***path) && entry.seen.saturating_add(LINGER) >= looks
        });
        let mut keep: BTreeSet<Arc<str>> = BTreeSet::new();
        keep.extend(ranked.iter().take(self.most).map(|(_, path)| Arc::from(*path)));
        let room = self.most.saturating_sub(keep.len());
        let lingering: Vec<_> = linger.map(|(path, _)| Arc::clone(path)).take(room).collect();
        keep.extend(lingering);
        self.omitted = sizes.keys().filter(|path| !keep.contains(**path)).count();
        let gone: Vec<_> = self.shown.keys().filter(|p| !keep.contains(*p)).cloned().collect();
        for path in gone {
            self.forget(&path);
        }
        for path in keep {
            self.shown.entry(path).or_insert(Entry { totals: Totals::default(), seen: looks });
        }
    }

    /// A group is not shown any more. What it counted has been told under its own name: as part of `other`
    /// it would look as if all of that had happened there just now.
    pub fn forget(&mut self, path: &str) {
        self.shown.remove(path);
    }

    /// Takes in the stall clock, group by group; `path` tells what each id is called. What a group had
    /// before the first time counts, too: it had it since we attached.
    pub fn stalls(
        &mut self,
        clock: &[(u64, [u64; Cause::COUNT])],
        path: impl Fn(u64) -> Option<Arc<str>>,
    ) {
        let mut clocks = HashMap::with_capacity(clock.len());
        for (id, now) in clock {
            let last = self.clocks.get(id).copied().unwrap_or_default();
            let mut rose = Totals::default();
            for (rose, (now, last)) in rose.stall_ns.iter_mut().zip(now.iter().zip(last)) {
                // One that fell was forgotten by the kernel half, and began anew.
                *rose = if *now >= last { now - last } else { *now };
            }
            clocks.insert(*id, *now);
            if rose != Totals::default() {
                self.totals(path(*id).as_deref()).add(&rose);
            }
        }
        self.clocks = clocks;
    }

    /// Takes in an OOM kill in the group of that path, if it is known.
    pub fn kill(&mut self, path: Option<&str>) {
        self.totals(path).oom_kills += 1;
    }

    fn totals(&mut self, path: Option<&str>) -> &mut Totals {
        let Some(group) = path.and_then(|path| self.group(path)) else { return &mut self.other };
        // One that was killed before anybody looked at it has its place as well.
        if !self.shown.contains_key(group) && self.shown.len() < self.most {
            let entry = Entry { totals: Totals::default(), seen: self.looks };
            self.shown.insert(Arc::from(group), entry);
        }
        self.shown.get_mut(group).map_or(&mut self.other, |entry| &mut entry.totals)
    }

    /// Those that are shown, by path.
    pub fn shown(&self) -> impl Iterator<Item = (&Arc<str>, &Totals)> {
        self.shown.iter().map(|(path, entry)| (path, &entry.totals))
    }

    /// The sum of the others.
    pub fn other(&self) -> Totals {
        self.other
    }

    /// How many have processes and are not shown.
    pub fn omitted(&self) -> usize {
        self.omitted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(most: usize) -> Table {
        Table::new(&Settings { most, ..Settings::default() }).expect("valid")
    }

    fn paths(table: &Table) -> Vec<&str> {
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
            assert_eq!(table.group(path), group, "{path}");
        }
        let one = Settings { paths: vec!["/x/*.service".into()], most: 1 };
        let one = Table::new(&one).expect("valid");
        assert_eq!(one.group("/x/y.service/z"), Some("/x/y.service"));
        assert_eq!(one.group("/x/y/z.service"), None, "no name goes over a slash");
        assert!(Table::new(&Settings { paths: vec!["/[".into()], most: 1 }).is_err());
    }

    #[test]
    fn the_largest_are_shown_and_do_not_flap() {
        let mut table = table(2);
        table.look([("/a", 10), ("/b", 20), ("/c", 30)]);
        assert_eq!((paths(&table), table.omitted()), (vec!["/b", "/c"], 1));
        table.look([("/a", 39), ("/b", 20), ("/c", 30)]);
        assert_eq!(paths(&table), ["/b", "/c"], "not twice as much");
        table.look([("/a", 41), ("/b", 20), ("/c", 30)]);
        assert_eq!((paths(&table), table.omitted()), (vec!["/a", "/c"], 1));
        // A service that is started anew; its place is nobody's for a while, unless it is needed.
        table.look([("/a", 41)]);
        assert_eq!(paths(&table), ["/a", "/c"]);
        table.look([("/a", 41), ("/d", 1)]);
        assert_eq!(paths(&table), ["/a", "/d"]);
        for _ in 0..=LINGER {
            table.look([("/d", 1)]);
        }
        assert_eq!(paths(&table), ["/d"]);
    }

    #[test]
    fn a_group_that_is_gone_tells_what_it_counted_for_a_while() {
        let mut table = table(2);
        table.look([("/a", 10)]);
        table.kill(Some("/short"));
        for _ in 0..LINGER {
            table.look([("/a", 10)]);
        }
        assert_eq!(paths(&table), ["/a", "/short"]);
        table.look([("/a", 10)]);
        assert_eq!((paths(&table), table.other().oom_kills), (vec!["/a"], 0));
    }

    #[test]
    fn what_happens_counts_once_for_the_group_or_for_the_others() {
        let top = Settings { paths: vec!["/*".into()], most: 1 };
        let mut table = Table::new(&top).expect("valid");
        table.look([("/a", 10), ("/b", 5)]);
        let path = |id: u64| {
            [None, Some("/a/x"), Some("/b")][usize::try_from(id).unwrap_or(0)].map(Arc::from)
        };
        table.stalls(&[(0, [1, 0, 0, 0]), (1, [5, 0, 0, 2]), (2, [7, 0, 0, 0])], path);
        table.stalls(&[(1, [6, 0, 0, 2]), (2, [7, 1, 0, 0])], path);
        table.kill(Some("/a/x/y/z"));
        table.kill(Some("/b"));
        table.kill(None);
        let of_a = Totals { stall_ns: [6, 0, 0, 2], oom_kills: 1 };
        assert_eq!(table.shown().map(|(_, t)| *t).collect::<Vec<_>>(), [of_a]);
        assert_eq!(table.other(), Totals { stall_ns: [8, 1, 0, 0], oom_kills: 2 });
        // The kernel half forgot it and begins anew.
        table.stalls(&[(1, [1, 0, 0, 0])], path);
        let of_a = Totals { stall_ns: [7, 0, 0, 2], oom_kills: 1 };
        assert_eq!(table.shown().map(|(_, t)| *t).collect::<Vec<_>>(), [of_a]);
        // Not told anew as the others'.
        let other = table.other();
        table.forget("/a");
        assert_eq!((table.shown().count(), table.other()), (0, other));
    }

    proptest! {
        #[test]
        fn it_is_bounded_and_a_kill_counts_once(
            looks in prop::collection::vec(prop::collection::vec((0u8..40, 0u64..1000), 0..40), 1..30),
        ) {
            let mut table = table(7);
            for groups in &looks {
                let named: Vec<_> = groups.iter().map(|(n, size)| (format!("/g{n}"), *size)).collect();
                let other = table.other();
                table.look(named.iter().map(|(path, size)| (path.as_str(), *size)));
                prop_assert_eq!(table.other(), other, "to look is not to count");
                let kills = |table: &Table| {
                    let shown = table.shown().map(|(_, totals)| totals.oom_kills).sum::<u64>();
                    shown + table.other().oom_kills
                };
                let before = kills(&table);
                table.kill(named.first().map(|(path, _)| path.as_str()));
                prop_assert_eq!(kills(&table), before + 1);
                prop_assert!(table.shown().count() <= 7);
            }
        }
    }
}
