//! OOM kills by scope and by cgroup path: counted here once, by the event reader.
//!
//! The counters in cgroups' own files lose kills that end their cgroup, as when systemd restarts a
//! service, and on v1 do not include cgroups below. `collect/scopes` merges both counts.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use sensor_core::common::text::is_at_or_below;

/// Cgroup paths that are counted apart between two collections; kills in others have no path.
const MAX_PATHS: usize = 1024;

/// Kills by the path of the victim's cgroup; `None` where the path is not known.
pub type KillsByPath = BTreeMap<Option<Arc<str>>, u64>;

/// Counts OOM kills.
#[derive(Debug, Default)]
pub struct OomKillCounts {
    scopes: Box<[ScopeKills]>,
    /// Replaced as a whole, without a lock: the event reader has real-time priority and must not
    /// wait for the thread that takes the counts, which has not.
    by_path: ArcSwap<KillsByPath>,
}

#[derive(Debug)]
struct ScopeKills {
    path: String,
    count: AtomicU64,
}

impl OomKillCounts {
    /// For scopes with these cgroup paths, in this order.
    pub fn new(paths: impl IntoIterator<Item = String>) -> Self {
        let scope = |path: String| ScopeKills {
            path: path.trim_end_matches('/').to_owned(),
            count: AtomicU64::new(0),
        };
        Self { scopes: paths.into_iter().map(scope).collect(), by_path: ArcSwap::default() }
    }

    /// Counts a kill. A cgroup that was removed may have no known path; then `in_scope` decides by
    /// its id whether it was that of the scope with this index.
    pub fn count(&self, path: Option<&Arc<str>>, in_scope: impl Fn(usize) -> bool) {
        for (i, scope) in self.scopes.iter().enumerate() {
            let counts = match path {
                Some(path) => is_at_or_below(path, &scope.path),
                None => in_scope(i),
            };
            if counts {
                scope.count.fetch_add(1, Ordering::Relaxed);
            }
        }
        let path = path.cloned();
        // Tried again if the counts were taken meanwhile.
        self.by_path.rcu(|by_path| {
            let mut by_path = KillsByPath::clone(by_path);
            let has_room = by_path.len() < MAX_PATHS || by_path.contains_key(&path);
            *by_path.entry(path.clone().filter(|_| has_room)).or_default() += 1;
            by_path
        });
    }

    /// Kills so far in the scope with this index.
    pub fn of_scope(&self, index: usize) -> u64 {
        self.scopes.get(index).map_or(0, |scope| scope.count.load(Ordering::Relaxed))
    }

    /// Kills by path since the last call.
    pub fn take_by_path(&self) -> Arc<KillsByPath> {
        self.by_path.swap(Arc::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_counts_for_every_scope_above_it() {
        let counts = OomKillCounts::new(["/a/".to_owned(), "/a/b".to_owned(), "/c".to_owned()]);
        let path = |path: &str| Some(Arc::from(path));
        counts.count(path("/a/b/x").as_ref(), |_| true);
        counts.count(path("/ab").as_ref(), |_| true);
        counts.count(None, |scope| scope == 2);
        assert_eq!([0, 1, 2, 3].map(|i| counts.of_scope(i)), [1, 1, 1, 0]);
        let by_path = counts.take_by_path();
        assert_eq!(by_path.values().sum::<u64>(), 3);
        assert_eq!(by_path[&path("/a/b/x")], 1);
        assert!(counts.take_by_path().is_empty());
    }

    #[test]
    fn every_kill_is_taken_once_while_others_are_counted() {
        const KILLS: u64 = 5000;
        let counts = OomKillCounts::default();
        let mut taken = 0;
        std::thread::scope(|scope| {
            let counting = scope.spawn(|| {
                for i in 0..KILLS {
                    counts.count(Some(&Arc::from(format!("/{}", i % 7))), |_| false);
                }
            });
            while !counting.is_finished() {
                taken += counts.take_by_path().values().sum::<u64>();
            }
        });
        taken += counts.take_by_path().values().sum::<u64>();
        assert_eq!(taken, KILLS);
    }

    #[test]
    fn paths_are_bounded_and_every_kill_counts() {
        let counts = OomKillCounts::default();
        for i in 0..2000 {
            counts.count(Some(&Arc::from(format!("/{i}"))), |_| false);
        }
        let by_path = counts.take_by_path();
        assert_eq!((by_path.len(), by_path.values().sum::<u64>()), (MAX_PATHS + 1, 2000));
    }
}
