//! `dist`: builds a release in one directory. The example `manual` of sensor-user generates the man
//! pages and completions from memsensor's command line, so they always agree with it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::host::{exec, install, inventory::Group};

/// Build a release: binary, man pages, shell completions, load balancer configurations
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Output directory [default: target/dist]
    #[arg(long)]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    install::ensure(&[Group::Build])?;
    let target = exec::target_dir()?;
    let out = args.out.clone().unwrap_or_else(|| target.join("dist"));

    let mut cargo = exec::cargo();
    cargo.args(["build", "--release", "--locked", "--package", "sensor-user"]);
    exec::run(cargo.args(["--bin", "memsensor"]))?;
    lay_out(&target.join("release/memsensor"), &out)?;
    let mut manual = exec::cargo();
    manual.args(["run", "--release", "--locked", "--package", "sensor-user"]);
    exec::run(manual.args(["--example", "manual", "--"]).arg(&out))?;

    let files = files(&out)?;
    for (path, bytes) in &files {
        println!("{bytes:>10}  {}", path.display());
    }
    if !files.iter().any(|(path, _)| path.ends_with("memsensor.1")) {
        bail!("the example `manual` wrote no memsensor.1 into {}", out.display());
    }
    Ok(())
}

/// Copies a binary and the files that need no build into the directory of a release.
pub(super) fn lay_out(memsensor: &Path, out: &Path) -> Result<()> {
    let deploy = out.join("deploy");
    fs::create_dir_all(&deploy).with_context(|| format!("create {}", deploy.display()))?;
    copy(memsensor, &out.join("memsensor"))?;
    for name in ["LICENSE-MIT", "LICENSE-APACHE", "README.md"] {
        copy(&exec::workspace().join(name), &out.join(name))?;
    }
    for (path, _) in files(&exec::workspace().join("sensor-user/deploy"))? {
        copy(&path, &deploy.join(path.file_name().context("a path without a file name")?))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// All files below a directory with their sizes in bytes.
fn files(dir: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let list = || format!("list {}", dir.display());
    let mut sizes = Vec::new();
    for entry in fs::read_dir(dir).with_context(list)? {
        let entry = entry.with_context(list)?;
        let metadata = entry.metadata().with_context(list)?;
        if metadata.is_dir() {
            sizes.extend(files(&entry.path())?);
        } else {
            sizes.push((entry.path(), metadata.len()));
        }
    }
    sizes.sort();
    Ok(sizes)
}
