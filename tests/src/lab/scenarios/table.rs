//! Hits, misses, false alarms and lead times, as Markdown. Pure.

use std::fmt::Write as _;

use super::{
    SECOND,
    baselines::Baseline,
    catalogue::{Expected, Half, Scenario},
    harm::Harm,
    record::{Course, Record, WeightChange},
};

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
    /// The rules that triggered then.
    pub reasons: String,
    /// When the baselines triggered, as in [`Baseline::ALL`].
    pub baselines: [Option<i64>; Baseline::ALL.len()],
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

/// The outcome of a run with these weights.
pub fn judge(scenario: &Scenario, record: &Record, changes: &[WeightChange]) -> Outcome {
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
    Outcome {
        scenario: *scenario,
        harm,
        control,
        harmed: harm.harmed_at.map(since),
        reduced: reduced.map(|change| since(change.at_ns)),
        overloaded: overloaded.map(|change| since(change.at_ns)),
        reasons: reasons.join(", then "),
        baselines: Baseline::ALL
            .map(|r| r.triggers_at(&record.samples, scenario).map(since)),
    }
}

impl Outcome {
    /// Whether the service outside the cgroup was harmed too, which makes the run invalid.
    pub fn is_disturbed(&self) -> bool {
        self.control.harmed_at.is_some()
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

/// The tables of both halves, and their totals.
pub fn markdown(outcomes: &[Outcome]) -> String {
    let mut out = String::new();
    for half in [Half::Tune, Half::HeldOut] {
        let rows: Vec<_> = outcomes.iter().filter(|o| o.scenario.half == half).collect();
        if !rows.is_empty() {
            let _ = writeln!(out, "**{}**\n", half.name());
            let baselines = Baseline::ALL.map(Baseline::name).join(" | ");
            let _ = writeln!(
                out,
                "| scenario | service | reduced weight | overloaded | lead | {baselines} |"
            );
            let _ = writeln!(out, "|---|---|---|---|---|---|---|---|---|");
            for o in rows {
                row(&mut out, o);
            }
            let _ = writeln!(out);
        }
    }
    totals(&mut out, outcomes);
    out
}

fn row(out: &mut String, o: &Outcome) {
    let service = match o.harmed {
        Some(at) => format!("**harmed** at {} s", seconds(at)),
        None => format!("fine, worst p99 {}", milliseconds(o.harm.worst)),
    };
    let service = if o.is_unexpected() { format!("{service} (!)") } else { service };
    let service = if o.is_disturbed() { format!("{service}, machine disturbed") } else { service };
    let lead = match (o.harmed, o.reduced) {
        (Some(harmed), Some(reduced)) => format!("{:+.1} s", (harmed - reduced) as f64 / 1e9),
        _ => String::new(),
    };
    let reduced = cell(o.harmed, o.reduced);
    let overloaded = match (o.harmed, o.overloaded) {
        (None, Some(at)) => format!("**false**, {} s", seconds(at)),
        (_, Some(at)) => format!("{} s", seconds(at)),
        _ => "–".to_owned(),
    };
    let baselines = o.baselines.map(|at| cell(o.harmed, at)).join(" | ");
    let name = o.scenario.name;
    let _ =
        writeln!(out, "| {name} | {service} | {reduced} | {overloaded} | {lead} | {baselines} |");
}

fn cell(harmed: Option<i64>, detected: Option<i64>) -> String {
    let at = detected.map_or(String::new(), seconds);
    match mark(harmed, detected) {
        Mark::InTime => format!("{at} s"),
        Mark::Late => format!("late, {at} s"),
        Mark::Missed => "**missed**".to_owned(),
        Mark::Quiet => "–".to_owned(),
        Mark::False => format!("**false**, {at} s"),
    }
}

fn totals(out: &mut String, outcomes: &[Outcome]) {
    let _ = writeln!(out, "| | half | harm detected in time | late | missed | false alarms |");
    let _ = writeln!(out, "|---|---|---:|---:|---:|---:|");
    let detections = |o: &Outcome| {
        let ours =
            [("memsensor, reduced weight", o.reduced), ("memsensor, overloaded", o.overloaded)];
        let others =
            Baseline::ALL.into_iter().zip(o.baselines).map(|(baseline, at)| (baseline.name(), at));
        ours.into_iter().chain(others).collect::<Vec<_>>()
    };
    let each: Vec<_> = outcomes.iter().map(|o| (o, detections(o))).collect();
    let names = each.first().map_or(&[][..], |(_, detections)| detections);
    for (i, (name, _)) in names.iter().enumerate() {
        for half in [Half::Tune, Half::HeldOut] {
            let of = each.iter().filter(|(o, _)| o.scenario.half == half);
            let marks: Vec<_> = of.map(|(o, detections)| mark(o.harmed, detections[i].1)).collect();
            let count = |mark| marks.iter().filter(|m| **m == mark).count();
            let harmful =
                outcomes.iter().filter(|o| o.scenario.half == half && o.harmed.is_some()).count();
            let [in_time, late, missed, wrong] =
                [Mark::InTime, Mark::Late, Mark::Missed, Mark::False].map(count);
            let all = marks.len();
            let half = half.name();
            let _ = writeln!(
                out,
                "| {name} | {half} | {in_time} of {harmful} | {late} | {missed} \
                 | {wrong} of {all} |"
            );
        }
    }
}

fn seconds(ns: i64) -> String {
    format!("{:.1}", ns as f64 / 1e9)
}

fn milliseconds(ns: u64) -> String {
    format!("{:.0} ms", ns as f64 / 1e6)
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
}
