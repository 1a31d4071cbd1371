//! What all readers share, and the answer to "is this scope fit for traffic" that follows from it.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize, Serializer};

use super::{
    askers::{ClientTracker, ReadinessQuery},
    histogram::Buckets,
    maintenance::OperatorDrain,
};
use crate::{
    cgroups,
    config::OnUnknown,
    deadlines::LoopLags,
    events::EventLog,
    host::clock::monotonic_ns,
    kernel::load::Coverage,
    scopes::{HOST, ScopeVerdict},
    sense::Published,
    snapshot::Snapshot,
    verdict::{self, policy::Policy, signals::Signals},
};

/// What all readers share; cheap to clone.
#[derive(Debug, Clone)]
pub struct AppState {
    /// The last snapshot.
    pub published: Published,
    /// What is attached.
    pub coverage: Arc<Coverage>,
    /// Rare events.
    pub events: Arc<EventLog>,
    /// The cgroups that have metrics of their own.
    pub cgroups: cgroups::Published,
    /// How finely histograms are told.
    pub buckets: Buckets,
    /// How many processes that grow have a metric.
    pub growing_processes: usize,
    /// An operator's drain.
    pub maintenance: Arc<OperatorDrain>,
    /// The rules, for explanations.
    pub policy: Arc<Policy>,
    /// The scopes' names, the host's first.
    pub scopes: Arc<[String]>,
    /// When a snapshot is too old to be an answer.
    pub stale_after: Duration,
    /// What to say where nothing can be told.
    pub on_unknown: OnUnknown,
    /// Who asks.
    pub askers: Arc<ClientTracker>,
    /// Questions about scopes that there are not.
    pub unknown_scopes: Arc<std::sync::atomic::AtomicU64>,
    /// Whether our own loops are on time.
    pub deadlines: Arc<LoopLags>,
}

/// How a scope stands, for those who send it traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadinessState {
    /// Full weight.
    Ready,
    /// Less weight.
    Degraded,
    /// No new traffic: memory.
    Overloaded,
    /// No new traffic: an operator said so.
    Drained,
    /// Nothing can be told.
    Unknown,
    /// The last sample is too old: a frozen sensor is what a frozen host looks like.
    Stale,
    /// No sample yet.
    Starting,
}

impl ReadinessState {
    /// All, the best first.
    pub const ALL: [Self; 7] = [
        Self::Ready,
        Self::Degraded,
        Self::Overloaded,
        Self::Drained,
        Self::Unknown,
        Self::Stale,
        Self::Starting,
    ];

    /// Its label, as in JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Overloaded => "overloaded",
            Self::Drained => "drained",
            Self::Unknown => "unknown",
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
    Drained,
    /// What takes all weight.
    #[default]
    Overloaded,
    /// Less than full weight as well.
    Degraded,
}

/// Standing and weight: all that a balancer needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrafficHealth {
    /// How it stands.
    pub standing: ReadinessState,
    /// Share of its usual traffic, 0 to 1.
    pub weight: f64,
}

