//! The committed files: that they are what the sources make, and that Grafana's types take them.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use sensor_tests::support::dashboards::{NAMES, directory};

use crate::serving::balancers::tool;

/// A directory of ours, which goes.
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

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&[out.stdout.as_slice(), &out.stderr].concat()).into_owned()
}

fn committed(name: &str) -> String {
    fs::read_to_string(directory().join(format!("{name}.json"))).expect("a dashboard")
}

#[test]
fn the_dashboards_are_what_their_sources_make() {
    let dir = Dir::new("dashboards");
    let out = Command::new(tool("dashboards-python"))
        // No compiled modules among the sources.
        .arg("-B")
        .arg(directory().join("src/generate.py"))
        .arg(&dir.0)
        .output()
        .expect("start python3 (cargo xtask setup --tests)");
    assert!(out.status.success(), "{}", said(&out));
    for name in NAMES {
        let made = fs::read_to_string(dir.0.join(format!("{name}.json"))).expect("a dashboard");
        let same = made == committed(name);
        assert!(same, "{name}.json is not what src makes: cargo xtask dashboards");
    }
}

/// Whether TypeScript takes a dashboard for one of a major version of Grafana, and what it says.
fn judge(major: &str, dashboards: &[(&str, String)]) -> (bool, String) {
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
    (out.status.success(), said(&out))
}

#[test]
fn grafanas_own_types_take_the_dashboards() {
    for major in ["10", "12"] {
        let all = NAMES.map(|name| (name, committed(name)));
        let (fits, said) = judge(major, &all);
        assert!(fits, "Grafana {major}: {said}");
    }
}

/// A check that finds nothing is none.
#[test]
fn grafanas_own_types_refuse_what_is_wrong() {
    // A panel's, a field's, an option's, a variable's, an annotation's, a wrong type, a word that is not one.
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
    let right = committed("incident");
    for major in ["10", "12"] {
        let names: Vec<_> = (0..WRONG.len()).map(|n| format!("wrong-{n}")).collect();
        let wrong = WRONG.iter().zip(&names).map(|((from, to), name)| {
            assert!(right.contains(from), "the dashboard has no {from}");
            (name.as_str(), right.replacen(from, to, 1))
        });
        let (fits, said) = judge(major, &wrong.collect::<Vec<_>>());
        assert!(!fits, "Grafana {major}: all was taken");
        for (name, (_, to)) in names.iter().zip(WRONG) {
            assert!(said.contains(&format!("{name}.ts(")), "Grafana {major} took {to}:\n{said}");
        }
    }
}
