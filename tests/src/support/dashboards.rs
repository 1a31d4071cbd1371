//! The queries of the Grafana dashboards, and their variables. Not the appearance of panels, and no
//! connection to Prometheus.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::promql::{is_of_name, selectors};

/// The names of the dashboards, without `.json`.
pub const NAMES: [&str; 4] = ["fleet", "host", "incident", "sensor"];

/// The directory of the dashboards and their sources.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards/grafana")
}

/// A query of a dashboard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The dashboard, the panel and the letter of the query: `host / PSI of the scope / A`.
    pub place: String,
    /// The id of the panel; none for a variable or an annotation.
    pub panel: Option<u64>,
    /// The letter of the query in its panel.
    pub letter: String,
    /// The expression, with dashboard variables. For a variable: the series with its values.
    pub expression: String,
    /// The legend with labels as `{{label}}`. For a variable: its label in this form.
    pub legend: String,
    /// Whether it is an instant query, not a range query.
    pub instant: bool,
    /// Whether it requests exemplars.
    pub exemplars: bool,
}

/// The JSON of a dashboard.
pub fn read(name: &str) -> Result<Value> {
    let path = directory().join(format!("{name}.json"));
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
}

/// All queries of a dashboard: of panels, variables and annotations.
pub fn queries(name: &str) -> Result<Vec<Query>> {
    let board = read(name)?;
    let mut queries = Vec::new();
    for panel in list(&board["panels"]) {
        for target in list(&panel["targets"]) {
            let letter = text(&target["refId"]);
            queries.push(Query {
                place: format!("{name} / {} / {letter}", text(&panel["title"])),
                panel: panel["id"].as_u64(),
                letter,
                expression: text(&target["expr"]),
                legend: text(&target["legendFormat"]),
                instant: target["instant"] == true,
                exemplars: target["exemplar"] == true,
            });
        }
    }
    for variable in list(&board["templating"]["list"]).iter().filter(|v| v["type"] == "query") {
        let query = text(&variable["query"]["query"]);
        let arguments = query.strip_prefix("label_values(").and_then(|q| q.strip_suffix(')'));
        let (series, label) = arguments
            .and_then(|arguments| arguments.rsplit_once(", "))
            .with_context(|| format!("{name}: a variable has the query {query}"))?;
        queries.push(Query {
            place: format!("{name} / variable {}", text(&variable["name"])),
            legend: format!("{{{{{label}}}}}"),
            ..other(series, true)
        });
    }
    for annotation in list(&board["annotations"]["list"]) {
        let legend = text(&annotation["titleFormat"]) + &text(&annotation["textFormat"]);
        queries.push(Query {
            place: format!("{name} / annotation {}", text(&annotation["name"])),
            legend,
            ..other(&text(&annotation["expr"]), false)
        });
    }
    ensure!(queries.iter().all(|q| !q.expression.is_empty()), "{name}: a query is empty");
    Ok(queries)
}

fn other(expression: &str, instant: bool) -> Query {
    let (place, letter, legend) = Default::default();
    let expression = expression.to_owned();
    Query { place, panel: None, letter, expression, legend, instant, exemplars: false }
}

/// The elements of an array; none if it is not an array.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Query {
    /// The expression with values for the variables (named without `$`), as Grafana sends it.
    /// A variable without a value is an error.
    pub fn with(&self, variables: &[(&str, &str)]) -> Result<String> {
        let mut expression = self.expression.clone();
        for (name, value) in variables {
            expression = expression.replace(&format!("${name}"), value);
        }
        ensure!(
            !expression.contains('$'),
            "{}: a variable has no value in {expression}",
            self.place
        );
        Ok(expression)
    }

    /// The labels in the legend.
    pub fn legend_labels(&self) -> impl Iterator<Item = &str> {
        self.legend.split("{{").skip(1).filter_map(|part| Some(part.split_once("}}")?.0.trim()))
    }

    /// The metrics of the expression, with the labels of their selectors. Braces are required,
    /// except for an expression that is only a name (a variable).
    pub fn selectors(&self) -> Vec<(&str, Vec<&str>)> {
        if self.expression.chars().all(is_of_name) {
            return vec![(&self.expression, Vec::new())];
        }
        let selectors = selectors(&self.expression).into_iter();
        selectors.map(|s| (s.metric, s.matchers.iter().map(|m| m.label).collect())).collect()
    }

    /// The labels in `by (...)`, `without (...)` and `on (...)`.
    pub fn grouping_labels(&self) -> Vec<&str> {
        let text = self.expression.as_str();
        ["by (", "without (", "on ("]
            .iter()
            .flat_map(|word| text.split(word).skip(1))
            .filter_map(|rest| rest.split(')').next())
            .flat_map(|labels| labels.split(", "))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(expression: &str) -> Query {
        Query { legend: "{{a}} of {{ b }}".into(), ..other(expression, true) }
    }

    #[test]
    fn metrics_and_labels_of_an_expression_are_found() {
        let found = query(
            "sum by (a, le) (rate(x_total{job=~\"$job\",a!=\"b\"}[$__rate_interval])) / \
             on (c) y_z{}",
        );
        assert_eq!(found.selectors(), [("x_total", vec!["job", "a"]), ("y_z", vec![])]);
        assert_eq!(found.grouping_labels(), ["a", "le", "c"]);
        assert_eq!(query("x_info").selectors(), [("x_info", vec![])]);
        assert_eq!(found.legend_labels().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_variable_without_a_value_is_an_error() {
        let found = query("x{job=\"$job\"}[$__range]");
        let replaced = found.with(&[("job", "j"), ("__range", "1h")]);
        assert_eq!(replaced.ok().as_deref(), Some("x{job=\"j\"}[1h]"));
        assert!(found.with(&[("job", "j")]).is_err());
    }
}
