//! `test`: runs the levels of tests, fastest first. The last line of output is their count. A level
//! that cannot run on this machine is listed and counted as skipped. A level that ran no test
//! fails.

use std::{
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    host::{
        exec::{self, Root, Stream},
        install,
        inventory::{self, Group},
    },
    reports::libtest::{TestCounts, TestTimes},
};

/// Run the tests, fastest level first
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Only this level; may be repeated
    #[arg(long = "level", value_enum)]
    levels: Vec<Level>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    /// Tests that need neither root nor a kernel
    Pure,
    /// Lints of the kernel half, compiled for this machine
    KernelCheck,
    /// Verifier and BPF_PROG_TEST_RUN; needs root
    Kernel,
    /// Real OOM kills and reclaim; needs root
    Live,
}

/// The number of slow tests that are listed.
const SLOWEST: usize = 20;

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::KernelCheck => "kernel-check",
            Self::Kernel => "kernel",
            Self::Live => "live",
        }
    }

    /// The command of this level. The error gives the reason if it cannot run on this machine.
    fn command(self, filter: Option<&str>) -> Result<Command> {
        let mut cargo = exec::cargo();
        match self {
            Self::Pure => {
                cargo.args(["test", "--workspace", "--no-fail-fast"]).args(filter);
            }
            Self::KernelCheck => {
                // If the encoded flags are set, cargo ignores RUSTFLAGS.
                cargo.env_remove("CARGO_ENCODED_RUSTFLAGS");
                // Other flags rebuild everything, so use a separate target directory.
                cargo.env("RUSTFLAGS", "--cfg kernel_check");
                cargo.args(["clippy", "--package", "sensor-ebpf", "--lib", "--target-dir"]);
                cargo.arg(exec::target_dir()?.join(self.name())).args(["--", "-D", "warnings"]);
            }
            Self::Kernel | Self::Live => {
                Root::find()?.set_runner(&mut cargo)?;
                cargo.env("MEMSENSOR_TOOLS", inventory::tools_dir());
                // The whole workspace, as above: with another selection, dependencies have other
                // features, and many are built again.
                cargo.args(["test", "--workspace", "--features", "sensor-tests/live"]);
                cargo.args(["--no-fail-fast", "--test", self.name()]).args(filter);
                // These tests change the state of the machine and would disturb each other.
                cargo.args(["--", "--test-threads=1"]);
            }
        }
        Ok(cargo)
    }

    fn run(self, filter: Option<&str>) -> Result<Outcome> {
        let started = Instant::now();
        let mut outcome = Outcome::new(self);
        // The only test of this level has the name of the level.
        let is_check = self == Self::KernelCheck;
        if is_check && filter.is_some_and(|f| !self.name().contains(f)) {
            return Ok(outcome);
        }
        println!("\n== {} ==", self.name());
        let mut command = match self.command(filter) {
            Ok(command) => command,
            Err(reason) => {
                outcome.skip_reason = Some(format!("{reason:#}"));
                return Ok(outcome);
            }
        };
        let mut times = TestTimes::default();
        let (status, output) = exec::tee_to(&mut command, Stream::Stdout, |chunk| {
            times.read(started.elapsed(), &String::from_utf8_lossy(chunk));
        })?;
        if let (Self::Live, Some(list)) = (self, times.slowest(SLOWEST)) {
            println!("slowest: {list}");
        }
        outcome.counts = TestCounts::parse(&output);
        if is_check {
            outcome.counts.passed = u64::from(status.success());
        }
        outcome.duration = started.elapsed();
        outcome.check_exit(status.success(), filter.is_some());
        Ok(outcome)
    }
}

/// The result of a level.
#[derive(Debug)]
struct Outcome {
    level: Level,
    counts: TestCounts,
    /// The reason why the level could not run.
    skip_reason: Option<String>,
    /// A failure that is not a failed test.
    failure: Option<&'static str>,
    duration: Duration,
}

impl Outcome {
    fn new(level: Level) -> Self {
        let (counts, duration) = (TestCounts::default(), Duration::ZERO);
        Self { level, counts, skip_reason: None, failure: None, duration }
    }

    /// Sets and counts a failure that no test has counted; otherwise the last line would omit it.
    fn check_exit(&mut self, success: bool, filtered: bool) {
        let TestCounts { passed, failed, .. } = self.counts;
        self.failure = match (success, failed) {
            (false, 0) if self.level == Level::KernelCheck => Some("clippy failed, see above"),
            (false, 0) => Some("the build failed or a test binary died"),
            (true, 0) if passed == 0 && !filtered => Some("no test ran"),
            _ => None,
        };
        self.counts.failed += u64::from(self.failure.is_some());
    }

    fn skipped(&self) -> u64 {
        u64::from(self.skip_reason.is_some()) + self.counts.ignored.len() as u64
    }
}

