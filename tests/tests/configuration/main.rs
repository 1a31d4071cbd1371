//! `docs/configuration.md` and the output of `memsensor config defaults` contain every setting with
//! the doc comment of its field, and the ranges in these comments are those that the checks
//! enforce. `UPDATE_README=1 cargo test -p sensor-tests --test configuration` writes both files.
//!
//! Not here: what a wrong setting reports (the unit tests of `sensor_user::daemon::config`).

mod reference;

use std::collections::BTreeSet;

use reference::{Schema, Table, commented_defaults, page};
use sensor_tests::support::repository::repository;
use sensor_user::daemon::config::Config;
use serde_json::Value;

const PAGE: &str = "docs/configuration.md";
const DEFAULTS: &str = "sensor-user/src/cli/defaults.toml";

fn default_toml() -> String {
    toml::to_string(&Config::default()).expect("TOML")
}

fn all_tables() -> Vec<Table> {
    Schema::of_config().tables(&default_toml()).expect("every field has a doc comment")
}

fn read(file: &str) -> String {
    std::fs::read_to_string(repository().join(file)).expect(file)
}

/// Writes a generated file with `UPDATE_README`, and otherwise compares it.
fn assert_up_to_date(file: &str, generated: &str) {
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(repository().join(file), generated).expect(file);
    } else {
        assert!(
            read(file) == generated,
            "{file} is not up to date: \
             UPDATE_README=1 cargo test -p sensor-tests --test configuration"
        );
    }
}

