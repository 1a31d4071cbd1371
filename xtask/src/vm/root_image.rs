//! Root file systems of Debian releases: an ext4 image each, built once by mmdebstrap
//! without mounting anything, and kept in the cache.
//!
//! Not here: the kernel, which guests get from `kernel`, and everything that is installed for a
//! test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::debian;
use crate::host::{
    apt,
    exec::{self, Root},
};

/// What a root file system has.
#[derive(Debug)]
pub(crate) struct Content {
    /// The name of its directory in the cache, after the release's.
    pub(crate) suffix: &'static str,
    /// Packages in addition to the essential ones, comma-separated.
    pub(crate) packages: &'static str,
    /// The size of the file system; the file is sparse.
    pub(crate) size: &'static str,
}

/// A server that boots with systemd.
pub(crate) const SYSTEMD: Content =
    Content { suffix: "", packages: "systemd,systemd-sysv,dbus", size: "1G" };
/// Not needed in a guest.
const EXCLUDED: [&str; 3] = ["/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*"];

/// The image of a release. Builds it unless it is in the cache.
pub(crate) fn build(cache: &Path, release: &str, content: &Content) -> Result<PathBuf> {
    let dir = cache.join("roots").join(format!("{release}{}", content.suffix));
    let (image, stamp) = (dir.join("root.img"), dir.join("packages"));
    let has_packages = |packages: String| packages == content.packages;
    if image.exists() && fs::read_to_string(&stamp).is_ok_and(has_packages) {
        return Ok(image);
    }
    apt::install(&["mmdebstrap", "e2fsprogs", "debian-archive-keyring"])?;
    let root = Root::find().context("build a root file system")?;
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let _ = fs::remove_file(&stamp);
    println!("vm: building a root file system of {release}");
    let sources = dir.join("sources.list");
    fs::write(&sources, debian::release_sources(release)?)?;
    let tree = dir.join("tree");
    let built = write_image(root, release, content, &sources, &tree, &image);
    // The files in the tree are root's.
    exec::run(root.command("rm").arg("-rf").arg(&tree))?;
    built.with_context(|| format!("build a root file system of {release}"))?;
    fs::write(&stamp, content.packages)?;
    Ok(image)
}

fn write_image(
    root: Root,
    release: &str,
    content: &Content,
    sources: &Path,
    tree: &Path,
    image: &Path,
) -> Result<()> {
    exec::run(root.command("rm").arg("-rf").args([tree, image]))?;
    let mut mmdebstrap = root.command("mmdebstrap");
    mmdebstrap.args(["--quiet", "--mode=root", "--variant=essential", "--architectures=amd64"]);
    mmdebstrap.args(["--format=directory", "--dpkgopt=force-unsafe-io"]);
    mmdebstrap.arg("--aptopt=Apt::Install-Recommends \"false\"");
    mmdebstrap.args(EXCLUDED.map(|path| format!("--dpkgopt=path-exclude={path}")));
    mmdebstrap.arg(format!("--include={}", content.packages)).arg(release);
    exec::run(mmdebstrap.arg(tree).arg(sources))?;
    // As on a machine that has booted before: no first-boot questions, no presets.
    let id = "6d656d73656e736f7200000000000001";
    exec::run(shell(root, "echo \"$2\" >\"$1/etc/machine-id\"").arg(tree).arg(id))?;
    let mut mke2fs = root.command("mke2fs");
    exec::run(mke2fs.args(["-q", "-t", "ext4", "-d"]).arg(tree).arg(image).arg(content.size))
}

fn shell(root: Root, script: &str) -> Command {
    let mut command = root.command("sh");
    command.args(["-c", script, "sh"]);
    command
}
