//! `build`: makes the machine ready and builds memsensor, BPF object included (that is done by
//! `sensor-user/build.rs`).

use anyhow::Result;

use crate::{exec, setup, survey::Group};

/// Build memsensor.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Optimised, as it is shipped
    #[arg(long)]
    release: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(&[Group::Build])?;
    let mut cargo = exec::cargo();
    cargo.args(["build", "--package", "sensor-user", "--bin", "memsensor"]);
    if args.release {
        cargo.arg("--release");
    }
    exec::run(&mut cargo)?;
    let profile = if args.release { "release" } else { "debug" };
    println!("built: {}", exec::target_dir()?.join(profile).join("memsensor").display());
    Ok(())
}
