//! The alert rules and what belongs to them: severities, runbooks, promtool tests, records,
//! Alertmanager. Promtool tests the behaviour of each rule (`dashboards/rules/tests`),
//! `live/serving/alerting` with real programs.

#![allow(clippy::panic, reason = "tests fail by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use clap::Parser as _;
use sensor_tests::support::{
    metrics_table::series_labels,
    promql::{KnownValues, is_of_name, selectors},
    repository::{RECORDED_METRICS, repository, yaml_files},
};
// The only use of the product in this file.
use sensor_user::cli::args::Cli;
use serde_json::Value;

const RUNBOOKS_URL: &str = "https://runbooks.example/memsensor/";
const RULES: &str = "dashboards/rules";
const RULE_TESTS: &str = "dashboards/rules/tests";
const RUNBOOKS: &str = "docs/runbooks";

fn read(path: impl AsRef<Path>) -> String {
    let path = repository().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn parse(path: &Path) -> Value {
    serde_yaml_ng::from_str(&read(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The elements of an array; none if there is no array.
fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

fn rule_files() -> Vec<PathBuf> {
    yaml_files(&repository().join(RULES)).expect(RULES)
}

fn rule_test_files() -> Vec<PathBuf> {
    yaml_files(&repository().join(RULE_TESTS)).expect(RULE_TESTS)
}

fn runbooks() -> Vec<PathBuf> {
    let entries = fs::read_dir(repository().join(RUNBOOKS)).expect(RUNBOOKS);
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "no runbooks");
    paths
}

/// All rules: alerts and records.
fn rules() -> Vec<Value> {
    let files = rule_files().into_iter().map(|path| parse(&path));
    let groups = files.flat_map(|file| list(&file["groups"]).to_vec());
    let rules: Vec<_> = groups.flat_map(|group| list(&group["rules"]).to_vec()).collect();
    assert!(rules.len() > 30, "only {} rules", rules.len());
    rules
}

fn alerts() -> Vec<Value> {
    rules().into_iter().filter(|rule| rule["alert"].is_string()).collect()
}

fn alert_names() -> BTreeSet<String> {
    alerts().iter().map(|alert| text(alert, "alert").to_owned()).collect()
}

/// The words of a text that begin with a prefix.
fn words<'a>(text: &'a str, prefix: &'a str) -> BTreeSet<&'a str> {
    text.split(|c| !is_of_name(c)).filter(|word| word.starts_with(prefix)).collect()
}

#[test]
fn every_alert_has_a_severity_and_annotations() {
    for alert in alerts() {
        let name = text(&alert, "alert");
        let severity = text(&alert["labels"], "severity");
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity}");
        let annotations = &alert["annotations"];
        assert!(!text(annotations, "summary").is_empty(), "{name} has no summary");
        assert!(!text(annotations, "description").is_empty(), "{name} has no description");
        assert_eq!(text(annotations, "runbook_url"), format!("{RUNBOOKS_URL}{name}.md"));
    }
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let expected: BTreeSet<_> = alert_names().iter().map(|name| format!("{name}.md")).collect();
    let files: BTreeSet<_> = runbooks()
        .iter()
        .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned())
        .collect();
    assert_eq!(files, expected);
}

#[test]
fn runbooks_follow_the_template() {
    const HEADINGS: [&str; 5] =
        ["What it means", "First commands", "What to do", "False alarms", "Record"];
    let known = alert_names();
    for path in runbooks() {
        let (text, file) = (read(&path), path.display());
        let name = path.file_stem().expect("a name").to_string_lossy();
        assert!(text.starts_with(&format!("# {name}\n")), "{file}: wrong title");
        let headings: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(headings, HEADINGS, "{file}");
        for word in words(&text, "Memsensor") {
            assert!(known.contains(word), "{file}: no alert {word}");
        }
        let first = text.split("## First commands").nth(1).expect("a heading");
        let first = first.split("## What to do").next().expect("a section");
        assert_eq!(shell_blocks(first).count(), 1, "{file}: one block with the first commands");
    }
}

/// The blocks of shell commands in a page.
fn shell_blocks(page: &str) -> impl Iterator<Item = &str> {
    page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next())
}

/// The command lines of `memsensor` in a page: in shell blocks behind ssh, and in code spans.
fn memsensor_commands(page: &str) -> Vec<String> {
    let in_blocks = shell_blocks(page).flat_map(str::lines).filter_map(|line| {
        let (_, command) = line.split_once("$HOST memsensor ")?;
        Some(command.to_owned())
    });
    let prose: String = page.split("```").step_by(2).collect();
    let spans: Vec<_> = prose.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    let in_spans = spans.into_iter().filter_map(|span| {
        let span = span.replace('\n', " ");
        Some(span.strip_prefix("memsensor ")?.to_owned())
    });
    in_blocks.chain(in_spans).collect()
}

