//! The alert rules as a whole: each has a severity, a runbook and tests; what they build on exists; what is
//! written about them is true. What each does is tested by promtool (`dashboards/rules/tests`), with real
//! programs in `live/serving/alerting`.

#![allow(clippy::panic, reason = "tests fail by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use sensor_tests::support::repository::repository;

const RUNBOOKS: &str = "https://runbooks.example/memsensor/";

fn read(path: impl AsRef<Path>) -> String {
    let path = repository().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn files(dir: &str, extension: &str) -> Vec<PathBuf> {
    let listed = fs::read_dir(repository().join(dir)).expect(dir);
    let paths = listed.map(|entry| entry.expect("an entry").path());
    let mut found: Vec<_> =
        paths.filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    found.sort();
    assert!(!found.is_empty(), "no .{extension} in {dir}");
    found
}

fn all(dir: &str) -> String {
    files(dir, "yaml").iter().map(read).collect()
}

/// A rule of the shipped files.
struct Alert {
    name: String,
    severity: String,
    runbook: String,
}

/// The value of a line `key: value` in a rule, of which there must be just one.
fn value<'a>(rule: &'a str, key: &str) -> &'a str {
    let values: Vec<_> =
        rule.lines().filter_map(|line| line.trim_start().strip_prefix(key)).collect();
    assert_eq!(values.len(), 1, "{key} in {rule}");
    values[0].trim()
}

fn alerts() -> Vec<Alert> {
    let text = all("dashboards/rules");
    let rules = text.split("      - alert: ").skip(1).map(|rule| {
        let name = rule.lines().next().expect("a name").to_owned();
        let rule = rule.split("      - record: ").next().expect("a rule");
        value(rule, "summary: ");
        assert!(rule.contains("description: "), "{name} has no description");
        Alert {
            severity: value(rule, "severity: ").to_owned(),
            runbook: value(rule, "runbook_url: ").to_owned(),
            name,
        }
    });
    let found: Vec<_> = rules.collect();
    assert_eq!(found.len(), text.matches("alert:").count(), "an alert is written in another way");
    found
}

fn names() -> BTreeSet<String> {
    alerts().into_iter().map(|alert| alert.name).collect()
}

/// Words of a text that begin like that.
fn words<'a>(text: &'a str, prefix: &'a str) -> BTreeSet<&'a str> {
    let apart = |c: char| !c.is_ascii_alphanumeric() && !"_:".contains(c);
    text.split(apart).filter(|word| word.starts_with(prefix)).collect()
}

#[test]
fn every_alert_has_a_severity_and_a_runbook_and_every_runbook_an_alert() {
    let mut runbooks = BTreeSet::new();
    for Alert { name, severity, runbook } in alerts() {
        assert!(["critical", "warning", "info"].contains(&&*severity), "{name}: {severity}");
        let page = runbook.strip_prefix(RUNBOOKS).unwrap_or_else(|| panic!("{name}: {runbook}"));
        assert_eq!(page, format!("{name}.md"));
        runbooks.insert(page.to_owned());
    }
    let written: BTreeSet<_> = files("docs/runbooks", "md")
        .iter()
        .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned())
        .collect();
    assert_eq!(written, runbooks);
}

#[test]
fn every_runbook_says_what_one_needs_at_night() {
    let known = names();
    for path in files("docs/runbooks", "md") {
        let (text, file) = (read(&path), path.display());
        let name = path.file_stem().expect("a name").to_string_lossy();
        assert!(text.starts_with(&format!("# {name}\n")), "{file}: its title");
        let headings: Vec<_> = text.lines().filter(|line| line.starts_with("## ")).collect();
        let expected = ["What it means", "First", "Then", "When it is false", "Write down"];
        assert_eq!(headings, expected.map(|heading| format!("## {heading}")), "{file}");
        let first = text.split("## First").nth(1).and_then(|rest| rest.split("## Then").next());
        let block = first.and_then(|text| text.split("```").nth(1)).unwrap_or_default();
        assert_eq!(block.lines().skip(1).count(), 3, "{file}: three commands, one a line");
        for word in words(&text, "Memsensor") {
            assert!(known.contains(word), "{file} names {word}, which is no alert");
        }
    }
}

