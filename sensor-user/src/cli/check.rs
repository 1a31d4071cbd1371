//! Output of `memsensor check`: one line with performance data and an exit code, by the convention
//! of Nagios plugins, which Consul and others follow; or exit codes 0 and 2 only, for keepalived.
//! Pure.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Deserialize as _;
use serde_json::Value;

use sensor_core::model::readiness::{FailOn, ReadinessState, TrafficHealth};

/// Exit codes of the convention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Full traffic.
    Ok = 0,
    /// Less traffic.
    Warning = 1,
    /// No traffic.
    Critical = 2,
    /// The state is unknown.
    Unknown = 3,
}

/// Whether the scope should get traffic; an answer that cannot be parsed means that it should not.
pub fn takes_traffic(readiness: &Value, fail_on: FailOn) -> bool {
    let state = readiness.get("state").and_then(|s| ReadinessState::deserialize(s).ok());
    let weight = readiness.get("weight").and_then(Value::as_f64);
    let health = state.zip(weight).map(|(state, weight)| TrafficHealth { state, weight });
    health.is_some_and(|health| health.with_fail_on(fail_on).takes_traffic())
}

fn code_of(state: Option<ReadinessState>) -> (Code, &'static str) {
    use ReadinessState::{Degraded, Drained, Overloaded, Ready, Stale, Starting, Unknown};
    match state {
        Some(Ready) => (Code::Ok, "OK"),
        Some(Degraded) => (Code::Warning, "WARNING"),
        Some(Overloaded | Drained | Stale | Starting) => (Code::Critical, "CRITICAL"),
        Some(Unknown) | None => (Code::Unknown, "UNKNOWN"),
    }
}

/// Line and code for the outcome of a request to `/readyz`. With `fail_on` the code is 0 or 2 only,
/// and 2 without an answer.
pub fn outcome(answer: &Result<Value>, fail_on: Option<FailOn>) -> (Code, String) {
    let (code, line, takes_traffic) = match answer {
        Ok(readiness) => {
            let (code, line) = result(readiness);
            (code, line, fail_on.is_some_and(|fail_on| takes_traffic(readiness, fail_on)))
        }
        Err(e) => {
            let error = format!("{e:#}").replace(['|', '\n'], " ");
            (Code::Unknown, format!("MEMSENSOR UNKNOWN - {error}"), false)
        }
    };
    match fail_on {
        None => (code, line),
        Some(_) if takes_traffic => (Code::Ok, line),
        Some(_) => (Code::Critical, line),
    }
}

/// Line and code for an answer of `/readyz`.
pub fn result(readiness: &Value) -> (Code, String) {
    let text = |key: &str| readiness.get(key).and_then(Value::as_str).unwrap_or("?");
    let weight = readiness.get("weight").and_then(Value::as_f64).unwrap_or(0.0);
    let state = text("state");
    let known = readiness.get("state").and_then(|s| ReadinessState::deserialize(s).ok());
    let (code, word) = code_of(known);
    let percent = weight * 100.0;
    let mut line = format!("MEMSENSOR {word} - {} is {state}, weight {percent:.0}%", text("scope"));
    let reasons = readiness.get("reasons").and_then(Value::as_array);
    let reasons: Vec<_> = reasons.into_iter().flatten().filter_map(Value::as_str).collect();
    if !reasons.is_empty() {
        // A bar begins performance data, and the output is one line.
        let reasons = reasons.join(", ").replace(['|', '\n'], " ");
        let _ = write!(line, " ({reasons})");
    }
    let _ = write!(line, " | weight={percent:.0}%;;;0;100");
    let signals = readiness.get("signals").and_then(Value::as_object);
    for (name, value) in signals.into_iter().flatten() {
        let _ = write!(line, " {name}={value}");
    }
    (code, line)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_follows_the_convention() {
        let readiness = json!({
            "scope": "web", "state": "degraded", "weight": 0.354, "reasons": ["pressed", "a|b"],
            "signals": {"full_share_10s": 0.12, "available_ratio": 0.5},
        });
        let line = "MEMSENSOR WARNING - web is degraded, weight 35% (pressed, a b) \
                    | weight=35%;;;0;100 available_ratio=0.5 full_share_10s=0.12";
        assert_eq!(result(&readiness), (Code::Warning, line.to_owned()));
    }

    #[test]
    fn fail_on_selects_the_states_without_traffic() {
        let takes = |state: &str, weight: f64| {
            let readiness = json!({ "state": state, "weight": weight });
            [FailOn::Drained, FailOn::Overloaded, FailOn::Degraded]
                .map(|fail_on| takes_traffic(&readiness, fail_on))
        };
        assert_eq!(takes("ready", 1.0), [true, true, true]);
        assert_eq!(takes("unknown", 1.0), [true, true, true]);
        assert_eq!(takes("degraded", 0.5), [true, true, false]);
        assert_eq!(takes("overloaded", 0.0), [true, false, false]);
        assert_eq!(takes("drained", 0.0), [false, false, false]);
        assert_eq!(takes("nonsense", 1.0), [false, false, false]);
        assert!(!takes_traffic(&json!({}), FailOn::Overloaded));
    }

    #[test]
    fn every_state_has_its_code() {
        for (state, code) in [
            ("ready", Code::Ok),
            ("overloaded", Code::Critical),
            ("drained", Code::Critical),
            ("stale", Code::Critical),
            ("starting", Code::Critical),
            ("unknown", Code::Unknown),
            ("nonsense", Code::Unknown),
        ] {
            assert_eq!(result(&json!({ "state": state })).0, code, "{state}");
        }
        assert_eq!(result(&json!([])).0, Code::Unknown);
    }

    #[test]
    fn with_fail_on_there_are_two_codes() {
        let degraded = || Ok(json!({ "state": "degraded", "weight": 0.5 }));
        let no_answer = || Err(anyhow::anyhow!("timed out"));
        let code = |answer: Result<Value>, fail_on| outcome(&answer, fail_on).0;
        assert_eq!(code(degraded(), None), Code::Warning);
        assert_eq!(code(degraded(), Some(FailOn::Overloaded)), Code::Ok);
        assert_eq!(code(degraded(), Some(FailOn::Degraded)), Code::Critical);
        assert_eq!(code(no_answer(), None), Code::Unknown);
        assert_eq!(code(no_answer(), Some(FailOn::Drained)), Code::Critical);
    }
}