/// The commented-out examples become settings.
fn with_examples(toml: &str) -> String {
    let lines = toml.lines().map(|line| match line.strip_prefix('#') {
        Some(example) if !example.starts_with(' ') => example,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The paths of all keys in a schema, nested ones too; `rules` has keys of its own.
fn schema_keys(schema: &Schema, at: &Value, prefix: &str, keys: &mut BTreeSet<String>) {
    let properties = at["properties"].as_object().expect("an object");
    for (key, property) in properties {
        let path = format!("{prefix}{key}");
        let nested = [schema.resolve(property), schema.resolve(&property["items"])];
        match nested.into_iter().find(|schema| schema["properties"].is_object()) {
            Some(nested) => schema_keys(schema, nested, &format!("{path}."), keys),
            None => _ = keys.insert(path),
        }
    }
}

/// The paths of all keys in a configuration.
fn toml_keys(table: &toml::Table, prefix: &str, keys: &mut BTreeSet<String>) {
    for (key, value) in table {
        let path = format!("{prefix}{key}");
        match value {
            toml::Value::Table(nested) => toml_keys(nested, &format!("{path}."), keys),
            toml::Value::Array(list) if list.iter().any(toml::Value::is_table) => {
                for nested in list.iter().filter_map(toml::Value::as_table) {
                    toml_keys(nested, &format!("{path}."), keys);
                }
            }
            _ => _ = keys.insert(path),
        }
    }
}

/// JSON pointers of all doc comments of fields and words.
fn doc_comments(schema: &Value, at: &str, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match schema {
        Value::Object(object) => object.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
        _ => return,
    };
    let parent = at.rsplit('/').next().unwrap_or_default();
    for (key, child) in children {
        let path = format!("{at}/{key}");
        if ["properties", "oneOf"].contains(&parent) && child["description"].is_string() {
            found.push(path.clone());
        }
        doc_comments(child, &path, found);
    }
}

#[test]
fn the_page_and_the_defaults_are_up_to_date() {
    let tables = all_tables();
    assert_up_to_date(PAGE, &page(&tables));
    assert_up_to_date(DEFAULTS, &commented_defaults(&tables));
}

#[test]
fn the_commented_defaults_are_the_defaults() {
    let toml = commented_defaults(&all_tables());
    assert_eq!(Config::parse(&toml).expect("valid"), Config::default());
}

#[test]
fn the_examples_are_valid() {
    let toml = with_examples(&commented_defaults(&all_tables()));
    let config = Config::parse(&toml).expect("valid");
    assert!(!config.rules.is_empty() && !config.scope.is_empty() && !config.listen.is_empty());
    let Config { rules, listen, scope, .. } = Config::default();
    let unchanged = Config { rules, listen, scope, ..config };
    assert_eq!(unchanged, Config::default());
}

#[test]
fn every_key_is_on_the_page_and_in_the_defaults() {
    let schema = Schema::of_config();
    let mut keys = BTreeSet::new();
    schema_keys(&schema, &schema.0, "", &mut keys);
    assert!(keys.remove("rules"), "its keys are those of the rules");
    assert!(keys.len() > 25 && keys.contains("verdict.recover_after"), "{keys:?}");

    let tables = all_tables();
    let page = page(&tables);
    let on_page: BTreeSet<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'))
        .map(str::to_owned)
        .collect();
    assert_eq!(on_page, keys);
    assert!(page.contains("\n## `[rules.NAME]`\n"));

    let toml: toml::Table = with_examples(&commented_defaults(&tables)).parse().expect("TOML");
    let mut in_defaults = BTreeSet::new();
    toml_keys(&toml, "", &mut in_defaults);
    in_defaults.retain(|key| !key.starts_with("rules."));
    assert_eq!(in_defaults, keys);
}

#[test]
fn a_missing_doc_comment_is_an_error() {
    let schema = Schema::of_config().0;
    let mut comments = Vec::new();
    doc_comments(&schema, "", &mut comments);
    assert!(comments.len() > 40, "{comments:?}");
    for comment in comments {
        let mut without = schema.clone();
        let field = without.pointer_mut(&comment).expect("a field");
        field.as_object_mut().expect("an object").remove("description");
        let Err(error) = Schema(without).tables(&default_toml()) else {
            panic!("{comment} can be removed");
        };
        assert!(error.ends_with("has no doc comment"), "{comment}: {error}");
    }
}

/// Values at and beyond the ends of a documented range, as configurations.
struct Range {
    key: &'static str,
    documented: &'static str,
    accepted: [&'static str; 2],
    rejected: &'static [&'static str],
}

const RANGES: &[Range] = &[
    Range {
        key: "interval",
        documented: "50ms to 1m",
        accepted: ["interval = '50ms'", "interval = '1m'\nstale_after = '2m'\nwindow = '1m'"],
        rejected: &["interval = '49ms'", "interval = '60001ms'\nstale_after = '3m'\nwindow = '2m'"],
    },
    Range {
        key: "pressed_interval",
        documented: "20ms to 1m",
        accepted: ["pressed_interval = '20ms'", "pressed_interval = '1m'"],
        rejected: &["pressed_interval = '19ms'", "pressed_interval = '60001ms'"],
    },
    Range {
        key: "stale_after",
        documented: "at least two `interval`s",
        accepted: ["stale_after = '2s'", "stale_after = '1day'"],
        rejected: &["stale_after = '1999ms'"],
    },
    Range {
        key: "window",
        documented: "`interval` to 1h, and at most 600 `interval`s",
        accepted: ["window = '1s'", "interval = '6s'\nstale_after = '12s'\nwindow = '1h'"],
        rejected: &[
            "window = '999ms'",
            "window = '601s'",
            "interval = '1m'\nstale_after = '2m'\nwindow = '3600001ms'",
        ],
    },
    Range {
        key: "growing_processes",
        documented: "0 to 100",
        accepted: ["growing_processes = 0", "growing_processes = 100"],
        rejected: &["growing_processes = 101"],
    },
    Range {
        key: "http.max_connections",
        documented: "1 to 512",
        accepted: ["http.max_connections = 1", "http.max_connections = 512"],
        rejected: &["http.max_connections = 0", "http.max_connections = 513"],
    },
    Range {
        key: "http.head_timeout",
        documented: "100ms to 10m",
        accepted: ["http.head_timeout = '100ms'", "http.head_timeout = '10m'"],
        rejected: &["http.head_timeout = '99ms'", "http.head_timeout = '600001ms'"],
    },
    Range {
        key: "http.deadline",
        documented: "100ms to 10m",
        accepted: ["http.deadline = '100ms'", "http.deadline = '10m'"],
        rejected: &["http.deadline = '99ms'", "http.deadline = '600001ms'"],
    },
    Range {
        key: "verdict.degraded_weight",
        documented: "above 0, at most 1",
        accepted: ["verdict.degraded_weight = 0.001", "verdict.degraded_weight = 1.0"],
        rejected: &["verdict.degraded_weight = 0.0", "verdict.degraded_weight = 1.001"],
    },
    Range {
        key: "verdict.fall_per_second",
        documented: "above 0, at most 1",
        accepted: ["verdict.fall_per_second = 0.001", "verdict.fall_per_second = 1.0"],
        rejected: &["verdict.fall_per_second = 0.0", "verdict.fall_per_second = 1.001"],
    },
    Range {
        key: "verdict.rise_per_second",
        documented: "above 0, at most 1",
        accepted: ["verdict.rise_per_second = 0.001", "verdict.rise_per_second = 1.0"],
        rejected: &["verdict.rise_per_second = 0.0", "verdict.rise_per_second = 1.001"],
    },
    Range {
        key: "verdict.recover_after_max",
        documented: "at least `recover_after`",
        accepted: ["verdict.recover_after_max = '5s'", "verdict.recover_after_max = '1day'"],
        rejected: &["verdict.recover_after_max = '4s'"],
    },
    Range {
        key: "cgroups.most",
        documented: "0 to 1000",
        accepted: ["cgroups.most = 0", "cgroups.most = 1000"],
        rejected: &["cgroups.most = 1001"],
    },
    Range {
        key: "record.max_mib",
        documented: "4 to 16384",
        accepted: ["record.max_mib = 4", "record.max_mib = 16384"],
        rejected: &["record.max_mib = 3", "record.max_mib = 16385"],
    },
    Range {
        key: "record.max_age",
        documented: "at least 1h",
        accepted: ["record.max_age = '1h'", "record.max_age = '1year'"],
        rejected: &["record.max_age = '59m'"],
    },
];

#[test]
fn the_documented_ranges_are_those_that_are_checked() {
    let tables = all_tables();
    let documented: BTreeSet<_> = tables
        .iter()
        .flat_map(|table| &table.settings)
        .filter_map(|setting| Some((setting.path.clone(), setting.split_range().1?.to_owned())))
        .collect();
    let tested: BTreeSet<_> =
        RANGES.iter().map(|range| (range.key.to_owned(), range.documented.to_owned())).collect();
    assert_eq!(documented, tested);
    for Range { key, accepted, rejected, .. } in RANGES {
        for text in *accepted {
            Config::parse(text).expect(text);
        }
        for text in *rejected {
            let error = format!("{:#}", Config::parse(text).expect_err(text));
            assert!(error.starts_with(key), "{text:?}: {error}");
        }
    }
}

/// A list of different strings, as TOML.
fn strings(count: usize, prefix: &str) -> String {
    let strings: Vec<_> = (0..count).map(|i| format!("\"{prefix}{i}\"")).collect();
    format!("[{}]", strings.join(", "))
}

/// The doc comment of a table or setting.
fn meaning_of<'a>(tables: &'a [Table], name: &str) -> &'a str {
    let table = tables.iter().find(|table| table.header == name).map(|table| &table.meaning);
    let mut settings = tables.iter().flat_map(|table| &table.settings);
    let setting = || settings.find(|setting| setting.path == name).map(|s| &s.meaning);
    table.or_else(setting).expect(name)
}

fn scopes(count: usize) -> String {
    let scope = |i| format!("[[scope]]\nname = \"s{i}\"\ncgroup = \"/s{i}\"\n");
    (0..count).map(scope).collect()
}

fn listeners(count: usize) -> String {
    let one = |i| format!("[[listen]]\naddress = '[::1]:{i}'\nroutes = ['metrics']\n");
    (1..=count).map(one).collect()
}

fn networks(count: usize) -> String {
    format!("{}allow = [{}]", listeners(1), "'::1',".repeat(count))
}

#[test]
fn the_documented_lengths_are_those_that_are_checked() {
    let tables = all_tables();
    let name =
        |length: usize| format!("[[scope]]\nname = \"{}\"\ncgroup = \"/a\"", "n".repeat(length));
    let senders = |count| {
        format!("kill_senders.oom_daemons = []\nkill_senders.others = {}", strings(count, "s"))
    };
    let sender = |length| format!("kill_senders.others = [\"{}\"]", "n".repeat(length));
    let paths = |count| format!("cgroups.paths = {}", strings(count, "/p"));
    let histograms = |count| format!("cgroups.histograms = {}", strings(count, "/p"));
    for (key, documented, accepted, rejected) in [
        ("[[listen]]", "at most 16", listeners(16), listeners(17)),
        ("listen.allow", "at most 64", networks(64), networks(65)),
        ("[[scope]]", "at most 32", scopes(32), scopes(33)),
        ("scope.name", "1 to 64", name(64), name(65)),
        ("scope.name", "1 to 64", name(1), name(0)),
        ("[kill_senders]", "at most 31 names", senders(31), senders(32)),
        ("[kill_senders]", "at most 15 bytes", sender(15), sender(16)),
        ("[cgroups]", "at most 64 paths", paths(64), paths(65)),
        ("[cgroups]", "at most 64 paths", histograms(64), histograms(65)),
    ] {
        let meaning = meaning_of(&tables, key);
        assert!(meaning.contains(documented), "{key}: {documented:?} is not in {meaning:?}");
        Config::parse(&accepted).expect(&accepted);
        let error = format!("{:#}", Config::parse(&rejected).expect_err(&rejected));
        let table = key.trim_matches(['[', ']']).split('.').next().expect("a key");
        assert!(error.starts_with(table), "{rejected:?}: {error}");
    }
}
