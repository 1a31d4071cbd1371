//! Readiness: state and weight of a scope, and why.
//!
//! Not here: its encoding in a protocol (`http`, `agent_check`).

use std::{sync::atomic::Ordering, time::Duration};

use sensor_core::{
    common::clock::monotonic_ns,
    model::{
        readiness::{OnUnknown, ReadinessState, TrafficHealth},
        snapshot::Sample,
    },
    verdict::{
        scope::{HOST, ScopeVerdict},
        signals::{Signal, Signals},
        state::VerdictState,
    },
};
use serde::{Serialize, Serializer};

use super::{app::AppState, clients::ReadinessQuery, settings};
use crate::publish::answers::ChangedAnswer;

/// Readiness of a scope, as `/readyz` returns it.
#[derive(Debug, Serialize)]
pub struct ReadinessReport {
    scope: String,
    /// State of the scope.
    pub state: ReadinessState,
    /// Share of its usual traffic, 0 to 1.
    pub weight: f64,
    /// Names of the rules that take weight, or another reason.
    reasons: Vec<String>,
    /// Path of the cgroup whose verdict it is: one that the host serves from.
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_by: Option<String>,
    /// Source of the stalls: `psi`, or the probes' `stall_clock` where there is no PSI.
    #[serde(skip_serializing_if = "Option::is_none")]
    measured_by: Option<&'static str>,
    /// Age of the sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<f64>,
    /// The numbers that the rules compare.
    #[serde(serialize_with = "by_name")]
    signals: Signals,
}

impl ReadinessReport {
    /// State and weight alone.
    pub fn health(&self) -> TrafficHealth {
        TrafficHealth { state: self.state, weight: self.weight }
    }
}

/// Signals as an object, without those that are not measured.
fn by_name<S: Serializer>(signals: &Signals, to: S) -> Result<S::Ok, S::Error> {
    let known =
        Signal::ALL.iter().filter_map(|s| Some((s.name(), (signals.get(*s)? * 1e6).round() / 1e6)));
    to.collect_map(known)
}

impl AppState {
    /// The index of a scope; the empty name is the host.
    pub fn scope_index(&self, name: &str) -> Option<usize> {
        let name = if name.is_empty() { HOST } else { name };
        self.scopes.iter().position(|scope| scope == name)
    }

    /// Counts a request for a scope that does not exist.
    pub fn count_unknown_scope(&self) {
        self.unknown_scopes.fetch_add(1, Ordering::Relaxed);
    }

    /// State and weight of a scope now. Does not allocate, take a lock or read a file.
    pub fn health(&self, scope: usize) -> TrafficHealth {
        self.health_in(self.published.sample.load().as_deref(), scope, monotonic_ns())
    }

    /// Records the answer to a client. One that changes what a balancer does is for the record on
    /// disk, too; steps between some and all weight are not, because they follow from the state.
    pub fn record_client(&self, query: ReadinessQuery, health: TrafficHealth) {
        let at_ns = monotonic_ns();
        let before = self.clients.record(query, at_ns, health);
        let is_changed = |before: TrafficHealth| {
            let is_end = health.weight <= 0.0 || health.weight >= 1.0;
            before.state != health.state || (is_end && before != health)
        };
        if before.is_some_and(is_changed) {
            let TrafficHealth { state, weight } = health;
            let ReadinessQuery { addr: client, scope, protocol, .. } = query;
            let protocol = protocol.label();
            let answer = ChangedAnswer { at_ns, client, scope, protocol, state, weight };
            self.published.answers.push(answer);
        }
    }

    fn health_in(&self, sample: Option<&Sample>, scope: usize, now_ns: u64) -> TrafficHealth {
        health(sample, scope, self.drain.is_drained(), now_ns, self.settings.load().readiness)
    }

    /// Readiness of a scope now, all from one sample.
    pub fn readiness_report(&self, scope: usize) -> ReadinessReport {
        let (sample, now_ns) = (self.published.sample.load(), monotonic_ns());
        let TrafficHealth { state, weight } = self.health_in(sample.as_deref(), scope, now_ns);
        let verdict = sample.as_ref().and_then(|sample| sample.scopes.get(scope));
        let age = sample.as_ref().map(|s| now_ns.saturating_sub(s.snapshot.taken_ns));
        ReadinessReport {
            scope: self.scopes.get(scope).cloned().unwrap_or_default(),
            state,
            weight,
            reasons: self.reasons(state, verdict),
            decided_by: verdict.and_then(|v| v.decided_by.as_deref()).map(str::to_owned),
            measured_by: verdict.and_then(measured_by),
            age_seconds: age.map(|ns| ns as f64 / 1e9),
            signals: verdict.map(|v| v.verdict.signals).unwrap_or_default(),
        }
    }

    fn reasons(&self, state: ReadinessState, verdict: Option<&ScopeVerdict>) -> Vec<String> {
        let unknown_reason = || verdict.and_then(|v| v.unknown_reason.as_deref());
        match state {
            ReadinessState::Starting => vec!["no sample yet".to_owned()],
            ReadinessState::Stale => vec!["the last sample is too old".to_owned()],
            ReadinessState::Drained => self.drain.reason().into_iter().collect(),
            ReadinessState::Unknown => unknown_reason().map(str::to_owned).into_iter().collect(),
            ReadinessState::Ready => Vec::new(),
            ReadinessState::Degraded | ReadinessState::Overloaded => {
                let rules = verdict.map_or(&[][..], |v| &v.verdict.evidence.rules);
                // Rules that only hold are reasons only if no rule fires.
                let fires = rules.iter().any(|result| result.fires);
                let active = rules.iter().filter(|result| result.fires == fires);
                let names: Vec<_> = active.map(|result| result.rule.to_owned()).collect();
                if !names.is_empty() {
                    return names;
                }
                // A scope keeps its state while it cannot be measured.
                vec![unknown_reason().unwrap_or("recovering").to_owned()]
            }
        }
    }
}

