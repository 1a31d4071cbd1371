//! `bench`: measures what memsensor's programs cost, and puts the table where docs/measured.md shows it.
//! What is measured, and how, is in `tests/src/bench`.

use std::process::ExitStatus;

use anyhow::{Context, Result};

use crate::{
    exec::{self, Copy, Root},
    sections, setup,
    survey::Group,
};

/// The section of docs/measured.md that holds the table.
const SECTION: &str = "bench:probes";
const SECTION_OF_PROCESSES: &str = "bench:processes";

/// Measure what memsensor costs.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// What each program costs per event, and what a thrash feels of it; needs root
    Probes(Rounds),
    /// What a pass over 1,000 and 20,000 processes costs, beside reading /proc; needs root
    Processes(Rounds),
}

/// How often, and where to.
#[derive(clap::Args)]
struct Rounds {
    /// Put the table into docs/measured.md
    #[arg(long)]
    write: bool,
    /// Rounds to take medians of; the default takes about three minutes
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let (section, words, args): (_, &[&str], _) = match &args.what {
        What::Probes(args) => (SECTION, &[], args),
        What::Processes(args) => (SECTION_OF_PROCESSES, &["processes"], args),
    };
    if args.write {
        // Before three minutes are spent.
        sections::check(section)?;
    }
    let root = Root::find().context("the benchmark loads BPF programs")?;
    setup::ensure(&[Group::Build])?;
    let mut build = exec::cargo();
    build.args(["build", "--release", "--package", "sensor-tests", "--bin", "bench-probes"]);
    exec::run(&mut build)?;

    let program = exec::target_dir()?.join("release/bench-probes");
    let program = program.to_str().context("the target directory's path is not UTF-8")?;
    let mut bench = root.command(program);
    bench.args(words);
    if let Some(rounds) = args.rounds {
        bench.args(["--rounds", &rounds.to_string()]);
    }
    let name = exec::typed(&bench);
    let (status, table): (ExitStatus, _) = exec::tee(&mut bench, Copy::Stdout)?;
    exec::succeeded(&name, status)?;
    if args.write {
        sections::write(section, &table)?;
    }
    Ok(())
}
