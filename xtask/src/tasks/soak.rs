//! `soak`: runs memsensor under mixed load for a long time (`tests/src/lab/soak.rs`) and writes the
//! table into the documents.

use anyhow::Result;

use super::measurement::Measurement;
use crate::host::inventory::Group;

const SOAK: Measurement = Measurement {
    program: "soak",
    binaries: &[],
    groups: &[Group::Build],
    root_reason: "the load creates cgroups and swap",
    section: "soak",
};

/// Run memsensor under mixed load for a long time and measure its resource use
///
/// Needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Length of the run in minutes
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    minutes: u32,
    /// Write the table into the documents
    #[arg(long)]
    write: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    SOAK.run(args.write, |command| {
        command.arg(args.minutes.to_string());
    })
}
