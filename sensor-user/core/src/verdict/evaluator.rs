//! Evaluates one scope: readings in, verdicts out.
//!
//! Not here: the rules ([`super::policy`]) and the pace of the weight ([`super::weight`]).

use std::{sync::Arc, time::Duration};

use super::{
    policy::{Policy, RuleResults},
    reading::Reading,
    signals::{ReadingHistory, Signal, Signals},
    state::{Severity, VerdictState},
    weight::{ScopeState, Settings, WeightController},
};
use crate::common::counter::nanos;

/// State and weight of a scope, and the evidence for them.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// State and weight.
    pub position: ScopeState,
    /// When it entered this state: CLOCK_MONOTONIC nanoseconds.
    pub since_ns: u64,
    /// The rules that fire or hold.
    pub evidence: RuleResults,
    /// The signals that the rules were evaluated on.
    pub signals: Signals,
    /// How long no rule may hold before the state improves.
    pub recover_after: Duration,
    /// Changes of state so far, from row to column, by [`VerdictState`].
    pub transitions: [[u64; 3]; 3],
}

/// Evaluates one scope.
#[derive(Debug, Clone)]
pub struct Evaluator {
    policy: Arc<Policy>,
    history: ReadingHistory,
    controller: WeightController,
    signals: Signals,
    evidence: RuleResults,
    /// The state in which the scope was when stalls could no longer be measured; `None` while they
    /// are.
    state_when_unmeasured: Option<VerdictState>,
    last_reading_ns: Option<u64>,
    max_gap_ns: u64,
    since_ns: Option<u64>,
    transitions: [[u64; 3]; 3],
}

/// Default of [`Evaluator::with_gap`].
const MAX_GAP: Duration = Duration::from_secs(5);

impl Evaluator {
    /// Starts with a scope that is ready.
    pub fn new(policy: Arc<Policy>, settings: Settings) -> Self {
        Self {
            policy,
            history: ReadingHistory::default(),
            controller: WeightController::new(settings),
            signals: Signals::default(),
            evidence: RuleResults::default(),
            state_when_unmeasured: None,
            last_reading_ns: None,
            max_gap_ns: nanos(MAX_GAP),
            since_ns: None,
            transitions: [[0; 3]; 3],
        }
    }

    /// Sets the longest time between two readings that still counts as observed. After a longer
    /// gap the wait for recovery starts again.
    #[must_use]
    pub fn with_gap(self, gap: Duration) -> Self {
        Self { max_gap_ns: nanos(gap), ..self }
    }

    /// Evaluates by other rules from the next reading on. State and weight stay.
    pub fn replace_settings(&mut self, policy: Arc<Policy>, settings: Settings, gap: Duration) {
        self.policy = policy;
        self.controller.replace_settings(settings);
        self.max_gap_ns = nanos(gap);
    }

    /// Continues with the state that an earlier evaluator saved.
    pub fn resume(&mut self, saved: ScopeState) {
        self.controller.resume(saved);
    }

    /// Evaluates a reading. A reading that is not later than the last one changes nothing.
    pub fn evaluate(&mut self, reading: Reading) -> Verdict {
        let (now_ns, previous) = (reading.at_ns, self.controller.current().state);
        if let Some(signals) = self.history.push(reading) {
            self.signals = signals;
            self.evidence = self.policy.evaluate(&signals);
            // A host that froze was not calm during the gap. Counters are still compared over it.
            let last_ns = self.last_reading_ns.replace(now_ns);
            if last_ns.is_some_and(|last_ns| now_ns - last_ns > self.max_gap_ns) {
                self.controller.pause();
            }
            self.state_when_unmeasured = (!measures_stalls(&signals))
                .then(|| self.state_when_unmeasured.unwrap_or(previous));
            if self.state_when_unmeasured.is_none_or(|state| state == VerdictState::Ready) {
                self.controller.step(now_ns, self.evidence.fires, self.evidence.holds);
            } else {
                self.step_without_recovery(now_ns);
            }
        }
        let state = self.controller.current().state;
        if state != previous {
            self.transitions[previous as usize][state as usize] += 1;
            self.since_ns = Some(now_ns);
        }
        self.verdict(now_ns)
    }

    /// Records that the scope could not be read. It keeps its state: a missing reading is no
    /// evidence of recovery.
    pub fn pause(&mut self, now_ns: u64) -> Verdict {
        self.history.interrupt();
        self.controller.pause();
        self.signals = Signals::default();
        self.evidence = RuleResults::default();
        self.verdict(now_ns)
    }

    /// Steps while stalls cannot be measured. The stalls that led to the state may continue, so it
    /// does not improve. Other evidence, such as OOM kills, still makes it worse.
    fn step_without_recovery(&mut self, now_ns: u64) {
        let previous = self.controller.current();
        let holds = match previous.state {
            VerdictState::Ready => Severity::Calm,
            VerdictState::Degraded => Severity::Degraded,
            VerdictState::Overloaded => Severity::Overloaded,
        };
        self.controller.step(now_ns, self.evidence.fires, holds);
        // A rule that only holds lets the weight rise to that of a degraded scope.
        if self.controller.current().weight > previous.weight {
            self.controller.resume(previous);
        }
    }

    fn verdict(&mut self, now_ns: u64) -> Verdict {
        Verdict {
            position: self.controller.current(),
            since_ns: *self.since_ns.get_or_insert(now_ns),
            evidence: self.evidence.clone(),
            signals: self.signals,
            recover_after: self.controller.recover_after(),
            transitions: self.transitions,
        }
    }
}

