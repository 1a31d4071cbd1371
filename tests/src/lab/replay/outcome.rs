//! What a run cost its users and the owner of the servers, second by second. Pure.
//!
//! The oracle's decision comes from the probes: requests straight to each host, beside those of the
//! users, so the state of a host is known also while it gets no traffic.

use std::{fmt::Write as _, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};

use super::{
    report::{quantile, user_stats},
    run::ReplayRun,
    server::Server,
    traffic::Request,
};
use crate::support::score::{self, Score};

/// The oracle withholds a host in a second in which so many of its probes are lost. With half of
/// the traffic a fifth of a host's requests is a tenth of the users', and a tenth of a user-second
/// costs as much as the host ([`score::EXCHANGE`]).
const NEEDED: f64 = 0.2;

/// An idle machine answers within 2 ms.
const CALM_AT_MOST: Duration = Duration::from_millis(5);

/// The first second of the calm phase does not count as calm: caches are still filled.
const WARM_UP: Duration = Duration::from_secs(1);

/// One second of both hosts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slice {
    /// Share of the users' requests that were lost.
    pub lost: f64,
    /// For each host: the share of its weight that was withheld, and whether that was needed.
    pub hosts: [(f64, bool); 2],
}

/// The outcome of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Name of the cause.
    pub cause: String,
    /// Name of the policy.
    pub policy: String,
    /// Failed requests of users.
    pub failed: usize,
    /// All of them.
    pub count: usize,
    /// The 99th percentile of the calm phase, without its first second.
    pub calm: Duration,
    /// The 99th percentile from the fault on; a failed request counts as the timeout.
    pub p99: Duration,
    /// All seconds.
    pub slices: Vec<Slice>,
}

impl Outcome {
    /// Of a run with probes.
    pub fn of(cause: &str, run: &ReplayRun) -> Self {
        let stats = user_stats(run.requests.iter().filter(|r| r.at >= run.fault_at));
        let seconds = run.end.as_secs();
        let lost = lost_shares(&run.requests, run.fault_at, seconds);
        let probes = [0, 1].map(|host| lost_shares(&run.probes[host], run.fault_at, seconds));
        let withheld = withheld([0, 1].map(|host| &run.observed[host].servers[..]), seconds);
        let slice = |second: usize| Slice {
            lost: lost[second],
            hosts: [0, 1].map(|host| (withheld[second][host], probes[host][second] >= NEEDED)),
        };
        Self {
            cause: cause.to_owned(),
            policy: run.config.policy.name().to_owned(),
            failed: run.requests.iter().filter(|r| r.outcome.is_err()).count(),
            count: run.requests.len(),
            calm: calm_p99(&run.requests, run.fault_at),
            p99: stats.p99,
            slices: (0..withheld.len()).map(slice).collect(),
        }
    }

    /// Its score. What users lose is counted once, what is withheld for each host.
    pub fn score(&self) -> Score {
        let hosts = [0, 1].into_iter().flat_map(|host| {
            self.slices.iter().map(move |slice| {
                let (withheld, needed) = slice.hosts[host];
                let lost = if host == 0 { slice.lost } else { 0.0 };
                score::Second { lost, withheld, needed }
            })
        });
        Score::of(hosts)
    }

    /// Whether the machine had so much other work that calm was not calm.
    pub fn is_disturbed(&self) -> bool {
        self.calm > CALM_AT_MOST
    }

    /// Seconds in which the oracle withholds some host.
    pub fn needed(&self) -> usize {
        self.slices.iter().filter(|slice| slice.hosts.iter().any(|host| host.1)).count()
    }

    /// The share of weight withheld at the end, of the host where it is more.
    pub fn withheld_at_end(&self) -> f64 {
        let last = self.slices.last();
        last.map_or(0.0, |slice| slice.hosts.iter().fold(0.0, |most, host| host.0.max(most)))
    }