#[test]
fn every_alert_is_seen_to_fire_and_to_be_silent() {
    let text = all("dashboards/rules/tests");
    for name in names() {
        let cases: Vec<_> = text
            .split("      - eval_time: ")
            .filter(|case| case.lines().any(|line| line.trim() == format!("alertname: {name}")))
            .collect();
        let fires = cases.iter().filter(|case| case.contains("exp_alerts:")).count();
        assert!(fires > 0, "{name} never fires in a test");
        assert!(fires < cases.len(), "{name} is never silent in a test");
    }
    for word in words(&text, "Memsensor") {
        assert!(names().contains(word), "a test names {word}, which is no alert");
    }
}

#[test]
fn rules_build_on_records_that_exist_and_every_record_is_used() {
    let text = all("dashboards/rules");
    let recorded: Vec<_> =
        text.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).collect();
    for level in ["instance:", "scope:", "job:", "host:"] {
        for word in words(&text, level).into_iter().filter(|word| *word != level) {
            assert!(recorded.contains(&word), "{word} is not recorded");
        }
    }
    for record in recorded {
        assert!(text.matches(record).count() > 1, "nobody uses {record}");
    }
}

#[test]
fn the_readme_of_the_dashboards_has_every_alert_in_its_table() {
    let text = read("dashboards/README.md");
    let mut severities: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for alert in alerts() {
        severities.entry(alert.name).or_default().insert(alert.severity);
    }
    let rows: Vec<_> = text.lines().filter(|line| line.starts_with("| [Memsensor")).collect();
    for (name, severities) in &severities {
        let link = format!("| [{name}](../docs/runbooks/{name}.md) |");
        let row = rows.iter().find(|row| row.starts_with(&link));
        let row = row.unwrap_or_else(|| panic!("no row begins with {link}"));
        let said = row.split('|').nth(2).unwrap_or_default();
        let said: BTreeSet<_> = said.split(',').map(|word| word.trim().to_owned()).collect();
        assert_eq!(&said, severities, "{name}");
    }
    assert_eq!(rows.len(), severities.len());
}

#[test]
fn alertmanager_takes_the_example_and_it_names_alerts_that_exist() {
    let path = repository().join("dashboards/alertmanager/alertmanager.yaml");
    let out = Command::new("amtool").arg("check-config").arg(&path).output();
    let out =
        out.expect("start amtool (cargo xtask setup --tests installs prometheus-alertmanager)");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = read(&path);
    let (known, named) = (names(), words(&text, "Memsensor"));
    assert!(named.len() > 10);
    for word in named {
        assert!(known.contains(word), "it names {word}, which is no alert");
    }
}

/// A fleet of a hundred: two of a hundred that go silent beside a host that dies are reboots, three are a
/// cut of the network. By promtool, whose input has no loops.
#[test]
fn two_of_a_hundred_are_reboots_and_three_are_a_cut() {
    let rules = repository().join("dashboards/rules");
    let dir = std::env::temp_dir().join(format!("memsensor-rules-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("mkdir");
    for (gone, fires) in [(2, true), (3, false)] {
        let mut test = format!(
            "rule_files: ['{0}/memsensor-records.yaml', '{0}/memsensor-alerts.yaml']\n\
             evaluation_interval: 1m\n\
             group_eval_order: [memsensor-records, memsensor-pressure, memsensor-kills, memsensor-sensor, \
             memsensor-silence]\ntests:\n  - interval: 1m\n    input_series:\n\
             \x20     - {{series: 'memsensor_state{{job=\"memsensor\",instance=\"0\",\
             scope=\"host\",state=\"overloaded\"}}', values: '1x4 stale'}}\n",
            rules.display()
        );
        for host in 0..100 {
            let up = if host <= gone { "1x4 0x30" } else { "1x40" };
            writeln!(
                test,
                "      - {{series: 'up{{job=\"memsensor\",instance=\"{host}\"}}', values: '{up}'}}"
            )
            .expect("a String");
        }
        let expected = if fires { "[{labels: '{}', value: 1}]" } else { "[]" };
        writeln!(
            test,
            "    promql_expr_test:\n      - {{expr: 'count(ALERTS{{alertname=\"MemsensorHostUnrecoverable\",\
             alertstate=\"firing\"}})', eval_time: 14m, exp_samples: {expected}}}"
        )
        .expect("a String");
        let file = dir.join("fleet.yaml");
        fs::write(&file, test).expect("write");
        let out = Command::new("promtool").args(["test", "rules"]).arg(&file).output();
        let out = out.expect("start promtool (cargo xtask setup --tests installs prometheus)");
        let said = String::from_utf8_lossy(&out.stdout).into_owned()
            + &String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{gone} gone: {said}");
    }
    fs::remove_dir_all(dir).expect("remove");
}
