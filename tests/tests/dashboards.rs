//! What can be said of the Grafana dashboards without Grafana, Prometheus or a kernel: they name only metrics and
//! labels that there are, and say of each panel what it shows, in which unit, and what it means when it is empty.
//! The table in docs/metrics.md lists what exists; `docs.rs` compares it with the code.

use std::collections::{BTreeMap, BTreeSet};

use sensor_tests::support::dashboards::{NAMES, Query, directory, list, queries, read};

/// What Prometheus itself tells of a target, and the process' own.
const OF_OTHERS: [&str; 6] = [
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_open_fds",
];
/// What Prometheus adds to every series.
const OF_TARGETS: [&str; 2] = ["job", "instance"];

fn repository(file: &str) -> String {
    let path = directory().join("../..").join(file);
    std::fs::read_to_string(&path).expect(file)
}

/// Labels by metric, from the table in docs/metrics.md; a histogram by its series.
fn metrics() -> BTreeMap<String, BTreeSet<String>> {
    let page = repository("docs/metrics.md");
    let table = page.split("<!-- metrics:begin -->").nth(1).expect("a table");
    let table = table.split("<!-- metrics:end -->").next().expect("an end");
    let targets = || OF_TARGETS.map(str::to_owned);
    let mut metrics: BTreeMap<_, BTreeSet<_>> =
        OF_OTHERS.iter().map(|name| ((*name).to_owned(), targets().into())).collect();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let name = cells[1].trim_matches('`');
        let labels = cells[3].split(", ").map(|l| l.trim_matches('`')).filter(|l| !l.is_empty());
        let labels: BTreeSet<_> = labels.map(str::to_owned).chain(targets()).collect();
        if cells[2] == "histogram" {
            let with_le = labels.iter().cloned().chain(["le".to_owned()]).collect();
            metrics.insert(format!("{name}_bucket"), with_le);
            metrics.insert(format!("{name}_sum"), labels.clone());
            metrics.insert(format!("{name}_count"), labels);
        } else {
            metrics.insert(name.to_owned(), labels);
        }
    }
    assert!(metrics.len() > 60, "only {} metrics are in docs/metrics.md", metrics.len());
    metrics
}

fn everything() -> Vec<Query> {
    NAMES.iter().flat_map(|name| queries(name).expect("a dashboard")).collect()
}

#[test]
fn dashboards_name_only_metrics_and_labels_that_exist() {
    let metrics = metrics();
    let mut seen = 0;
    for query in everything() {
        let Query { place, expression, .. } = &query;
        let selectors = query.selectors();
        let mut labels = BTreeSet::new();
        for (name, matched) in &selectors {
            let of_metric = metrics.get(*name).unwrap_or_else(|| panic!("{place}: no {name}"));
            for label in matched {
                assert!(of_metric.contains(*label), "{place}: {name} has no {label}");
            }
            labels.extend(of_metric.iter().map(String::as_str));
            seen += 1;
        }
        for label in query.grouping_labels().into_iter().chain(query.legend_labels()) {
            assert!(labels.contains(label), "{place}: no metric of it has {label}: {expression}");
        }
        // A metric without a selector would be of every host, and unseen by us.
        let named = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named = named.filter(|word| word.starts_with("memsensor_"));
        let bare: Vec<_> = named.filter(|n| !selectors.iter().any(|(s, _)| s == n)).collect();
        assert!(bare.is_empty(), "{place}: {bare:?} of which host?");
    }
    assert!(seen > 150, "only {seen} selectors were looked at");
}

#[test]
fn nearly_every_metric_is_shown_somewhere() {
    // It follows from the state.
    const NOT_SHOWN: &str = "memsensor_ready";
    let all = everything();
    let shown: BTreeSet<_> =
        all.iter().flat_map(Query::selectors).map(|(name, _)| name.to_owned()).collect();
    let missing: Vec<_> = metrics()
        .into_keys()
        .filter(|name| name.starts_with("memsensor_") && !shown.contains(name))
        .filter(|name| !name.ends_with("_sum") && !name.ends_with("_count"))
        .filter(|name| name != NOT_SHOWN)
        .collect();
    assert!(missing.is_empty(), "no dashboard shows {missing:?}");
}

#[test]
fn every_panel_says_what_it_shows_and_what_it_means_when_it_is_empty() {
    for name in NAMES {
        let board = read(name).expect("a dashboard");
        let mut ids = BTreeSet::new();
        let mut cells = BTreeSet::new();
        for panel in list(&board["panels"]) {
            let (title, kind) = (&panel["title"], panel["type"].as_str().expect("a type"));
            assert!(ids.insert(panel["id"].as_u64()), "{name}: two have the number of {title}");
            let [x, y, w, h] =
                ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap_or_default());
            assert!(w > 0 && h > 0 && x + w <= 24, "{name}: {title} is beyond the edge");
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                assert!(cells.insert(cell), "{name}: {title} is over another");
            }
            if ["row", "text"].contains(&kind) {
                continue;
            }
            let defaults = &panel["fieldConfig"]["defaults"];
            let told = |value: &serde_json::Value| value.as_str().is_some_and(|s| !s.is_empty());
            assert!(told(&panel["description"]), "{name}: {title} has no description");
            assert!(told(&defaults["noValue"]), "{name}: {title} has no text for nothing");
            let has_unit = told(&defaults["unit"]);
            let needs_unit = ["timeseries", "stat"].contains(&kind);
            assert!(has_unit || !needs_unit, "{name}: {title} has no unit");
            assert_eq!(panel["datasource"]["uid"], "$datasource", "{name}: {title}");
        }
        assert_eq!(board["uid"], format!("memsensor-{name}"));
        let size = std::fs::metadata(directory().join(format!("{name}.json"))).expect("its size");
        assert!(size.len() < 300 << 10, "{name} has {} bytes", size.len());
    }
}

#[test]
fn links_lead_to_dashboards_and_runbooks_that_there_are() {
    let rules = directory().join("../rules");
    let files =
        std::fs::read_dir(rules).expect("the rules").map(|file| file.expect("a file").path());
    let yaml = files.filter(|path| path.extension().is_some_and(|end| end == "yaml"));
    let rules: String = yaml.map(|path| std::fs::read_to_string(path).expect("rules")).collect();
    let (mut boards, mut alerts) = (0, 0);
    for name in NAMES {
        let text = read(name).expect("a dashboard").to_string();
        for uid in text.split("\"/d/").skip(1).filter_map(|rest| rest.split('?').next()) {
            assert!(NAMES.iter().any(|n| uid == format!("memsensor-{n}")), "{name}: no {uid}");
            boards += 1;
        }
        for alert in text.split("\"${runbooks}/").skip(1).filter_map(|r| r.split(".md").next()) {
            let has_rule = rules.contains(&format!("alert: {alert}\n"));
            assert!(has_rule, "{name}: no alert {alert}");
            alerts += 1;
        }
    }
    assert!(boards >= 2 && alerts >= 8, "{boards} links to dashboards, {alerts} to runbooks");
}