    /// As text, a line for each second.
    pub fn to_text(&self) -> String {
        let Self { cause, policy, failed, count, calm, p99, slices } = self;
        let (calm_us, p99_us) = (calm.as_micros(), p99.as_micros());
        let mut out = format!("{cause} {policy} {failed} {count} {calm_us} {p99_us}\n");
        for Slice { lost, hosts: [one, two] } in slices {
            let (first, second) = (u8::from(one.1), u8::from(two.1));
            let _ = writeln!(out, "{lost:.4} {:.4} {first} {:.4} {second}", one.0, two.0);
        }
        out
    }

    /// From text.
    pub fn from_text(text: &str) -> Result<Self> {
        let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let Some(&[cause, policy, failed, count, calm_us, p99_us]) = lines.next().as_deref() else {
            bail!("the first line is not a cause, a policy and four numbers")
        };
        let slice = |words: Vec<&str>| {
            let [lost, one, first, two, second] = words[..] else { bail!("not five: {words:?}") };
            let hosts = [(one.parse()?, first == "1"), (two.parse()?, second == "1")];
            Ok(Slice { lost: lost.parse()?, hosts })
        };
        Ok(Self {
            cause: cause.to_owned(),
            policy: policy.to_owned(),
            failed: failed.parse()?,
            count: count.parse()?,
            calm: Duration::from_micros(calm_us.parse()?),
            p99: Duration::from_micros(p99_us.parse()?),
            slices: lines.map(slice).collect::<Result<_>>()?,
        })
    }

    /// Reads a file of [`Self::to_text`].
    pub fn read(file: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        Self::from_text(&text).with_context(|| format!("parse {}", file.display()))
    }
}

fn calm_p99(requests: &[Request], fault_at: Duration) -> Duration {
    let calm = requests.iter().filter(|r| r.at >= WARM_UP && r.at < fault_at);
    let mut calm: Vec<_> = calm.map(|r| r.took).collect();
    calm.sort_unstable();
    quantile(&calm, 99)
}

/// For each second: the share of the requests due in it that failed or were slow; 0 without any.
fn lost_shares(requests: &[Request], fault_at: Duration, seconds: u64) -> Vec<f64> {
    let floor = Duration::from_millis(score::CALM_FLOOR_MS);
    let limit = score::SLOW_TIMES * calm_p99(requests, fault_at).max(floor);
    let share = |second| {
        let (mut all, mut lost) = (0u32, 0u32);
        for request in requests.iter().filter(|r| r.at.as_secs() == second) {
            all += 1;
            lost += u32::from(request.outcome.is_err() || request.took > limit);
        }
        f64::from(lost) / f64::from(all.max(1))
    };
    (0..seconds).map(share).collect()
}

