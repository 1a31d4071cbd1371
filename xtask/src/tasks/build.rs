//! `build`: installs missing tools and builds memsensor. `sensor-user/build.rs` builds the BPF
//! object.

use anyhow::Result;

use crate::host::{exec, install, inventory::Group};

/// Build memsensor
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build in release mode
    #[arg(long)]
    release: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    install::ensure(&[Group::Build])?;
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
