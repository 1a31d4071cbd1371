//! The guests of `cargo xtask systemd`: Debian releases, each with its systemd and a kernel of its
//! series, that boot from a root file system. The guests' side is in `tests/guest/systemd`, the
//! tests are in `tests/tests/systemd`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

use super::{
    debian::Archive,
    guest::Guest,
    guest_files, host_packages, image, kernel,
    machine::{AMD64, GuestFile},
    root_image,
};
use crate::host::exec::workspace;

/// The test binary.
const TEST: &str = "systemd";
/// What the binary runs. Last come the tests that judge what the others left in the journal.
const STEPS: [&str; 2] = ["systemd --skip journal::", "systemd journal::"];
/// Files of `tests/guest/systemd` and their paths in the guest.
const FILES: [(&str, &str); 2] =
    [("run-steps", "t/run-steps"), ("tests.service", "t/tests.service")];
/// The directory that an operator copies to a host (README.md).
const DIST: &str = "memsensor";
const MEMORY_MIB: u64 = 768;
const TIME_LIMIT: Duration = Duration::from_mins(25);
/// No getty at the kernel's console: without udev it would wait for its device.
const BOOT_ARGS: &str = "systemd.mask=serial-getty@ttyS0.service systemd.show_status=0";

/// A release and its systemd.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Release {
    codename: &'static str,
    series: &'static str,
    /// The name in the output.
    name: &'static str,
}

/// The oldest release that is supported in full, and the newest.
pub(crate) static RELEASES: [Release; 2] = [
    Release { codename: "bookworm", series: "6.1", name: "bookworm, systemd 252" },
    Release { codename: "trixie", series: "6.12", name: "trixie, systemd 257" },
];

impl Release {
    /// The release of a codename; the error lists the codenames.
    pub(crate) fn named(codename: &str) -> Result<&'static Self, String> {
        let release = RELEASES.iter().find(|release| release.codename == codename);
        release.ok_or_else(|| RELEASES.each_ref().map(|r| r.codename).join(" or "))
    }
}

/// Installs the packages, and builds the binaries: memsensor, the tests and their programs.
pub(crate) fn binaries(cache: &Path) -> Result<Vec<GuestFile>> {
    AMD64.cross.install()?;
    host_packages::install()?;
    host_packages::install_qemu(&AMD64, cache)?;
    guest_files::binaries(&AMD64, &["hog"], &[TEST])
}

/// The path of memsensor among these binaries.
pub(crate) fn memsensor(binaries: &[GuestFile]) -> Result<&Path> {
    let file = binaries.iter().find(|file| file.guest_path == "t/memsensor");
    Ok(&file.context("no memsensor")?.host_path)
}

/// Packs the files that the guests share, with a release's tree `dist`, and returns the guests.
pub(crate) fn prepare(
    releases: &[&'static Release],
    cache: &Path,
    dir: &Path,
    binaries: Vec<GuestFile>,
    dist: &Path,
) -> Result<Vec<Guest>> {
    let archive = Archive::open(&cache.join(format!("apt-{}", AMD64.name)), AMD64.name)?;
    let mut files = binaries;
    // The installed one is that of the tree.
    files.retain(|file| file.guest_path != "t/memsensor");
    files.extend(guest_files::debian_programs(&AMD64, &archive, cache)?);
    for (name, path) in FILES {
        let host_path = workspace().join("tests/guest/systemd").join(name);
        files.push(GuestFile { host_path, guest_path: path.to_owned() });
    }
    files.extend(tree(dist, DIST)?);
    image::pack_base(dir, &AMD64, "tests/guest/systemd/init", &files)?;
    let guest = |release: &&'static Release| {
        let kernel = kernel::fetch(&archive, cache, &AMD64, release.series)?;
        let mut guest = Guest::new(release.name, &kernel).with_tests(&STEPS);
        guest.memory_mib = MEMORY_MIB;
        guest.boot_args = BOOT_ARGS;
        guest.time_limit = TIME_LIMIT;
        guest.image = Some(root_image::build(cache, release.codename, &root_image::SYSTEMD)?);
        guest.image_is_shared = true;
        Ok(guest)
    };
    releases.iter().map(guest).collect()
}

/// The files of a directory as files of the guest.
fn tree(dir: &Path, guest_dir: &str) -> Result<Vec<GuestFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let host_path: PathBuf = entry?.path();
        let name = host_path.file_name().context("a path without a file name")?.to_string_lossy();
        let guest_path = format!("{guest_dir}/{name}");
        if host_path.is_dir() {
            files.extend(tree(&host_path, &guest_path)?);
        } else {
            files.push(GuestFile { host_path, guest_path });
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_found_by_its_codename() {
        assert_eq!(Release::named("trixie"), Ok(&RELEASES[1]));
        assert_eq!(Release::named("sid"), Err("bookworm or trixie".to_owned()));
    }
}
