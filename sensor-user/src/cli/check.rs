//! Output of `memsensor check`: one line with performance data and an exit code, by the convention
//! of Nagios plugins, which Consul and others follow; or exit codes 0 and 2 only, for keepalived;
//! or the weight alone, for scripts. Pure.
//!
//! The answer comes from the network: any program can answer on the port, and terminals, Nagios and
//! shell scripts read the output. Only values of known fields are printed, in known forms, and the
//! output is one line of printable ASCII. Not here: the request (`readyz_client`).

use std::fmt::Write as _;

use anyhow::Result;
use sensor_core::{
    model::readiness::{FailOn, ReadinessState, TrafficHealth},
    verdict::{scope::is_scope_name, signals::Signal},
};
use serde::Deserialize as _;
use serde_json::Value;

/// Most reasons that are printed.
const MAX_REASONS: usize = 8;
/// Longest text that is printed, in characters before escaping: a reason, or an error.
const MAX_TEXT: usize = 200;
/// Values of larger magnitude are no signals.
const MAX_SIGNAL: f64 = 1e15;

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

/// State and weight in an answer of `/readyz`; `None` if it is not one.
fn health(answer: &Value) -> Option<TrafficHealth> {
    let state = ReadinessState::deserialize(answer.get("state")?).ok()?;
    let weight = answer.get("weight")?.as_f64()?;
    (0.0..=1.0).contains(&weight).then_some(TrafficHealth { state, weight })
}

/// Whether the scope should get traffic; an answer that cannot be parsed means that it should not.
fn takes_traffic(answer: &Value, fail_on: FailOn) -> bool {
    health(answer).is_some_and(|health| health.with_fail_on(fail_on).takes_traffic())
}

const fn code_of(state: ReadinessState) -> (Code, &'static str) {
    use ReadinessState::{Degraded, Drained, Overloaded, Ready, Stale, Starting, Unknown};
    match state {
        Ready => (Code::Ok, "OK"),
        Degraded => (Code::Warning, "WARNING"),
        Overloaded | Drained | Stale | Starting => (Code::Critical, "CRITICAL"),
        Unknown => (Code::Unknown, "UNKNOWN"),
    }
}

/// Line and code for the outcome of a request to `/readyz`. With `fail_on` the code is 0 or 2 only,
/// and 2 without an answer.
pub fn outcome(answer: &Result<Value>, fail_on: Option<FailOn>) -> (Code, String) {
    let (code, line, takes_traffic) = match answer {
        Ok(answer) => {
            let (code, line) = result(answer);
            (code, line, fail_on.is_some_and(|fail_on| takes_traffic(answer, fail_on)))
        }
        Err(e) => {
            let error = printable(&format!("{e:#}"));
            (Code::Unknown, format!("MEMSENSOR UNKNOWN - {error}"), false)
        }
    };
    match fail_on {
        None => (code, line),
        Some(_) if takes_traffic => (Code::Ok, line),
        Some(_) => (Code::Critical, line),
    }
}

/// The weight in percent, for `--weight`: 0 only if the scope should get no traffic. `None` without
/// a valid answer.
pub fn percent(answer: &Result<Value>, fail_on: FailOn) -> Option<u8> {
    let health = health(answer.as_ref().ok()?)?.with_fail_on(fail_on);
    let percent = (health.weight * 100.0).round();
    let percent = if health.takes_traffic() { percent.max(1.0) } else { 0.0 };
    (0..=100).find(|n| f64::from(*n) >= percent)
}

/// Line and code for an answer of `/readyz`.
fn result(answer: &Value) -> (Code, String) {
    let Some(health) = health(answer) else {
        let line = "MEMSENSOR UNKNOWN - the answer is not a readiness report";
        return (Code::Unknown, line.to_owned());
    };
    let (code, word) = code_of(health.state);
    let scope = answer.get("scope").and_then(Value::as_str).filter(|name| is_scope_name(name));
    let (scope, state) = (scope.unwrap_or("?"), health.state.label());
    let percent = health.weight * 100.0;
    let mut line = format!("MEMSENSOR {word} - {scope} is {state}, weight {percent:.0}%");
    let reasons = answer.get("reasons").and_then(Value::as_array);
    let reasons = reasons.into_iter().flatten().filter_map(Value::as_str).take(MAX_REASONS);
    let reasons: Vec<_> = reasons.map(printable).collect();
    if !reasons.is_empty() {
        let _ = write!(line, " ({})", reasons.join(", "));
    }
    let _ = write!(line, " | weight={percent:.0}%;;;0;100");
    for signal in Signal::ALL {
        if let Some(value) = answer.get("signals").and_then(|s| s.get(signal.name())?.as_f64())
            && value.abs() < MAX_SIGNAL
        {
            // `f64` is printed without an exponent. Rounded as in `/readyz`; without negative zero.
            let _ = write!(line, " {}={}", signal.name(), (value * 1e6).round() / 1e6 + 0.0);
        }
    }
    (code, line)
}

