//! `soak`: a long run under mixed load (`tests/src/soak.rs`), and its table where docs/measured.md shows it.

use anyhow::{Context, Result};

use crate::{
    exec::{self, Copy, Root},
    sections, setup,
    survey::Group,
};

/// The section of docs/measured.md that holds the table.
const SECTION: &str = "soak";

/// Run memsensor under mixed load for long, and see whether what it takes stays what it is; needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    minutes: u32,
    /// Put the table into docs/measured.md
    #[arg(long)]
    write: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.write {
        sections::check(SECTION)?;
    }
    let root = Root::find().context("the load takes cgroups and swap")?;
    setup::ensure(&[Group::Build])?;
    let mut build = exec::cargo();
    build.args(["build", "--release", "--package", "sensor-tests", "--package", "sensor-user"]);
    exec::run(build.arg("--bins"))?;
    let program = exec::target_dir()?.join("release/soak");
    let program = program.to_str().context("the target directory's path is not UTF-8")?;
    let mut soak = root.command(program);
    soak.arg(args.minutes.to_string());
    let name = exec::typed(&soak);
    let (status, table) = exec::tee(&mut soak, Copy::Stdout)?;
    exec::succeeded(&name, status)?;
    if args.write {
        sections::write(SECTION, &table)?;
    }
    Ok(())
}
