//! `fleet`: measures the resources that Prometheus and VictoriaMetrics need to scrape many hosts
//! with memsensor (`tests/src/lab/fleet`), and writes the tables into the documents.

use std::path::PathBuf;

use anyhow::Result;

use super::measurement::Measurement;
use crate::host::inventory::Group;

const FLEET: Measurement = Measurement {
    program: "fleet",
    binaries: &["memsensor", "fleet"],
    groups: &[Group::Build, Group::Tests],
    root_reason: "the measurement runs memsensor, whose series the simulated hosts copy",
    section: "fleet",
};

/// Measure the cost of many hosts for Prometheus and VictoriaMetrics
///
/// Needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Number of hosts; repeat for several runs. The cost per host is computed from the first and
    /// the last run
    #[arg(
        long,
        value_name = "N",
        default_values_t = [10, 1000],
        value_parser = clap::value_parser!(u32).range(1..=20_000)
    )]
    hosts: Vec<u32>,
    /// Length of each run in minutes
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..))]
    minutes: u32,
    /// Load the rules in this directory instead of dashboards/rules
    #[arg(long, value_name = "DIR")]
    rules: Option<PathBuf>,
    /// Write the tables into the documents
    #[arg(long)]
    write: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    FLEET.run(args.write, |command| {
        for hosts in &args.hosts {
            command.args(["--hosts", &hosts.to_string()]);
        }
        command.args(["--minutes", &args.minutes.to_string()]);
        if let Some(rules) = &args.rules {
            command.arg("--rules").arg(rules);
        }
    })
}