/// The table of levels and the last line with the counts, which include checks that were skipped
/// before the tests.
fn report(outcomes: &[Outcome], skipped_checks: &[String]) -> String {
    let mut lines = vec![String::new()];
    lines.extend(skipped_checks.iter().map(|check| format!("skipped: {check}")));
    for outcome in outcomes {
        let name = outcome.level.name();
        for (test, reason) in &outcome.counts.ignored {
            lines.push(format!("skipped: {name}: {test}: {reason}"));
        }
        if let Some(reason) = &outcome.skip_reason {
            lines.push(format!("skipped: {name}: {reason}"));
        }
        if let Some(failure) = outcome.failure {
            lines.push(format!("failed: {name}: {failure}"));
        }
    }
    lines.push(format!(
        "{:<14}{:>7}{:>7}{:>8}{:>9}",
        "level", "passed", "failed", "skipped", "time"
    ));
    let (mut all_passed, mut all_failed) = (0, 0);
    let mut all_skipped = skipped_checks.len() as u64;
    for outcome in outcomes {
        let TestCounts { passed, failed, .. } = outcome.counts;
        let (name, skipped) = (outcome.level.name(), outcome.skipped());
        let seconds = outcome.duration.as_secs_f64();
        lines.push(format!("{name:<14}{passed:>7}{failed:>7}{skipped:>8}{seconds:>7.1} s"));
        all_passed += passed;
        all_failed += failed;
        all_skipped += skipped;
    }
    lines.push(format!("\n{all_passed} passed, {all_failed} failed, {all_skipped} skipped"));
    lines.join("\n")
}

/// Runs the levels; `skipped_checks` could not run before them.
pub(crate) fn run(args: &Args, skipped_checks: &[String]) -> Result<ExitCode> {
    // Without root, the test tools cannot be installed. Levels that need root are then skipped; in
    // the other levels a test whose tool is missing fails and names the install command.
    let groups = [Group::Build, Group::Tests];
    install::ensure(if Root::find().is_ok() { &groups } else { &groups[..1] })?;
    // The tests start memsensor and their workloads as separate programs; `cargo test` builds only
    // what it links.
    exec::run(exec::cargo().args(["build", "--workspace"]))?;
    let all = Level::value_variants();
    let levels = all.iter().filter(|l| args.levels.is_empty() || args.levels.contains(l));
    let filter = args.filter.as_deref();
    let mut outcomes = levels.map(|level| level.run(filter)).collect::<Result<Vec<_>>>()?;

    let ran: u64 = outcomes.iter().map(|o| o.counts.ran()).sum();
    let skipped = outcomes.iter().any(|o| o.skip_reason.is_some());
    if let (0, false, Some(last)) = (ran, skipped, outcomes.last_mut()) {
        last.failure = Some("no test ran at any level");
        last.counts.failed += 1;
    }
    println!("{}", report(&outcomes, skipped_checks));
    // A run that skipped everything has tested nothing and must not succeed.
    let failed = ran == 0 || outcomes.iter().any(|o| o.counts.failed > 0);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(level: Level, passed: u64, failed: u64) -> Outcome {
        let mut outcome = Outcome::new(level);
        outcome.counts = TestCounts { passed, failed, ignored: Vec::new() };
        outcome
    }

    #[test]
    fn the_last_line_counts_all_levels() {
        let mut pure = outcome(Level::Pure, 40, 1);
        pure.counts.ignored.push(("swap".into(), "needs a swap device".into()));
        let mut live = outcome(Level::Live, 0, 0);
        live.skip_reason = Some("needs root (run as root or install sudo)".into());
        let checks = ["advisories: no network".to_owned()];
        let report = report(&[pure, outcome(Level::KernelCheck, 1, 0), live], &checks);
        assert!(report.contains("skipped: advisories: no network\n"), "{report}");
        assert!(report.contains("skipped: pure: swap: needs a swap device\n"), "{report}");
        let skipped = "skipped: live: needs root (run as root or install sudo)\n";
        assert!(report.contains(skipped), "{report}");
        assert!(report.ends_with("\n\n41 passed, 1 failed, 3 skipped"), "{report}");
    }

    #[test]
    fn a_level_without_tests_fails() {
        let mut empty = outcome(Level::Kernel, 0, 0);
        empty.check_exit(true, false);
        assert_eq!((empty.failure, empty.counts.failed), (Some("no test ran"), 1));
    }

    #[test]
    fn a_filter_may_leave_a_level_empty() {
        let mut empty = outcome(Level::Kernel, 0, 0);
        empty.check_exit(true, true);
        assert_eq!((empty.failure, empty.counts.failed), (None, 0));
    }

    #[test]
    fn a_level_that_does_not_build_counts_as_a_failure() {
        let mut broken = outcome(Level::Pure, 12, 0);
        broken.check_exit(false, false);
        assert_eq!((broken.failure.is_some(), broken.counts.failed), (true, 1));
    }

    #[test]
    fn failed_tests_are_counted_once() {
        let mut failed = outcome(Level::Pure, 12, 3);
        failed.check_exit(false, false);
        assert_eq!((failed.failure, failed.counts.failed), (None, 3));
    }
}
