//! `vm`: boots Debian's kernels in QEMU, runs the tests in each, and prints a table of probes and
//! kernels.

use std::{fs, process::ExitCode, time::Instant};

use anyhow::{Context, Result};

use crate::{
    host::{exec, install, inventory::Group, toolchain},
    reports::generated_docs,
    vm::{
        kernel::{Kernel, natural_order},
        machine::{self, AMD64, Machine},
        report, runner, suite,
    },
};

/// The document section of the probe table.
const SECTION: &str = "vm";

/// Run the tests on other kernels, in QEMU
#[derive(Default, clap::Args)]
pub(crate) struct Args {
    /// Kernel series, comma-separated [default: all supported series]
    #[arg(long, value_delimiter = ',', value_name = "SERIES")]
    kernel: Vec<String>,
    /// Architectures, comma-separated: amd64, arm64 [default: both, but with --kernel or --short
    /// only amd64]
    #[arg(long, value_delimiter = ',', value_name = "ARCH", value_parser = Machine::named)]
    arch: Vec<&'static Machine>,
    /// Only the oldest and the newest kernel, with cgroup v2
    #[arg(long, conflicts_with = "kernel")]
    short: bool,
    /// Keep the output of all guests, even if they passed
    #[arg(long)]
    keep: bool,
    /// Write the probe table into the documents (only with all kernels and tests)
    #[arg(long, conflicts_with_all = ["kernel", "arch", "short", "filter"])]
    write: bool,
    /// Only tests whose name contains this
    #[arg(last = true)]
    filter: Option<String>,
}

impl Args {
    /// The arguments of `cargo xtask ci`.
    pub(crate) fn short() -> Self {
        Self { short: true, ..Self::default() }
    }

    fn machines(&self) -> Vec<&'static Machine> {
        let all_kernels = self.kernel.is_empty() && !self.short;
        match (self.arch.as_slice(), all_kernels) {
            ([], true) => machine::ALL.into(),
            ([], false) => vec![&AMD64],
            (machines, _) => machines.into(),
        }
    }

    fn series<'a>(&'a self, machine: &'a Machine) -> Vec<&'a str> {
        let all = machine.series;
        let mut series: Vec<_> = match (self.short, self.kernel.as_slice()) {
            (true, _) => vec![all[0], all[all.len() - 1]],
            (false, []) => all.into(),
            (false, series) => series.iter().map(String::as_str).collect(),
        };
        series.sort_by(|a, b| natural_order(a, b));
        series.dedup();
        series
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let started = Instant::now();
    if args.write {
        generated_docs::check(SECTION)?;
    }
    install::ensure(&[Group::Build])?;
    runner::install_packages()?;
    let cache = toolchain::cache_dir().join("vm");
    let dir = exec::target_dir()?.join("vm");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let mut kernels = Vec::new();
    for machine in args.machines() {
        kernels.extend(runner::prepare(machine, &args.series(machine), &cache, &dir)?);
    }
    let mut guests = suite::guests(&kernels, args.short);
    if let Some(filter) = &args.filter {
        for guest in &mut guests {
            guest.set_filter(filter);
        }
    }
    print_plan(guests.len(), &kernels);
    let runs = runner::run_all(&dir, &guests)?;
    let result = report::print(&guests, &runs);
    if let (true, true, Some(table)) = (args.write, result.passed, &result.table) {
        generated_docs::write(SECTION, table)?;
    }
    result.print_counts();
    if result.passed && !args.keep {
        fs::remove_dir_all(&dir)?;
    } else {
        println!("vm: the output of the guests is in {}", dir.display());
    }
    println!("vm: {} s", started.elapsed().as_secs());
    Ok(if result.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_plan(guests: usize, kernels: &[Kernel]) {
    let releases: Vec<_> = kernels.iter().map(|kernel| kernel.release.as_str()).collect();
    let parallel = runner::PARALLEL_GUESTS;
    println!("vm: {guests} guests, {parallel} at a time: {}", releases.join(", "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_all_kernels_of_both_architectures() {
        let args = Args::default();
        assert_eq!(args.machines(), machine::ALL);
        assert_eq!(args.series(&AMD64), AMD64.series);
    }

    #[test]
    fn the_short_run_has_the_oldest_and_newest_amd64_kernel() {
        let args = Args::short();
        assert_eq!(args.machines(), [&AMD64]);
        assert_eq!(args.series(&AMD64), ["5.10", "7.3"]);
    }

    #[test]
    fn chosen_series_are_ordered_and_unique() {
        let kernel = ["6.12", "5.10", "6.1", "6.1"].map(str::to_owned).into();
        let args = Args { kernel, ..Args::default() };
        assert_eq!(args.machines(), [&AMD64]);
        assert_eq!(args.series(&AMD64), ["5.10", "6.1", "6.12"]);
    }
}
