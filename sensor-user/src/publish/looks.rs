//! What each look of the sensing loop found, on its way to the recorder: a bounded queue without a
//! lock. The recorder has normal priority and may wait for a disk for minutes: then looks are dropped
//! and counted, and the sensing loop does not wait.
//!
//! Not here: which looks are recorded (`sensor_core::record::pace`).

use std::sync::Arc;

use rtrb::{Consumer, Producer, RingBuffer, chunks::ChunkError};
use sensor_core::{
    model::{counters::ByCause, snapshot::Sample},
    record::content::{Look, ScopeLook},
    verdict::{policy::rule_bit, scope::ScopeVerdict, signals::Signal, state::VerdictState},
};

use super::record::RecordFigures;

/// Rows that may wait, a row per scope: 50 s of ten looks a second of one scope, in 100 KiB of locked
/// memory.
const ROWS: usize = 512;

/// One scope in a look, without anything that is allocated.
#[derive(Debug, Clone, Copy)]
struct Row {
    at_ns: u64,
    /// Rows of the same look, from this one on.
    left: u8,
    is_pressed: bool,
    state: Option<VerdictState>,
    weight: f32,
    fires: u64,
    holds: u64,
    /// Not a number where a signal was not measured.
    signals: [f32; Signal::ALL.len()],
    /// `u64::MAX` where one was not measured.
    total_bytes: u64,
    available_bytes: u64,
    swap_free_bytes: u64,
    stalls_ns: ByCause,
}

/// A queue of looks at scopes with these names. Those that are dropped are counted in the figures.
pub fn queue(scopes: Vec<String>, figures: &Arc<RecordFigures>) -> (LookWriter, LookReader) {
    let (producer, consumer) = RingBuffer::new(ROWS);
    let writer = LookWriter { rows: producer, figures: Arc::clone(figures) };
    (writer, LookReader { rows: consumer, scopes })
}

/// The end of the sensing loop.
#[derive(Debug)]
pub struct LookWriter {
    rows: Producer<Row>,
    figures: Arc<RecordFigures>,
}

impl LookWriter {
    /// Adds what a sample found, or drops and counts it if there is no room. Neither waits nor
    /// allocates.
    pub fn push(&mut self, sample: &Sample, is_pressed: bool) {
        let stalls_ns = stalls(sample);
        let count = sample.scopes.len();
        let rows = sample.scopes.iter().enumerate().map(|(n, scope)| {
            let left = u8::try_from(count - n).unwrap_or(u8::MAX);
            row(scope, sample.snapshot.taken_ns, left, is_pressed, stalls_ns)
        });
        match self.rows.write_chunk_uninit(count) {
            // All at once: the recorder never sees a part of a look.
            Ok(chunk) => {
                chunk.fill_from_iter(rows);
            }
            Err(ChunkError::TooFewSlots(_)) => {
                self.figures.lose_look();
            }
        }
    }
}

/// The stall clock of all tasks, by cause.
fn stalls(sample: &Sample) -> ByCause {
    let mut sum = ByCause::default();
    for (_, by_cause) in sample.snapshot.stall_clock.iter() {
        for (sum, ns) in sum.iter_mut().zip(by_cause) {
            *sum = sum.saturating_add(*ns);
        }
    }
    sum
}

fn row(scope: &ScopeVerdict, at_ns: u64, left: u8, is_pressed: bool, stalls_ns: ByCause) -> Row {
    let verdict = &scope.verdict;
    let is_known = scope.unknown_reason.is_none();
    let (mut fires, mut holds) = (0, 0);
    for result in &verdict.evidence.rules {
        let bit = rule_bit(result.rule);
        holds |= bit;
        fires |= if result.fires { bit } else { 0 };
    }
    let signal = |n| verdict.signals.get(Signal::ALL[n]).map_or(f32::NAN, single);
    let bytes = |value: Option<u64>| value.unwrap_or(u64::MAX);
    Row {
        at_ns,
        left,
        is_pressed,
        state: is_known.then_some(verdict.position.state),
        weight: single(verdict.position.weight),
        fires,
        holds,
        signals: std::array::from_fn(signal),
        total_bytes: bytes(scope.reading.total_bytes),
        available_bytes: bytes(scope.reading.available_bytes),
        swap_free_bytes: bytes(scope.reading.swap_free_bytes),
        stalls_ns,
    }
}

#[allow(clippy::cast_possible_truncation, reason = "a record needs no more than seven digits")]
const fn single(value: f64) -> f32 {
    value as f32
}

/// A look with its time.
#[derive(Debug, Clone, PartialEq)]
pub struct TimedLook {
    /// CLOCK_MONOTONIC nanoseconds.
    pub at_ns: u64,
    /// Whether there is pressure.
    pub is_pressed: bool,
    /// What it found.
    pub look: Look,
}

