//! Policies compared over causes, as Markdown. Pure.

use std::fmt::Write as _;

use super::{Policy, cause, outcome::Outcome, report::ms};
use crate::support::score::{self, EXCHANGE, Score};

/// Scores that differ by at most so much count as equal: a tenth of a user-second.
const EQUAL: f64 = 1.0;

/// All tables.
pub fn tables(outcomes: &[Outcome]) -> String {
    [causes(outcomes), runs(outcomes), sums(outcomes), rates(outcomes)].join("\n")
}

/// The outcomes of a cause, in the order of the policies.
fn of_cause<'a>(outcomes: &'a [Outcome], cause: &str) -> Vec<&'a Outcome> {
    let of =
        |policy: &Policy| outcomes.iter().find(|o| o.cause == cause && o.policy == policy.name());
    Policy::ALL.iter().filter_map(of).collect()
}

/// The names of causes that have outcomes.
fn measured(outcomes: &[Outcome]) -> impl Iterator<Item = &'static cause::Cause> {
    cause::ALL.iter().filter(|c| outcomes.iter().any(|o| o.cause == c.name))
}

fn causes(outcomes: &[Outcome]) -> String {
    let mut out = String::from("| cause | on web-01 |\n|---|---|\n");
    for cause in measured(outcomes) {
        let _ = writeln!(out, "| {} | {} |", cause.name, cause.about);
    }
    out += "\n| policy | configuration |\n|---|---|\n";
    for policy in Policy::ALL.iter().filter(|p| outcomes.iter().any(|o| o.policy == p.name())) {
        let _ = writeln!(out, "| {} | {} |", policy.name(), policy.spec().about);
    }
    out
}

fn best(scores: impl Iterator<Item = Score>) -> f64 {
    scores.map(|score| score.total(EXCHANGE)).fold(f64::INFINITY, f64::min)
}

fn is_best(score: Score, best: f64) -> bool {
    score.total(EXCHANGE) <= best + EQUAL
}

fn runs(outcomes: &[Outcome]) -> String {
    let mut out = String::from(
        "| cause | policy | failed | p99 calm, ms | p99, ms | user-seconds lost | server-seconds withheld | score \
         | withheld at the end |\n|---|---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for cause in measured(outcomes) {
        let all = of_cause(outcomes, cause.name);
        let best = best(all.iter().map(|o| o.score()));
        for outcome in all {
            let score = outcome.score();
            let mark = if is_best(score, best) { "**" } else { "" };
            let _ = writeln!(
                out,
                "| {} | {} | {} of {} | {} | {} | {:.2} | {:.1} | {mark}{:.1}{mark} | {:.0} % |",
                outcome.cause,
                outcome.policy,
                outcome.failed,
                outcome.count,
                ms(outcome.calm),
                ms(outcome.p99),
                score.lost,
                score.withheld,
                score.total(EXCHANGE),
                100.0 * outcome.withheld_at_end(),
            );
        }
    }
    out
}

/// The sum of a policy over the causes that all of them have run, or `None` if it lacks one.
fn sum(outcomes: &[Outcome], policy: Policy) -> Option<Vec<&Outcome>> {
    let of = |cause: &cause::Cause| {
        outcomes.iter().find(|o| o.cause == cause.name && o.policy == policy.name())
    };
    measured(outcomes).map(of).collect()
}

fn complete(outcomes: &[Outcome]) -> Vec<(Policy, Vec<&Outcome>)> {
    let all = Policy::ALL.iter().filter_map(|p| Some((*p, sum(outcomes, *p)?)));
    all.filter(|(_, of)| !of.is_empty()).collect()
}

fn sums(outcomes: &[Outcome]) -> String {
    let mut out = format!(
        "| all {} causes | failed | user-seconds lost | server-seconds withheld | score | best in \
         |\n|---|---:|---:|---:|---:|---:|\n",
        measured(outcomes).count()
    );
    for (policy, of) in complete(outcomes) {
        let score: Score = of.iter().map(|o| o.score()).sum();
        let wins = of.iter().filter(|o| {
            let rivals = of_cause(outcomes, &o.cause);
            is_best(o.score(), best(rivals.iter().map(|o| o.score())))
        });
        let _ = writeln!(
            out,
            "| {} | {} | {:.2} | {:.1} | {:.1} | {} |",
            policy.name(),
            of.iter().map(|o| o.failed).sum::<usize>(),
            score.lost,
            score.withheld,
            score.total(EXCHANGE),
            wins.count(),
        );
    }
    out
}

fn rates(outcomes: &[Outcome]) -> String {
    let mut out = String::from("| cause | lowest score, by exchange rate |\n|---|---|\n");
    for cause in measured(outcomes) {
        let all = of_cause(outcomes, cause.name);
        let names: Vec<_> = all.iter().map(|o| o.policy.as_str()).collect();
        let scores: Vec<_> = all.iter().map(|o| o.score()).collect();
        let _ = writeln!(out, "| {} | {} |", cause.name, score::sweep_text(&scores, &names));
    }
    let all = complete(outcomes);
    let names: Vec<_> = all.iter().map(|(policy, _)| policy.name()).collect();
    let scores: Vec<Score> = all.iter().map(|(_, of)| of.iter().map(|o| o.score()).sum()).collect();
    let _ = writeln!(out, "| all | {} |", score::sweep_text(&scores, &names));
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::outcome::Slice, *};

    fn outcome(cause: &str, policy: Policy, lost: f64, withheld: f64) -> Outcome {
        Outcome {
            cause: cause.into(),
            policy: policy.name().into(),
            failed: 1,
            count: 100,
            calm: Duration::from_millis(1),
            p99: Duration::from_millis(20),
            slices: vec![Slice { lost, hosts: [(withheld, false), (0.0, false)] }],
        }
    }

    #[test]
    fn the_best_and_all_that_equal_it_are_marked_and_counted() {
        let all = [
            outcome("leak-slow", Policy::Memsensor, 0.05, 0.5),
            outcome("leak-slow", Policy::Check, 0.9, 0.0),
            outcome("leak-slow", Policy::Random2, 0.1, 0.0),
            outcome("freeze", Policy::Memsensor, 0.5, 0.0),
            outcome("freeze", Policy::Check, 0.2, 0.0),
        ];
        let text = tables(&all);
        for line in [
            "| leak-slow | memsensor | 1 of 100 | 1.0 | 20 | 0.05 | 0.5 | **1.0** | 50 % |",
            "| leak-slow | check | 1 of 100 | 1.0 | 20 | 0.90 | 0.0 | 9.0 | 0 % |",
            "| leak-slow | random2 | 1 of 100 | 1.0 | 20 | 0.10 | 0.0 | **1.0** | 0 % |",
            "| memsensor | 2 | 0.55 | 0.5 | 6.0 | 1 |",
            "| check | 2 | 1.10 | 0.0 | 11.0 | 1 |",
            "| freeze | 1 to 100: check |",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        // It has not run all causes.
        assert!(!text.contains("| random2 | 1 |"), "{text}");
    }
}
