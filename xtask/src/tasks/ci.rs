//! `ci`: runs all checks that must pass before a merge, fastest first, and stops at the first
//! failure. The tests are the last check, so the last line of output is their count.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context, Result, bail};

use super::{fuzz, test, vm};
use crate::host::{cross::ARM64, exec, install, inventory::Group};

pub(crate) fn run() -> Result<ExitCode> {
    install::ensure(&[Group::Build, Group::Tests, Group::Ci])?;
    check("format", || {
        exec::run(exec::cargo().args(["fmt", "--all", "--check"]))?;
        let fuzz = ["fmt", "--manifest-path", "tests/fuzz/Cargo.toml", "--check"];
        exec::run(exec::cargo().args(fuzz))
    })?;
    check("lints", || clippy(&["--workspace", "--features", "sensor-tests/live"]))?;
    check("lints without TLS", || clippy(&["--package", "sensor-user", "--no-default-features"]))?;
    check("licences and sources", || {
        exec::run(exec::cargo().args(["deny", "check", "bans", "licenses", "sources"]))
    })?;
    let mut skipped = Vec::new();
    check("advisories", || advisories(&mut skipped))?;
    check("alerting rules", rules)?;
    check("arm64", || check_arm64(&mut skipped))?;
    check("fuzz targets", || {
        if fuzz::run(&fuzz::Args::short())? != ExitCode::SUCCESS {
            bail!("a target found an input, see above");
        }
        Ok(())
    })?;
    check("oldest and newest kernel", || {
        if vm::run(&vm::Args::short())? != ExitCode::SUCCESS {
            bail!("a guest failed, see above");
        }
        Ok(())
    })?;
    println!("\n=== tests ===");
    test::run(&test::Args::default(), &skipped)
}

fn check(name: &str, run: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("\n=== {name} ===");
    let started = Instant::now();
    run().with_context(|| format!("ci: {name}"))?;
    println!("=== {name}: ok, {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

fn clippy(selection: &[&str]) -> Result<()> {
    let mut cargo = exec::cargo();
    cargo.args(["clippy", "--all-targets"]).args(selection);
    exec::run(cargo.args(["--", "-D", "warnings"]))
}

/// Fails if a dependency has a known vulnerability, is unmaintained or unsound. Skipped where the
/// database cannot be fetched: then nothing was checked, also not with an old copy.
fn advisories(skipped: &mut Vec<String>) -> Result<()> {
    let mut fetch = exec::cargo();
    let fetched = fetch.args(["deny", "fetch", "db"]).output().context("start cargo deny")?;
    if !fetched.status.success() {
        let stderr = String::from_utf8_lossy(&fetched.stderr);
        skip(skipped, "advisories", last_line(&stderr));
        return Ok(());
    }
    exec::run(exec::cargo().args(["deny", "--offline", "check", "advisories"]))
}

fn last_line(text: &str) -> &str {
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no error message").trim()
}

/// Records that a check could not run on this machine.
fn skip(skipped: &mut Vec<String>, check: &str, reason: &str) {
    println!("skipped: {check}: {reason}");
    skipped.push(format!("{check}: {reason}"));
}

/// Compiles memsensor for arm64, if this machine can, without linking it: `cargo xtask vm` does that, and
/// runs it.
fn check_arm64(skipped: &mut Vec<String>) -> Result<()> {
    if let Err(reason) = ARM64.install() {
        skip(skipped, "arm64", &format!("{reason:#}"));
        return Ok(());
    }
    let mut cargo = ARM64.cargo();
    cargo.args(["check", "--target", ARM64.target, "--package", "sensor-user"]);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_an_error_is_its_reason() {
        let error = "Cloning into 'db'...\nfatal: Could not resolve host: github.com\n\n";
        assert_eq!(last_line(error), "fatal: Could not resolve host: github.com");
        assert_eq!(last_line("\n"), "no error message");
    }
}
