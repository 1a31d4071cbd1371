//! Hits, misses, false alarms, lead times and scores, as Markdown. Pure.

use std::fmt::Write as _;

use super::{
    baselines::Baseline,
    catalogue::{Half, Scenario},
    outcome::{Mark, Outcome, mark},
    scoring::policies,
};
use crate::support::score::{EXCHANGE, Score, sweep_text};

/// The tables of both halves, and their totals.
pub fn markdown(outcomes: &[Outcome]) -> String {
    let mut out = String::new();
    for half in [Half::Tune, Half::HeldOut] {
        let rows: Vec<_> = outcomes.iter().filter(|o| o.scenario.half == half).collect();
        if !rows.is_empty() {
            let _ = writeln!(out, "**{}**\n", half.name());
            let _ = writeln!(
                out,
                "| scenario | service | its users | reduced weight | overloaded | weight back \
                 | cost | best rule | no rule | oracle |"
            );
            let _ = writeln!(out, "|---|---|---|---|---|---|---:|---|---:|---:|");
            for o in rows {
                row(&mut out, o);
            }
            let _ = writeln!(out);
        }
    }
    totals(&mut out, outcomes);
    costs(&mut out, outcomes);
    out
}

fn row(out: &mut String, o: &Outcome) {
    let users = match o.harmed {
        Some(at) => format!("**harmed** at {} s", seconds(at)),
        None => format!("fine, worst p99 {}", milliseconds(o.harm.worst)),
    };
    let users = if o.is_unexpected() { format!("{users} (!)") } else { users };
    let users = if o.is_disturbed() { format!("{users}, machine disturbed") } else { users };
    let reduced = match (o.harmed, o.reduced) {
        (Some(harmed), Some(at)) => {
            format!("{} ({:+.1})", cell(o.harmed, o.reduced), (at - harmed) as f64 / 1e9)
        }
        _ => cell(o.harmed, o.reduced),
    };
    let overloaded = match (o.harmed, o.overloaded) {
        (None, Some(at)) => format!("**false**, {} s", seconds(at)),
        (_, Some(at)) => format!("{} s", seconds(at)),
        _ => "–".to_owned(),
    };
    let back = o.back.map_or("–".to_owned(), |at| format!("{} s", seconds(at)));
    let Scenario { name, service, .. } = o.scenario;
    let _ = writeln!(
        out,
        "| {name} | {} | {users} | {reduced} | {overloaded} | {back} | {} |",
        service.name(),
        cost_cells(o.scores.as_deref())
    );
}

/// The costs of memsensor, of the best common rule, of no rule, and of the oracle.
fn cost_cells(scores: Option<&[Score]>) -> String {
    let Some(scores) = scores else { return "– | – | – | –".to_owned() };
    let total = |n: usize| scores[n].total(EXCHANGE);
    let rules = 1..=Baseline::ALL.len();
    let best = rules.min_by(|a, b| total(*a).total_cmp(&total(*b))).unwrap_or(0);
    let [no_rule, oracle] = [1, 2].map(|n| total(Baseline::ALL.len() + n));
    let best = format!("{:.1} ({})", total(best), policies()[best]);
    format!("{:.1} | {best} | {no_rule:.1} | {oracle:.1}", total(0))
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

/// The cost of each policy in sum, and which is best at which exchange rate; for runs with the users'
/// requests.
fn costs(out: &mut String, outcomes: &[Outcome]) {
    if outcomes.iter().all(|o| o.scores.is_none()) {
        return;
    }
    let _ = writeln!(out, "\n| policy | half | user-seconds lost | withheld without need | cost |");
    let _ = writeln!(out, "|---|---|---:|---:|---:|");
    let sum = |policy: usize, half: Option<Half>| -> Score {
        let of = outcomes.iter().filter(|o| half.is_none_or(|half| o.scenario.half == half));
        of.filter_map(|o| Some(o.scores.as_ref()?[policy])).sum()
    };
    for (policy, name) in policies().into_iter().enumerate() {
        for half in [Half::Tune, Half::HeldOut] {
            let score = sum(policy, Some(half));
            let _ = writeln!(
                out,
                "| {name} | {} | {:.1} | {:.1} s | {:.1} |",
                half.name(),
                score.lost,
                score.withheld,
                score.total(EXCHANGE)
            );
        }
    }
    // The oracle is no policy that anyone can have.
    let real = policies().len() - 1;
    let all: Vec<_> = (0..real).map(|policy| sum(policy, None)).collect();
    let sweep = sweep_text(&all, &policies()[..real]);
    let _ = writeln!(out, "\nThe best policy if a user-second counts as so many seconds: {sweep}.");
}

fn seconds(ns: i64) -> String {
    format!("{:.1}", ns as f64 / 1e9)
}

fn milliseconds(ns: u64) -> String {
    format!("{:.0} ms", ns as f64 / 1e6)
}
