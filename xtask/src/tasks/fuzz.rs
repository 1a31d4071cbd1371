//! `fuzz`: builds the fuzz targets of `tests/fuzz` and runs them, six at a time, on the seeds in the
//! repository and on what earlier runs found in `target/fuzz/corpus`. Not here: the planted bugs of
//! `--check` (`planted`).
//!
//! The flags are those of `cargo fuzz --sanitizer none`, which a stable compiler has. An address
//! sanitizer would need a nightly, and the readers have no `unsafe`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::planted::{self, BUGS};
use crate::host::{exec, toolchain::Version};

/// All targets: the files in `tests/fuzz/targets`.
const TARGETS: [&str; 11] = [
    "btf",
    "cgroup_files",
    "configuration",
    "http",
    "kernel_records",
    "proc_files",
    "protocols",
    "record",
    "reports",
    "tls",
    "verdict",
];

/// Instruments every branch and comparison for libFuzzer.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module \
                     -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                     -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares \
                     -Cllvm-args=-simplifycfg-branch-fold-threshold=0";

/// Targets that run at a time: two rounds for all.
const PARALLEL: usize = 6;

/// An input that takes longer is a finding.
const TIMEOUT: &str = "-timeout=10";

/// Fuzz the readers of foreign bytes, and the verdict
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The targets; all if none is named
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(TARGETS))]
    targets: Vec<String>,
    /// Time for each target, in seconds (`s`), minutes (`m`) or hours (`h`)
    #[arg(long, default_value = "30s", value_parser = duration)]
    time: Duration,
    /// Reduce the found inputs in target/fuzz to those that reach something of their own
    #[arg(long)]
    minimise: bool,
    /// Plant a bug in each reader in a copy of the sources, and check that its target finds it
    /// within the time
    #[arg(long, conflicts_with = "minimise")]
    check: bool,
}

