//! Installs the packages that this machine needs to boot guests.

use std::path::Path;

use anyhow::{Context, Result};

use super::{debian, machine::Machine};
use crate::host::{apt, exec::Root, toolchain};

/// The packages besides QEMU.
const PACKAGES: [&str; 6] = ["cpio", "kmod", "xz-utils", "zstd", "lz4", "debian-archive-keyring"];

/// Installs the packages that guests of all architectures need.
pub(crate) fn install() -> Result<()> {
    apt::install(&PACKAGES)?;
    Ok(())
}

/// Installs QEMU for an architecture. Debian 12 has a QEMU whose packages conflict with those of
/// its backports, so try the release's QEMU without removing packages, then the backports.
pub(crate) fn install_qemu(machine: &Machine, cache: &Path) -> Result<()> {
    if toolchain::in_path(machine.qemu).is_some() {
        return Ok(());
    }
    let package = machine.packages[0];
    let root =
        Root::find().with_context(|| format!("install QEMU: run `apt-get install {package}`"))?;
    let install = ["install", "--yes", "--no-remove", "--no-install-recommends", package];
    apt::apt_get(root, &install).or_else(|error| {
        println!("vm: {error:#}; trying the release's backports");
        debian::install_from_backports(cache, machine.packages)
    })
}
