//! Rows of earlier samples: the rows at the beginning of two windows, and the highest value of each
//! counter.
//!
//! Not here: reading the maps (`kernel/read`), and the verdict's history of readings
//! (`verdict/signals` of the core).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use sensor_core::{
    common::counter::{SteadyCounter, nanos},
    model::counters::InFlight,
};
use sensor_ebpf::{
    loss::{self, Loss},
    probes,
    spec::{ROW_WORDS, Row, Shape},
};

/// Window of the verdict: a word that changed within it is evidence. It does not depend on the
/// window of gauges, because a change a minute ago is no evidence for the present.
const RECENT: Duration = Duration::from_secs(10);

/// Published rows, and the rows that they are compared with.
#[derive(Debug, Clone)]
pub struct SettledRows {
    /// Rows of this sample.
    pub rows: Arc<Vec<Row>>,
    /// Rows at the beginning of the gauges' window.
    pub window_start: Arc<Vec<Row>>,
    /// Rows ten seconds ago.
    pub recent_start: Arc<Vec<Row>>,
}

/// Rows of earlier samples.
#[derive(Debug)]
pub struct RowHistory {
    window: Duration,
    spacing: Duration,
    past: VecDeque<(u64, Arc<Vec<Row>>)>,
    /// Words that include stalls in progress, by probe and word.
    in_progress: BTreeMap<(usize, usize), InProgress>,
}

/// A word that includes stalls in progress.
#[derive(Debug, Default)]
struct InProgress {
    counter: SteadyCounter,
    /// Stalls without an end, when the counter was last level with the word.
    endless: u64,
}

/// Losses of stalls in progress: each may drop one whose time will never be in a row.
const ENDLESS: [Loss; 4] =
    [Loss::UnmatchedBegin, Loss::UnmatchedEnd, Loss::InflightEvicted, Loss::Abandoned];

impl RowHistory {
    /// Covers `window`, and at least ten seconds; keeps one sample per `spacing`, and the last.
    pub fn new(window: Duration, spacing: Duration) -> Self {
        Self { window, spacing, past: VecDeque::new(), in_progress: BTreeMap::new() }
    }

    /// Converts rows of the maps into published rows: adds stalls in progress, and lets no word
    /// fall.
    ///
    /// A stall in progress is added to the ended stalls of its cause. Rows are read before the
    /// table of tasks in flight. A stall that ends in between is in neither, so its word falls for
    /// one sample. A sleep inside reclaim moves from one cause to another when it ends. Both are
    /// made up, so a word stays where it was until then. What a stall whose end was missed has
    /// added is not made up: when the kernel half has dropped such a stall, the word rises from
    /// there.
    pub fn settle(&mut self, now_ns: u64, mut rows: Vec<Row>, in_flight: &InFlight) -> SettledRows {
        if let Some((_, last)) = self.past.back() {
            for (row, last) in rows.iter_mut().zip(last.iter()).skip(probes::ALL.len()) {
                raise(row, last);
            }
        }
        let losses = rows.get(loss::ROW as usize);
        let endless = losses.map_or(0, |row| ENDLESS.iter().map(|loss| row[*loss as usize]).sum());
        for (id, (row, probe)) in rows.iter_mut().zip(probes::ALL).enumerate() {
            let last = self.past.back().and_then(|(_, last)| last.get(id));
            let raw = *row;
            if let Some(last) = last {
                raise(row, last);
            }
            for metric in probe.metrics {
                for (word, ns) in in_progress(metric.shape, in_flight) {
                    let steady = self.in_progress.entry((id, word)).or_default();
                    row[word] = steady.update(raw[word].saturating_add(ns), endless);
                }
            }
        }
        let rows = Arc::new(rows);
        let (window_ns, recent_ns) = (nanos(self.window), nanos(RECENT));
        let spacing_ns = nanos(self.spacing);
        let before_last = self.past.iter().nth_back(1);
        if before_last.is_some_and(|(t, _)| now_ns < t + spacing_ns) {
            self.past.pop_back();
        }
        self.past.push_back((now_ns, Arc::clone(&rows)));
        // One sample at or before the start of the longer window stays: differences start there.
        let kept_ns = window_ns.max(recent_ns);
        while self.past.len() > 2 && self.past[1].0 + kept_ns <= now_ns {
            self.past.pop_front();
        }
        let start = |ns: u64| {
            let before = self.past.iter().rev().find(|(t, _)| t + ns <= now_ns);
            before.or(self.past.front()).map_or_else(|| Arc::clone(&rows), |(_, r)| Arc::clone(r))
        };
        let (window_start, recent_start) = (start(window_ns), start(recent_ns));
        SettledRows { rows, window_start, recent_start }
    }

