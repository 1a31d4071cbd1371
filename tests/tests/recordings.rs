//! Replays the recorded runs of `cargo xtask scenarios` through the rules: what they detect in time,
//! and where they take weight without harm. A changed threshold is compared with all runs at once.
//!
//! `cargo xtask scenarios --record tests/recordings` makes the recordings. The readings are those of a
//! daemon without probes, and without the PSI trigger that wakes it.

#![allow(clippy::panic, reason = "tests fail by panicking")]

use std::{collections::BTreeMap, sync::Arc};

use sensor_core::verdict::{policy::Policy, reading::Reading};
use sensor_tests::{
    lab::scenarios::{
        catalogue::{self, Scenario},
        outcome::{Mark, Outcome},
        record::{Record, Sample},
        replay,
    },
    support::repository::repository,
};

/// The recordings with their scenarios. A scenario that is not recorded yet is not evaluated.
fn recordings() -> Vec<(&'static Scenario, Record)> {
    let dir = repository().join("tests/recordings");
    let read = |scenario: &'static Scenario| {
        let path = dir.join(format!("{}.txt", scenario.name));
        path.exists().then(|| (scenario, Record::read(&path).expect("a record")))
    };
    catalogue::all().filter_map(read).collect()
}

#[test]
fn every_recording_has_a_scenario() {
    let files = std::fs::read_dir(repository().join("tests/recordings")).expect("a directory");
    let recordings = recordings();
    assert_eq!(files.count(), recordings.len(), "a file of another name");
    let recorded = |scenario: &&Scenario| recordings.iter().any(|(s, _)| s.name == scenario.name);
    let missing: Vec<_> = catalogue::all().filter(|s| !recorded(s)).map(|s| s.name).collect();
    println!("not recorded yet, so not evaluated: {missing:?}");
    assert!(recordings.len() >= RECORDED, "{} recordings", recordings.len());
}

/// Recordings that were there once.
const RECORDED: usize = 78;

/// What the present rules do that they should not, by scenario.
const KNOWN: &[(&str, Mark)] = &[
    // Harm begins with the load or soon after, and the weight falls 1.2 to 2.7 s after that.
    ("cache-thrash", Mark::Late),
    ("jvm-limit-lowered", Mark::Late),
    ("mmap-thrash", Mark::Late),
    ("redis-save-tight", Mark::Late),
    ("thrash-fast-swap", Mark::Late),
    // A seventh of the requests are slow from the begin; memory waits are 3 to 7 % of time.
    ("nginx-rsync", Mark::Late),
    // `filling` and `overflowing` into swap, without harm.
    ("haproxy-leak", Mark::False),
    ("redis-large-leak", Mark::False),
    ("redis-leak", Mark::False),
    ("redis-leak-zram", Mark::False),
    // The same without swap, while the package manager reads its caches again.
    ("rabbitmq-apt", Mark::False),
    // `filling`, then an OOM kill of the load.
    ("mariadb-tmpfs", Mark::False),
    ("rabbitmq-tmpfs", Mark::False),
    // `oom_kill`: a kill of the load, not of the service.
    ("haproxy-burst", Mark::False),
    ("node-fork-storm", Mark::False),
    // `refaulting`: a copy needs more page cache than there is, and the service none of it.
    ("haproxy-rsync", Mark::False),
];

fn outcome(scenario: &Scenario, record: &Record) -> Outcome {
    let changes = replay::weight_changes(scenario, &record.samples, &Arc::new(Policy::default()));
    Outcome::of(scenario, record, &changes)
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

/// The same run on a machine of another size: sizes and flows grow alike, times do not.
fn scaled(samples: &[Sample], factor: u64) -> Vec<Sample> {
    let by = |value: &mut Option<u64>| *value = value.map(|value| value.saturating_mul(factor));
    let scale = |reading: &mut Reading| {
        by(&mut reading.total_bytes);
        by(&mut reading.available_bytes);
        by(&mut reading.unused_bytes);
        by(&mut reading.swap_free_bytes);
        by(&mut reading.refaulted_bytes);
        by(&mut reading.lost_bytes);
        by(&mut reading.read_bytes);
        by(&mut reading.swapped_in_bytes);
        by(&mut reading.swapped_out_bytes);
        by(&mut reading.scanned_pages);
        by(&mut reading.reclaimed_pages);
        let limits = &mut reading.limits;
        for bytes in
            [&mut limits.refaulted_bytes, &mut limits.lost_bytes, &mut limits.swapped_in_bytes]
        {
            *bytes = bytes.saturating_mul(factor);
        }
    };
    let mut samples = samples.to_vec();
    for sample in &mut samples {
        scale(&mut sample.scope);
        scale(&mut sample.host);
    }
    samples
}

#[test]
fn the_same_run_has_the_same_verdict_on_a_machine_of_any_size() {
    let policy = Arc::new(Policy::default());
    let mut differ = BTreeMap::new();
    for (scenario, record) in recordings() {
        let at = |size: u64| {
            let factor = size.div_ceil(scenario.limit << 20);
            let samples = scaled(&record.samples, factor);
            let changes = replay::weight_changes(scenario, &samples, &policy);
            Outcome::of(scenario, &record, &changes).mark()
        };
        let marks = [256 << 20, 16 << 30, 4 << 40].map(at);
        if marks != [marks[0]; 3] {
            differ.insert(scenario.name, marks);
        }
    }
    assert_eq!(differ, BTreeMap::new(), "marks at 256 MiB, 16 GiB and 4 TiB");
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
