//! Evaluates the rules on a record. Pure: no daemon, a millisecond per run.

use std::{sync::Arc, time::Duration};

use sensor_core::verdict::{
    evaluator::Evaluator, policy::Policy, reading::Reading, signals::Signal, state::VerdictState,
    weight::Settings,
};

use super::{
    catalogue::{Judged, Scenario},
    record::{Sample, WeightChange},
};

/// The daemon's default sampling intervals.
const CALM: Duration = Duration::from_secs(1);
const PRESSED: Duration = Duration::from_millis(100);
/// The share of PSI `some` from which the daemon samples more often.
const PRESSURE: f64 = 0.02;
/// The same for PSI I/O `full`.
const PRESSURE_IO: f64 = 0.1;

/// The changes of the weight that a daemon would have reported for what the scenario judges. Without
/// PSI triggers, so the first one may be up to a second later than the daemon's.
pub fn weight_changes(
    scenario: &Scenario,
    samples: &[Sample],
    policy: &Arc<Policy>,
) -> Vec<WeightChange> {
    match scenario.judged() {
        Judged::Scope => changes(samples.iter().map(|sample| sample.scope), policy),
        Judged::Host => host_weight_changes(samples, policy),
    }
}

/// The same for the host.
pub fn host_weight_changes(samples: &[Sample], policy: &Arc<Policy>) -> Vec<WeightChange> {
    changes(samples.iter().map(|sample| sample.host), policy)
}

fn changes(readings: impl Iterator<Item = Reading>, policy: &Arc<Policy>) -> Vec<WeightChange> {
    let mut judge = Evaluator::new(Arc::clone(policy), Settings::default());
    let mut changes: Vec<WeightChange> = Vec::new();
    let mut next = 0;
    for mut reading in readings.filter(|reading| reading.total_bytes.is_some()) {
        if changes.is_empty() {
            reading.before = calm_before(&reading);
        }
        if reading.at_ns < next {
            continue;
        }
        let verdict = judge.evaluate(reading);
        let reaches = |signal, share| verdict.signals.get(signal).is_some_and(|v| v >= share);
        let is_pressed = verdict.position.state != VerdictState::Ready
            || reaches(Signal::Some1s, PRESSURE)
            || reaches(Signal::IoFull1s, PRESSURE_IO);
        let wait = if is_pressed { PRESSED } else { CALM };
        next = reading.at_ns + u64::try_from(wait.as_nanos()).unwrap_or(0);
        let weight = percent(verdict.position.weight);
        if changes.last().is_none_or(|last| last.weight != weight) {
            let firing = verdict.evidence.rules.iter().filter(|r| r.fires).map(|r| r.rule);
            let reasons = firing.collect::<Vec<_>>().join(" ");
            changes.push(WeightChange { at_ns: reading.at_ns, weight, reasons });
        }
    }
    changes
}

/// The kernel's averages at the begin of a record, as those of a minute in which nothing stalled: a
/// cgroup is new then, and a host is assumed to have been calm.
fn calm_before(reading: &Reading) -> Option<[[u64; 2]; 2]> {
    Some([[reading.some_ns?, reading.full_ns?]; 2])
}

/// The weight as a load balancer gets it: whole percent, rounded.
fn percent(weight: f64) -> u8 {
    (0..=100).rev().find(|whole| f64::from(*whole) <= (weight * 100.0).round()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::scenarios::catalogue;

    /// Twenty samples a second for 20 s; from the tenth second on all tasks stall for half the
    /// time.
    fn samples(total_bytes: Option<u64>) -> Vec<Sample> {
        let at = |n: u64| {
            let at_ns = 1 + n * 50_000_000;
            let stalled = Some(at_ns.saturating_sub(10_000_000_000) / 2);
            let scope = Reading {
                at_ns,
                some_ns: stalled,
                full_ns: stalled,
                total_bytes,
                ..Reading::default()
            };
            Sample { scope, ..Sample::default() }
        };
        (0..400).map(at).collect()
    }

    fn scenario() -> &'static Scenario {
        catalogue::all().next().expect("a scenario")
    }

    #[test]
    fn rules_trigger_on_a_record_as_in_a_daemon() {
        let policy = Arc::new(Policy::default());
        let changes = weight_changes(scenario(), &samples(Some(1)), &policy);
        assert_eq!(changes.first().map(|t| t.weight), Some(100));
        let overloaded = changes.iter().find(|t| t.weight == 0).expect("overloaded");
        assert!((10_500_000_000..14_000_000_000).contains(&overloaded.at_ns), "{overloaded:?}");
        assert!(overloaded.reasons.contains("choking"), "{overloaded:?}");
    }

    #[test]
    fn a_missing_cgroup_has_no_weight_changes() {
        assert_eq!(weight_changes(scenario(), &samples(None), &Arc::new(Policy::default())), []);
    }
}
