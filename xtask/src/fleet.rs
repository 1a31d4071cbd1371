//! `fleet`: what many hosts with memsensor ask of Prometheus and VictoriaMetrics (`tests/src/fleet`), and the
//! table where dashboards/scale/README.md shows it.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{
    exec::{self, Copy, Root},
    sections, setup,
    survey::Group,
};

/// The section of dashboards/scale/README.md that holds the table.
const SECTION: &str = "fleet";

/// Let Prometheus and VictoriaMetrics scrape many hosts, and see what they take; needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// So many; more than once for more runs. From the first and the last what more hosts take is computed
    #[arg(long, value_name = "N", default_values_t = [10, 1000], value_parser = clap::value_parser!(u32).range(1..=20_000))]
    hosts: Vec<u32>,
    /// How long each run takes
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..))]
    minutes: u32,
    /// Load the rules in this directory, and not dashboards/rules
    #[arg(long, value_name = "DIR")]
    rules: Option<PathBuf>,
    /// Put the table into dashboards/scale/README.md
    #[arg(long)]
    write: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.write {
        sections::check(SECTION)?;
    }
    let root = Root::find().context("the sensor that the fleet is like needs it")?;
    setup::ensure(&[Group::Build, Group::Tests])?;
    let mut build = exec::cargo();
    build.args(["build", "--release", "--package", "sensor-user", "--package", "sensor-tests"]);
    exec::run(build.args(["--bin", "memsensor", "--bin", "fleet"]))?;
    let program = exec::target_dir()?.join("release/fleet");
    let program = program.to_str().context("the target directory's path is not UTF-8")?;
    let mut fleet = root.command(program);
    for hosts in &args.hosts {
        fleet.args(["--hosts", &hosts.to_string()]);
    }
    fleet.args(["--minutes", &args.minutes.to_string()]);
    if let Some(rules) = &args.rules {
        fleet.arg("--rules").arg(rules);
    }
    let name = exec::typed(&fleet);
    let (status, table) = exec::tee(&mut fleet, Copy::Stdout)?;
    exec::succeeded(&name, status)?;
    if args.write {
        sections::write(SECTION, &table)?;
    }
    Ok(())
}
