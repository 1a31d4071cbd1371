//! Readings in, verdicts out, for one scope.

use std::{sync::Arc, time::Duration};

use super::{
    policy::{Policy, RuleResults},
    reading::Reading,
    signals::{ReadingHistory, Signal, Signals},
    state::{Severity, VerdictState},
    weight::{ScopeState, Settings, WeightController},
};
use crate::common::counter::nanos;

/// What was decided, and from what.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// State and weight.
    pub position: ScopeState,
    /// Since when it is in this state: CLOCK_MONOTONIC nanoseconds.
    pub since_ns: u64,
    /// What spoke against full traffic.
    pub evidence: RuleResults,
    /// The numbers.
    pub signals: Signals,
    /// How long it must be calm before it gets better.
    pub recover_after: Duration,
    /// Changes of state so far, from row to column, by [`VerdictState`].
    pub transitions: [[u64; 3]; 3],
}

/// Judges one scope.
#[derive(Debug, Clone)]
pub struct Evaluator {
    policy: Arc<Policy>,
    past: ReadingHistory,
    pace: WeightController,
    signals: Signals,
    evidence: RuleResults,
    /// Where it stood when stalls could no longer be told; none while they can.
    unmeasured: Option<VerdictState>,
    last_ns: Option<u64>,
    gap_ns: u64,
    since_ns: Option<u64>,
    transitions: [[u64; 3]; 3],
}

/// Readings that are further apart than this leave out what was between; see [`Evaluator::with_gap`].
const GAP: Duration = Duration::from_secs(5);

impl Evaluator {
    /// Knows nothing yet, and takes the scope to be ready.
    pub fn new(policy: Arc<Policy>, settings: Settings) -> Self {
        Self {
            policy,
            past: ReadingHistory::default(),
            pace: WeightController::new(settings),
            signals: Signals::default(),
            evidence: RuleResults::default(),
            unmeasured: None,
            last_ns: None,
            gap_ns: nanos(GAP),
            since_ns: None,
            transitions: [[0; 3]; 3],
        }
    }

    /// How far apart readings may be for the time between them to count as seen: what is served is
    /// stale after that.
    #[must_use]
    pub fn with_gap(self, gap: Duration) -> Self {
        Self { gap_ns: nanos(gap), ..self }
    }

    /// Goes on from where an earlier evaluator left the scope.
    pub fn resume(&mut self, stood: ScopeState) {
        self.pace.resume(stood);
    }

    /// Takes a reading. One that is not later than the last changes nothing.
    pub fn evaluate(&mut self, reading: Reading) -> Verdict {
        let (now, before) = (reading.at_ns, self.pace.position().state);
        if let Some(signals) = self.past.push(reading) {
            self.signals = signals;
            self.evidence = self.policy.evaluate(&signals);
            // A host that froze was not calm meanwhile. Counters are compared over it all the same.
            if self.last_ns.replace(now).is_some_and(|last| now - last > self.gap_ns) {
                self.pace.pause();
            }
            let unmeasured = (!tells_stalls(&signals)).then(|| self.unmeasured.unwrap_or(before));
            self.unmeasured = unmeasured;
            if unmeasured.is_none_or(|from| from == VerdictState::Ready) {
                self.pace.step(now, self.evidence.fires, self.evidence.holds);
            } else {
                self.stay_or_fall(now);
            }
        }
        let state = self.pace.position().state;
        if state != before {
            self.transitions[before as usize][state as usize] += 1;
            self.since_ns = Some(now);
        }
        self.verdict(now)
    }

    /// Nothing can be told at this time: the scope stays as it is, for no news is not good news.
    pub fn pause(&mut self, now_ns: u64) -> Verdict {
        self.past.interrupt();
        self.pace.pause();
        self.signals = Signals::default();
        self.evidence = RuleResults::default();
        self.verdict(now_ns)
    }

    /// What brought it here may go on unseen, so it does not get better. What else speaks against
    /// traffic, as a kill does, still makes it worse.
    fn stay_or_fall(&mut self, now_ns: u64) {
        let stood = self.pace.position();
        let holds = match stood.state {
            VerdictState::Ready => Severity::Calm,
            VerdictState::Degraded => Severity::Degraded,
            VerdictState::Overloaded => Severity::Overloaded,
        };
        self.pace.step(now_ns, self.evidence.fires, holds);
        // A rule that holds lets a weight climb to what degraded gives.
        if self.pace.position().weight > stood.weight {
            self.pace.resume(stood);
        }
    }

    fn verdict(&mut self, now_ns: u64) -> Verdict {
        Verdict {
            position: self.pace.position(),
            since_ns: *self.since_ns.get_or_insert(now_ns),
            evidence: self.evidence.clone(),
            signals: self.signals,
            recover_after: self.pace.recover_after(),
            transitions: self.transitions,
        }
    }
}

