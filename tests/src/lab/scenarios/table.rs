//! Who was right, and how early, as Markdown. Pure.

use std::fmt::Write as _;

use super::{
    SECOND,
    catalogue::{Expected, Half, Scenario},
    probe::PERIOD,
    record::{Record, WeightChange},
    baselines::Baseline,
    harm::{self, Harm, with_unanswered},
};
use crate::support::scope::MIB;

/// After harm began, so long it is not too late: nanoseconds.
const IN_TIME: u64 = SECOND;

/// One run, judged. Times are nanoseconds from the begin of the load.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// What ran.
    pub scenario: Scenario,
    /// What the service felt.
    pub harm: Harm,
    /// The same of one outside the cgroup.
    pub control: Harm,
    /// When harm began.
    pub harmed: Option<i64>,
    /// When memsensor first gave less than the full weight.
    pub less: Option<i64>,
    /// When it drained.
    pub drained: Option<i64>,
    /// The rules that it named then.
    pub why: String,
    /// When the others spoke, as in [`Baseline::ALL`].
    pub baselines: [Option<i64>; Baseline::ALL.len()],
}

/// What to make of a word that was said, or was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Harm, found before it was a second old.
    InTime,
    /// Harm, found later.
    Late,
    /// Harm, not found.
    Missed,
    /// No harm, and nothing said.
    Quiet,
    /// No harm, and something said.
    False,
}

/// What it is to say something at a time, given when harm began.
pub fn mark(harmed: Option<i64>, said: Option<i64>) -> Mark {
    match (harmed, said) {
        // Before anything was going on: whatever it saw, it was not this.
        (_, Some(said)) if said < 0 => Mark::False,
        (Some(harmed), Some(said)) if said <= harmed + IN_TIME.cast_signed() => Mark::InTime,
        (Some(_), Some(_)) => Mark::Late,
        (Some(_), None) => Mark::Missed,
        (None, None) => Mark::Quiet,
        (None, Some(_)) => Mark::False,
    }
}

/// Judges a run by what memsensor told in it.
pub fn judge(scenario: &Scenario, record: &Record, told: &[WeightChange]) -> Outcome {
    let phases = record.phases;
    let since = |at: u64| at.cast_signed() - phases.load.cast_signed();
    let all = |requests: &Vec<_>| with_unanswered(requests.clone(), PERIOD, phases.end);
    let harm = harm::judge(&all(&record.requests), phases);
    let less = told.iter().find(|t| t.weight < 100);
    let drain = told.iter().find(|t| t.weight == 0);
    let why = |told: Option<&WeightChange>| told.map_or(String::new(), |t| t.why.clone());
    let mut reasons = vec![why(less), why(drain)];
    reasons.dedup();
    reasons.retain(|r| !r.is_empty());
    Outcome {
        scenario: *scenario,
        harm,
        control: harm::judge(&all(&record.control), phases),
        harmed: harm.harmed_at.map(since),
        less: less.map(|t| since(t.at_ns)),
        drained: drain.map(|t| since(t.at_ns)),
        why: reasons.join(", then "),
        baselines: Baseline::ALL
            .map(|r| r.triggers_at(&record.samples, scenario.swap.mib() * MIB).map(since)),
    }
}

impl Outcome {
    /// Whether the machine itself held up what is outside the cgroup: then the run says nothing.
    pub fn is_disturbed(&self) -> bool {
        self.control.harmed_at.is_some()
    }

    /// Whether its author was wrong.
    pub fn is_unexpected(&self) -> bool {
        (self.scenario.expected == Expected::Harm) != self.harmed.is_some()
    }

    /// Of memsensor, by its first word.
    pub fn mark(&self) -> Mark {
        mark(self.harmed, self.less)
    }
}

/// The tables of both halves, and their sums.
pub fn markdown(outcomes: &[Outcome]) -> String {
    let mut out = String::new();
    for half in [Half::Tune, Half::HeldOut] {
        let rows: Vec<_> = outcomes.iter().filter(|o| o.scenario.half == half).collect();
        if !rows.is_empty() {
            let _ = writeln!(out, "**{}**\n", half.name());
            let baselines = Baseline::ALL.map(Baseline::name).join(" | ");
            let _ = writeln!(
                out,
                "| scenario | the service | less weight | drained | lead | {baselines} |"
            );
            let _ = writeln!(out, "|---|---|---|---|---|---|---|---|---|");
            for o in rows {
                row(&mut out, o);
            }
            let _ = writeln!(out);
        }
    }
    sums(&mut out, outcomes);
    out
}

