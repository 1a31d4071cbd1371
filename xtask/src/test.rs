//! `test`: the levels of tests, cheapest first, and one closing line that counts them. A level
//! that cannot run here is named and counted as skipped; a level that ran nothing has failed.

use std::{
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    exec::{self, Copy, Root},
    libtest::Tally,
    setup,
    survey::{self, Group},
};

/// Run the tests, cheapest level first.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Only this level; may be given several times
    #[arg(long = "level", value_enum)]
    levels: Vec<Level>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    /// What needs neither root nor a kernel
    Pure,
    /// Lints of the kernel half, read on the host
    KernelCheck,
    /// Verifier and BPF_PROG_TEST_RUN; needs root
    Kernel,
    /// Real OOM kills and reclaim; needs root
    Live,
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::KernelCheck => "kernel-check",
            Self::Kernel => "kernel",
            Self::Live => "live",
        }
    }

    /// The command of this level, or why it cannot run here.
    fn command(self, filter: Option<&str>) -> Result<Command> {
        let mut cargo = exec::cargo();
        match self {
            Self::Pure => {
                cargo.args(["test", "--workspace", "--no-fail-fast"]).args(filter);
            }
            Self::KernelCheck => {
                // Cargo takes the encoded flags, where they are set, instead of ours.
                cargo.env_remove("CARGO_ENCODED_RUSTFLAGS");
                // A target directory of its own: other flags, everything would be built anew.
                cargo.env("RUSTFLAGS", "--cfg kernel_check");
                cargo.args(["clippy", "--package", "sensor-ebpf", "--lib", "--target-dir"]);
                cargo.arg(exec::target_dir()?.join(self.name())).args(["--", "-D", "warnings"]);
            }
            Self::Kernel | Self::Live => {
                Root::find()?.runner(&mut cargo)?;
                cargo.env("MEMSENSOR_TOOLS", survey::tools_dir());
                cargo.args(["test", "--package", "sensor-tests", "--features", "live"]);
                cargo.args(["--no-fail-fast", "--test", self.name()]).args(filter);
                // These change the machine's state; two at once would see each other's.
                cargo.args(["--", "--test-threads=1"]);
            }
        }
        Ok(cargo)
    }

    fn run(self, filter: Option<&str>) -> Result<Outcome> {
        let started = Instant::now();
        let mut outcome = Outcome::of(self);
        // The one test of this level has the level's name.
        let is_check = self == Self::KernelCheck;
        if is_check && filter.is_some_and(|f| !self.name().contains(f)) {
            return Ok(outcome);
        }
        println!("\n== {} ==", self.name());
        let mut command = match self.command(filter) {
            Ok(command) => command,
            Err(why) => {
                outcome.skipped = Some(format!("{why:#}"));
                return Ok(outcome);
            }
        };
        let (status, output) = exec::tee(&mut command, Copy::Stdout)?;
        outcome.tally = Tally::read(&output);
        if is_check {
            outcome.tally.passed = u64::from(status.success());
        }
        outcome.took = started.elapsed();
        outcome.judge(status.success(), filter.is_some());
        Ok(outcome)
    }
}

/// What became of a level.
#[derive(Debug)]
struct Outcome {
    level: Level,
    tally: Tally,
    /// Why it could not run.
    skipped: Option<String>,
    /// What failed that is not a test.
    failure: Option<&'static str>,
    took: Duration,
}

impl Outcome {
    fn of(level: Level) -> Self {
        let (tally, took) = (Tally::default(), Duration::ZERO);
        Self { level, tally, skipped: None, failure: None, took }
    }

    /// A failure that no test counts is counted too, or the closing line would be a lie.
    fn judge(&mut self, success: bool, filtered: bool) {
        let Tally { passed, failed, .. } = self.tally;
        self.failure = match (success, failed) {
            (false, 0) if self.level == Level::KernelCheck => Some("clippy complains, see above"),
            (false, 0) => Some("it did not build, or a test binary died"),
            (true, 0) if passed == 0 && !filtered => Some("no test ran"),
            _ => None,
        };
        self.tally.failed += u64::from(self.failure.is_some());
    }

    fn skips(&self) -> u64 {
        u64::from(self.skipped.is_some()) + self.tally.ignored.len() as u64
    }
}