/// Whether PSI or the stall clock tells who stalls.
fn tells_stalls(signals: &Signals) -> bool {
    let clock = signals.get(Signal::Stalled1s).or(signals.get(Signal::Stalled10s));
    signals.has_psi() || clock.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// A scope of which nothing can be told but kills.
    fn unmeasured(at_s: u64, kills: u64) -> Reading {
        Reading { at_ns: at_s * SECOND, oom_kills: Some(kills), ..Reading::default() }
    }

    fn seeing(at_s: u64, full_ns: u64) -> Reading {
        Reading { full_ns: Some(full_ns), ..unmeasured(at_s, 0) }
    }

    fn left_at(state: VerdictState, weight: f64) -> Evaluator {
        let mut evaluator = Evaluator::new(Arc::default(), Settings::default());
        evaluator.resume(ScopeState { state, weight, overloaded_until_ns: Some(1), relapses: 0 });
        evaluator
    }

    #[test]
    fn who_cannot_see_stays_as_it_was() {
        for (state, weight) in [
            (VerdictState::Overloaded, 0.0),
            (VerdictState::Degraded, 0.05),
            (VerdictState::Degraded, 0.5),
            (VerdictState::Degraded, 0.8),
            (VerdictState::Ready, 1.0),
        ] {
            let mut evaluator = left_at(state, weight);
            for at in 1..1000 {
                let found = evaluator.evaluate(unmeasured(at, 0)).position;
                assert_eq!((found.state, found.weight), (state, weight), "at {at} s");
            }
        }
    }

    #[test]
    fn who_goes_blind_while_drained_must_be_seen_calm_anew() {
        let mut evaluator = left_at(VerdictState::Ready, 1.0);
        // Everything is lost from the tenth second to the twentieth.
        let lost = |at: u64| at.clamp(10, 20) * SECOND;
        let at = |evaluator: &mut Evaluator, at: u64| {
            evaluator.evaluate(seeing(at, lost(at))).position.state
        };
        (1..20).for_each(|s| _ = at(&mut evaluator, s));
        assert_eq!(at(&mut evaluator, 20), VerdictState::Overloaded);
        for s in 21..300 {
            assert_eq!(
                evaluator.evaluate(unmeasured(s, 0)).position.state,
                VerdictState::Overloaded,
                "at {s} s"
            );
        }
        assert_eq!((300..310).map(|s| at(&mut evaluator, s)).max(), Some(VerdictState::Overloaded));
        assert!(
            (310..400).any(|s| at(&mut evaluator, s) == VerdictState::Ready),
            "and it does come back"
        );
    }

    #[test]
    fn a_gap_is_not_calm() {
        // Calm from the second second on; ten seconds of it are needed.
        for (gap, back_at) in [(1, 12), (5, 12), (6, 22), (3600, 3616)] {
            let mut evaluator = left_at(VerdictState::Overloaded, 0.0);
            let mut at = |s| evaluator.evaluate(seeing(s, 0)).position.state;
            (1..=6).for_each(|s| _ = at(s));
            let back = (6 + gap..5000).find(|s| at(*s) != VerdictState::Overloaded);
            assert_eq!(back, Some(back_at), "after a gap of {gap} s");
        }
        let mut evaluator = left_at(VerdictState::Degraded, 0.05);
        evaluator.evaluate(seeing(1, 0));
        let climbs = evaluator.evaluate(seeing(2, 0)).position;
        assert!(climbs.weight > 0.05);
        let later = evaluator.evaluate(seeing(60, 0)).position;
        assert_eq!(later, climbs, "it does not climb while nobody looks");
        let mut evaluator = left_at(VerdictState::Overloaded, 0.0).with_gap(Duration::from_mins(1));
        (1..=2).for_each(|s| _ = evaluator.evaluate(seeing(s, 0)));
        assert_eq!(
            evaluator.evaluate(seeing(60, 0)).position.state,
            VerdictState::Degraded,
            "as configured"
        );
    }

    #[test]
    fn who_cannot_see_stalls_still_sees_kills() {
        // One kill in the second second, another in the twelfth.
        let kills = |at: u64| u64::from(at >= 2) + u64::from(at >= 12);
        for (weight, recovers) in [(1.0, true), (0.8, false)] {
            let state = if recovers { VerdictState::Ready } else { VerdictState::Degraded };
            let mut evaluator = left_at(state, weight);
            let mut at = |s| evaluator.evaluate(unmeasured(s, kills(s))).position;
            let found: Vec<_> = (1..500).map(&mut at).collect();
            assert_eq!(
                (found[8].state, found[8].weight),
                (VerdictState::Degraded, 0.5),
                "after one"
            );
            assert_eq!(found[20].state, VerdictState::Overloaded, "after two");
            // Kills alone brought it down, and that there are no more can be seen.
            assert_eq!(found[498].state == VerdictState::Ready, recovers, "{state:?}");
        }
    }
}