fn row(out: &mut String, o: &Outcome) {
    let service = match o.harmed {
        Some(at) => format!("**harmed** at {} s", seconds(at)),
        None => format!("fine, at worst {}", milliseconds(o.harm.worst)),
    };
    let service = if o.is_unexpected() { format!("{service} (!)") } else { service };
    let service = if o.is_disturbed() { format!("{service}, machine disturbed") } else { service };
    let lead = match (o.harmed, o.less) {
        (Some(harmed), Some(less)) => format!("{:+.1} s", (harmed - less) as f64 / 1e9),
        _ => String::new(),
    };
    let less = cell(o.harmed, o.less);
    let drained = match (o.harmed, o.drained) {
        (None, Some(at)) => format!("**false**, {} s", seconds(at)),
        (_, Some(at)) => format!("{} s", seconds(at)),
        _ => "–".to_owned(),
    };
    let baselines = o.baselines.map(|at| cell(o.harmed, at)).join(" | ");
    let name = o.scenario.name;
    let _ = writeln!(out, "| {name} | {service} | {less} | {drained} | {lead} | {baselines} |");
}

fn cell(harmed: Option<i64>, said: Option<i64>) -> String {
    let at = said.map_or(String::new(), seconds);
    match mark(harmed, said) {
        Mark::InTime => format!("{at} s"),
        Mark::Late => format!("late, {at} s"),
        Mark::Missed => "**missed**".to_owned(),
        Mark::Quiet => "–".to_owned(),
        Mark::False => format!("**false**, {at} s"),
    }
}

fn sums(out: &mut String, outcomes: &[Outcome]) {
    let _ = writeln!(out, "| | half | harm found in time | late | missed | false alarms |");
    let _ = writeln!(out, "|---|---|---:|---:|---:|---:|");
    let said = |o: &Outcome| {
        let ours = [("memsensor, less weight", o.less), ("memsensor, drained", o.drained)];
        let others = Baseline::ALL.into_iter().zip(o.baselines).map(|(baseline, at)| (baseline.name(), at));
        ours.into_iter().chain(others).collect::<Vec<_>>()
    };
    let each: Vec<_> = outcomes.iter().map(|o| (o, said(o))).collect();
    let names = each.first().map_or(&[][..], |(_, said)| said);
    for (i, (name, _)) in names.iter().enumerate() {
        for half in [Half::Tune, Half::HeldOut] {
            let of = each.iter().filter(|(o, _)| o.scenario.half == half);
            let marks: Vec<_> = of.map(|(o, said)| mark(o.harmed, said[i].1)).collect();
            let count = |mark| marks.iter().filter(|m| **m == mark).count();
            let harmful =
                outcomes.iter().filter(|o| o.scenario.half == half && o.harmed.is_some()).count();
            let [in_time, late, missed, wrong] =
                [Mark::InTime, Mark::Late, Mark::Missed, Mark::False].map(count);
            let all = marks.len();
            let half = half.name();
            let _ = writeln!(
                out,
                "| {name} | {half} | {in_time} of {harmful} | {late} | {missed} | {wrong} of {all} |"
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
    fn a_word_is_marked_by_when_harm_began() {
        let second = SECOND.cast_signed();
        for (harmed, said, expected) in [
            (Some(5), Some(1), Mark::InTime),
            (Some(5), Some(6), Mark::InTime),
            (Some(5), Some(7), Mark::Late),
            (Some(5), None, Mark::Missed),
            (Some(5), Some(-1), Mark::False),
            (None, None, Mark::Quiet),
            (None, Some(3), Mark::False),
        ] {
            let at = |s: Option<i64>| s.map(|s| s * second);
            assert_eq!(mark(at(harmed), at(said)), expected, "{harmed:?} {said:?}");
        }
    }
}
