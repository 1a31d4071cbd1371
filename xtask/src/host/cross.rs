//! Building for another processor than this machine's: the target's standard library, a linker, and
//! cargo's settings for both.

use std::{env, process::Command};

use anyhow::{Context, Result};

use super::{apt, exec, toolchain};

/// A target that can be built on any machine.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cross {
    /// Rust's name of the processor.
    pub(crate) arch: &'static str,
    /// Rust's name of the target.
    pub(crate) target: &'static str,
    linker: &'static str,
    /// Debian's packages of the linker and the C library.
    packages: [&'static str; 2],
}

pub(crate) static AMD64: Cross = Cross {
    arch: "x86_64",
    target: "x86_64-unknown-linux-gnu",
    linker: "x86_64-linux-gnu-gcc",
    packages: ["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"],
};

pub(crate) static ARM64: Cross = Cross {
    arch: "aarch64",
    target: "aarch64-unknown-linux-gnu",
    linker: "aarch64-linux-gnu-gcc",
    packages: ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
};

impl Cross {
    /// Whether the target is this machine's processor.
    pub(crate) fn is_native(&self) -> bool {
        env::consts::ARCH == self.arch
    }

    /// Installs the missing parts of the build for this target.
    pub(crate) fn install(&self) -> Result<()> {
        if self.is_native() {
            return Ok(());
        }
        let mut rustup = Command::new("timeout");
        rustup.args(["180", "rustup", "target", "add", self.target]);
        exec::run(&mut rustup).with_context(|| format!("no standard library for {}", self.arch))?;
        if toolchain::in_path(self.linker).is_none() {
            apt::install(&self.packages).with_context(|| format!("no linker for {}", self.arch))?;
        }
        Ok(())
    }

    /// A cargo command that links for this target. The caller adds `--target`.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = exec::cargo();
        if !self.is_native() {
            let target = self.target.to_uppercase().replace('-', "_");
            cargo.env(format!("CARGO_TARGET_{target}_LINKER"), self.linker);
        }
        cargo
    }
}
