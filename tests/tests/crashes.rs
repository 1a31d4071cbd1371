//! The record after its writer was killed at any moment: everything that was on disk is there, once
//! and whole, and writing goes on behind it.
//!
//! Not here: a cut of the machine's power (`cargo xtask power-cuts`).

#![allow(clippy::panic, reason = "tests fail by panicking")]

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use sensor_core::record::content::Content;
use sensor_tests::support::random::Random;
use sensor_user::recorder::archive::{Archive, LossKind};

/// Kills of one test.
const KILLS: u32 = 1000;
/// The record is read after this many.
const READ_EACH: u32 = 50;
/// A run lives for at most this long after its first record.
const LONGEST_US: u64 = 10_000;

/// Starts the writer, and kills it at a random time; returns the last number that it printed.
fn killed_run(dir: &Path, run: u32, random: &mut Random) -> u32 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_record-writer"));
    command.arg(dir).arg(run.to_string()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let first = lines.next().expect("a record").expect("a line");
    std::thread::sleep(Duration::from_micros(random.below(LONGEST_US)));
    child.kill().expect("killed");
    child.wait().expect("ended");
    let last = lines.map_while(Result::ok).last().unwrap_or(first);
    last.parse().expect("a number")
}

/// The last number of each run in the record. The numbers of a run have no gap.
fn read(dir: &Path) -> BTreeMap<u32, u32> {
    let mut last = BTreeMap::<u32, u32>::new();
    let losses = Archive::open(dir).expect("opened").read(|entry| {
        let Content::Usage(usage) = entry.content else { return };
        let [first, .., end] = &usage.processes[..] else { panic!("{usage:?}") };
        assert_eq!(first, end, "whole");
        let before = last.insert(first.pid, first.age_seconds);
        // The oldest run may have lost its begin.
        let is_oldest = last.len() == 1;
        let is_next = first.age_seconds == before.map_or(1, |before| before + 1);
        assert!(is_next || (is_oldest && before.is_none()), "run {}: {before:?}", first.pid);
    });
    // The record that was being written is the last one.
    assert!(losses.len() <= 1, "{losses:?}");
    for loss in losses {
        let LossKind::Damage(damage) = loss.kind else { panic!("{loss}") };
        assert!(damage.lost_bytes < 4096, "{loss:?}");
    }
    last
}

#[test]
fn no_kill_of_the_writer_loses_a_record_that_was_on_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut random = Random::seeded(19);
    let mut printed = BTreeMap::new();
    let mut unprinted = 0;
    for run in 1..=KILLS {
        printed.insert(run, killed_run(dir.path(), run, &mut random));
        if run % READ_EACH != 0 {
            continue;
        }
        let recorded = read(dir.path());
        let oldest = *recorded.keys().next().expect("a run");
        for (run, last) in printed.range(oldest..) {
            let recorded = recorded.get(run).copied().unwrap_or(0);
            assert!(recorded >= *last, "run {run}: {recorded} of {last}");
            // One more was on disk, and not printed yet.
            assert!(recorded <= last + 1, "run {run}: {recorded}, printed {last}");
            unprinted += recorded - last;
        }
    }
    let records: u32 = printed.values().sum();
    println!("measured: {KILLS} kills, {records} records, {unprinted} of them not printed");
    assert!(records > KILLS, "it was killed while it wrote");
}