impl Args {
    /// All targets for as long as a merge can wait.
    pub(crate) fn short() -> Self {
        let time = Duration::from_secs(20);
        Self { targets: Vec::new(), time, minimise: false, check: false }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let unit = |suffix: &str, seconds: u64| Some((text.strip_suffix(suffix)?, seconds));
    let parts = unit("s", 1).or_else(|| unit("m", 60)).or_else(|| unit("h", 3600));
    parts
        .and_then(|(number, unit)| number.parse::<u64>().ok()?.checked_mul(unit))
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs)
        .ok_or_else(|| "not a time such as 30s, 20m or 1h".to_owned())
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let targets: Vec<&str> = match &args.targets[..] {
        [] => TARGETS.to_vec(),
        named => named.iter().map(String::as_str).collect(),
    };
    if args.check {
        return check(&targets, args.time);
    }
    let fuzzer = Fuzzer::build(&exec::workspace())?;
    let runs = in_parallel(&targets, |target| fuzzer.run(target, args.time))?;
    println!("{:<16} {:>12} {:>8} {:>8}  finding", "target", "executions", "edges", "corpus");
    for run in &runs {
        println!("{}", run.row());
    }
    if args.minimise {
        targets.iter().try_for_each(|target| fuzzer.minimise(target))?;
    }
    let all_passed = runs.iter().all(|run| run.finding.is_none());
    Ok(if all_passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs each target from its seeds until it finds its bug; fails if one does not within the time.
fn check(targets: &[&str], time: Duration) -> Result<ExitCode> {
    let sources = exec::target_dir()?.join("fuzz/planted");
    planted::sources(&sources)?;
    let fuzzer = Fuzzer::build(&sources)?;
    let rows = in_parallel(targets, |target| {
        fuzzer.run_seeds(target)?;
        let run = fuzzer.run_from_seeds(target, time)?;
        let bug = BUGS.iter().find(|bug| bug.target == target).context("no planted bug")?;
        let found = run.finding.as_deref().is_some_and(|finding| finding.contains(bug.file));
        let (seconds, executions) = (run.time.as_secs_f64(), run.executions);
        let result = match (found, &run.finding) {
            (true, _) => format!("found after {seconds:.1} s, {executions} executions"),
            (false, Some(other)) => format!("NOT FOUND, but {other}"),
            (false, None) => format!("NOT FOUND in {executions} executions"),
        };
        Ok((found, format!("{target:<16} {result}: {}: {}", bug.file, bug.wrong)))
    })?;
    for (_, row) in &rows {
        println!("{row}");
    }
    fs::remove_dir_all(&sources).with_context(|| format!("remove {}", sources.display()))?;
    let all_found = rows.iter().all(|(found, _)| *found);
    Ok(if all_found { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the function for all targets, some at a time. The results are in the order of the targets.
fn in_parallel<T: Send>(
    targets: &[&str],
    each: impl Fn(&str) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let (next, results) = (Mutex::new(targets.iter().enumerate()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                loop {
                    let mut queue = next.lock().unwrap_or_else(PoisonError::into_inner);
                    let Some((i, target)) = queue.next() else { return };
                    drop(queue);
                    let result = each(target).with_context(|| format!("fuzz {target}"));
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((i, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}

/// The built targets.
struct Fuzzer {
    /// The sources.
    root: PathBuf,
    programs: PathBuf,
    /// Logs, findings and grown corpora.
    state: PathBuf,
}

impl Fuzzer {
    /// Builds all targets of these sources.
    fn build(root: &Path) -> Result<Self> {
        let state = exec::target_dir()?.join("fuzz");
        let host = Version::of(Path::new("rustc")).map_err(anyhow::Error::msg)?.host;
        let mut cargo = exec::cargo();
        cargo.current_dir(root).env("RUSTFLAGS", FLAGS).env("CARGO_TARGET_DIR", &state);
        // Without a target, the flags would apply to build scripts, which have no libFuzzer.
        cargo.args(["build", "--release", "--manifest-path", "tests/fuzz/Cargo.toml"]);
        exec::run(cargo.args(["--target", &host]))?;
        let programs = state.join(host).join("release");
        Ok(Self { root: root.to_owned(), programs, state })
    }

    /// Runs the seeds alone; an error if they cause a finding.
    fn run_seeds(&self, target: &str) -> Result<()> {
        let run = self.start(target, &["-runs=0"], &[])?;
        ensure!(run.finding.is_none(), "the seeds alone cause the finding: {}", run.row());
        Ok(())
    }

    /// Fuzzes for this time, or until a finding.
    fn run(&self, target: &str, time: Duration) -> Result<Run> {
        let corpus = self.directory("corpus", target)?;
        self.start(target, &[&format!("-max_total_time={}", time.as_secs())], &[&corpus])
    }

    /// The same, without what earlier runs found.
    fn run_from_seeds(&self, target: &str, time: Duration) -> Result<Run> {
        self.start(target, &[&format!("-max_total_time={}", time.as_secs())], &[])
    }

    fn start(&self, target: &str, options: &[&str], corpora: &[&Path]) -> Result<Run> {
        let findings = self.directory("findings", target)?;
        let path = self.directory("logs", "")?.join(format!("{target}.log"));
        let log = fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
        let started = Instant::now();
        let mut command = Command::new(self.programs.join(target));
        command.args(options).args([TIMEOUT, "-print_final_stats=1"]);
        command.arg(format!("-artifact_prefix={}/", findings.display())).args(corpora);
        command.arg(self.root.join("tests/fuzz/corpus").join(target));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let name = exec::command_line(&command);
        println!("$ {name}");
        let status = command.status().with_context(|| format!("start `{name}`"))?;
        let log = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let mut run = Run::parse(target, &String::from_utf8_lossy(&log), started.elapsed());
        if !status.success() && run.finding.is_none() {
            run.finding = Some(format!("{status}, see {}", path.display()));
        }
        Ok(run)
    }

    /// Replaces the grown corpus by the fewest inputs that reach all that it and the seeds reach.
    fn minimise(&self, target: &str) -> Result<()> {
        let (grown, merged) =
            (self.directory("corpus", target)?, self.directory("merged", target)?);
        let mut command = Command::new(self.programs.join(target));
        command.arg("-merge=1").arg(&merged);
        command.arg(self.root.join("tests/fuzz/corpus").join(target)).arg(&grown);
        exec::run(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
        fs::remove_dir_all(&grown).with_context(|| format!("remove {}", grown.display()))?;
        fs::rename(&merged, &grown).with_context(|| format!("replace {}", grown.display()))?;
        println!("{target}: {} inputs in {}", fs::read_dir(&grown)?.count(), grown.display());
        Ok(())
    }

    fn directory(&self, kind: &str, target: &str) -> Result<PathBuf> {
        let dir = self.state.join(kind).join(target);
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(dir)
    }
}

/// The result of one target.
struct Run {
    target: String,
    executions: u64,
    edges: u64,
    corpus: u64,
    time: Duration,
    /// The panic, and the path of the input.
    finding: Option<String>,
}

impl Run {
    /// Parses the log of a target.
    fn parse(target: &str, log: &str, time: Duration) -> Self {
        let after = |line: &str, key: &str| {
            let digits = line.split_once(key)?.1.trim_start();
            digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        };
        let last = |key: &str| log.lines().rev().find_map(|line| after(line, key));
        let executions = last("stat::number_of_executed_units:");
        let written = log.lines().find_map(|line| line.split_once("Test unit written to "));
        let finding = written.map(|(_, input)| {
            let cause: Vec<_> = log
                .lines()
                .skip_while(|line| !line.contains("panicked at") && !line.contains("ERROR: "))
                .take(2)
                .collect();
            format!("{input}: {}", cause.join(" "))
        });
        Self {
            target: target.to_owned(),
            executions: executions.unwrap_or_default(),
            edges: last(" cov:").unwrap_or_default(),
            corpus: last(" corp:").unwrap_or_default(),
            time,
            finding,
        }
    }

    fn row(&self) -> String {
        let Self { target, executions, edges, corpus, finding, .. } = self;
        let finding = finding.as_deref().unwrap_or("none");
        format!("{target:<16} {executions:>12} {edges:>8} {corpus:>8}  {finding}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "INFO: Seed: 1\n#9\tINITED cov: 799 ft: 1016 corp: 8/1854b exec/s: 0\n\
        #30\tNEW    cov: 801 ft: 1018 corp: 9/1950b lim: 8 exec/s: 0\n\n\
        thread '<unnamed>' panicked at src/a.rs:1:2:\nbegin > end\n\
        ==7== ERROR: libFuzzer: deadly signal\n\
        artifact_prefix='x/'; Test unit written to x/crash-1\n\
        stat::number_of_executed_units: 31\n";

    #[test]
    fn a_log_has_counts_and_the_finding_with_its_input() {
        let run = Run::parse("btf", LOG, Duration::ZERO);
        assert_eq!((run.executions, run.edges, run.corpus), (31, 801, 9));
        let finding = "x/crash-1: thread '<unnamed>' panicked at src/a.rs:1:2: begin > end";
        assert_eq!(run.finding.as_deref(), Some(finding));
        let calm = LOG.lines().filter(|line| !line.contains("Test unit")).collect::<String>();
        assert_eq!(Run::parse("btf", &calm, Duration::ZERO).finding, None);
    }

    #[test]
    fn every_target_is_listed_and_has_seeds() {
        let dir = exec::workspace().join("tests/fuzz");
        let names = fs::read_dir(dir.join("targets")).expect("targets").map(|entry| {
            let path = entry.expect("an entry").path();
            path.file_stem().expect("a name").to_string_lossy().into_owned()
        });
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        assert_eq!(names, TARGETS);
        for target in TARGETS {
            assert!(dir.join("corpus").join(target).is_dir(), "{target}");
        }
    }

    #[test]
    fn every_target_has_a_planted_bug() {
        assert_eq!(BUGS.map(|bug| bug.target), TARGETS);
    }

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(duration("20m"), Ok(Duration::from_mins(20)));
        assert_eq!(duration("1h"), Ok(Duration::from_hours(1)));
        for text in ["", "30", "0s", "m", "1.5h", "-1s", "99999999999999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
