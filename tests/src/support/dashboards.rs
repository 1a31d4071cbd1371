//! The Grafana dashboards as tests need them: what they ask Prometheus, and with what in place of their
//! variables. It knows nothing of how they look, and asks nothing itself.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// The dashboards, by the names of their files.
pub const NAMES: [&str; 4] = ["fleet", "host", "incident", "sensor"];

/// Where they are, sources included.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards/grafana")
}

/// What is asked, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The dashboard and what in it asks: `host / PSI of the scope / A`.
    pub place: String,
    /// The panel's number in its dashboard; none for a variable or an annotation.
    pub panel: Option<u64>,
    /// The query's letter in its panel.
    pub letter: String,
    /// The expression, with variables; for a variable, the series whose labels it takes.
    pub expression: String,
    /// What series are called, with labels as `{{label}}`; or the label that a variable takes.
    pub legend: String,
    /// Whether it asks for one moment, or for a time range.
    pub instant: bool,
    /// Whether exemplars are wanted.
    pub exemplars: bool,
}

/// A dashboard's file.
pub fn read(name: &str) -> Result<Value> {
    let path = directory().join(format!("{name}.json"));
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))
}

/// All that a dashboard asks: panels, variables, annotations.
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
        let of = query.strip_prefix("label_values(").and_then(|q| q.strip_suffix(')'));
        let (series, label) = of
            .and_then(|of| of.rsplit_once(", "))
            .with_context(|| format!("{name}: a variable asks {query}"))?;
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
    ensure!(queries.iter().all(|q| !q.expression.is_empty()), "{name}: a query asks nothing");
    Ok(queries)
}

fn other(expression: &str, instant: bool) -> Query {
    let (place, letter, legend) = Default::default();
    let expression = expression.to_owned();
    Query { place, panel: None, letter, expression, legend, instant, exemplars: false }
}

/// Empty for what is not there.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Query {
    /// The expression as Grafana would send it, with these in place of the variables (without their `$`).
    /// One that is left is an error.
    pub fn with(&self, variables: &[(&str, &str)]) -> Result<String> {
        let mut expression = self.expression.clone();
        for (name, value) in variables {
            expression = expression.replace(&format!("${name}"), value);
        }
        ensure!(!expression.contains('$'), "{}: a variable is left in {expression}", self.place);
        Ok(expression)
    }

    /// The labels that the legend names.
    pub fn legend_labels(&self) -> impl Iterator<Item = &str> {
        self.legend.split("{{").skip(1).filter_map(|part| Some(part.split_once("}}")?.0.trim()))
    }

    /// Every metric that it names, with the labels of its selector. Relies on ours being written out:
    /// `name{label="value",...}`.
    pub fn selectors(&self) -> Vec<(&str, Vec<&str>)> {
        let text = self.expression.as_str();
        if text.chars().all(is_of_name) {
            return vec![(text, Vec::new())];
        }
        let ends = text.match_indices('{').map(|(at, _)| at);
        ends.map(|at| {
            let name = text[..at].rsplit(|c: char| !is_of_name(c)).next().unwrap_or_default();
            let inside = text[at + 1..].split('}').next().unwrap_or_default();
            let labels = inside.split("\",").map(|part| part.split(['=', '!']).next());
            (name, labels.flatten().filter(|l| !l.is_empty()).collect())
        })
        .collect()
    }

    /// Labels that it keeps or drops: `by (...)`, `without (...)`, `on (...)`.
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

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(expression: &str) -> Query {
        Query { legend: "{{a}} of {{ b }}".into(), ..other(expression, true) }
    }

    #[test]
    fn metrics_and_labels_of_an_expression_are_found() {
        let query = asks(
            "sum by (a, le) (rate(x_total{job=~\"$job\",a!=\"b\"}[$__rate_interval])) / on (c) y_z{}",
        );
        assert_eq!(query.selectors(), [("x_total", vec!["job", "a"]), ("y_z", vec![])]);
        assert_eq!(query.grouping_labels(), ["a", "le", "c"]);
        assert_eq!(asks("x_info").selectors(), [("x_info", vec![])]);
        assert_eq!(query.legend_labels().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_variable_that_nobody_knows_is_an_error() {
        let query = asks("x{job=\"$job\"}[$__range]");
        let told = query.with(&[("job", "j"), ("__range", "1h")]);
        assert_eq!(told.ok().as_deref(), Some("x{job=\"j\"}[1h]"));
        assert!(query.with(&[("job", "j")]).is_err());
    }
}
