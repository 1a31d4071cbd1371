//! Whether a scope is under pressure, so that samples and scans are more frequent. Not here: the
//! verdict.

use sensor_core::verdict::{scope::ScopeVerdict, signals::Signal, state::VerdictState};

/// Share of time stalled from which on samples are more frequent.
const PRESSED: f64 = 0.02;

/// The same for I/O: a healthy disk always has some.
const PRESSED_IO: f64 = 0.1;

/// Whether a scope is under pressure, so that samples are more frequent. Not while it only waits
/// for its weight to rise, or while its cgroup does not exist, both of which may last for days.
pub(super) fn is_pressed(scope: &ScopeVerdict) -> bool {
    if scope.unknown_reason.is_some() {
        return false;
    }
    let signals = &scope.verdict.signals;
    let reaches = |signal, threshold| signals.get(signal).is_some_and(|v| v >= threshold);
    let is_bad = scope.verdict.position.state != VerdictState::Ready;
    is_bad && !scope.verdict.evidence.rules.is_empty()
        || reaches(Signal::Some1s, PRESSED)
        || reaches(Signal::Stalled1s, PRESSED)
        || reaches(Signal::IoFull1s, PRESSED_IO)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sensor_core::verdict::{evaluator::Evaluator, reading::Reading, weight};

    use super::*;

    #[test]
    fn samples_are_frequent_only_while_a_measured_scope_is_under_pressure() {
        let mut evaluator = Evaluator::new(Arc::default(), weight::Settings::default());
        let mut at = |second: u64, full_s: Option<u64>, kills| {
            let at_ns = second * 1_000_000_000;
            let full_ns = full_s.map(|seconds| seconds * 1_000_000_000);
            let reading = Reading { at_ns, full_ns, oom_kills: Some(kills), ..Reading::default() };
            let verdict = match full_s {
                Some(_) => evaluator.evaluate(reading),
                None => evaluator.pause(at_ns),
            };
            let unknown_reason = full_s.is_none().then(|| "no such cgroup".into());
            let scope = ScopeVerdict {
                scope: "a".into(),
                cgroup_id: None,
                reading,
                verdict,
                decided_by: None,
                unknown_reason,
            };
            (scope.verdict.position.state, is_pressed(&scope))
        };
        assert_eq!(at(1, Some(0), 0), (VerdictState::Ready, false));
        let stalled = (2..20).map(|second| at(second, Some(second - 1), 0)).last();
        assert_eq!(stalled, Some((VerdictState::Overloaded, true)));
        let calm: Vec<_> = (20..40).map(|second| at(second, Some(18), 0)).collect();
        assert_eq!(calm[0], (VerdictState::Overloaded, true), "rules still hold");
        let waits = (VerdictState::Degraded, false);
        assert!(calm.contains(&waits), "it only waits for its weight: {calm:?}");
        assert!(matches!(at(40, Some(18), 5), (_, true)), "a kill");
        // Its cgroup was removed: it keeps its state.
        let gone = at(41, None, 0);
        assert!(gone.0 != VerdictState::Ready && !gone.1, "{gone:?}");
    }
}
