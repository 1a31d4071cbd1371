//! Rows of earlier samples: the rows at the beginning of two windows, and the highest value of each
//! counter.
//!
//! Not here: reading the maps (`kernel/read`), and the verdict's history of readings
//! (`verdict/signals` of the core).

use std::{collections::VecDeque, sync::Arc, time::Duration};

use sensor_core::{common::counter::nanos, model::counters::InFlight};
use sensor_ebpf::{
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
}

impl RowHistory {
    /// Covers `window`, and at least ten seconds; keeps one sample per `spacing`, and the last.
    pub fn new(window: Duration, spacing: Duration) -> Self {
        Self { window, spacing, past: VecDeque::new() }
    }

    /// Converts rows of the maps into published rows: adds stalls in progress, and lets no word
    /// fall.
    ///
    /// A stall in progress is added to the ended stalls of its cause. Rows are read before the
    /// table of tasks in flight. A stall that ends in between is in neither, so each word is at
    /// least its last value: otherwise the sum would fall for one sample.
    pub fn settle(&mut self, now_ns: u64, mut rows: Vec<Row>, in_flight: &InFlight) -> SettledRows {
        for (row, probe) in rows.iter_mut().zip(probes::ALL) {
            for metric in probe.metrics {
                add_in_progress(row, metric.shape, in_flight);
            }
        }
        if let Some((_, last)) = self.past.back() {
            for (row, last) in rows.iter_mut().zip(last.iter()) {
                for word in 0..ROW_WORDS {
                    row[word] = row[word].max(last[word]);
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

fn add_in_progress(row: &mut Row, shape: Shape, in_flight: &InFlight) {
    match shape {
        Shape::Stall { at, kind: Some(kind), .. } => {
            row[at] = row[at].saturating_add(in_flight.exclusive_ns[kind as usize]);
        }
        Shape::NodeActive { at, .. } => {
            for (word, ns) in row[at..].iter_mut().zip(in_flight.kswapd_ns) {
                *word = word.saturating_add(ns);
            }
        }
        _ => {}
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