/// Table and closing line. The closing line is the last thing that is printed.
fn report(outcomes: &[Outcome]) -> String {
    let mut lines = vec![String::new()];
    for outcome in outcomes {
        let name = outcome.level.name();
        for (test, why) in &outcome.tally.ignored {
            lines.push(format!("skipped: {name}: {test}: {why}"));
        }
        if let Some(why) = &outcome.skipped {
            lines.push(format!("skipped: {name}: {why}"));
        }
        if let Some(why) = outcome.failure {
            lines.push(format!("failed: {name}: {why}"));
        }
    }
    lines.push(format!(
        "{:<14}{:>7}{:>7}{:>8}{:>9}",
        "level", "passed", "failed", "skipped", "time"
    ));
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for outcome in outcomes {
        let Tally { passed: p, failed: f, .. } = outcome.tally;
        let (name, s, seconds) =
            (outcome.level.name(), outcome.skips(), outcome.took.as_secs_f64());
        lines.push(format!("{name:<14}{p:>7}{f:>7}{s:>8}{seconds:>7.1} s"));
        passed += p;
        failed += f;
        skipped += s;
    }
    lines.push(format!("\n{passed} passed, {failed} failed, {skipped} skipped"));
    lines.join("\n")
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    // Without root the test tools cannot be installed. Levels that need root are skipped then; in the others
    // a test whose tool is not there fails, and says how to get it.
    let groups = [Group::Build, Group::Tests];
    setup::ensure(if Root::find().is_ok() { &groups } else { &groups[..1] })?;
    // The tests start memsensor and their workloads as an operator would; `cargo test` alone would
    // build only what it links.
    exec::run(exec::cargo().args(["build", "--workspace"]))?;
    let all = Level::value_variants();
    let chosen = all.iter().filter(|l| args.levels.is_empty() || args.levels.contains(l));
    let filter = args.filter.as_deref();
    let mut outcomes = chosen.map(|level| level.run(filter)).collect::<Result<Vec<_>>>()?;

    let ran: u64 = outcomes.iter().map(|o| o.tally.ran()).sum();
    let skipped = outcomes.iter().any(|o| o.skipped.is_some());
    if let (0, false, Some(last)) = (ran, skipped, outcomes.last_mut()) {
        last.failure = Some("no test ran at any level");
        last.tally.failed += 1;
    }
    println!("{}", report(&outcomes));
    // A run in which everything was skipped has shown nothing, so it is no success either.
    let failed = ran == 0 || outcomes.iter().any(|o| o.tally.failed > 0);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(level: Level, passed: u64, failed: u64) -> Outcome {
        let mut outcome = Outcome::of(level);
        outcome.tally = Tally { passed, failed, ignored: Vec::new() };
        outcome
    }

    #[test]
    fn the_last_line_counts_everything() {
        let mut pure = outcome(Level::Pure, 40, 1);
        pure.tally.ignored.push(("swap".into(), "needs a swap device".into()));
        let mut live = outcome(Level::Live, 0, 0);
        live.skipped = Some("needs root (run as root or install sudo)".into());
        let report = report(&[pure, outcome(Level::KernelCheck, 1, 0), live]);
        assert!(report.contains("skipped: pure: swap: needs a swap device\n"), "{report}");
        let skipped = "skipped: live: needs root (run as root or install sudo)\n";
        assert!(report.contains(skipped), "{report}");
        assert!(report.ends_with("\n\n41 passed, 1 failed, 2 skipped"), "{report}");
    }

    #[test]
    fn a_level_without_tests_fails() {
        let mut empty = outcome(Level::Kernel, 0, 0);
        empty.judge(true, false);
        assert_eq!((empty.failure, empty.tally.failed), (Some("no test ran"), 1));
    }

    #[test]
    fn a_filter_may_leave_a_level_empty() {
        let mut empty = outcome(Level::Kernel, 0, 0);
        empty.judge(true, true);
        assert_eq!((empty.failure, empty.tally.failed), (None, 0));
    }

    #[test]
    fn a_level_that_does_not_build_counts_as_a_failure() {
        let mut broken = outcome(Level::Pure, 12, 0);
        broken.judge(false, false);
        assert_eq!((broken.failure.is_some(), broken.tally.failed), (true, 1));
    }

    #[test]
    fn failed_tests_are_counted_once() {
        let mut failed = outcome(Level::Pure, 12, 3);
        failed.judge(false, false);
        assert_eq!((failed.failure, failed.tally.failed), (None, 3));
    }
}