/// Whether `memsensor` has this subcommand with these options and values.
fn is_valid(command: &str) -> Result<(), String> {
    let words = ["memsensor"].into_iter().chain(command.split_whitespace());
    Cli::try_parse_from(words).map(drop).map_err(|e| e.to_string())
}

#[test]
fn commands_in_runbooks_are_valid() {
    let mut count = 0;
    for path in runbooks() {
        let page = read(&path);
        for command in memsensor_commands(&page) {
            let valid = is_valid(&command);
            assert!(valid.is_ok(), "{}: memsensor {command}: {valid:?}", path.display());
            count += 1;
        }
        for state in page.split("?fail_on=").skip(1).filter_map(|rest| rest.split('`').next()) {
            let valid = is_valid(&format!("check --fail-on {state}"));
            assert!(valid.is_ok(), "{}: fail_on={state}: {valid:?}", path.display());
        }
    }
    assert!(count > 30, "only {count} commands were checked");
    assert!(is_valid("explian").is_err() && is_valid("top --by week").is_err());
}

#[test]
fn rules_and_runbooks_use_only_labels_that_exist() {
    let metrics = series_labels().expect("docs/metrics.md");
    let mut count = 0;
    for path in rule_files().into_iter().chain(runbooks()) {
        for selector in selectors(&read(&path)) {
            let Some(labels) = metrics.get(selector.metric) else { continue };
            for matcher in selector.matchers {
                let (metric, label, file) = (selector.metric, matcher.label, path.display());
                assert!(labels.contains(label), "{file}: {metric} has no label {label}");
                count += 1;
            }
        }
    }
    assert!(count > 15, "only {count} labels were checked");
}

#[test]
fn matchers_use_only_label_values_that_exist() {
    let known = KnownValues::from_exposition(&read(RECORDED_METRICS));
    assert_eq!(known.count("memsensor_state", "state"), 7);
    assert_eq!(known.count("memsensor_oom_kills_total", "type"), 2);
    let mut count = 0;
    for path in rule_files().into_iter().chain(rule_test_files()).chain(runbooks()) {
        for (matcher, unknown) in known.unknown_values(&read(&path)) {
            assert!(unknown.is_empty(), "{}: {matcher}: {unknown:?}", path.display());
            count += 1;
        }
    }
    assert!(count > 100, "only {count} matchers were checked");
}

/// How often each alert is expected to fire, and not to fire, in promtool tests.
fn expectations(tests: &[Value]) -> BTreeMap<String, (usize, usize)> {
    let mut expectations = BTreeMap::<_, (usize, usize)>::new();
    for case in tests.iter().flat_map(|test| list(&test["alert_rule_test"])) {
        let entry = expectations.entry(text(case, "alertname").to_owned()).or_default();
        if list(&case["exp_alerts"]).is_empty() {
            entry.1 += 1;
        } else {
            entry.0 += 1;
        }
    }
    expectations
}

fn promtool_tests() -> Vec<Value> {
    let files = rule_test_files().into_iter().map(|path| parse(&path));
    files.flat_map(|file| list(&file["tests"]).to_vec()).collect()
}

#[test]
fn promtool_tests_every_alert_firing_and_not_firing() {
    let expectations = expectations(&promtool_tests());
    for name in alert_names() {
        let (firing, silent) = expectations.get(&name).copied().unwrap_or_default();
        assert!(firing > 0, "no test expects {name} to fire");
        assert!(silent > 0, "no test expects {name} not to fire");
    }
}

#[test]
fn promtool_tests_name_only_alerts_that_exist() {
    let known = alert_names();
    for path in rule_test_files() {
        for word in words(&read(&path), "Memsensor") {
            assert!(known.contains(word), "{}: no alert {word}", path.display());
        }
    }
}

#[test]
fn an_empty_list_of_expected_alerts_is_not_firing() {
    let yaml = "[{alert_rule_test: [{alertname: A, exp_alerts: []}, {alertname: B}, \
                {alertname: B, exp_alerts: [{exp_labels: {}}]}]}]";
    let tests: Vec<Value> = serde_yaml_ng::from_str(yaml).expect("YAML");
    let expected = [("A".to_owned(), (0, 1)), ("B".to_owned(), (1, 1))];
    assert_eq!(expectations(&tests), expected.into());
}

