//! Whether a postmortem names what was injected. The truth is in the scenario, not in a record.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::catalogue::Scenario;
use crate::support::scope::program;

/// What a postmortem is to name as its first cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// A process of this name that grew, or many of them.
    Process(&'static str),
    /// A kind of memory that is no process's.
    Memory(&'static str),
    /// Nothing that grew: page cache, or too little memory.
    NoGrowth,
}

/// Our own loads are this program.
const LOAD: &str = "scenarios";

/// What this scenario injects.
pub fn of(scenario: &Scenario) -> Truth {
    let load = scenario.load.iter().chain(scenario.before).next();
    match load.copied().unwrap_or_default() {
        [
            "leak" | "anon" | "hold" | "burst" | "sawtooth" | "storm" | "jobs" | "jvm" | "wake",
            ..,
        ] => Truth::Process(LOAD),
        ["fill", ..] => Truth::Memory("shmem"),
        ["inodes", ..] => Truth::Memory("kernel"),
        ["sh", script] => of_script(script),
        _ => Truth::NoGrowth,
    }
}

/// By the programs that take memory of their own in a script; the others only read and write files.
fn of_script(script: &str) -> Truth {
    let programs = [
        ("load anon", LOAD),
        ("g++", "cc1plus"),
        ("python3", "python3"),
        ("work_mem", "postgres"),
        ("bgsave", "redis-server"),
        ("SET key", "redis-server"),
    ];
    let found = programs.iter().find(|(word, _)| script.contains(word));
    found.map_or(Truth::NoGrowth, |(_, comm)| Truth::Process(comm))
}

/// What a postmortem said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// There was no incident.
    NoIncident,
    /// Its first cause is the truth.
    Right(String),
    /// It is not.
    Wrong(String),
    /// It does not know.
    NotKnown(String),
}

/// Asks for the postmortem of a record, and compares it with the truth.
pub fn compare(truth: Truth, dir: &Path) -> Result<Said> {
    let mut command = Command::new(program("memsensor")?);
    command.args(["postmortem", "--format", "json", "--dir"]).arg(dir);
    let out = command.output().context("run memsensor postmortem")?;
    let stderr = String::from_utf8_lossy(&out.stderr);
    if stderr.contains("no incident between") {
        return Ok(Said::NoIncident);
    }
    let report: Value = serde_json::from_slice(&out.stdout).with_context(|| stderr.into_owned())?;
    let summary = report["summary"].as_str().unwrap_or_default().to_owned();
    let cause = &report["causes"][0];
    let is_growth = ["growth", "many_processes"].contains(&cause["kind"].as_str().unwrap_or(""));
    let is_right = match truth {
        Truth::Process(comm) => is_growth && cause["process"] == comm,
        Truth::Memory(kind) => cause["kind"] == "kernel_memory" && cause["name"] == kind,
        Truth::NoGrowth => !is_growth && cause["kind"] != "kernel_memory",
    };
    Ok(match (is_right, cause.is_null()) {
        (true, _) => Said::Right(summary),
        (false, true) => Said::NotKnown(summary),
        (false, false) => Said::Wrong(summary),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::catalogue, *};

    #[test]
    fn each_kind_of_truth_has_scenarios() {
        let truth = |name: &str| of(catalogue::all().find(|s| s.name == name).expect(name));
        assert_eq!(truth("postgres-leak"), Truth::Process("scenarios"));
        assert_eq!(truth("postgres-analytic"), Truth::Process("postgres"));
        assert_eq!(truth("postgres-tmpfs"), Truth::Memory("shmem"));
        assert_eq!(truth("postgres-tar"), Truth::NoGrowth);
        assert_eq!(truth("postgres-steady"), Truth::NoGrowth);
    }
}
