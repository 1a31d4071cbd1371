//! arm64: memsensor and its BPF object cross-built. Built, not run: see the README.

use std::process::Command;

use anyhow::{Context, Result};

use crate::{apt, exec, toolchain};

const TARGET: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";

/// Builds for arm64, or says why that cannot be tried here.
pub(crate) fn check() -> Result<()> {
    if let Err(why) = tools() {
        println!("skipped: arm64: {why:#}");
        return Ok(());
    }
    let mut cargo = exec::cargo();
    cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER);
    cargo.args(["build", "--target", TARGET, "--package", "sensor-user", "--bin", "memsensor"]);
    exec::run(&mut cargo)
}

/// The standard library and a linker for it.
fn tools() -> Result<()> {
    let mut rustup = Command::new("timeout");
    rustup.args(["180", "rustup", "target", "add", TARGET]);
    exec::run(&mut rustup).context("no standard library for arm64")?;
    if toolchain::in_path(LINKER).is_none() {
        apt::install(&["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"])
            .context("no linker for arm64")?;
    }
    Ok(())
}