/// The end of the recorder.
#[derive(Debug)]
pub struct LookReader {
    rows: Consumer<Row>,
    scopes: Vec<String>,
}

impl LookReader {
    /// The next look, if there is one.
    pub fn pop(&mut self) -> Option<TimedLook> {
        let first = self.rows.pop().ok()?;
        let mut look = Look { scopes: Vec::new(), stalls_ns: first.stalls_ns.to_vec() };
        let mut names = self.scopes.iter();
        look.scopes.push(scope_look(&first, names.next()));
        for _ in 1..first.left {
            let Ok(row) = self.rows.pop() else { break };
            look.scopes.push(scope_look(&row, names.next()));
        }
        Some(TimedLook { at_ns: first.at_ns, is_pressed: first.is_pressed, look })
    }
}

fn scope_look(row: &Row, name: Option<&String>) -> ScopeLook {
    let bytes = |value: u64| (value != u64::MAX).then_some(value);
    ScopeLook {
        scope: name.cloned().unwrap_or_default(),
        state: row.state,
        weight: row.weight,
        fires: row.fires,
        holds: row.holds,
        signals: row.signals.iter().map(|value| (!value.is_nan()).then_some(*value)).collect(),
        total_bytes: bytes(row.total_bytes),
        available_bytes: bytes(row.available_bytes),
        swap_free_bytes: bytes(row.swap_free_bytes),
    }
}

#[cfg(test)]
mod tests {
    use sensor_core::{
        model::snapshot::Snapshot,
        verdict::{evaluator::Evaluator, policy::RULES, reading::Reading, weight},
    };

    use super::*;

    fn sample(second: u64, scopes: usize, is_known: bool) -> Sample {
        let mut evaluator = Evaluator::new(Arc::default(), weight::Settings::default());
        let at_ns = second * 1_000_000_000;
        let reading = Reading { at_ns, total_bytes: Some(7), ..Reading::default() };
        let full = |at_ns, ns| Reading { at_ns, full_ns: Some(ns), ..reading };
        evaluator.evaluate(full(at_ns - 900_000_000, 0));
        let verdict = evaluator.evaluate(full(at_ns, 900_000_000));
        let scope = ScopeVerdict {
            scope: "x".into(),
            cgroup_id: None,
            reading,
            verdict,
            decided_by: None,
            unknown_reason: (!is_known).then(|| "no cgroup".into()),
        };
        let stall_clock = [(1, [1, 0, 0, 0, 5]), (2, [2, 0, 0, 0, 5])].into();
        let snapshot = Snapshot { taken_ns: at_ns, stall_clock, ..Snapshot::default() };
        Sample { snapshot, scopes: vec![scope; scopes], vmstat_kills: None }
    }

    #[test]
    fn looks_arrive_whole_and_in_order() {
        let names = vec!["host".to_owned(), "web".to_owned()];
        let (mut writer, mut reader) = queue(names.clone(), &Arc::default());
        assert_eq!(reader.pop(), None);
        writer.push(&sample(10, 2, true), true);
        writer.push(&sample(11, 2, false), false);
        let first = reader.pop().expect("a look");
        assert_eq!((first.at_ns, first.is_pressed), (10_000_000_000, true));
        assert_eq!(first.look.stalls_ns, [3, 0, 0, 0, 10]);
        let scopes: Vec<_> = first.look.scopes.iter().map(|scope| scope.scope.clone()).collect();
        assert_eq!(scopes, names);
        let host = &first.look.scopes[0];
        assert_eq!(host.state, Some(VerdictState::Ready));
        assert_eq!((host.total_bytes, host.available_bytes), (Some(7), None));
        let full = Signal::ALL.iter().position(|s| *s == Signal::Full1s).expect("a signal");
        assert!(host.signals[full].is_some_and(|share| share > 0.9), "{host:?}");
        assert!(host.signals.contains(&None), "not measured");
        let second = reader.pop().expect("a look");
        assert_eq!(second.look.scopes[1].state, None, "not known");
        assert_eq!(reader.pop(), None);
    }

    #[test]
    fn a_full_queue_drops_whole_looks_and_counts_them() {
        let figures = Arc::default();
        let names = vec!["a".into(), "b".into(), "c".into()];
        let (mut writer, mut reader) = queue(names, &figures);
        let sample = sample(10, 3, true);
        for _ in 0..ROWS {
            writer.push(&sample, false);
        }
        assert_eq!(figures.lost_looks(), (ROWS - ROWS / 3) as u64);
        let read =
            std::iter::from_fn(|| reader.pop()).inspect(|l| assert_eq!(l.look.scopes.len(), 3));
        assert_eq!(read.count(), ROWS / 3);
    }

    #[test]
    fn bits_are_enough_for_all_rules() {
        assert!(RULES.len() <= 64);
        assert!(std::mem::size_of::<Row>() * ROWS <= 128 << 10);
    }
}