#[test]
fn every_record_that_is_used_exists_and_is_used() {
    let rules = rules();
    let expressions: Vec<_> = rules.iter().map(|rule| text(rule, "expr")).collect();
    let recorded: BTreeSet<_> = rules.iter().filter_map(|rule| rule["record"].as_str()).collect();
    let mut used = BTreeSet::new();
    for expression in expressions {
        for level in ["instance:", "scope:", "job:", "host:"] {
            used.extend(words(expression, level).into_iter().filter(|word| *word != level));
        }
    }
    assert_eq!(used, recorded);
}

#[test]
fn the_table_of_alerts_in_the_readme_is_complete() {
    let readme = read("dashboards/README.md");
    let mut severities: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for alert in alerts() {
        let severity = text(&alert["labels"], "severity").to_owned();
        severities.entry(text(&alert, "alert").to_owned()).or_default().insert(severity);
    }
    let rows: Vec<_> = readme.lines().filter(|line| line.starts_with("| [Memsensor")).collect();
    for (name, severities) in &severities {
        let link = format!("| [{name}](../docs/runbooks/{name}.md) |");
        let row = rows.iter().find(|row| row.starts_with(&link));
        let row = row.unwrap_or_else(|| panic!("no row begins with {link}"));
        let cell = row.split('|').nth(2).unwrap_or_default();
        let in_row: BTreeSet<_> = cell.split(',').map(|word| word.trim().to_owned()).collect();
        assert_eq!(&in_row, severities, "{name}");
    }
    assert_eq!(rows.len(), severities.len());
}

#[test]
fn alertmanager_accepts_the_example() {
    let path = repository().join("dashboards/alertmanager/alertmanager.yaml");
    let out = Command::new("amtool").arg("check-config").arg(&path).output();
    let out =
        out.expect("start amtool (cargo xtask setup --tests installs prometheus-alertmanager)");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let example = read(&path);
    let (known, named) = (alert_names(), words(&example, "Memsensor"));
    assert!(named.len() > 10);
    for word in named {
        assert!(known.contains(word), "no alert {word}");
    }
}

/// A promtool test of a fleet of a hundred hosts, because promtool's input has no loops: one
/// overloaded host and `ready` ready hosts become silent. `unrecoverable`: whether
/// MemsensorHostUnrecoverable fires.
fn fleet_test(ready: u32, unrecoverable: bool) -> String {
    let rules = repository().join(RULES);
    let mut test = format!(
        "rule_files: ['{0}/memsensor-records.yaml', '{0}/memsensor-alerts.yaml']\n\
         evaluation_interval: 1m\n\
         group_eval_order: [memsensor-records, memsensor-pressure, memsensor-kills, \
         memsensor-sensor, memsensor-silence]\ntests:\n  - interval: 1m\n    input_series:\n\
         \x20     - {{series: 'memsensor_state{{job=\"memsensor\",instance=\"0\",\
         scope=\"host\",state=\"overloaded\"}}', values: '1x4 stale'}}\n",
        rules.display()
    );
    for host in 0..100 {
        let up = if host <= ready { "1x4 0x30" } else { "1x40" };
        writeln!(
            test,
            "      - {{series: 'up{{job=\"memsensor\",instance=\"{host}\"}}', values: '{up}'}}"
        )
        .expect("a String");
    }
    let samples = if unrecoverable { "[{labels: '{}', value: 1}]" } else { "[]" };
    writeln!(
        test,
        "    promql_expr_test:\n      - {{expr: 'count(ALERTS{{\
         alertname=\"MemsensorHostUnrecoverable\",alertstate=\"firing\"}})', eval_time: 14m, \
         exp_samples: {samples}}}"
    )
    .expect("a String");
    test
}

#[test]
fn more_than_2_percent_silent_ready_hosts_are_a_network_outage() {
    let dir = std::env::temp_dir().join(format!("memsensor-rules-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("mkdir");
    for (ready, unrecoverable) in [(2, true), (3, false)] {
        let file = dir.join("fleet.yaml");
        fs::write(&file, fleet_test(ready, unrecoverable)).expect("write");
        let out = Command::new("promtool").args(["test", "rules"]).arg(&file).output();
        let out = out.expect("start promtool (cargo xtask setup --tests installs prometheus)");
        let output = String::from_utf8_lossy(&out.stdout).into_owned()
            + &String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{ready} ready hosts: {output}");
    }
    fs::remove_dir_all(dir).expect("remove");
}
