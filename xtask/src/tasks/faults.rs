//! `faults`: runs the tests of faults (`tests/tests/live/host_faults`, and the restarts under load)
//! and lists their figures at the end.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::{
    host::{
        exec::{self, Root, Stream},
        install,
        inventory::{self, Group},
    },
    reports::libtest::TestCounts,
};

/// Run the tests of faults: reads that fail, full disks, kills, stops, floods of cgroups
///
/// Needs root. The tests are part of the level `live`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Their long forms: every error for every file, 200 kills, 100 restarts, a stop of a minute, 50,000 cgroups
    #[arg(long)]
    long: bool,
    /// Only tests whose name contains this
    filter: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let root = Root::find().context("the tests load BPF programs and make cgroups")?;
    install::ensure(&[Group::Build, Group::Tests])?;
    exec::run(exec::cargo().args(["build", "--workspace"]))?;
    let mut cargo = exec::cargo();
    root.set_runner(&mut cargo)?;
    cargo.env("MEMSENSOR_TOOLS", inventory::tools_dir());
    if args.long {
        cargo.env("MEMSENSOR_LONG_FAULTS", "1");
    }
    cargo.args(["test", "--package", "sensor-tests", "--features", "live", "--test", "live"]);
    cargo.args(["--", "--test-threads=1", "--nocapture"]);
    match &args.filter {
        Some(filter) => cargo.arg(filter),
        None => cargo.args(["host_faults::", "no_client_is_refused"]),
    };
    let (status, output) = exec::tee(&mut cargo, Stream::Stdout)?;
    println!("\n{}", summary(&output));
    let passed = status.success() && TestCounts::parse(&output).passed > 0;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The figures of the tests, and their count.
fn summary(output: &str) -> String {
    let mut lines: Vec<_> = output.lines().filter_map(figure).map(str::to_owned).collect();
    let TestCounts { passed, failed, .. } = TestCounts::parse(output);
    lines.push(format!("{passed} passed, {failed} failed"));
    lines.join("\n")
}

/// A figure may follow the name of its test in the same line.
fn figure(line: &str) -> Option<&str> {
    line.find("measured: ").map(|at| &line[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_listed_with_the_count() {
        let output = "running 2 tests\n\
            test faults::a ... measured: 10 kills\nok\n\
            test faults::b ... ok\n\
            measured: 5 answers\n\n\
            test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out\n";
        let expected = "measured: 10 kills\nmeasured: 5 answers\n2 passed, 0 failed";
        assert_eq!(summary(output), expected);
    }
}
