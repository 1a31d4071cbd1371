//! What all readers share, and the answer to "is this scope fit for traffic" that follows from it.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize, Serializer};

use super::{
    askers::{Askers, Asking},
    histogram::Buckets,
    maintenance::Maintenance,
};
use crate::{
    cgroups,
    config::OnBlind,
    deadlines::Deadlines,
    events::Log,
    host::clock::monotonic_ns,
    kernel::load::Coverage,
    scopes::{HOST, Judged},
    sense::Published,
    snapshot::Snapshot,
    verdict::{self, policy::Policy, signals::Signals},
};

/// What all readers share; cheap to clone.
#[derive(Debug, Clone)]
pub struct State {
    /// The last snapshot.
    pub published: Published,
    /// What is attached.
    pub coverage: Arc<Coverage>,
    /// Rare events.
    pub events: Arc<Log>,
    /// The cgroups that have metrics of their own.
    pub cgroups: cgroups::Published,
    /// How finely histograms are told.
    pub buckets: Buckets,
    /// How many processes that grow have a metric.
    pub growing_processes: usize,
    /// An operator's drain.
    pub maintenance: Arc<Maintenance>,
    /// The rules, for explanations.
    pub policy: Arc<Policy>,
    /// The scopes' names, the host's first.
    pub scopes: Arc<[String]>,
    /// When a snapshot is too old to be an answer.
    pub stale_after: Duration,
    /// What to say where nothing can be told.
    pub on_blind: OnBlind,
    /// Who asks.
    pub askers: Arc<Askers>,
    /// Questions about scopes that there are not.
    pub unknown_scopes: Arc<std::sync::atomic::AtomicU64>,
    /// Whether our own loops are on time.
    pub deadlines: Arc<Deadlines>,
}

/// How a scope stands, for those who send it traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Full weight.
    Ready,
    /// Less weight.
    Degraded,
    /// No new traffic: memory.
    Draining,
    /// No new traffic: an operator said so.
    Maintenance,
    /// Nothing can be told.
    Blind,
    /// The last sample is too old: a frozen sensor is what a frozen host looks like.
    Stale,
    /// No sample yet.
    Starting,
}

impl Standing {
    /// All, the best first.
    pub const ALL: [Self; 7] = [
        Self::Ready,
        Self::Degraded,
        Self::Draining,
        Self::Maintenance,
        Self::Blind,
        Self::Stale,
        Self::Starting,
    ];

    /// Its label, as in JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
            Self::Blind => "blind",
            Self::Stale => "stale",
            Self::Starting => "starting",
        }
    }
}

/// What takes a scope out of service for whoever asks: a balancer that knows no weights may want it
/// sooner, its last resort later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FailOn {
    /// Only an operator's drain: for a last resort, which serves with whoever is left.
    Maintenance,
    /// What takes all weight.
    #[default]
    Draining,
    /// Less than full weight as well.
    Degraded,
}

/// Standing and weight: all that a balancer needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fitness {
    /// How it stands.
    pub standing: Standing,
    /// Share of its usual traffic, 0 to 1.
    pub weight: f64,
}

impl Fitness {
    /// The same for who asks like this.
    #[must_use]
    pub fn on(self, fail_on: FailOn) -> Self {
        let weight = match (fail_on, self.standing) {
            (FailOn::Maintenance, Standing::Maintenance)
            | (FailOn::Degraded, Standing::Degraded) => 0.0,
            (FailOn::Maintenance, _) => 1.0,
            (FailOn::Draining | FailOn::Degraded, _) => self.weight,
        };
        Self { weight, ..self }
    }

    /// Whether it should get any traffic.
    pub fn takes_traffic(self) -> bool {
        self.weight > 0.0
    }
}

/// The whole answer, with reasons.
#[derive(Debug, Serialize)]
pub struct Readiness {
    scope: String,
    /// How it stands.
    pub state: Standing,
    /// Share of its usual traffic, 0 to 1.
    pub weight: f64,
    /// Rules that speak against full traffic, or what else is the reason.
    reasons: Vec<String>,
    /// What tells who stalls: `psi`, or the `stall_clock` of our probes where there is no PSI.
    #[serde(skip_serializing_if = "Option::is_none")]
    measured_by: Option<&'static str>,
    /// Seconds since the sample that this is from.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<f64>,
    /// The numbers that it follows from.
    #[serde(serialize_with = "by_name")]
    signals: Signals,
}

