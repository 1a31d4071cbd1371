//! `run`: builds memsensor as the user and runs it as root, in this process's place.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};

use crate::{
    exec::{self, Root},
    setup,
    survey::Group,
};

/// Build memsensor and run it as root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Optimised, as it is shipped
    #[arg(long)]
    release: bool,
    /// Arguments of `memsensor run`, after `--`
    #[arg(last = true)]
    memsensor: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let root = Root::find().context("memsensor loads BPF programs")?;
    setup::ensure(&[Group::Build])?;
    let mut cargo = exec::cargo();
    root.runner(&mut cargo)?;
    cargo.args(["run", "--package", "sensor-user", "--bin", "memsensor"]);
    if args.release {
        cargo.arg("--release");
    }
    cargo.args(["--", "run"]).args(&args.memsensor);
    let name = exec::typed(&cargo);
    println!("$ {name}");
    // Signals then reach memsensor itself.
    Err(cargo.exec()).with_context(|| format!("start `{name}`"))
}
