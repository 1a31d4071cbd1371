//! `scenarios`: whether the verdict finds what harms and leaves alone what does not, and the table of
//! it where docs/measured.md shows it. What is run, and how it is judged, is in `tests/src/scenarios`.

use std::{path::PathBuf, process::ExitStatus};

use anyhow::{Context, Result, ensure};

use crate::{
    exec::{self, Copy, Root},
    sections, setup,
    survey::Group,
};

/// The section of docs/measured.md that holds the table.
const SECTION: &str = "scenarios";

/// Measure what the verdict finds, against a service's own waits; needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only the scenario of this name; more than once for more
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Only those that thresholds may be tuned on, or only the others
    #[arg(long, value_parser = ["tune", "held-out"])]
    half: Option<String>,
    /// Keep what was seen, as JSON lines, a file for each scenario
    #[arg(long, value_name = "DIR", conflicts_with = "replay")]
    record: Option<PathBuf>,
    /// Run nothing: what would the rules as they are now have said of these records?
    #[arg(long, value_name = "DIR")]
    replay: Option<PathBuf>,
    /// Put the table into docs/measured.md
    #[arg(long, conflicts_with_all = ["only", "half", "replay"])]
    write: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.write {
        // Before ten minutes are spent.
        sections::check(SECTION)?;
    }
    let root = Root::find().context("the scenarios make cgroups, swap and a daemon")?;
    setup::ensure(&[Group::Build])?;
    let mut build = exec::cargo();
    build.args(["build", "--release", "--package", "sensor-user", "--package", "sensor-tests"]);
    exec::run(build.args(["--bin", "memsensor", "--bin", "scenarios"]))?;

    let program = exec::target_dir()?.join("release/scenarios");
    let program = program.to_str().context("the target directory's path is not UTF-8")?;
    let mut scenarios = root.command(program);
    for name in &args.only {
        scenarios.args(["--only", name]);
    }
    if let Some(half) = &args.half {
        scenarios.args(["--half", half]);
    }
    for (option, dir) in [("--record", &args.record), ("--replay", &args.replay)] {
        if let Some(dir) = dir {
            scenarios.arg(option).arg(dir);
        }
    }
    let name = exec::typed(&scenarios);
    let (status, table): (ExitStatus, _) = exec::tee(&mut scenarios, Copy::Stdout)?;
    exec::succeeded(&name, status)?;
    ensure!(table.contains("| scenario |"), "`{name}` printed no table");
    if args.write {
        sections::write(SECTION, &table)?;
    }
    Ok(())
}