/// One line of printable ASCII without a bar, which begins performance data. The rest is escaped.
fn printable(text: &str) -> String {
    let mut printable = String::new();
    for c in text.chars().take(MAX_TEXT) {
        match c {
            '|' | '\n' => printable.push(' '),
            ' '..='~' => printable.push(c),
            _ => printable.extend(c.escape_default()),
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_follows_the_convention() {
        let readiness = json!({
            "scope": "web", "state": "degraded", "weight": 0.354, "reasons": ["pressed", "a|b"],
            "signals": {"full_share_10s": 0.12, "available_ratio": 0.5},
        });
        let line = "MEMSENSOR WARNING - web is degraded, weight 35% (pressed, a b) \
                    | weight=35%;;;0;100 full_share_10s=0.12 available_ratio=0.5";
        assert_eq!(result(&readiness), (Code::Warning, line.to_owned()));
    }

    /// A signal named `weight=1+file[$(command)]%` ran the command where a shell script evaluated
    /// what follows the last `weight=`.
    #[test]
    fn only_known_fields_are_printed() {
        let readiness = json!({
            "scope": "\u{1b}[2Jweb", "state": "ready", "weight": 1.0,
            "reasons": ["a\nMEMSENSOR OK", "\u{1b}]0;x\u{7}", "\u{2028}"],
            "signals": {
                "weight=1+file[$(id)]%": 1, "full_share_10s": "1;2 weight=0%", "refaults_10s": {},
            },
        });
        let line = "MEMSENSOR OK - ? is ready, weight 100% (a MEMSENSOR OK, \\u{1b}]0;x\\u{7}, \
                    \\u{2028}) | weight=100%;;;0;100";
        assert_eq!(result(&readiness), (Code::Ok, line.to_owned()));
        let state = json!({"state": "\u{1b}[2J", "weight": 1.0});
        let line = "MEMSENSOR UNKNOWN - the answer is not a readiness report";
        assert_eq!(result(&state), (Code::Unknown, line.to_owned()));
        let error = outcome(&Err(anyhow::anyhow!("a\r\n\u{9b}b|weight=1%")), None).1;
        assert_eq!(error, "MEMSENSOR UNKNOWN - a\\r \\u{9b}b weight=1%");
    }

    #[test]
    fn performance_data_have_no_exponents() {
        let readiness = json!({
            "state": "ready", "weight": 1.0,
            "signals": {
                "some_share_1s": 0.000_005, "some_share_10s": 1e-9, "full_share_10s": -1e-9,
                "refaults_10s": 12_345_678.9, "exhaustion_seconds": 1e300, "filled_seconds": 1e14,
            },
        });
        let line = result(&readiness).1;
        let (_, data) = line.split_once(" | ").expect("performance data");
        assert_eq!(
            data,
            "weight=100%;;;0;100 some_share_1s=0.000005 some_share_10s=0 full_share_10s=0 \
             refaults_10s=12345678.9 filled_seconds=100000000000000"
        );
    }

    #[test]
    fn the_weight_is_an_integer_from_0_to_100() {
        for (state, weight, expected) in [
            ("ready", json!(1), [Some(100); 3]),
            ("degraded", json!(0.354), [Some(100), Some(35), Some(0)]),
            ("degraded", json!(0.001), [Some(100), Some(1), Some(0)]),
            ("overloaded", json!(0.0), [Some(100), Some(0), Some(0)]),
            ("overloaded", json!(-0.0), [Some(100), Some(0), Some(0)]),
            ("drained", json!(0), [Some(0); 3]),
            ("ready", json!(1.01), [None; 3]),
            ("ready", json!(-1), [None; 3]),
            ("ready", json!(1e300), [None; 3]),
            ("ready", json!("1"), [None; 3]),
            ("nonsense", json!(1), [None; 3]),
        ] {
            let answer = Ok(json!({"state": state, "weight": weight}));
            assert_eq!(FailOn::ALL.map(|f| percent(&answer, f)), expected, "{state} {weight}");
        }
        assert_eq!(percent(&Err(anyhow::anyhow!("timed out")), FailOn::Drained), None);
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
            assert_eq!(result(&json!({ "state": state, "weight": 0 })).0, code, "{state}");
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

    /// Any text, and often a text that matters.
    fn any_text() -> impl Strategy<Value = String> {
        let names = [
            "state",
            "weight",
            "scope",
            "reasons",
            "signals",
            "ready",
            "degraded",
            "host",
            "full_share_10s",
            "refaults_10s",
            "weight=1+file[$(id)]%",
            "a'b=1",
            "\u{1b}[2J",
            "a|b",
        ];
        prop_oneof![".*", prop::sample::select(names.to_vec()).prop_map(str::to_owned)]
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let number = any::<f64>().prop_map(|n| json!(n));
        let share = (0.0..=1.0).prop_map(|n: f64| json!(n));
        let text = any_text().prop_map(Value::String);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(|n| json!(n)),
            number,
            share,
            text
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
                prop::collection::btree_map(any_text(), inner, 0..8)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// An object whose fields are right, any JSON, or absent.
    fn any_answer() -> impl Strategy<Value = Value> {
        let state = prop::sample::select(&ReadinessState::ALL[..]).prop_map(|s| json!(s.label()));
        let weight = (0.0..=1.0).prop_map(|weight: f64| json!(weight));
        let names: Vec<_> = Signal::ALL.iter().map(|signal| signal.name().to_owned()).collect();
        let name = prop_oneof![prop::sample::select(names), any_text()];
        let signals = prop::collection::btree_map(name, any_json(), 0..20);
        let signals = signals.prop_map(|map| Value::Object(map.into_iter().collect()));
        let reasons = prop::collection::vec(any_text(), 0..12).prop_map(|texts| json!(texts));
        let report = (state, weight, any_text(), reasons, signals).prop_map(
            |(state, weight, scope, reasons, signals)| {
                json!({
                    "state": state, "weight": weight, "scope": scope, "reasons": reasons,
                    "signals": signals,
                })
            },
        );
        prop_oneof![3 => report, 1 => any_json()]
    }

    /// Digits with an optional sign and fraction.
    fn is_plain_decimal(number: &str) -> bool {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = number.strip_prefix('-').unwrap_or(number);
        match number.split_once('.') {
            Some((whole, fraction)) => digits(whole) && digits(fraction),
            None => digits(number),
        }
    }

    /// What is wrong with performance data.
    fn mistake(data: &str) -> Option<String> {
        let mut parts = data.split(' ');
        let weight = parts.next().and_then(|part| part.strip_prefix("weight="));
        let percent = weight.and_then(|text| text.strip_suffix("%;;;0;100"));
        if percent.and_then(|text| text.parse().ok()).is_none_or(|n: u8| n > 100) {
            return Some(format!("weight {weight:?}"));
        }
        let known: BTreeSet<_> = Signal::ALL.iter().map(|signal| signal.name()).collect();
        let wrong = |part: &&str| {
            let named = part.split_once('=');
            !named.is_some_and(|(name, value)| known.contains(name) && is_plain_decimal(value))
        };
        parts.find(wrong).map(str::to_owned)
    }

    proptest! {
        #[test]
        fn any_answer_is_one_line_of_printable_ascii(answer in any_answer()) {
            let line = result(&answer).1;
            prop_assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{line:?}");
            prop_assert!(line.starts_with("MEMSENSOR ") && line.len() < 32 * 1024, "{line}");
            match (health(&answer), line.split_once(" | ")) {
                (Some(_), Some((_, data))) => prop_assert_eq!(mistake(data), None, "{}", line),
                (None, None) => prop_assert!(!line.contains('|'), "{line}"),
                _ => prop_assert!(false, "{line}"),
            }
        }

        #[test]
        fn any_error_is_one_line_of_printable_ascii(error in any_text()) {
            let line = outcome(&Err(anyhow::anyhow!(error)), None).1;
            prop_assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'|'), "{line:?}");
        }
    }
}
