//! `cargo xtask`: the developer tasks of this repository. Not part of memsensor.
//!
//! Each folder imports only folders below it:
//!
//! * [`tasks`]: the subcommands, one file each.
//! * [`vm`]: boots other kernels in QEMU and runs the tests in them.
//! * [`reports`]: test results, the table of probes and kernels, generated sections of documents.
//! * [`host`]: the developer's machine: programs, packages, toolchains.

mod host;
mod reports;
mod tasks;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use tasks::{
    bench, build, ci, dashboards, dist, faults, fleet, fuzz, replay, rivals, run, scenarios, setup,
    soak, systemd, test, thrash,
};

/// Developer tasks of the memsensor repository
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Setup(setup::Args),
    Build(build::Args),
    Run(run::Args),
    Test(test::Args),
    Vm(tasks::vm::Args),
    Systemd(systemd::Args),
    /// Run all checks of a merge (format, lints, licences, rules, kernels, tests)
    Ci,
    Bench(bench::Args),
    Replay(replay::Args),
    Rivals(rivals::Args),
    Scenarios(scenarios::Args),
    Thrash(thrash::Args),
    Soak(soak::Args),
    Faults(faults::Args),
    Dashboards(dashboards::Args),
    Fleet(fleet::Args),
    Fuzz(fuzz::Args),
    Dist(dist::Args),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(task: Task) -> Result<ExitCode> {
    let success = |()| ExitCode::SUCCESS;
    match task {
        Task::Setup(args) => setup::run(&args),
        Task::Build(args) => build::run(&args).map(success),
        Task::Run(args) => run::run(&args).map(success),
        Task::Test(args) => test::run(&args, &[]),
        Task::Vm(args) => tasks::vm::run(&args),
        Task::Systemd(args) => systemd::run(&args),
        Task::Ci => ci::run(),
        Task::Bench(args) => bench::run(&args).map(success),
        Task::Replay(args) => replay::run(&args).map(success),
        Task::Rivals(args) => rivals::run(&args).map(success),
        Task::Scenarios(args) => scenarios::run(&args).map(success),
        Task::Thrash(args) => thrash::run(&args).map(success),
        Task::Soak(args) => soak::run(&args).map(success),
        Task::Faults(args) => faults::run(&args),
        Task::Dashboards(args) => dashboards::run(&args).map(success),
        Task::Fleet(args) => fleet::run(&args).map(success),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Dist(args) => dist::run(&args).map(success),
    }
}
