//! `replay`: the night of web-01 on this machine, with real programs, and its table where docs/measured.md
//! shows it. What happens, and how it is measured, is in `tests/src/replay`.

use anyhow::{Context, Result};

use crate::{
    exec::{self, Copy, Root},
    sections, setup,
    survey::Group,
};

/// The section of docs/measured.md that holds the table.
const SECTION: &str = "replay";

/// Replay the night of web-01 with HAProxy, nginx and a leak; needs root, a quarter of an hour, and a
/// machine with little else to do.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only with this swap: none, as fast as memory, or slow as a tired disk
    #[arg(long, value_parser = ["none", "fast", "slow"])]
    form: Vec<String>,
    /// Only this way to decide where requests go
    #[arg(long, value_parser = ["unchecked", "check", "unsensed", "memsensor"])]
    way: Vec<String>,
    /// Only this: a leak on web-01, on both hosts, or web-01 frozen
    #[arg(long, value_parser = ["night", "fleet", "freeze"])]
    variant: Vec<String>,
    /// Rounds of everything
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Put the table into docs/measured.md
    #[arg(long)]
    write: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.write {
        // Before a quarter of an hour is spent.
        sections::check(SECTION)?;
    }
    let root = Root::find().context("the replay makes cgroups, namespaces and swap")?;
    setup::ensure(&[Group::Build, Group::Tests])?;
    let mut build = exec::cargo();
    build.args(["build", "--release", "--package", "sensor-tests", "--package", "sensor-user"]);
    exec::run(build.arg("--bins"))?;

    let program = exec::target_dir()?.join("release/replay");
    let program = program.to_str().context("the target directory's path is not UTF-8")?;
    let mut replay = root.command(program);
    let picks = [("--form", &args.form), ("--way", &args.way), ("--variant", &args.variant)];
    for (option, values) in picks {
        replay.args(values.iter().flat_map(|value| [option, value]));
    }
    if let Some(rounds) = args.rounds {
        replay.args(["--rounds", &rounds.to_string()]);
    }
    let name = exec::typed(&replay);
    let (status, table) = exec::tee(&mut replay, Copy::Stdout)?;
    exec::succeeded(&name, status)?;
    if args.write {
        sections::write(SECTION, &table)?;
    }
    Ok(())
}
