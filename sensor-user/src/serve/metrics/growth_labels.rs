//! Which label sets `memsensor_process_growth_bytes_per_second` has: those that grow fastest, stable
//! from scrape to scrape, and bounded over time for processes that rename themselves or move through
//! cgroups.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use sensor_core::common::recent_labels::RecentLabels;

/// A label set has its place for an hour after it was last exported.
const KEEP_NS: u64 = 3600 * 1_000_000_000;

/// Places for label sets, by the number of series of a scrape.
const PLACES: usize = 4;

/// Stands for all that have no place.
const OTHER: &str = "other";

/// Labels `comm` and `cgroup`.
pub(super) type LabelSet = (String, String);

/// Growth by label set, in bytes per second.
pub(super) type Rates = BTreeMap<LabelSet, f64>;

/// The label sets of the last hour. Only the serving thread locks it.
#[derive(Debug, Default)]
pub(super) struct GrowthLabels(Mutex<Places>);

#[derive(Debug)]
struct Places {
    processes: RecentLabels<LabelSet>,
    /// Of processes without a place, by cgroup.
    cgroups: RecentLabels<LabelSet>,
    /// Those of the last scrape.
    exported: BTreeSet<LabelSet>,
}

impl Default for Places {
    fn default() -> Self {
        let recent = || RecentLabels::keeping(KEEP_NS);
        Self { processes: recent(), cgroups: recent(), exported: BTreeSet::new() }
    }
}

impl GrowthLabels {
    /// The `count` label sets that grow fastest, by their rates, with labels that are bounded over
    /// time. One that was exported before stays until another grows twice as fast: series should
    /// be stable.
    pub(super) fn select(&self, rates: Rates, now: u64, count: usize) -> Rates {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let weight = |labels: &LabelSet| if places.exported.contains(labels) { 2.0 } else { 1.0 };
        let mut ranked: Vec<_> = rates
            .into_iter()
            .map(|(labels, rate)| (rate * weight(&labels), rate, labels))
            .collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        ranked.truncate(count);
        places.exported = ranked.iter().map(|(.., labels)| labels.clone()).collect();
        // The fastest get the places that are left.
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut selected = Rates::new();
        for (_, rate, labels) in ranked {
            *selected.entry(places.labels(labels, now, count)).or_default() += rate;
        }
        selected
    }
}

impl Places {
    /// The labels to export for a process, where a scrape has up to `count` series. Without a place
    /// for it, `comm` becomes `other`; without one for its cgroup either, both do.
    fn labels(&mut self, labels: LabelSet, now: u64, count: usize) -> LabelSet {
        let admit = |recent: &mut RecentLabels<LabelSet>, labels: &LabelSet| {
            recent.admit(labels, now, PLACES * count, || labels.clone())
        };
        if admit(&mut self.processes, &labels) {
            return labels;
        }
        let of_cgroup = (OTHER.to_owned(), labels.1);
        if admit(&mut self.cgroups, &of_cgroup) {
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

    fn labels(table: &GrowthLabels, labels: LabelSet, now: u64, count: usize) -> LabelSet {
        let selected = table.select([(labels, 1.0)].into(), now, count);
        selected.into_keys().next().expect("one")
    }

    #[test]
    fn a_process_that_renames_itself_makes_few_series() {
        let table = GrowthLabels::default();
        let mut series = BTreeSet::new();
        // Five processes take a new name, and a new cgroup, before each of a day's scrapes.
        for scrape in 0..24 * 240 {
            let rates = (0..5)
                .map(|process| (set(&format!("n{scrape}-{process}"), &format!("/{scrape}")), 1.0));
            series.extend(table.select(rates.collect(), scrape * 15 * SECOND, 5).into_keys());
        }
        // 20 names and 20 cgroups an hour, and the rest.
        assert!(series.len() <= 24 * (20 + 20) + 1, "{}", series.len());
        assert!(series.contains(&set("other", "other")));
    }

    #[test]
    fn known_label_sets_keep_their_place() {
        let table = GrowthLabels::default();
        let labels = |labels_of, now| labels(&table, labels_of, now, 1);
        for comm in ["a", "b", "c", "d"] {
            assert_eq!(labels(set(comm, "/x"), 0), set(comm, "/x"));
        }
        assert_eq!(labels(set("e", "/x"), 1), set("other", "/x"));
        // One of them is exported all the time.
        let half = KEEP_NS / 2;
        assert_eq!(labels(set("a", "/x"), half), set("a", "/x"));
        assert_eq!(labels(set("e", "/x"), KEEP_NS - 1), set("other", "/x"));
        // An hour later the others have lost their places.
        assert_eq!(labels(set("e", "/x"), KEEP_NS), set("e", "/x"));
        assert_eq!(labels(set("a", "/x"), KEEP_NS), set("a", "/x"));
    }

    /// The last places go to the fastest, not to the first by name.
    #[test]
    fn the_fastest_get_the_places_that_are_left() {
        let table = GrowthLabels::default();
        for comm in ["k", "l", "m", "n", "o", "p", "q"] {
            labels(&table, set(comm, "/x"), 0, 2);
        }
        let rates = [(set("a", "/x"), 1.0), (set("b", "/x"), 9.0)].into();
        let selected: Vec<_> = table.select(rates, 1, 2).into_iter().collect();
        assert_eq!(selected, [(set("b", "/x"), 9.0), (set("other", "/x"), 1.0)]);
    }

    #[test]
    fn the_fastest_are_selected_and_do_not_flap() {
        let table = GrowthLabels::default();
        let mut at = 0;
        for (rates, expected) in [
            ([1.0, 2.0, 3.0], ["b", "c"]),
            ([3.9, 2.0, 3.0], ["b", "c"]),
            ([4.1, 2.0, 3.0], ["a", "c"]),
            ([4.1, 5.9, 3.0], ["a", "c"]),
        ] {
            at += SECOND;
            let rates = ["a", "b", "c"].into_iter().zip(rates);
            let rates = rates.map(|(comm, rate)| (set(comm, "/x"), rate)).collect();
            let comms: Vec<_> = table.select(rates, at, 2).into_keys().map(|(c, _)| c).collect();
            assert_eq!(comms, expected);
        }
    }
}
