//! Replays the recorded runs of `cargo xtask scenarios` through the rules: what they detect in time,
//! and where they take weight without harm. A changed threshold is compared with all runs at once.
//!
//! `cargo xtask scenarios --record tests/recordings` makes the recordings. The readings are those of a
//! daemon without probes, and without the PSI trigger that wakes it.

#![allow(clippy::panic, reason = "tests fail by panicking")]

use std::{collections::BTreeMap, sync::Arc};

use sensor_core::verdict::policy::Policy;
use sensor_tests::{
    lab::scenarios::{
        catalogue::{self, Scenario},
        record::Record,
        replay,
        table::{self, Mark, Outcome},
    },
    support::repository::repository,
};

/// The recordings with their scenarios.
fn recordings() -> Vec<(&'static Scenario, Record)> {
    let dir = repository().join("tests/recordings");
    let read = |scenario: &'static Scenario| {
        let record = Record::read(&dir.join(format!("{}.txt", scenario.name)));
        (scenario, record.expect("cargo xtask scenarios --record tests/recordings"))
    };
    catalogue::all().map(read).collect()
}

/// What the present rules do that they should not, by scenario.
const KNOWN: &[(&str, Mark)] = &[
    // Harm begins with the load, and few of the pages that are read again count as lost.
    ("cache-thrash", Mark::Late),
    ("thrash-no-swap", Mark::Late),
    // `exhaustion`: swap is full of unused pages, and short-lived buffers look like a trend.
    ("swap-full-cold", Mark::False),
];

fn outcome(scenario: &Scenario, record: &Record) -> Outcome {
    let changes = replay::weight_changes(&record.samples, &Arc::new(Policy::default()));
    table::judge(scenario, record, &changes)
}

#[test]
fn the_rules_detect_harm_and_nothing_else() {
    let mut wrong = BTreeMap::new();
    for (scenario, record) in recordings() {
        let mark = outcome(scenario, &record).mark();
        if !matches!(mark, Mark::InTime | Mark::Quiet) {
            wrong.insert(scenario.name, mark);
        }
    }
    assert_eq!(wrong, KNOWN.iter().copied().collect(), "the list of known faults has changed");
}

/// In every run the limit of a cgroup is reached on a host with most of its memory available.
#[test]
fn the_host_loses_no_weight_by_a_limit_of_a_cgroup() {
    for (scenario, record) in recordings() {
        let changes = replay::host_weight_changes(&record.samples, &Arc::new(Policy::default()));
        let lost: Vec<_> = changes.iter().filter(|change| change.weight < 100).collect();
        assert!(lost.is_empty(), "{}: {lost:?}", scenario.name);
    }
}

/// A recording in which nothing can be detected would prove nothing.
#[test]
fn the_recordings_have_harm_and_calm() {
    let outcomes: Vec<_> = recordings().iter().map(|(s, record)| outcome(s, record)).collect();
    let harmed = outcomes.iter().filter(|outcome| outcome.harmed.is_some()).count();
    assert!(harmed >= 8 && harmed + 8 <= outcomes.len(), "{harmed} of {}", outcomes.len());
    for outcome in &outcomes {
        assert!(!outcome.is_disturbed(), "{}: the machine was disturbed", outcome.scenario.name);
    }
}
