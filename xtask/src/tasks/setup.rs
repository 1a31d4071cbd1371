//! `setup`: installs the developer tools that this machine lacks, or lists them.

use std::process::ExitCode;

use anyhow::Result;

use crate::host::{
    install,
    inventory::{self, Group, Item},
};

/// Install the developer tools
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also install the tools of the tests: promtool, bpftool, stress-ng, clippy, load balancers,
    /// Grafana's types
    #[arg(long)]
    tests: bool,
    /// Also install the tools of `cargo xtask ci`: cargo-deny, rustfmt
    #[arg(long)]
    ci: bool,
    /// Install nothing; list all tools and fail if a required one is missing
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let options = [(true, Group::Build), (args.tests, Group::Tests), (args.ci, Group::Ci)];
    let groups: Vec<_> =
        options.into_iter().filter(|(is_required, _)| *is_required).map(|(_, g)| g).collect();
    if !args.check {
        return install::ensure(&groups).map(|()| ExitCode::SUCCESS);
    }
    let items = inventory::inventory(&Group::ALL);
    print!("{}", inventory::table(&items));
    let is_lacking = |item: &Item| groups.contains(&item.group) && item.state.is_err();
    Ok(if items.iter().any(is_lacking) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
