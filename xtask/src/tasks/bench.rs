//! `bench`: measures the cost of memsensor's programs and writes the tables into the documents. The
//! method is in `tests/src/lab/bench`.

use anyhow::Result;

use super::measurement::Measurement;
use crate::host::inventory::Group;

/// Measure the cost of memsensor
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(clap::Subcommand)]
enum Benchmark {
    /// Cost of each BPF program per event, and slowdown of a thrashing workload; needs root
    Probes(Options),
    /// Cost of a scan of 1,000 and 20,000 processes, compared with reading /proc; needs root
    Processes(Options),
}

#[derive(clap::Args)]
struct Options {
    /// Write the table into the documents
    #[arg(long)]
    write: bool,
    /// Number of rounds; the table shows medians. The default takes about three minutes
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let (section, words, options): (_, &[&str], _) = match &args.benchmark {
        Benchmark::Probes(options) => ("bench:probes", &[], options),
        Benchmark::Processes(options) => ("bench:processes", &["processes"], options),
    };
    let measurement = Measurement {
        program: "bench-probes",
        binaries: &["bench-probes"],
        groups: &[Group::Build],
        root_reason: "the benchmark loads BPF programs",
        section,
    };
    measurement.run(options.write, |command| {
        command.args(words);
        if let Some(rounds) = options.rounds {
            command.args(["--rounds", &rounds.to_string()]);
        }
    })
}