impl TrafficHealth {
    /// The same for who asks like this.
    #[must_use]
    pub fn on(self, fail_on: FailOn) -> Self {
        let weight = match (fail_on, self.standing) {
            (FailOn::Drained, ReadinessState::Drained)
            | (FailOn::Degraded, ReadinessState::Degraded) => 0.0,
            (FailOn::Drained, _) => 1.0,
            (FailOn::Overloaded | FailOn::Degraded, _) => self.weight,
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
    pub state: ReadinessState,
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
    pub fn fitness(&self) -> TrafficHealth {
        TrafficHealth { standing: self.state, weight: self.weight }
    }
}

/// Signals as an object; what cannot be told is not in it.
pub(super) fn by_name<S: Serializer>(signals: &Signals, to: S) -> Result<S::Ok, S::Error> {
    let known = verdict::signals::Signal::ALL
        .iter()
        .filter_map(|s| Some((s.name(), (signals.get(*s)? * 1e6).round() / 1e6)));
    to.collect_map(known)
}

impl AppState {
    /// The position of a scope by its name; the empty name is the host's.
    pub fn scope(&self, name: &str) -> Option<usize> {
        let name = if name.is_empty() { HOST } else { name };
        self.scopes.iter().position(|scope| scope == name)
    }

    /// How a scope stands now. Does not allocate, take a lock or read a file.
    pub fn fitness(&self, scope: usize) -> TrafficHealth {
        self.fitness_in(self.published.load().as_deref(), scope, monotonic_ns())
    }

    /// Somebody was told so.
    pub fn told(&self, asking: ReadinessQuery, fitness: TrafficHealth) {
        self.askers.note(asking, monotonic_ns(), fitness.standing == ReadinessState::Drained);
    }

    fn fitness_in(&self, snapshot: Option<&Snapshot>, scope: usize, now_ns: u64) -> TrafficHealth {
        let drained = self.maintenance.drain().is_some();
        fitness(snapshot, scope, drained, now_ns, self.stale_after, self.on_unknown)
    }

    /// The same with reasons, all from one snapshot.
    pub fn readiness(&self, scope: usize) -> Readiness {
        let (snapshot, now_ns) = (self.published.load(), monotonic_ns());
        let TrafficHealth { standing, weight } =
            self.fitness_in(snapshot.as_deref(), scope, now_ns);
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

    fn reasons(&self, standing: ReadinessState, judged: Option<&ScopeVerdict>) -> Vec<String> {
        match standing {
            ReadinessState::Starting => vec!["no sample yet".to_owned()],
            ReadinessState::Stale => vec!["the last sample is too old".to_owned()],
            ReadinessState::Drained => {
                let drain = self.maintenance.drain();
                drain.iter().filter_map(|d| Some(d.as_ref()?.reason.clone())).collect()
            }
            ReadinessState::Unknown => judged
                .and_then(|j| j.unknown_reason.as_deref())
                .map(str::to_owned)
                .into_iter()
                .collect(),
            ReadinessState::Ready => Vec::new(),
            ReadinessState::Degraded | ReadinessState::Overloaded => {
                let rules = judged.map_or(&[][..], |j| &j.verdict.evidence.rules);
                // Those that hold on matter only where none fires.
                let fires = rules.iter().any(|finding| finding.fires);
                let speak = rules.iter().filter(|finding| finding.fires == fires);
                let names: Vec<_> = speak.map(|finding| finding.rule.to_owned()).collect();
                if !names.is_empty() {
                    return names;
                }
                // It stays as it was while nothing can be told.
                let blind = judged.and_then(|j| j.unknown_reason.as_deref());
                vec![blind.unwrap_or("recovering").to_owned()]
            }
        }
    }
}

fn measured_by(judged: &ScopeVerdict) -> Option<&'static str> {
    let clock = judged.reading.stall_ns.map(|_| "stall_clock");
    judged.reading.full_ns.map(|_| "psi").or(clock)
}

fn fitness(
    snapshot: Option<&Snapshot>,
    scope: usize,
    drained: bool,
    now_ns: u64,
    stale_after: Duration,
    on_unknown: OnUnknown,
) -> TrafficHealth {
    let none = |standing| TrafficHealth { standing, weight: 0.0 };
    // First of all: it holds whatever is sensed, and a last resort asks for nothing else.
    if drained {
        return none(ReadinessState::Drained);
    }
    let Some(snapshot) = snapshot else { return none(ReadinessState::Starting) };
    if Duration::from_nanos(now_ns.saturating_sub(snapshot.taken_ns)) > stale_after {
        return none(ReadinessState::Stale);
    }
    let Some(judged) = snapshot.scopes.get(scope) else { return none(ReadinessState::Starting) };
    let position = judged.verdict.position;
    // What is known to be bad is not made better by what is not known.
    if judged.unknown_reason.is_some() && position.state == verdict::VerdictState::Ready {
        let weight = if on_unknown == OnUnknown::Pass { 1.0 } else { 0.0 };
        return TrafficHealth { standing: ReadinessState::Unknown, weight };
    }
    let standing = match position.state {
        verdict::VerdictState::Ready => ReadinessState::Ready,
        verdict::VerdictState::Degraded => ReadinessState::Degraded,
        verdict::VerdictState::Overloaded => ReadinessState::Overloaded,
    };
    TrafficHealth { standing, weight: position.weight }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{judge::Evaluator, pace::Settings, reading::Reading};

    const SECOND: u64 = 1_000_000_000;

    fn snapshot(blind: bool) -> Snapshot {
        let mut judge = Evaluator::new(Arc::default(), Settings::default());
        let reading = Reading { at_ns: SECOND, ..Reading::default() };
        Snapshot {
            taken_ns: SECOND,
            scopes: vec![ScopeVerdict {
                scope: HOST.into(),
                reading,
                verdict: judge.judge(reading),
                unknown_reason: blind.then(|| "no PSI".into()),
            }],
            ..Snapshot::default()
        }
    }

    #[test]
    fn what_is_known_to_be_bad_is_so_to_the_blind_as_well() {
        let mut snapshot = snapshot(true);
        let at = &mut snapshot.scopes[0].verdict.position;
        (at.state, at.weight) = (verdict::VerdictState::Overloaded, 0.0);
        for on_unknown in [OnUnknown::Pass, OnUnknown::Fail] {
            let five = Duration::from_secs(5);
            let found = fitness(Some(&snapshot), 0, false, SECOND, five, on_unknown);
            assert_eq!(found, TrafficHealth { standing: ReadinessState::Overloaded, weight: 0.0 });
        }
    }

    #[test]
    fn who_asks_says_what_takes_out_of_service() {
        let weights = |standing, weight| {
            let fitness = TrafficHealth { standing, weight };
            let ways = [FailOn::Drained, FailOn::Overloaded, FailOn::Degraded];
            ways.map(|f| format!("{:.0}", fitness.on(f).weight * 100.0)).join(" ")
        };
        for (standing, weight, expected) in [
            (ReadinessState::Ready, 1.0, "100 100 100"),
            (ReadinessState::Degraded, 0.5, "100 50 0"),
            (ReadinessState::Overloaded, 0.0, "100 0 0"),
            (ReadinessState::Stale, 0.0, "100 0 0"),
            (ReadinessState::Unknown, 1.0, "100 100 100"),
            (ReadinessState::Drained, 0.0, "0 0 0"),
        ] {
            assert_eq!(weights(standing, weight), expected, "{standing:?}");
        }
    }

    #[test]
    fn what_is_not_known_for_sure_is_not_ready() {
        let five = Duration::from_secs(5);
        let at = |snapshot: Option<&Snapshot>, now_s, drained, on_unknown| {
            fitness(snapshot, 0, drained, now_s * SECOND, five, on_unknown)
        };
        let (sees, blind) = (snapshot(false), snapshot(true));
        for (snapshot, now_s, drained, on_unknown, standing, weight) in [
            (None, 1, false, OnUnknown::Pass, ReadinessState::Starting, 0.0),
            (None, 1, true, OnUnknown::Pass, ReadinessState::Drained, 0.0),
            (Some(&sees), 1, false, OnUnknown::Pass, ReadinessState::Ready, 1.0),
            (Some(&sees), 6, false, OnUnknown::Fail, ReadinessState::Ready, 1.0),
            (Some(&sees), 7, false, OnUnknown::Pass, ReadinessState::Stale, 0.0),
            (Some(&sees), 7, true, OnUnknown::Pass, ReadinessState::Drained, 0.0),
            (Some(&sees), 1, true, OnUnknown::Pass, ReadinessState::Drained, 0.0),
            (Some(&blind), 1, false, OnUnknown::Pass, ReadinessState::Unknown, 1.0),
            (Some(&blind), 1, false, OnUnknown::Fail, ReadinessState::Unknown, 0.0),
            (Some(&blind), 7, false, OnUnknown::Pass, ReadinessState::Stale, 0.0),
        ] {
            let found = at(snapshot, now_s, drained, on_unknown);
            assert_eq!(
                found,
                TrafficHealth { standing, weight },
                "{now_s} {drained} {on_unknown:?}"
            );
            // A last resort serves with all but those.
            assert_eq!(found.on(FailOn::Drained).takes_traffic(), !drained, "{standing:?}");
        }
    }
}
