//! `replay`: replays an incident, a memory leak on the host web-01 behind HAProxy, with real
//! programs, and writes the tables into the documents. The method is in `tests/src/lab/replay`.

use anyhow::Result;

use super::measurement::Measurement;
use crate::host::inventory::Group;

const REPLAY: Measurement = Measurement {
    program: "replay",
    binaries: &[],
    groups: &[Group::Build, Group::Tests],
    root_reason: "the replay creates cgroups, network namespaces and swap",
    section: "replay",
};

/// Replay a memory leak behind HAProxy and measure the users' requests
///
/// Needs root, 15 minutes and an idle machine.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Speed of the swap: none, fast (a memory device) or slow (a slow disk); may be repeated
    #[arg(long, value_parser = ["none", "fast", "slow"])]
    swap: Vec<String>,
    /// Only with this HAProxy configuration: no check, an HTTP check, the shipped configuration
    /// without memsensor, or with memsensor; may be repeated
    #[arg(long, value_parser = ["unchecked", "check", "no-sensor", "memsensor"])]
    check: Vec<String>,
    /// Only this incident: a leak on web-01, a leak on both hosts, or web-01 frozen; may be
    /// repeated
    #[arg(long, value_parser = ["leak", "fleet", "freeze"])]
    variant: Vec<String>,
    /// Number of rounds
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Write the table into the documents
    #[arg(long)]
    write: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    REPLAY.run(args.write, |command| {
        for (option, values) in
            [("--swap", &args.swap), ("--check", &args.check), ("--variant", &args.variant)]
        {
            command.args(values.iter().flat_map(|value| [option, value]));
        }
        if let Some(rounds) = args.rounds {
            command.args(["--rounds", &rounds.to_string()]);
        }
    })
}
