//! `rivals`: compares memsensor with what balancers do without it, while something goes wrong on
//! one of two hosts, and writes the tables into the documents. The method is in
//! `tests/src/lab/replay`.

use std::path::PathBuf;

use anyhow::Result;

use super::measurement::Measurement;
use crate::host::{inventory, inventory::Group};

const RIVALS: Measurement = Measurement {
    program: "rivals",
    binaries: &["memsensor", "rivals", "scenarios", "hog", "sample-app"],
    groups: &[Group::Build, Group::Tests],
    root_reason: "the runs create cgroups, network namespaces and swap",
    section: "rivals",
};

/// Compare memsensor with the balancers' own means on two real servers
///
/// Needs root and an idle machine. A run takes 35 s; all 12 causes with all 8 policies take an
/// hour. With --record a measurement can be made in parts, and --replay prints the tables of all
/// parts.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this cause; may be repeated
    #[arg(long, value_name = "CAUSE")]
    only: Vec<String>,
    /// Only this policy; may be repeated
    #[arg(long, value_name = "POLICY")]
    policy: Vec<String>,
    /// Write the outcome of each run into this directory
    #[arg(long, value_name = "DIR", conflicts_with = "replay")]
    record: Option<PathBuf>,
    /// Run nothing; make the tables of the outcomes in this directory
    #[arg(long, value_name = "DIR")]
    replay: Option<PathBuf>,
    /// Write the tables into the documents
    #[arg(long)]
    write: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    RIVALS.run(args.write, |command| {
        command.env("MEMSENSOR_TOOLS", inventory::tools_dir());
        for (option, values) in [("--only", &args.only), ("--policy", &args.policy)] {
            command.args(values.iter().flat_map(|value| [option, value]));
        }
        for (option, dir) in [("--record", &args.record), ("--replay", &args.replay)] {
            if let Some(dir) = dir {
                command.arg(option).arg(dir);
            }
        }
    })
}
