//! Tests of the Grafana dashboards that need neither Grafana, Prometheus nor a kernel: metrics,
//! labels and label values exist, panels are complete and do not overlap, and links lead to
//! existing files.

use std::collections::BTreeSet;

use sensor_tests::support::{
    dashboards::{NAMES, Query, directory, list, queries, read},
    metrics_table::series_labels,
    promql::KnownValues,
    repository::{RECORDED_METRICS, repository, yaml_files},
};
use serde_json::Value;

fn all_queries() -> Vec<Query> {
    NAMES.iter().flat_map(|name| queries(name).expect("a dashboard")).collect()
}

#[test]
fn queries_use_only_metrics_and_labels_that_exist() {
    let metrics = series_labels().expect("docs/metrics.md");
    let mut count = 0;
    for query in all_queries() {
        let Query { place, expression, .. } = &query;
        let selectors = query.selectors();
        let mut labels = BTreeSet::new();
        for (name, matched) in &selectors {
            assert!(metrics.contains_key(*name), "{place}: no metric {name}");
            let of_metric = &metrics[*name];
            for label in matched {
                assert!(of_metric.contains(*label), "{place}: {name} has no label {label}");
            }
            labels.extend(of_metric.iter().map(String::as_str));
            count += 1;
        }
        for label in query.grouping_labels().into_iter().chain(query.legend_labels()) {
            assert!(labels.contains(label), "{place}: no metric has {label}: {expression}");
        }
        // A metric without braces would select every host, and `selectors` does not find it.
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names = words.filter(|word| word.starts_with("memsensor_"));
        let bare: Vec<_> = names.filter(|n| !selectors.iter().any(|(s, _)| s == n)).collect();
        assert!(bare.is_empty(), "{place}: {bare:?} have no selector");
    }
    assert!(count > 150, "only {count} selectors were checked");
}

#[test]
fn queries_match_only_label_values_that_exist() {
    let recorded = std::fs::read_to_string(repository().join(RECORDED_METRICS));
    let known = KnownValues::from_exposition(&recorded.expect("a recording"));
    let mut states = BTreeSet::new();
    for Query { place, expression, .. } in all_queries() {
        for (matcher, unknown) in known.unknown_values(&expression) {
            assert!(unknown.is_empty(), "{place}: {matcher} has the unknown values {unknown:?}");
            states.insert(matcher);
        }
    }
    // One matcher for each of the seven states, and those for several states.
    assert!(states.len() > 7, "only {states:?} were checked");
}

#[test]
fn every_metric_is_shown_somewhere() {
    // It is derived from the state, which is shown.
    const NOT_SHOWN: &str = "memsensor_ready";
    let queries = all_queries();
    let shown: BTreeSet<_> = queries.iter().flat_map(Query::selectors).map(|(n, _)| n).collect();
    let missing: Vec<_> = series_labels()
        .expect("docs/metrics.md")
        .into_keys()
        .filter(|name| name.starts_with("memsensor_") && !shown.contains(name.as_str()))
        .filter(|name| !name.ends_with("_sum") && !name.ends_with("_count"))
        .filter(|name| name != NOT_SHOWN)
        .collect();
    assert!(missing.is_empty(), "no dashboard shows {missing:?}");
}

fn is_text(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty())
}

#[test]
fn every_panel_has_a_description_a_unit_and_a_text_for_no_data() {
    for name in NAMES {
        for panel in list(&read(name).expect("a dashboard")["panels"]) {
            let (title, kind) = (&panel["title"], panel["type"].as_str().expect("a type"));
            if ["row", "text"].contains(&kind) {
                continue;
            }
            let defaults = &panel["fieldConfig"]["defaults"];
            assert!(is_text(&panel["description"]), "{name}: {title} has no description");
            assert!(is_text(&defaults["noValue"]), "{name}: {title} has no text for no data");
            let needs_unit = ["timeseries", "stat"].contains(&kind);
            assert!(is_text(&defaults["unit"]) || !needs_unit, "{name}: {title} has no unit");
            assert_eq!(panel["datasource"]["uid"], "$datasource", "{name}: {title}");
        }
    }
}

#[test]
fn panels_have_unique_ids_and_do_not_overlap() {
    for name in NAMES {
        let board = read(name).expect("a dashboard");
        let mut ids = BTreeSet::new();
        let mut cells = BTreeSet::new();
        for panel in list(&board["panels"]) {
            let title = &panel["title"];
            assert!(ids.insert(panel["id"].as_u64()), "{name}: the id of {title} is not unique");
            let [x, y, w, h] =
                ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap_or_default());
            assert!(w > 0 && h > 0 && x + w <= 24, "{name}: {title} is outside of the grid");
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                assert!(cells.insert(cell), "{name}: {title} overlaps another panel");
            }
        }
    }
}

#[test]
fn a_dashboard_has_a_fixed_uid_and_is_below_300_kib() {
    for name in NAMES {
        assert_eq!(read(name).expect("a dashboard")["uid"], format!("memsensor-{name}"));
        let size = std::fs::metadata(directory().join(format!("{name}.json"))).expect("a file");
        assert!(size.len() < 300 << 10, "{name} has {} bytes", size.len());
    }
}

#[test]
fn links_lead_to_existing_dashboards_and_alerts() {
    let files = yaml_files(&repository().join("dashboards/rules")).expect("the rules");
    let rules: String =
        files.iter().map(|path| std::fs::read_to_string(path).expect("rules")).collect();
    let (mut boards, mut alerts) = (0, 0);
    for name in NAMES {
        let text = read(name).expect("a dashboard").to_string();
        for uid in text.split("\"/d/").skip(1).filter_map(|rest| rest.split('?').next()) {
            let exists = NAMES.iter().any(|name| uid == format!("memsensor-{name}"));
            assert!(exists, "{name}: no dashboard {uid}");
            boards += 1;
        }
        for alert in text.split("\"${runbooks}/").skip(1).filter_map(|r| r.split(".md").next()) {
            assert!(rules.contains(&format!("alert: {alert}\n")), "{name}: no alert {alert}");
            alerts += 1;
        }
    }
    assert!(boards >= 2 && alerts >= 8, "{boards} links to dashboards, {alerts} to runbooks");
}
