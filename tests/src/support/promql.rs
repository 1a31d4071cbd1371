//! PromQL selectors in rules, dashboards and runbooks, and the label values that they may match.
//! It is not a parser of PromQL: it finds `name{label="value"}` in any text, also in an exposition.

use std::collections::{BTreeMap, BTreeSet};

/// A condition in a selector, for example `state=~"degraded|overloaded"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher<'a> {
    /// The label.
    pub label: &'a str,
    /// `=`, `!=`, `=~` or `!~`.
    pub operator: &'a str,
    /// The text between the quotes, with its escapes.
    pub value: &'a str,
}

impl Matcher<'_> {
    /// The values that it names: the alternatives of a regular expression, else one.
    pub fn values(&self) -> Vec<&str> {
        if self.operator.ends_with('~') {
            self.value.split('|').collect()
        } else {
            vec![self.value]
        }
    }
}

/// A metric and its conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector<'a> {
    /// The name of the metric.
    pub metric: &'a str,
    /// The conditions between the braces.
    pub matchers: Vec<Matcher<'a>>,
}

/// All selectors with braces in a text. Braces after a name that contain no matchers are ignored.
pub fn selectors(text: &str) -> Vec<Selector<'_>> {
    let braces = text.match_indices('{').map(|(at, _)| at);
    braces
        .filter_map(|at| {
            let before = &text[..at];
            let metric = before.rsplit(|c: char| !is_of_name(c)).next().unwrap_or_default();
            let starts_like_a_name = metric.starts_with(|c: char| !c.is_ascii_digit());
            let matchers = matchers(&text[at + 1..])?;
            (!metric.is_empty() && starts_like_a_name).then_some(Selector { metric, matchers })
        })
        .collect()
}

/// The matchers up to the closing brace.
fn matchers(text: &str) -> Option<Vec<Matcher<'_>>> {
    let mut rest = text.trim_start();
    let mut matchers = Vec::new();
    while !rest.starts_with('}') {
        let (label, after) = rest.split_at(rest.find(['=', '!'])?);
        let quote = after.find('"')?;
        let (operator, value) = (&after[..quote], &after[quote + 1..]);
        let end = closing_quote(value)?;
        if !label.chars().all(is_of_name) || !["=", "!=", "=~", "!~"].contains(&operator) {
            return None;
        }
        matchers.push(Matcher { label, operator, value: &value[..end] });
        rest = value[end + 1..].trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    Some(matchers)
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.find(|c| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes
    })
}

/// Whether a character can be part of the name of a metric, a record or a label.
pub fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// Labels whose values are a fixed set, by metric.
const FIXED_LABELS: [(&str, &str); 9] = [
    ("memsensor_state", "state"),
    ("memsensor_state_transitions_total", "from"),
    ("memsensor_state_transitions_total", "to"),
    ("memsensor_oom_kills_total", "type"),
    ("memsensor_stall_seconds_total", "cause"),
    ("memsensor_events_lost_total", "reason"),
    ("memsensor_kill_signals_total", "sender"),
    ("memsensor_probe_info", "state"),
    ("memsensor_reclaiming_tasks", "kind"),
];

/// Values that the recording below does not have: no probe of it is disabled.
const NOT_RECORDED: [(&str, &str, &str); 1] = [("memsensor_probe_info", "state", "disabled")];

/// The values of the labels in [`FIXED_LABELS`].
#[derive(Debug)]
pub struct KnownValues(BTreeMap<(&'static str, &'static str), BTreeSet<String>>);

impl KnownValues {
    /// From the exposition of a sensor that has every value, for example
    /// [`RECORDED_METRICS`](super::repository::RECORDED_METRICS).
    pub fn from_exposition(exposition: &str) -> Self {
        let series = selectors(exposition);
        let known = FIXED_LABELS.map(|(metric, label)| {
            let of_metric = series.iter().filter(|selector| selector.metric == metric);
            let matchers = of_metric.flat_map(|selector| &selector.matchers);
            let recorded =
                matchers.filter(|m| m.label == label).map(|matcher| matcher.value.to_owned());
            let others = NOT_RECORDED.iter().filter(|(m, l, _)| (*m, *l) == (metric, label));
            let values = recorded.chain(others.map(|(_, _, value)| (*value).to_owned())).collect();
            ((metric, label), values)
        });
        Self(known.into_iter().collect())
    }

    /// The number of values of a label.
    pub fn count(&self, metric: &str, label: &str) -> usize {
        self.0.get(&(metric, label)).map_or(0, BTreeSet::len)
    }

    /// The matchers of fixed labels in a text, each with its unknown values.
    pub fn unknown_values(&self, text: &str) -> Vec<(String, Vec<String>)> {
        let mut checked = Vec::new();
        for selector in selectors(text) {
            for matcher in &selector.matchers {
                let Some(known) = self.0.get(&(selector.metric, matcher.label)) else { continue };
                let values = matcher.values().into_iter().map(str::to_owned);
                let unknown = values.filter(|value| !known.contains(value)).collect();
                let Matcher { label, operator, value } = matcher;
                let place = format!("{}{{{label}{operator}\"{value}\"}}", selector.metric);
                checked.push((place, unknown));
            }
        }
        checked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels<'a>(selector: &Selector<'a>) -> Vec<(&'a str, &'a str, &'a str)> {
        selector.matchers.iter().map(|m| (m.label, m.operator, m.value)).collect()
    }

    #[test]
    fn selectors_are_found_in_an_expression() {
        let text = "sum(rate(x_total{job=~\"a|b\", c!=\"d\\\"}\"}[5m])) / on (e) job:y:z{} or \
                    {{ $labels.x }} ${USER} x{=1}";
        let found = selectors(text);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0].metric, "x_total");
        assert_eq!(labels(&found[0]), [("job", "=~", "a|b"), ("c", "!=", "d\\\"}")]);
        assert_eq!(found[0].matchers[0].values(), ["a", "b"]);
        assert_eq!((found[1].metric, labels(&found[1])), ("job:y:z", Vec::new()));
    }

    #[test]
    fn an_unknown_value_of_a_fixed_label_is_reported() {
        let known = KnownValues::from_exposition(
            "# HELP memsensor_state State\n\
             memsensor_state{scope=\"host\",state=\"ready\"} 1.0\n\
             memsensor_state{scope=\"host\",state=\"drained\"} 0.0\n",
        );
        assert_eq!(known.count("memsensor_state", "state"), 2);
        let checked = known.unknown_values(
            "memsensor_state{state=~\"ready|draining\",scope=\"x\"} or \
             memsensor_state{state!=\"drained\"}",
        );
        let unknown: Vec<_> = checked.iter().map(|(_, unknown)| unknown.len()).collect();
        assert_eq!(unknown, [1, 0]);
        assert_eq!(checked[0].0, "memsensor_state{state=~\"ready|draining\"}");
    }
}
