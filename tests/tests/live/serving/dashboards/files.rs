//! The committed files: they match their sources and Grafana's types.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use sensor_tests::support::dashboards::{NAMES, directory};

use crate::serving::balancers::tool;

/// A directory, removed on drop.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("memsensor-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("mkdir");
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn output(out: &Output) -> String {
    String::from_utf8_lossy(&[out.stdout.as_slice(), &out.stderr].concat()).into_owned()
}

fn committed(name: &str) -> String {
    fs::read_to_string(directory().join(format!("{name}.json"))).expect("a dashboard")
}

#[test]
fn the_dashboards_match_their_sources() {
    let dir = Dir::new("dashboards");
    let out = Command::new(tool("dashboards-python"))
        // No compiled modules among the sources.
        .arg("-B")
        .arg(directory().join("src/generate.py"))
        .arg(&dir.0)
        .output()
        .expect("start python3 (cargo xtask setup --tests)");
    assert!(out.status.success(), "{}", output(&out));
    for name in NAMES {
        let made = fs::read_to_string(dir.0.join(format!("{name}.json"))).expect("a dashboard");
        let same = made == committed(name);
        assert!(same, "{name}.json does not match src: run cargo xtask dashboards");
    }
}

/// Whether TypeScript accepts the dashboards for a major version of Grafana, and its output.
fn type_check(major: &str, dashboards: &[(&str, String)]) -> (bool, String) {
    let tsc = tool(&format!("grafana-schema-{major}"));
    let modules =
        tsc.parent().expect("the tools").join("npm").join(format!("grafana-schema-{major}"));
    let dir = Dir::new(&format!("schema-{major}"));
    std::os::unix::fs::symlink(modules.join("node_modules"), dir.0.join("node_modules"))
        .expect("symlink");
    let types = fs::read_to_string(directory().join("src/schema.ts")).expect("schema.ts");
    let files: Vec<_> = dashboards.iter().map(|(name, _)| format!("{name}.ts")).collect();
    for ((_, json), file) in dashboards.iter().zip(&files) {
        let text = format!("{types}\nexport const board: Board = {json};\n");
        fs::write(dir.0.join(file), text).expect("write");
    }
    let out = Command::new(tsc)
        .args(["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022"])
        .args(["--module", "esnext", "--moduleResolution", "bundler", "--preserveSymlinks"])
        .args(files)
        .current_dir(&dir.0)
        .output()
        .expect("start tsc (cargo xtask setup --tests)");
    (out.status.success(), output(&out))
}

#[test]
fn grafanas_types_accept_the_dashboards() {
    for major in ["10", "12"] {
        let all = NAMES.map(|name| (name, committed(name)));
        let (accepted, messages) = type_check(major, &all);
        assert!(accepted, "Grafana {major}: {messages}");
    }
}

/// Shows that the check above can fail.
#[test]
fn grafanas_types_refuse_wrong_dashboards() {
    // A field of a panel, field config, option, variable and annotation; a wrong type; unknown
    // values.
    const WRONG: [(&str, &str); 8] = [
        ("\"gridPos\"", "\"gridpos\""),
        ("\"fillOpacity\"", "\"fillOpacty\""),
        ("\"mergeValues\"", "\"mergesValues\""),
        ("\"multi\": true", "\"multy\": true"),
        ("\"titleFormat\"", "\"titelFormat\""),
        ("\"schemaVersion\": 36", "\"schemaVersion\": \"36\""),
        ("\"cellHeight\": \"sm\"", "\"cellHeight\": \"tiny\""),
        ("\"type\": \"timeseries\"", "\"type\": \"timeserie\""),
    ];
    let correct = committed("incident");
    for major in ["10", "12"] {
        let names: Vec<_> = (0..WRONG.len()).map(|n| format!("wrong-{n}")).collect();
        let wrong = WRONG.iter().zip(&names).map(|((from, to), name)| {
            assert!(correct.contains(from), "the dashboard has no {from}");
            (name.as_str(), correct.replacen(from, to, 1))
        });
        let (accepted, messages) = type_check(major, &wrong.collect::<Vec<_>>());
        assert!(!accepted, "Grafana {major} accepted all");
        for (name, (_, to)) in names.iter().zip(WRONG) {
            let found = messages.contains(&format!("{name}.ts("));
            assert!(found, "Grafana {major} accepted {to}:\n{messages}");
        }
    }
}
