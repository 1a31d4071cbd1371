//! What came of a run: when its users were harmed, when memsensor and common rules reacted, and what
//! each of them cost. Pure.

use super::{
    SECOND,
    baselines::Baseline,
    catalogue::{Expected, Scenario},
    harm::Harm,
    record::{Course, Record, WeightChange},
    scoring,
};
use crate::support::score::Score;

/// A detection is in time until so many nanoseconds after harm began.
const IN_TIME: u64 = SECOND;

/// The outcome of a run. Times are nanoseconds from the begin of the load.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The scenario.
    pub scenario: Scenario,
    /// Harm of the service.
    pub harm: Harm,
    /// The same of the service outside the cgroup.
    pub control: Harm,
    /// When harm began.
    pub harmed: Option<i64>,
    /// When memsensor first reduced the weight.
    pub reduced: Option<i64>,
    /// When the weight became 0.
    pub overloaded: Option<i64>,
    /// Time from the end of harm until the weight was full again; none if it was not.
    pub back: Option<i64>,
    /// The rules that triggered then.
    pub reasons: String,
    /// When the baselines triggered, as in [`Baseline::ALL`].
    pub baselines: [Option<i64>; Baseline::ALL.len()],
    /// The score of each of [`scoring::policies`], if the record has the users' requests.
    pub scores: Option<Vec<Score>>,
}

/// How a detection, or its absence, counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Harm, detected within a second.
    InTime,
    /// Harm, detected later.
    Late,
    /// Harm, not detected.
    Missed,
    /// No harm, no alarm.
    Quiet,
    /// A false alarm.
    False,
}

/// Marks a detection at a time, given when harm began.
pub fn mark(harmed: Option<i64>, detected: Option<i64>) -> Mark {
    match (harmed, detected) {
        // Before the load began.
        (_, Some(detected)) if detected < 0 => Mark::False,
        (Some(harmed), Some(detected)) if detected <= harmed + IN_TIME.cast_signed() => {
            Mark::InTime
        }
        (Some(_), Some(_)) => Mark::Late,
        (Some(_), None) => Mark::Missed,
        (None, None) => Mark::Quiet,
        (None, Some(_)) => Mark::False,
    }
}

impl Outcome {
    /// The outcome of a run with these weights.
    pub fn of(scenario: &Scenario, record: &Record, changes: &[WeightChange]) -> Self {
        let Course { phases, harm, control, .. } = record.course;
        let since = |at: u64| at.cast_signed() - phases.load.cast_signed();
        let reduced = changes.iter().find(|change| change.weight < 100);
        let overloaded = changes.iter().find(|change| change.weight == 0);
        let of = |change: Option<&WeightChange>| {
            change.map_or(String::new(), |change| change.reasons.clone())
        };
        let mut reasons = vec![of(reduced), of(overloaded)];
        reasons.dedup();
        reasons.retain(|r| !r.is_empty());
        Self {
            scenario: *scenario,
            harm,
            control,
            harmed: harm.harmed_at.map(since),
            reduced: reduced.map(|change| since(change.at_ns)),
            overloaded: overloaded.map(|change| since(change.at_ns)),
            back: back(scoring::end_of_loss(&record.samples), changes),
            reasons: reasons.join(", then "),
            baselines: Baseline::ALL
                .map(|rule| rule.triggers_at(&record.samples, scenario).map(since)),
            scores: scoring::scores(scenario, &record.samples, changes),
        }
    }

    /// Whether the service outside the cgroup was harmed too, which makes the run invalid. Where the
    /// whole machine runs short of memory, nothing is outside.
    pub fn is_disturbed(&self) -> bool {
        self.control.harmed_at.is_some() && !self.scenario.guest
    }

    /// Whether the author expected otherwise.
    pub fn is_unexpected(&self) -> bool {
        (self.scenario.expected == Expected::Harm) != self.harmed.is_some()
    }

    /// The mark of memsensor, by its first reduction of the weight.
    pub fn mark(&self) -> Mark {
        mark(self.harmed, self.reduced)
    }
}

/// Time from the end of harm until the weight is full and stays so.
fn back(end: Option<u64>, changes: &[WeightChange]) -> Option<i64> {
    let last = changes.last().filter(|last| last.weight == 100 && changes.len() > 1)?;
    Some(last.at_ns.cast_signed() - end?.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detection_is_marked_by_when_harm_began() {
        let second = SECOND.cast_signed();
        for (harmed, detected, expected) in [
            (Some(5), Some(1), Mark::InTime),
            (Some(5), Some(6), Mark::InTime),
            (Some(5), Some(7), Mark::Late),
            (Some(5), None, Mark::Missed),
            (Some(5), Some(-1), Mark::False),
            (None, None, Mark::Quiet),
            (None, Some(3), Mark::False),
        ] {
            let at = |s: Option<i64>| s.map(|s| s * second);
            assert_eq!(mark(at(harmed), at(detected)), expected, "{harmed:?} {detected:?}");
        }
    }

    #[test]
    fn the_weight_is_back_when_it_is_full_for_good() {
        let change = |at_ns, weight| WeightChange { at_ns, weight, reasons: String::new() };
        let changes = [change(0, 100), change(5, 0), change(9, 100)];
        assert_eq!(back(Some(7), &changes), Some(2));
        assert_eq!(back(Some(7), &changes[..2]), None, "not back");
        assert_eq!(back(Some(7), &changes[..1]), None, "never reduced");
        assert_eq!(back(None, &changes), None, "nobody was harmed");
    }
}
