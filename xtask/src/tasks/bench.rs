//! `bench`: measures the cost of memsensor's programs, and of a flood of connections, and writes the
//! tables into the documents. The methods are in `tests/src/lab/bench` and `tests/src/lab/flood`.

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
    /// Clients and the daemon beside a flood of connections from one address; needs root
    Flood(FloodOptions),
}

#[derive(clap::Args)]
struct FloodOptions {
    /// Write the table into the documents
    #[arg(long)]
    write: bool,
    /// Length of each of the two phases in seconds
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: Option<u32>,
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
        Benchmark::Flood(options) => return flood(options),
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

fn flood(options: &FloodOptions) -> Result<()> {
    let measurement = Measurement {
        program: "flood",
        binaries: &["flood", "memsensor"],
        groups: &[Group::Build],
        root_reason: "memsensor loads BPF programs",
        section: "bench:flood",
    };
    measurement.run(options.write, |command| {
        if let Some(seconds) = options.seconds {
            command.args(["--seconds", &seconds.to_string()]);
        }
    })
}
