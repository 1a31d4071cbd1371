//! `run`: builds memsensor as the current user, then replaces this process with memsensor as root.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};

use crate::host::{
    exec::{self, Root},
    install,
    inventory::Group,
};

/// Build memsensor and run it as root
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build in release mode
    #[arg(long)]
    release: bool,
    /// Arguments of `memsensor run`, after `--`
    #[arg(last = true)]
    memsensor: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let root = Root::find().context("memsensor loads BPF programs")?;
    install::ensure(&[Group::Build])?;
    let mut cargo = exec::cargo();
    root.set_runner(&mut cargo)?;
    cargo.args(["run", "--package", "sensor-user", "--bin", "memsensor"]);
    if args.release {
        cargo.arg("--release");
    }
    cargo.args(["--", "run"]).args(&args.memsensor);
    let name = exec::command_line(&cargo);
    println!("$ {name}");
    // Replace this process, so that signals reach memsensor directly.
    Err(cargo.exec()).with_context(|| format!("start `{name}`"))
}
