//! What the rules would say of a record. Pure: no daemon, and a run in a millisecond.

use std::{sync::Arc, time::Duration};

use sensor_user::verdict::{State, judge::Judge, pace::Settings, policy::Policy, signals::Signal};

use super::record::{CgroupSample, WeightChange};

/// How often a daemon samples: as it comes.
const CALM: Duration = Duration::from_secs(1);
const PRESSED: Duration = Duration::from_millis(100);
/// What a daemon takes for pressure enough to look more often.
const PRESSURE: f64 = 0.02;

/// What a daemon would have told, whenever it would have changed. It has no trigger here, so it may
/// notice a beginning up to a second later than a daemon does.
pub fn told(samples: &[CgroupSample], policy: &Arc<Policy>) -> Vec<WeightChange> {
    let mut judge = Judge::new(Arc::clone(policy), Settings::default());
    let mut told: Vec<WeightChange> = Vec::new();
    let mut next = 0;
    for look in samples.iter().filter(|look| look.reading.total_bytes.is_some()) {
        if look.at_ns() < next {
            continue;
        }
        let verdict = judge.judge(look.reading);
        let some = verdict.signals.get(Signal::Some1s).is_some_and(|share| share >= PRESSURE);
        let wait = if verdict.position.state != State::Ready || some { PRESSED } else { CALM };
        next = look.at_ns() + u64::try_from(wait.as_nanos()).unwrap_or(0);
        let weight = percent(verdict.position.weight);
        if told.last().is_none_or(|last| last.weight != weight) {
            let firing = verdict.evidence.rules.iter().filter(|r| r.fires).map(|r| r.rule);
            let why = firing.collect::<Vec<_>>().join(" ");
            told.push(WeightChange { at_ns: look.at_ns(), weight, why });
        }
    }
    told
}

/// As a balancer is told it: no percent at all is draining.
fn percent(weight: f64) -> u8 {
    (0..=100).rev().find(|whole| f64::from(*whole) <= (weight * 100.0).round()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensor_user::verdict::reading::Reading;

    /// Twenty samples a second for 20 s; from the tenth second on everybody is stalled for half the time.
    fn samples(total_bytes: Option<u64>) -> Vec<CgroupSample> {
        let at = |n: u64| {
            let at_ns = 1 + n * 50_000_000;
            let stalled = Some(at_ns.saturating_sub(10_000_000_000) / 2);
            let reading = Reading {
                at_ns,
                some_ns: stalled,
                full_ns: stalled,
                total_bytes,
                ..Reading::default()
            };
            CgroupSample { reading, some_avg10: 0.0, full_avg10: 0.0 }
        };
        (0..400).map(at).collect()
    }

    #[test]
    fn the_rules_speak_of_a_record_as_they_would_have_then() {
        let policy = Arc::new(Policy::default());
        let told = told(&samples(Some(1)), &policy);
        assert_eq!(told.first().map(|t| t.weight), Some(100));
        let drained = told.iter().find(|t| t.weight == 0).expect("it drains");
        assert!((10_500_000_000..14_000_000_000).contains(&drained.at_ns), "{drained:?}");
        assert!(drained.why.contains("choking"), "{drained:?}");
    }

    #[test]
    fn of_a_group_that_is_not_there_nothing_is_said() {
        assert_eq!(told(&samples(None), &Arc::new(Policy::default())), []);
    }
}
