//! `ci`: what must hold before a change is merged, cheapest first; the first failure ends it. The
//! tests come last, so the last line printed is theirs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context, Result, bail};

use crate::{cross, exec, setup, survey::Group, test, vm};

pub(crate) fn run() -> Result<ExitCode> {
    setup::ensure(&[Group::Build, Group::Tests, Group::Ci])?;
    step("format", || exec::run(exec::cargo().args(["fmt", "--all", "--check"])))?;
    step("lints", || clippy(&[]))?;
    step("lints of the privileged tests", || clippy(&["--features", "sensor-tests/live"]))?;
    step("licences and sources", || {
        println!("skipped: advisories: needs a download");
        exec::run(exec::cargo().args(["deny", "check", "bans", "licenses", "sources"]))
    })?;
    step("alerting rules", rules)?;
    step("arm64", cross::check_arm64)?;
    step("oldest and newest kernel", || {
        if vm::run(&vm::Args::short())? != ExitCode::SUCCESS {
            bail!("see above");
        }
        Ok(())
    })?;
    println!("\n=== tests ===");
    test::run(&test::Args::default())
}

fn step(name: &str, what: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("\n=== {name} ===");
    let started = Instant::now();
    what().with_context(|| format!("ci: {name}"))?;
    println!("=== {name}: ok, {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

fn clippy(features: &[&str]) -> Result<()> {
    let mut cargo = exec::cargo();
    cargo.args(["clippy", "--workspace", "--all-targets"]).args(features);
    exec::run(cargo.args(["--", "-D", "warnings"]))
}

fn rules() -> Result<()> {
    let dir = exec::workspace().join("dashboards/rules");
    let rules = yaml_files(&dir)?;
    if rules.is_empty() {
        println!("no rule files in {}", dir.display());
        return Ok(());
    }
    exec::run(Command::new("promtool").args(["check", "rules"]).args(rules))?;
    let tests = yaml_files(&dir.join("tests"))?;
    if !tests.is_empty() {
        exec::run(Command::new("promtool").args(["test", "rules"]).args(tests))?;
    }
    Ok(())
}

/// The YAML files in a directory, in order; none if there is no such directory.
fn yaml_files(dir: &Path) -> Result<Vec<PathBuf>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let list = || format!("list {}", dir.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(list)? {
        let path = entry.with_context(list)?.path();
        if path.extension().is_some_and(|e| e == "yml" || e == "yaml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
