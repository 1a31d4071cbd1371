//! Which label sets `memsensor_process_growth_bytes_per_second` may have, bounded over time: a
//! process that renames itself, or moves through cgroups, would otherwise make new series with each
//! scrape, and a server that stores them keeps them all.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// A label set has its place for an hour after it was last exported.
const KEEP_NS: u64 = 3600 * 1_000_000_000;

/// Places for label sets, by the number of series of a scrape.
const PLACES: usize = 4;

/// Stands for all that have no place.
const OTHER: &str = "other";

/// Labels `comm` and `cgroup`.
pub(super) type LabelSet = (String, String);

/// The label sets of the last hour. Only the serving thread locks it.
#[derive(Debug, Default)]
pub(super) struct GrowthLabels(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    processes: Recent,
    /// Of processes without a place, by cgroup.
    cgroups: Recent,
}

/// Label sets, and when each was last exported: CLOCK_MONOTONIC nanoseconds.
#[derive(Debug, Default)]
struct Recent(HashMap<LabelSet, u64>);

impl Recent {
    /// Whether the label set has one of `places`, or gets one.
    fn admit(&mut self, labels: &LabelSet, now: u64, places: usize) -> bool {
        if let Some(last) = self.0.get_mut(labels) {
            *last = now;
            return true;
        }
        if self.0.len() >= places {
            self.0.retain(|_, last| now.saturating_sub(*last) < KEEP_NS);
        }
        let has_room = self.0.len() < places;
        if has_room {
            self.0.insert(labels.clone(), now);
        }
        has_room
    }
}

impl GrowthLabels {
    /// The labels to export for a process, where a scrape has up to `count` series. Without a place
    /// for it, `comm` becomes `other`; without one for its cgroup either, both do.
    pub(super) fn labels(&self, labels: LabelSet, now: u64, count: usize) -> LabelSet {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if places.processes.admit(&labels, now, PLACES * count) {
            return labels;
        }
        let of_cgroup = (OTHER.to_owned(), labels.1);
        if places.cgroups.admit(&of_cgroup, now, PLACES * count) {
            return of_cgroup;
        }
        (OTHER.to_owned(), OTHER.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn set(comm: &str, cgroup: &str) -> LabelSet {
        (comm.to_owned(), cgroup.to_owned())
    }

    #[test]
    fn a_process_that_renames_itself_makes_few_series() {
        let table = GrowthLabels::default();
        let mut series = BTreeSet::new();
        // Five processes take a new name, and a new cgroup, before each of a day's scrapes.
        for scrape in 0..24 * 240 {
            for process in 0..5 {
                let labels = set(&format!("n{scrape}-{process}"), &format!("/{scrape}"));
                series.insert(table.labels(labels, scrape * 15 * SECOND, 5));
            }
        }
        // 20 names and 20 cgroups an hour, and the rest.
        assert!(series.len() <= 24 * (20 + 20) + 1, "{}", series.len());
        assert!(series.contains(&set("other", "other")));
    }

    #[test]
    fn known_label_sets_keep_their_place() {
        let table = GrowthLabels::default();
        for comm in ["a", "b", "c", "d"] {
            assert_eq!(table.labels(set(comm, "/x"), 0, 1), set(comm, "/x"));
        }
        assert_eq!(table.labels(set("e", "/x"), 1, 1), set("other", "/x"));
        // One of them is exported all the time.
        let half = KEEP_NS / 2;
        assert_eq!(table.labels(set("a", "/x"), half, 1), set("a", "/x"));
        assert_eq!(table.labels(set("e", "/x"), KEEP_NS - 1, 1), set("other", "/x"));
        // An hour later the others have lost their places.
        assert_eq!(table.labels(set("e", "/x"), KEEP_NS, 1), set("e", "/x"));
        assert_eq!(table.labels(set("a", "/x"), KEEP_NS, 1), set("a", "/x"));
        assert_eq!(table.0.lock().expect("not poisoned").processes.0.len(), 2);
    }
}