impl Readiness {
    /// Without the reasons.
    pub fn fitness(&self) -> Fitness {
        Fitness { standing: self.state, weight: self.weight }
    }
}

/// Signals as an object; what cannot be told is not in it.
pub(super) fn by_name<S: Serializer>(signals: &Signals, to: S) -> Result<S::Ok, S::Error> {
    let known = verdict::signals::Signal::ALL
        .iter()
        .filter_map(|s| Some((s.name(), (signals.get(*s)? * 1e6).round() / 1e6)));
    to.collect_map(known)
}

impl State {
    /// The position of a scope by its name; the empty name is the host's.
    pub fn scope(&self, name: &str) -> Option<usize> {
        let name = if name.is_empty() { HOST } else { name };
        self.scopes.iter().position(|scope| scope == name)
    }

    /// How a scope stands now. Does not allocate, take a lock or read a file.
    pub fn fitness(&self, scope: usize) -> Fitness {
        self.fitness_in(self.published.load().as_deref(), scope, monotonic_ns())
    }

    /// Somebody was told so.
    pub fn told(&self, asking: Asking, fitness: Fitness) {
        self.askers.note(asking, monotonic_ns(), fitness.standing == Standing::Maintenance);
    }

    fn fitness_in(&self, snapshot: Option<&Snapshot>, scope: usize, now_ns: u64) -> Fitness {
        let drained = self.maintenance.drain().is_some();
        fitness(snapshot, scope, drained, now_ns, self.stale_after, self.on_blind)
    }

    /// The same with reasons, all from one snapshot.
    pub fn readiness(&self, scope: usize) -> Readiness {
        let (snapshot, now_ns) = (self.published.load(), monotonic_ns());
        let Fitness { standing, weight } = self.fitness_in(snapshot.as_deref(), scope, now_ns);
        let judged = snapshot.as_ref().and_then(|s| s.scopes.get(scope));
        let age = snapshot.as_ref().map(|s| now_ns.saturating_sub(s.taken_ns));
        Readiness {
            scope: self.scopes.get(scope).cloned().unwrap_or_default(),
            state: standing,
            weight,
            reasons: self.reasons(standing, judged),
            measured_by: judged.and_then(measured_by),
            age_seconds: age.map(|ns| ns as f64 / 1e9),
            signals: judged.map(|j| j.verdict.signals).unwrap_or_default(),
        }
    }

    fn reasons(&self, standing: Standing, judged: Option<&Judged>) -> Vec<String> {
        match standing {
            Standing::Starting => vec!["no sample yet".to_owned()],
            Standing::Stale => vec!["the last sample is too old".to_owned()],
            Standing::Maintenance => {
                let drain = self.maintenance.drain();
                drain.iter().filter_map(|d| Some(d.as_ref()?.reason.clone())).collect()
            }
            Standing::Blind => {
                judged.and_then(|j| j.blind.as_deref()).map(str::to_owned).into_iter().collect()
            }
            Standing::Ready => Vec::new(),
            Standing::Degraded | Standing::Draining => {
                let rules = judged.map_or(&[][..], |j| &j.verdict.evidence.rules);
                // Those that hold on matter only where none fires.
                let fires = rules.iter().any(|finding| finding.fires);
                let speak = rules.iter().filter(|finding| finding.fires == fires);
                let names: Vec<_> = speak.map(|finding| finding.rule.to_owned()).collect();
                if !names.is_empty() {
                    return names;
                }
                // It stays as it was while nothing can be told.
                let blind = judged.and_then(|j| j.blind.as_deref());
                vec![blind.unwrap_or("recovering").to_owned()]
            }
        }
    }
}

fn measured_by(judged: &Judged) -> Option<&'static str> {
    let clock = judged.reading.stall_ns.map(|_| "stall_clock");
    judged.reading.full_ns.map(|_| "psi").or(clock)
}