/// Whether stalls are measured, by PSI or by the stall clock.
fn measures_stalls(signals: &Signals) -> bool {
    let stall_clock = signals.get(Signal::Stalled1s).or(signals.get(Signal::Stalled10s));
    signals.has_psi() || stall_clock.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// A reading without any measure of stalls.
    fn unmeasured(second: u64, oom_kills: u64) -> Reading {
        Reading { at_ns: second * SECOND, oom_kills: Some(oom_kills), ..Reading::default() }
    }

    fn with_psi(second: u64, full_ns: u64) -> Reading {
        Reading { full_ns: Some(full_ns), ..unmeasured(second, 0) }
    }

    fn resumed_at(state: VerdictState, weight: f64) -> Evaluator {
        let mut evaluator = Evaluator::new(Arc::default(), Settings::default());
        evaluator.resume(ScopeState { state, weight, overloaded_until_ns: Some(1), relapses: 0 });
        evaluator
    }

    #[test]
    fn an_unmeasured_scope_keeps_state_and_weight() {
        for (state, weight) in [
            (VerdictState::Overloaded, 0.0),
            (VerdictState::Degraded, 0.05),
            (VerdictState::Degraded, 0.5),
            (VerdictState::Degraded, 0.8),
            (VerdictState::Ready, 1.0),
        ] {
            let mut evaluator = resumed_at(state, weight);
            for second in 1..1000 {
                let current = evaluator.evaluate(unmeasured(second, 0)).position;
                assert_eq!((current.state, current.weight), (state, weight), "at {second} s");
            }
        }
    }

    #[test]
    fn recovery_starts_only_when_stalls_are_measured_again() {
        let mut evaluator = resumed_at(VerdictState::Ready, 1.0);
        // All tasks are stalled from the tenth second to the twentieth.
        let full_ns = |second: u64| second.clamp(10, 20) * SECOND;
        let measured = |evaluator: &mut Evaluator, second: u64| {
            evaluator.evaluate(with_psi(second, full_ns(second))).position.state
        };
        (1..20).for_each(|second| _ = measured(&mut evaluator, second));
        assert_eq!(measured(&mut evaluator, 20), VerdictState::Overloaded);
        for second in 21..300 {
            let state = evaluator.evaluate(unmeasured(second, 0)).position.state;
            assert_eq!(state, VerdictState::Overloaded, "at {second} s");
        }
        let states: Vec<_> = (300..400).map(|second| measured(&mut evaluator, second)).collect();
        assert_eq!(states[..10], [VerdictState::Overloaded; 10], "not yet calm for ten seconds");
        assert!(states[10..].contains(&VerdictState::Ready), "{states:?}");
    }

    #[test]
    fn a_gap_between_readings_does_not_count_as_calm() {
        // Without a gap, a scope that is calm from second 2 on gets traffic in second 7.
        for (gap, expected) in [(1, 7), (5, 11), (6, 17), (3600, 3611)] {
            let mut evaluator = resumed_at(VerdictState::Overloaded, 0.0);
            let mut state_at = |second| evaluator.evaluate(with_psi(second, 0)).position.state;
            (1..=6).for_each(|second| _ = state_at(second));
            let back_at = (6 + gap..5000).find(|s| state_at(*s) != VerdictState::Overloaded);
            assert_eq!(back_at, Some(expected), "after a gap of {gap} s");
        }
    }

    #[test]
    fn the_weight_does_not_rise_over_a_gap() {
        let mut evaluator = resumed_at(VerdictState::Degraded, 0.05);
        evaluator.evaluate(with_psi(1, 0));
        let before = evaluator.evaluate(with_psi(2, 0)).position;
        assert!(before.weight > 0.05, "it rises between close readings: {before:?}");
        assert_eq!(evaluator.evaluate(with_psi(60, 0)).position, before);
    }

    #[test]
    fn the_longest_gap_is_configurable() {
        let gap = Duration::from_mins(1);
        let mut evaluator = resumed_at(VerdictState::Overloaded, 0.0).with_gap(gap);
        (1..=2).for_each(|second| _ = evaluator.evaluate(with_psi(second, 0)));
        let state = evaluator.evaluate(with_psi(60, 0)).position.state;
        assert_eq!(state, VerdictState::Degraded);
    }

    #[test]
    fn oom_kills_count_while_stalls_are_unmeasured() {
        // One kill in second 2, another in second 12.
        let oom_kills = |second: u64| u64::from(second >= 2) + u64::from(second >= 12);
        for (state, weight) in [(VerdictState::Ready, 1.0), (VerdictState::Degraded, 0.8)] {
            let mut evaluator = resumed_at(state, weight);
            let mut at = |second| evaluator.evaluate(unmeasured(second, oom_kills(second)));
            let states: Vec<_> = (1..500).map(|second| at(second).position).collect();
            let after_one = (states[8].state, states[8].weight);
            assert_eq!(after_one, (VerdictState::Degraded, 0.5), "after one kill");
            assert_eq!(states[20].state, VerdictState::Overloaded, "after two kills");
            // Kills are still measured, so a scope that only they brought down recovers.
            let recovers = state == VerdictState::Ready;
            assert_eq!(states[498].state == VerdictState::Ready, recovers, "from {state:?}");
        }
    }
}