    /// The rows of the last sample, for one whose maps could not be read; empty if there was none.
    pub fn last(&self) -> SettledRows {
        let rows = self.past.back().map(|(_, rows)| Arc::clone(rows)).unwrap_or_default();
        SettledRows { window_start: Arc::clone(&rows), recent_start: Arc::clone(&rows), rows }
    }
}

impl InProgress {
    /// Takes the present value of the word; returns the value to publish.
    fn update(&mut self, now: u64, endless: u64) -> u64 {
        let value = self.counter.update(now, endless != self.endless);
        if !self.counter.is_behind() {
            self.endless = endless;
        }
        value
    }
}

/// Raises each word to its last value.
fn raise(row: &mut Row, last: &Row) {
    for word in 0..ROW_WORDS {
        row[word] = row[word].max(last[word]);
    }
}

/// Words that include something in progress, and its nanoseconds.
fn in_progress(shape: Shape, in_flight: &InFlight) -> Vec<(usize, u64)> {
    match shape {
        Shape::Stall { at, kind: Some(kind), .. } => {
            vec![(at, in_flight.exclusive_ns[kind as usize])]
        }
        Shape::NodeActive { at, .. } => (at..).zip(in_flight.kswapd_ns).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sensor_ebpf::{
        inflight::Kind,
        probes::{Id, direct_reclaim},
    };

    fn stall_word() -> usize {
        let at = direct_reclaim::PROBE.metrics.iter().find_map(|m| match m.shape {
            Shape::Stall { at, .. } => Some(at),
            _ => None,
        });
        at.expect("direct reclaim is a stall")
    }

    fn rows(stall_ns: u64) -> Vec<Row> {
        let mut rows = vec![[0; ROW_WORDS]; probes::ALL.len() + 1];
        rows[Id::direct_reclaim as usize][stall_word()] = stall_ns;
        rows
    }

    fn in_flight(ns: u64) -> InFlight {
        let mut in_flight = InFlight::default();
        in_flight.exclusive_ns[Kind::Direct as usize] = ns;
        in_flight
    }

    #[test]
    fn a_stall_in_progress_counts() {
        let mut history = RowHistory::new(Duration::from_secs(30), Duration::ZERO);
        let now = history.settle(1, rows(100), &in_flight(50)).rows;
        assert_eq!(now[Id::direct_reclaim as usize][stall_word()], 150);
    }

    proptest! {
        #[test]
        fn a_stall_never_runs_backwards(
            samples in prop::collection::vec((0u64..1000, 0u64..1000), 1..50),
        ) {
            let mut history = RowHistory::new(Duration::from_secs(3), Duration::ZERO);
            let mut last = 0;
            for (t, (ended, in_progress)) in (1u64..).zip(samples) {
                let in_flight = in_flight(in_progress);
                let now = history.settle(t * 1_000_000_000, rows(ended), &in_flight).rows;
                let stall = now[Id::direct_reclaim as usize][stall_word()];
                prop_assert!(stall >= last && stall >= ended + in_progress);
                last = stall;
            }
        }
    }

    /// Rows in which the kernel half has dropped stalls without an end.
    fn rows_with_losses(stall_ns: u64, dropped: u64) -> Vec<Row> {
        let mut rows = rows(stall_ns);
        rows[loss::ROW as usize][Loss::UnmatchedBegin as usize] = dropped;
        rows
    }

    #[test]
    fn stalls_count_at_once_after_a_phantom() {
        let published = |samples: &[(u64, u64, u64)]| {
            let mut history = RowHistory::new(Duration::from_secs(30), Duration::ZERO);
            let samples = samples.iter().zip(1..);
            let stalls = samples.map(|((ended, in_progress, dropped), t)| {
                let rows = rows_with_losses(*ended, *dropped);
                let rows = history.settle(t * 1_000_000_000, rows, &in_flight(*in_progress)).rows;
                rows[Id::direct_reclaim as usize][stall_word()]
            });
            stalls.collect::<Vec<_>>()
        };
        for (case, samples, expected) in [
            (
                "an hour without an end, then dropped",
                &[(0, 1800, 0), (0, 3600, 0), (0, 0, 1), (5, 0, 1), (5, 2, 1)][..],
                &[1800, 3600, 3600, 3605, 3607][..],
            ),
            (
                "the loss is counted after the slots were read",
                &[(0, 3600, 0), (2, 0, 0), (5, 0, 1), (6, 0, 1)],
                &[3600, 3600, 3603, 3604],
            ),
            (
                "a stall that ends between the two readings",
                &[(0, 3600, 0), (0, 0, 0), (3601, 0, 0), (3602, 0, 0)],
                &[3600, 3600, 3601, 3602],
            ),
            (
                "a sleep that moves to another cause",
                &[(0, 100, 0), (0, 20, 0), (90, 0, 0), (120, 0, 0)],
                &[100, 100, 100, 120],
            ),
            (
                "two phantoms",
                &[(0, 200, 0), (0, 100, 1), (0, 110, 1), (3, 0, 2), (4, 0, 2)],
                &[200, 200, 210, 210, 211],
            ),
        ] {
            assert_eq!(published(samples), expected, "{case}");
        }
    }

    /// A step of the model below: a stall of so many nanoseconds begins and ends, one begins and
    /// will have no end, the oldest of those is dropped.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Stall(u64),
        Phantom,
        Drop,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (1u64..1000).prop_map(Step::Stall),
            1 => Just(Step::Phantom),
            2 => Just(Step::Drop),
        ]
    }

    proptest! {
        /// One step a sample, a thousand nanoseconds apart.
        #[test]
        fn lost_ends_neither_lower_nor_hide_stalls(
            steps in prop::collection::vec(step(), 1..100),
        ) {
            let mut history = RowHistory::new(Duration::from_secs(30), Duration::ZERO);
            let (mut ended, mut phantoms, mut dropped) = (0, VecDeque::new(), 0);
            let mut last = 0;
            for (step, now) in steps.into_iter().zip((1u64..).map(|t| t * 1000)) {
                let grew = 1000 * phantoms.len() as u64;
                match step {
                    Step::Stall(ns) => ended += ns,
                    Step::Phantom => phantoms.push_back(now),
                    Step::Drop => dropped += u64::from(phantoms.pop_front().is_some()),
                }
                let in_progress = phantoms.iter().map(|begun| now - begun).sum();
                let rows = rows_with_losses(ended, dropped);
                let settled = history.settle(now, rows, &in_flight(in_progress)).rows;
                let stall = settled[Id::direct_reclaim as usize][stall_word()];
                prop_assert!(stall >= last, "fell from {} to {}", last, stall);
                if let Step::Stall(ns) = step {
                    prop_assert_eq!(stall - last, ns + grew, "a stall counts at once");
                }
                last = stall;
            }
        }
    }

    #[test]
    fn the_history_is_bounded_at_any_rate_of_samples() {
        let second = Duration::from_secs(1);
        let mut history = RowHistory::new(30 * second, second);
        for t in 1..10_000u64 {
            let start = history.settle(t * 10_000_000, rows(t), &in_flight(0)).window_start;
            let then = start[Id::direct_reclaim as usize][stall_word()];
            assert!(
                then >= t.saturating_sub(3200) && (then <= t.saturating_sub(3000).max(1)),
                "{t} {then}"
            );
        }
        assert!(history.past.len() <= 34, "{}", history.past.len());
    }

    #[test]
    fn each_window_has_the_configured_length() {
        let second = 1_000_000_000;
        for window in [3, 10, 60] {
            let mut history = RowHistory::new(Duration::from_secs(window), Duration::ZERO);
            for t in 1..=100u64 {
                let settled = history.settle(t * second, rows(t), &in_flight(0));
                let word = |rows: &[Row]| rows[Id::direct_reclaim as usize][stall_word()];
                assert_eq!(word(&settled.rows), t);
                let ago = |seconds| t.saturating_sub(seconds).max(1);
                assert_eq!(word(&settled.window_start), ago(window), "at {t}, {window} s");
                assert_eq!(word(&settled.recent_start), ago(10), "at {t}, {window} s");
            }
        }
    }
}