/// For each second and host: the share of weight that is withheld, on average over the second. It
/// is relative to the host that has the most: with equal weights nothing is withheld, and with all
/// weights 0 every host serves as a last resort.
fn withheld(servers: [&[(Duration, Server)]; 2], seconds: u64) -> Vec<[f64; 2]> {
    let mut changes: Vec<(Duration, usize, f64)> = Vec::new();
    for (host, servers) in servers.into_iter().enumerate() {
        let weight = |s: &Server| if s.serves() { f64::from(s.weight) } else { 0.0 };
        changes.extend(servers.iter().map(|(at, server)| (*at, host, weight(server))));
    }
    changes.sort_by_key(|change| change.0);
    let mut weights = [100.0, 100.0];
    let mut changes = changes.into_iter().peekable();
    let second = |second| {
        let end = Duration::from_secs(second + 1);
        let (mut from, mut sum) = (Duration::from_secs(second), [0.0; 2]);
        loop {
            let change = changes.next_if(|change| change.0 < end);
            let until = change.map_or(end, |change| change.0);
            let most = f64::max(weights[0], weights[1]);
            for (sum, weight) in sum.iter_mut().zip(weights) {
                let share = if most > 0.0 { 1.0 - weight / most } else { 0.0 };
                *sum += share * until.saturating_sub(from).as_secs_f64();
            }
            from = until;
            match change {
                Some((_, host, weight)) => weights[host] = weight,
                None => return sum,
            }
        }
    };
    (0..seconds).map(second).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn requests(took: impl Fn(u64) -> (u64, bool)) -> Vec<Request> {
        let one = |n: u64| {
            let (took, fails) = took(n);
            let outcome = if fails { Err("timeout") } else { Ok(0) };
            Request { at: ms(100 * n), took: ms(took), outcome }
        };
        (0..60).map(one).collect()
    }

    #[test]
    fn a_request_is_lost_if_it_fails_or_takes_five_times_the_calm_p99() {
        // Ten per second, the fault after three.
        for (about, took, third, fourth) in [
            ("all is calm", requests(|_| (1, false)), 0.0, 0.0),
            ("at the floor of 10 ms", requests(|n| (if n < 40 { 1 } else { 10 }, false)), 0.0, 0.0),
            ("above it", requests(|n| (if n < 40 { 1 } else { 11 }, false)), 0.0, 1.0),
            ("calm is slow", requests(|n| (if n < 40 { 4 } else { 19 }, false)), 0.0, 0.0),
            ("half fails", requests(|n| (1, n >= 30 && n % 2 == 0)), 0.5, 0.5),
            (
                "the warm-up is no calm",
                requests(|n| (if n < 10 { 90 } else { 11 }, false)),
                0.0,
                0.0,
            ),
        ] {
            let shares = lost_shares(&took, ms(3000), 6);
            assert_eq!((shares[3], shares[4]), (third, fourth), "{about}: {shares:?}");
        }
        assert_eq!(lost_shares(&[], ms(3000), 2), [0.0, 0.0]);
    }

    #[test]
    fn weight_is_withheld_relative_to_the_other_host() {
        let server = |at, status: &str, weight| (ms(at), Server { status: status.into(), weight });
        let up = server(0, "UP", 100);
        for (about, one, two, expected) in [
            ("nothing", vec![], vec![], [[0.0, 0.0]; 2]),
            ("half of one", vec![server(0, "UP", 50)], vec![up.clone()], [[0.5, 0.0]; 2]),
            ("both equally", vec![server(0, "UP", 50)], vec![server(0, "UP", 50)], [[0.0, 0.0]; 2]),
            ("last resort", vec![server(0, "UP", 0)], vec![server(0, "DOWN", 100)], [[0.0; 2]; 2]),
            (
                "down within the second",
                vec![up.clone(), server(750, "DOWN", 100)],
                vec![up.clone()],
                [[0.25, 0.0], [1.0, 0.0]],
            ),
            (
                "and back",
                vec![server(0, "DOWN /failed_outlier_check", 0), server(1500, "UP healthy", 100)],
                vec![up.clone()],
                [[1.0, 0.0], [0.5, 0.0]],
            ),
        ] {
            assert_eq!(withheld([&one, &two], 2), expected, "{about}");
        }
    }

    #[test]
    fn the_score_counts_users_once_and_each_host() {
        let slice = |lost, one, two| Slice { lost, hosts: [one, two] };
        let outcome = Outcome {
            cause: "leak".into(),
            policy: "check".into(),
            failed: 3,
            count: 500,
            calm: ms(1),
            p99: ms(12),
            slices: vec![
                slice(0.5, (0.0, true), (0.0, false)),
                slice(0.25, (1.0, true), (0.5, false)),
                slice(0.0, (0.75, false), (0.0, false)),
            ],
        };
        assert_eq!(outcome.score(), Score { lost: 0.75, withheld: 1.25 });
        assert_eq!(outcome.needed(), 2);
        assert!((outcome.withheld_at_end() - 0.75).abs() < 1e-9);
        assert_eq!(Outcome::from_text(&outcome.to_text()).expect("parsed"), outcome);
        for text in ["", "leak check 1 2", "leak check 1 2 3 4\n0.5 1 0 0"] {
            assert!(Outcome::from_text(text).is_err(), "{text}");
        }
    }
}