fn fitness(
    snapshot: Option<&Snapshot>,
    scope: usize,
    drained: bool,
    now_ns: u64,
    stale_after: Duration,
    on_blind: OnBlind,
) -> Fitness {
    let none = |standing| Fitness { standing, weight: 0.0 };
    // First of all: it holds whatever is sensed, and a last resort asks for nothing else.
    if drained {
        return none(Standing::Maintenance);
    }
    let Some(snapshot) = snapshot else { return none(Standing::Starting) };
    if Duration::from_nanos(now_ns.saturating_sub(snapshot.taken_ns)) > stale_after {
        return none(Standing::Stale);
    }
    let Some(judged) = snapshot.scopes.get(scope) else { return none(Standing::Starting) };
    let position = judged.verdict.position;
    // What is known to be bad is not made better by what is not known.
    if judged.blind.is_some() && position.state == verdict::State::Ready {
        let weight = if on_blind == OnBlind::Pass { 1.0 } else { 0.0 };
        return Fitness { standing: Standing::Blind, weight };
    }
    let standing = match position.state {
        verdict::State::Ready => Standing::Ready,
        verdict::State::Degraded => Standing::Degraded,
        verdict::State::Draining => Standing::Draining,
    };
    Fitness { standing, weight: position.weight }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{judge::Judge, pace::Settings, reading::Reading};

    const SECOND: u64 = 1_000_000_000;

    fn snapshot(blind: bool) -> Snapshot {
        let mut judge = Judge::new(Arc::default(), Settings::default());
        let reading = Reading { at_ns: SECOND, ..Reading::default() };
        Snapshot {
            taken_ns: SECOND,
            scopes: vec![Judged {
                scope: HOST.into(),
                reading,
                verdict: judge.judge(reading),
                blind: blind.then(|| "no PSI".into()),
            }],
            ..Snapshot::default()
        }
    }

    #[test]
    fn what_is_known_to_be_bad_is_so_to_the_blind_as_well() {
        let mut snapshot = snapshot(true);
        let at = &mut snapshot.scopes[0].verdict.position;
        (at.state, at.weight) = (verdict::State::Draining, 0.0);
        for on_blind in [OnBlind::Pass, OnBlind::Fail] {
            let five = Duration::from_secs(5);
            let found = fitness(Some(&snapshot), 0, false, SECOND, five, on_blind);
            assert_eq!(found, Fitness { standing: Standing::Draining, weight: 0.0 });
        }
    }

    #[test]
    fn who_asks_says_what_takes_out_of_service() {
        let weights = |standing, weight| {
            let fitness = Fitness { standing, weight };
            let ways = [FailOn::Maintenance, FailOn::Draining, FailOn::Degraded];
            ways.map(|f| format!("{:.0}", fitness.on(f).weight * 100.0)).join(" ")
        };
        for (standing, weight, expected) in [
            (Standing::Ready, 1.0, "100 100 100"),
            (Standing::Degraded, 0.5, "100 50 0"),
            (Standing::Draining, 0.0, "100 0 0"),
            (Standing::Stale, 0.0, "100 0 0"),
            (Standing::Blind, 1.0, "100 100 100"),
            (Standing::Maintenance, 0.0, "0 0 0"),
        ] {
            assert_eq!(weights(standing, weight), expected, "{standing:?}");
        }
    }

    #[test]
    fn what_is_not_known_for_sure_is_not_ready() {
        let five = Duration::from_secs(5);
        let at = |snapshot: Option<&Snapshot>, now_s, drained, on_blind| {
            fitness(snapshot, 0, drained, now_s * SECOND, five, on_blind)
        };
        let (sees, blind) = (snapshot(false), snapshot(true));
        for (snapshot, now_s, drained, on_blind, standing, weight) in [
            (None, 1, false, OnBlind::Pass, Standing::Starting, 0.0),
            (None, 1, true, OnBlind::Pass, Standing::Maintenance, 0.0),
            (Some(&sees), 1, false, OnBlind::Pass, Standing::Ready, 1.0),
            (Some(&sees), 6, false, OnBlind::Fail, Standing::Ready, 1.0),
            (Some(&sees), 7, false, OnBlind::Pass, Standing::Stale, 0.0),
            (Some(&sees), 7, true, OnBlind::Pass, Standing::Maintenance, 0.0),
            (Some(&sees), 1, true, OnBlind::Pass, Standing::Maintenance, 0.0),
            (Some(&blind), 1, false, OnBlind::Pass, Standing::Blind, 1.0),
            (Some(&blind), 1, false, OnBlind::Fail, Standing::Blind, 0.0),
            (Some(&blind), 7, false, OnBlind::Pass, Standing::Stale, 0.0),
        ] {
            let found = at(snapshot, now_s, drained, on_blind);
            assert_eq!(found, Fitness { standing, weight }, "{now_s} {drained} {on_blind:?}");
            // A last resort serves with all but those.
            assert_eq!(found.on(FailOn::Maintenance).takes_traffic(), !drained, "{standing:?}");
        }
    }
}
