//! `ci`: runs all checks that must pass before a merge, fastest first, and stops at the first
//! failure. The tests are the last check, so the last line of output is their count.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context, Result, bail};

use super::{test, vm};
use crate::host::{cross::ARM64, exec, install, inventory::Group};

pub(crate) fn run() -> Result<ExitCode> {
    install::ensure(&[Group::Build, Group::Tests, Group::Ci])?;
    check("format", || exec::run(exec::cargo().args(["fmt", "--all", "--check"])))?;
    check("lints", || clippy(&[]))?;
    check("lints of the privileged tests", || clippy(&["--features", "sensor-tests/live"]))?;
    check("licences and sources", || {
        println!("skipped: advisories: needs a download");
        exec::run(exec::cargo().args(["deny", "check", "bans", "licenses", "sources"]))
    })?;
    check("alerting rules", rules)?;
    check("arm64", build_arm64)?;
    check("oldest and newest kernel", || {
        if vm::run(&vm::Args::short())? != ExitCode::SUCCESS {
            bail!("a guest failed, see above");
        }
        Ok(())
    })?;
    println!("\n=== tests ===");
    test::run(&test::Args::default())
}

fn check(name: &str, run: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("\n=== {name} ===");
    let started = Instant::now();
    run().with_context(|| format!("ci: {name}"))?;
    println!("=== {name}: ok, {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

fn clippy(features: &[&str]) -> Result<()> {
    let mut cargo = exec::cargo();
    cargo.args(["clippy", "--workspace", "--all-targets"]).args(features);
    exec::run(cargo.args(["--", "-D", "warnings"]))
}

/// Builds memsensor for arm64. Prints the reason if this machine cannot build for arm64.
fn build_arm64() -> Result<()> {
    if let Err(reason) = ARM64.install() {
        println!("skipped: arm64: {reason:#}");
        return Ok(());
    }
    let mut cargo = ARM64.cargo();
    cargo.args(["build", "--target", ARM64.target, "--package", "sensor-user"]);
    exec::run(cargo.args(["--bin", "memsensor"]))
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

/// The YAML files in a directory, in order. Empty if the directory does not exist.
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
