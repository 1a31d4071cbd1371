//! `scenarios`: measures which harmful workloads the verdict detects and which harmless ones it
//! reports wrongly, and writes the tables into the documents. The method is in
//! `tests/src/lab/scenarios`.

use std::path::PathBuf;

use anyhow::Result;

use super::measurement::Measurement;
use crate::host::inventory::Group;

const SCENARIOS: Measurement = Measurement {
    program: "scenarios",
    binaries: &["memsensor", "scenarios"],
    groups: &[Group::Build, Group::Services],
    root_reason: "the scenarios create cgroups and swap, and run memsensor",
    section: "scenarios",
};

/// Measure how well the verdict detects workloads that harm a service
///
/// Needs root, an hour and an idle machine, and installs the servers that judge (PostgreSQL, MariaDB,
/// Redis, memcached, nginx, HAProxy, RabbitMQ, Node.js, a JDK) without starting them.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only the scenario of this name; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Run only the scenarios for tuning thresholds, or only the held-out ones
    #[arg(long, value_parser = ["tune", "held-out"])]
    half: Option<String>,
    /// Write the recorded samples into this directory, one text per scenario
    #[arg(long, value_name = "DIR", conflicts_with = "replay")]
    record: Option<PathBuf>,
    /// Run only the scenarios that are not in the directory yet
    #[arg(long, requires = "record")]
    missing: bool,
    /// Run no workload; apply the current rules to the samples in this directory
    #[arg(long, value_name = "DIR")]
    replay: Option<PathBuf>,
    /// Write the table into the documents
    #[arg(long, conflicts_with_all = ["only", "half", "replay"])]
    write: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    SCENARIOS.run(args.write, |command| {
        command.args(args.only.iter().flat_map(|name| ["--only", name]));
        if let Some(half) = &args.half {
            command.args(["--half", half]);
        }
        if args.missing {
            command.args(["--missing", "yes"]);
        }
        for (option, dir) in [("--record", &args.record), ("--replay", &args.replay)] {
            if let Some(dir) = dir {
                command.arg(option).arg(dir);
            }
        }
    })
}
