//! The score of policies on a recorded run: memsensor's weight and each common rule, as if users had
//! been sent to the server by that weight. Pure.
//!
//! The run itself is not changed by the weight: the harm goes on as recorded. Requests that a policy
//! sends elsewhere are not lost.

use super::{
    baselines::Baseline,
    catalogue::Scenario,
    harm::{FLOOR, Harm, TIMES},
    probe::Request,
    record::{Sample, WeightChange},
};
use crate::support::score::{EXCHANGE, Score, Second};

/// The policies of [`scores`], in order: memsensor, then [`Baseline::ALL`], then a server that is
/// always in service, then the oracle.
pub fn policies() -> Vec<&'static str> {
    let rules = Baseline::ALL.map(Baseline::name);
    ["memsensor"].into_iter().chain(rules).chain(["no rule", "oracle"]).collect()
}

/// The score of each policy; none if the record lacks the users' requests.
pub fn scores(
    scenario: &Scenario,
    samples: &[Sample],
    changes: &[WeightChange],
) -> Option<Vec<Score>> {
    samples.iter().find_map(|sample| sample.slow)?;
    let steps = steps(samples);
    let of = |weights: &[f64]| {
        Score::of(steps.iter().zip(weights).map(|(step, weight)| Second {
            lost: step.seconds * step.lost * weight,
            withheld: step.seconds * (1.0 - weight),
            needed: step.needed(),
        }))
    };
    let rule = |rule: Baseline| {
        let holds = rule.holds(samples, scenario).into_iter();
        of(&holds.map(|holds| f64::from(u8::from(!holds))).collect::<Vec<_>>())
    };
    let oracle: Vec<_> = steps.iter().map(|step| f64::from(u8::from(!step.needed()))).collect();
    let ours = std::iter::once(of(&weights(samples, changes)));
    let always = of(&vec![1.0; samples.len()]);
    Some(ours.chain(Baseline::ALL.map(rule)).chain([always, of(&oracle)]).collect())
}

/// Adds to each sample how many requests were due until then, and how many of these took at least
/// [`TIMES`] the calm latency, or were not served.
pub fn count_slow(requests: &[Request], harm: &Harm, samples: &mut [Sample]) {
    let limit = TIMES * harm.calm.max(FLOOR);
    let (mut asked, mut slow) = (0, 0);
    let mut next = requests.iter().peekable();
    for sample in samples {
        while let Some(request) = next.next_if(|request| request.due <= sample.at_ns()) {
            asked += 1;
            slow += u64::from(request.done.saturating_sub(request.due) >= limit);
        }
        (sample.asked, sample.slow) = (Some(asked), Some(slow));
    }
}

/// When users lost so much for the last time that the server was better out of service.
pub(super) fn end_of_loss(samples: &[Sample]) -> Option<u64> {
    let last = steps(samples).iter().rposition(Step::needed)?;
    samples.get(last + 1).map(Sample::at_ns)
}

/// The time between two samples. A policy knows of it what it knew at its begin.
struct Step {
    seconds: f64,
    /// The share of the requests due then that were lost.
    lost: f64,
}

impl Step {
    /// Whether to withhold the server costs less than what its users lose.
    fn needed(&self) -> bool {
        f64::from(EXCHANGE) * self.lost > 1.0
    }
}

fn steps(samples: &[Sample]) -> Vec<Step> {
    let step = |pair: &[Sample]| {
        let [from, to] = pair else { return Step { seconds: 0.0, lost: 0.0 } };
        let grown = |of: fn(&Sample) -> Option<u64>| {
            of(to).unwrap_or(0).saturating_sub(of(from).unwrap_or(0)) as f64
        };
        let (asked, slow) = (grown(|s| s.asked), grown(|s| s.slow));
        let lost = if asked > 0.0 { slow / asked } else { 0.0 };
        Step { seconds: to.at_ns().saturating_sub(from.at_ns()) as f64 / 1e9, lost }
    };
    samples.windows(2).map(step).collect()
}

/// The weight at each sample, from the changes.
fn weights(samples: &[Sample], changes: &[WeightChange]) -> Vec<f64> {
    let mut weight = 1.0;
    let mut next = changes.iter().peekable();
    let at = |sample: &Sample| {
        while let Some(change) = next.next_if(|change| change.at_ns <= sample.at_ns()) {
            weight = f64::from(change.weight) / 100.0;
        }
        weight
    };
    samples.iter().map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::scenarios::catalogue;

    /// Ten samples, one a second; all requests of the last five seconds are slow.
    fn samples() -> Vec<Sample> {
        let sample = |n: u64| {
            let mut sample = Sample { full_avg10: 20.0, ..Sample::default() };
            sample.scope.at_ns = n * 1_000_000_000;
            (sample.asked, sample.slow) = (Some(n * 200), Some(n.saturating_sub(5) * 200));
            sample
        };
        (0..=10).map(sample).collect()
    }

    #[test]
    fn a_policy_loses_what_it_sends_and_withholds_what_was_fine() {
        let scenario = catalogue::all().next().expect("a scenario");
        let change = |at: u64, weight| WeightChange {
            at_ns: at * 1_000_000_000,
            weight,
            reasons: String::new(),
        };
        let changes = [change(0, 100), change(3, 50), change(7, 0)];
        let scores = scores(scenario, &samples(), &changes).expect("measured");
        let of = |name: &str| {
            let at = policies().iter().position(|policy| *policy == name).expect("a policy");
            (scores[at].lost, scores[at].withheld)
        };
        // Half of the weight from 3 s to 7 s: two seconds fine, then two half lost.
        assert_eq!(of("memsensor"), (1.0, 1.0));
        assert_eq!(of("no rule"), (5.0, 0.0));
        assert_eq!(of("full avg10 > 10"), (0.0, 5.0));
        assert_eq!(of("oracle"), (0.0, 0.0));
        assert_eq!(super::scores(scenario, &[Sample::default(); 3], &changes), None, "no users");
    }

    #[test]
    fn slow_requests_are_counted_when_they_were_due() {
        let second = 1_000_000_000;
        let request = |due: u64, took: u64| Request { due, done: due.saturating_add(took) };
        // Five times the calm latency, which counts as at least 2 ms, is 10 ms.
        let requests = [
            request(0, second / 200),
            request(second / 2, second / 100),
            Request { due: second, done: u64::MAX },
            request(2 * second, 0),
        ];
        let harm = Harm { calm: 0, worst: 0, harmed_at: None, high: 0 };
        let mut samples = [Sample::default(); 2];
        samples[0].scope.at_ns = second / 2;
        samples[1].scope.at_ns = second;
        count_slow(&requests, &harm, &mut samples);
        let counts = samples.map(|sample| (sample.asked, sample.slow));
        assert_eq!(counts, [(Some(2), Some(1)), (Some(3), Some(2))]);
    }
}
