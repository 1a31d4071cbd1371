//! `scenarios`: measures which harmful workloads the verdict detects and which harmless ones it
//! reports wrongly, and writes the tables into the documents. The method is in
//! `tests/src/lab/scenarios`.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::measurement::Measurement;
use crate::{
    host::{install, inventory::Group},
    vm::scenario_guests::{self, SIZES},
};

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
    /// Run the scenarios of a whole machine, in emulated QEMU guests of 512 MiB to 4 GiB
    #[arg(long, conflicts_with_all = ["half", "missing", "replay", "write"])]
    guest: bool,
    /// Run only the guest of this size
    #[arg(long, value_name = "MIB", requires = "guest", value_parser = guest_size)]
    memory: Option<u64>,
    /// Kernel series of the guests
    #[arg(long, default_value = "6.12", requires = "guest")]
    kernel: String,
    /// Run only the scenarios that are not in the directory yet
    #[arg(long, requires = "record")]
    missing: bool,
    /// Run no workload; apply the current rules to the samples in this directory
    #[arg(long, value_name = "DIR")]
    replay: Option<PathBuf>,
    /// Compare the postmortem of each run with what the scenario injects; the records of memsensor go
    /// into this directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["record", "replay", "guest", "write"])]
    postmortems: Option<PathBuf>,
    /// Write the table into the documents
    #[arg(long, conflicts_with_all = ["only", "half"])]
    write: bool,
}

fn guest_size(text: &str) -> Result<u64, String> {
    let size = SIZES.into_iter().find(|size| size.to_string() == text);
    size.ok_or_else(|| format!("expected one of {SIZES:?}"))
}

/// The recordings of all sizes. A guest that fails does not stop the others.
fn run_guests(args: &Args) -> Result<()> {
    install::ensure(&[Group::Build])?;
    let sizes = SIZES.into_iter().filter(|size| args.memory.is_none_or(|only| only == *size));
    let mut failed = Vec::new();
    for mib in sizes {
        let run = scenario_guests::run(mib, &args.kernel, &args.only, args.record.as_deref());
        if let Err(e) = run {
            eprintln!("{mib} MiB: {e:#}");
            failed.push(mib);
        }
    }
    ensure!(failed.is_empty(), "these guests failed, in MiB: {failed:?}");
    Ok(())
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.guest {
        return run_guests(args);
    }
    SCENARIOS.run(args.write, |command| {
        command.args(args.only.iter().flat_map(|name| ["--only", name]));
        if let Some(half) = &args.half {
            command.args(["--half", half]);
        }
        if args.missing {
            command.args(["--missing", "yes"]);
        }
        let dirs = [
            ("--record", &args.record),
            ("--replay", &args.replay),
            ("--postmortems", &args.postmortems),
        ];
        for (option, dir) in dirs {
            if let Some(dir) = dir {
                command.arg(option).arg(dir);
            }
        }
    })
}
