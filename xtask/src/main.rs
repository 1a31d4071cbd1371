//! `cargo xtask`: the chores of this repository, one file each. Not part of memsensor.
//!
//! * [`setup`]: makes the machine ready; [`survey`] looks at it, [`apt`] installs packages.
//! * [`build`], [`run`]: memsensor itself.
//! * [`test`]: the levels of tests; [`libtest`] reads their results.
//! * [`ci`]: all that must hold before a commit is merged.
//! * [`vm`]: the tests on other kernels; [`cross`] builds for another processor.
//! * [`replay`]: the night of web-01 with real programs.
//! * [`bench`]: what memsensor's programs cost; [`sections`] puts tables where they are shown.
//! * [`scenarios`]: whether the verdict is right; [`thrash`]: who still answers while a host thrashes.
//! * [`dashboards`]: makes the Grafana dashboards from their sources, and pictures of them.
//! * [`soak`]: whether what it takes stays what it is; [`fleet`]: what those take who scrape many of it.
//! * [`dist`]: what a release holds.
//! * [`toolchain`]: finds what builds the BPF object; `sensor-user/build.rs` includes it too.
//! * [`exec`]: starting programs, as root where they need it.

mod apt;
mod bench;
mod build;
mod ci;
mod cross;
mod dashboards;
mod dist;
mod exec;
mod fleet;
mod libtest;
mod replay;
mod run;
mod scenarios;
mod sections;
mod setup;
mod soak;
mod survey;
mod test;
mod thrash;
#[allow(dead_code, reason = "the build of the object is for sensor-user/build.rs")]
mod toolchain;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The chores of the memsensor repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Make this machine ready to build (and, if asked, to test)
    Setup(setup::Args),
    /// Build memsensor
    Build(build::Args),
    /// Build memsensor and run it as root
    Run(run::Args),
    /// Run the tests, cheapest level first
    Test(test::Args),
    /// Run the tests on other kernels, in QEMU
    Vm(vm::Args),
    /// Format, lints, licences, rules, tests: stop at the first that fails
    Ci,
    /// Measure what memsensor costs
    Bench(bench::Args),
    /// Replay the night of web-01: HAProxy, nginx, a leak, and what users meet
    Replay(replay::Args),
    /// Measure what the verdict finds, and what it does not
    Scenarios(scenarios::Args),
    /// Measure who still answers while a host thrashes
    Thrash(thrash::Args),
    /// Run memsensor under mixed load for long
    Soak(soak::Args),
    /// Make the Grafana dashboards from their sources, and pictures of them
    Dashboards(dashboards::Args),
    /// Measure what many hosts ask of Prometheus and VictoriaMetrics
    Fleet(fleet::Args),
    /// Build a release: binary, man pages, shell completions
    Dist(dist::Args),
}

fn main() -> ExitCode {
    match start(Cli::parse().chore) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("error: {why:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(chore: Chore) -> Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match chore {
        Chore::Setup(args) => setup::run(&args),
        Chore::Build(args) => build::run(&args).map(done),
        Chore::Run(args) => run::run(&args).map(done),
        Chore::Test(args) => test::run(&args),
        Chore::Vm(args) => vm::run(&args),
        Chore::Ci => ci::run(),
        Chore::Bench(args) => bench::run(&args).map(done),
        Chore::Replay(args) => replay::run(&args).map(done),
        Chore::Scenarios(args) => scenarios::run(&args).map(done),
        Chore::Thrash(args) => thrash::run(&args).map(done),
        Chore::Soak(args) => soak::run(&args).map(done),
        Chore::Dashboards(args) => dashboards::run(&args).map(done),
        Chore::Fleet(args) => fleet::run(&args).map(done),
        Chore::Dist(args) => dist::run(&args).map(done),
    }
}
