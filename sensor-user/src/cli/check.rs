//! `memsensor check`: readiness as one line with performance data and an exit code, by the convention
//! of Nagios plugins, which Consul and others follow as well; or by 0 and 2 alone, for keepalived. Pure.

use std::fmt::Write as _;

use serde::Deserialize as _;
use serde_json::Value;

use crate::serve::state::{FailOn, ReadinessState, TrafficHealth};

/// What the convention calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Full traffic.
    Ok = 0,
    /// Less traffic.
    Warning = 1,
    /// No traffic.
    Critical = 2,
    /// Nothing can be told.
    Unknown = 3,
}

/// Whether the scope should get traffic; what cannot be told should not.
pub fn is_fit(readiness: &Value, fail_on: FailOn) -> bool {
    let standing = readiness.get("state").and_then(|s| ReadinessState::deserialize(s).ok());
    let weight = readiness.get("weight").and_then(Value::as_f64);
    let fitness = standing.zip(weight).map(|(standing, weight)| TrafficHealth { standing, weight });
    fitness.is_some_and(|fitness| fitness.on(fail_on).takes_traffic())
}

/// The line and the code for what `/readyz` said.
pub fn result(readiness: &Value) -> (Code, String) {
    let text = |key: &str| readiness.get(key).and_then(Value::as_str).unwrap_or("?");
    let weight = readiness.get("weight").and_then(Value::as_f64).unwrap_or(0.0);
    let state = text("state");
    let (code, word) = match state {
        "ready" => (Code::Ok, "OK"),
        "degraded" => (Code::Warning, "WARNING"),
        "overloaded" | "drained" | "stale" | "starting" => (Code::Critical, "CRITICAL"),
        _ => (Code::Unknown, "UNKNOWN"),
    };
    let percent = weight * 100.0;
    let mut line = format!("MEMSENSOR {word} - {} is {state}, weight {percent:.0}%", text("scope"));
    let reasons = readiness.get("reasons").and_then(Value::as_array);
    let reasons: Vec<_> = reasons.into_iter().flatten().filter_map(Value::as_str).collect();
    if !reasons.is_empty() {
        // The bar begins performance data, and the line is one.
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
    fn who_knows_but_good_and_bad_says_where_bad_begins() {
        let fit = |state: &str, weight: f64| {
            let readiness = json!({ "state": state, "weight": weight });
            [FailOn::Drained, FailOn::Overloaded, FailOn::Degraded]
                .map(|fail_on| is_fit(&readiness, fail_on))
        };
        assert_eq!(fit("ready", 1.0), [true, true, true]);
        assert_eq!(fit("unknown", 1.0), [true, true, true]);
        assert_eq!(fit("degraded", 0.5), [true, true, false]);
        assert_eq!(fit("overloaded", 0.0), [true, false, false]);
        assert_eq!(fit("drained", 0.0), [false, false, false]);
        assert_eq!(fit("nonsense", 1.0), [false, false, false]);
        assert!(!is_fit(&json!({}), FailOn::Overloaded));
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
}