fn measured_by(scope: &ScopeVerdict) -> Option<&'static str> {
    let clock = scope.reading.stall_ns.map(|_| "stall_clock");
    scope.reading.full_ns.map(|_| "psi").or(clock)
}

fn health(
    sample: Option<&Sample>,
    scope: usize,
    drained: bool,
    now_ns: u64,
    settings: settings::Readiness,
) -> TrafficHealth {
    let no_traffic = |state| TrafficHealth { state, weight: 0.0 };
    // A drain takes precedence over every other state: a fallback pool depends on it alone.
    if drained {
        return no_traffic(ReadinessState::Drained);
    }
    let Some(sample) = sample else { return no_traffic(ReadinessState::Starting) };
    let age = Duration::from_nanos(now_ns.saturating_sub(sample.snapshot.taken_ns));
    if age > settings.stale_after {
        return no_traffic(ReadinessState::Stale);
    }
    let Some(verdict) = sample.scopes.get(scope) else {
        return no_traffic(ReadinessState::Starting);
    };
    let position = verdict.verdict.position;
    // A bad state stays when stalls can no longer be measured.
    if verdict.unknown_reason.is_some() && position.state == VerdictState::Ready {
        let weight = if settings.on_unknown == OnUnknown::Pass { 1.0 } else { 0.0 };
        return TrafficHealth { state: ReadinessState::Unknown, weight };
    }
    let state = match position.state {
        VerdictState::Ready => ReadinessState::Ready,
        VerdictState::Degraded => ReadinessState::Degraded,
        VerdictState::Overloaded => ReadinessState::Overloaded,
    };
    TrafficHealth { state, weight: position.weight }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sensor_core::{
        model::{readiness::FailOn, snapshot::Snapshot},
        verdict::{evaluator::Evaluator, reading::Reading, weight},
    };

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn settings(on_unknown: OnUnknown) -> settings::Readiness {
        settings::Readiness { stale_after: Duration::from_secs(5), on_unknown }
    }

    fn sample(unknown: bool) -> Sample {
        let mut evaluator = Evaluator::new(Arc::default(), weight::Settings::default());
        let reading = Reading { at_ns: SECOND, ..Reading::default() };
        let host = ScopeVerdict {
            scope: HOST.into(),
            cgroup_id: None,
            reading,
            verdict: evaluator.evaluate(reading),
            decided_by: None,
            unknown_reason: unknown.then(|| "no PSI".into()),
        };
        let snapshot = Snapshot { taken_ns: SECOND, ..Snapshot::default() };
        Sample { snapshot, scopes: vec![host], vmstat_kills: None }
    }

    #[test]
    fn a_bad_state_stays_while_it_cannot_be_measured() {
        let mut sample = sample(true);
        let position = &mut sample.scopes[0].verdict.position;
        (position.state, position.weight) = (VerdictState::Overloaded, 0.0);
        for on_unknown in [OnUnknown::Pass, OnUnknown::Fail] {
            let health = health(Some(&sample), 0, false, SECOND, settings(on_unknown));
            let expected = TrafficHealth { state: ReadinessState::Overloaded, weight: 0.0 };
            assert_eq!(health, expected);
        }
    }

    #[test]
    fn only_a_measured_recent_sample_is_ready() {
        let (measured, unknown) = (sample(false), sample(true));
        for (sample, now_s, drained, on_unknown, state, weight) in [
            (None, 1, false, OnUnknown::Pass, ReadinessState::Starting, 0.0),
            (None, 1, true, OnUnknown::Pass, ReadinessState::Drained, 0.0),
            (Some(&measured), 1, false, OnUnknown::Pass, ReadinessState::Ready, 1.0),
            (Some(&measured), 6, false, OnUnknown::Fail, ReadinessState::Ready, 1.0),
            (Some(&measured), 7, false, OnUnknown::Pass, ReadinessState::Stale, 0.0),
            (Some(&measured), 7, true, OnUnknown::Pass, ReadinessState::Drained, 0.0),
            (Some(&measured), 1, true, OnUnknown::Pass, ReadinessState::Drained, 0.0),
            (Some(&unknown), 1, false, OnUnknown::Pass, ReadinessState::Unknown, 1.0),
            (Some(&unknown), 1, false, OnUnknown::Fail, ReadinessState::Unknown, 0.0),
            (Some(&unknown), 7, false, OnUnknown::Pass, ReadinessState::Stale, 0.0),
        ] {
            let health = health(sample, 0, drained, now_s * SECOND, settings(on_unknown));
            assert_eq!(health, TrafficHealth { state, weight }, "{now_s} {drained} {on_unknown:?}");
            // A fallback pool serves with every host that is not drained.
            assert_eq!(health.with_fail_on(FailOn::Drained).takes_traffic(), !drained, "{state:?}");
        }
    }
}
