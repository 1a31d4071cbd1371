//! The rules' expressions, evaluated by Prometheus and by VictoriaMetrics at the same time.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::engine::Engine;

/// A rule as Prometheus reports it.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Name of the recording rule or the alert.
    pub name: String,
    /// Its expression.
    pub query: String,
    /// `ok` if the last evaluation succeeded.
    pub health: String,
    /// The error of the last evaluation.
    pub error: String,
}

/// The results of an expression.
#[derive(Debug, Clone)]
pub struct Compared {
    /// Name of the rule.
    pub name: String,
    /// Number of series in Prometheus.
    pub prometheus: usize,
    /// Number of series in VictoriaMetrics, or its error.
    pub victoria: Result<usize, String>,
    /// Number of series that only one of them has.
    pub differ: usize,
}

impl Compared {
    /// Whether both have the same series.
    pub fn same(&self) -> bool {
        self.victoria == Ok(self.prometheus) && self.differ == 0
    }
}

/// All rules that Prometheus has loaded.
pub fn rules(prometheus: &Engine) -> Result<Vec<Rule>> {
    let (status, body) = prometheus.get("/api/v1/rules")?;
    let response: Value =
        serde_json::from_str(&body).with_context(|| format!("{status}: {body}"))?;
    let groups = response["data"]["groups"].as_array().context("no groups")?;
    let text = |rule: &Value, key: &str| rule[key].as_str().unwrap_or_default().to_owned();
    let rules: Vec<_> = groups
        .iter()
        .filter_map(|group| group["rules"].as_array())
        .flatten()
        .map(|rule| Rule {
            name: text(rule, "name"),
            query: text(rule, "query"),
            health: text(rule, "health"),
            error: text(rule, "lastError"),
        })
        .collect();
    ensure!(!rules.is_empty(), "no rules are loaded");
    Ok(rules)
}

/// Evaluates every rule's expression in both.
pub fn compare(prometheus: &Engine, victoria: &Engine, at: f64) -> Result<Vec<Compared>> {
    let one = |rule: Rule| {
        let wanted = identities(&prometheus.query_at(&rule.query, at)?);
        let has = victoria.query_at(&rule.query, at).map(|series| identities(&series));
        let differ = has.as_ref().map_or(0, |has| has.symmetric_difference(&wanted).count());
        let victoria = has.map(|has| has.len()).map_err(|error| format!("{error:#}"));
        Ok(Compared { name: rule.name, prometheus: wanted.len(), victoria, differ })
    };
    rules(prometheus)?.into_iter().map(one).collect()
}

/// The labels of series, as text.
fn identities(series: &[Value]) -> BTreeSet<String> {
    let labels = |one: &Value| {
        let mut labels = one["metric"].clone();
        if let Some(labels) = labels.as_object_mut() {
            labels.remove("__name__");
        }
        labels.to_string()
    };
    series.iter().map(labels).collect()
}
