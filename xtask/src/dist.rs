//! `dist`: what a release holds, in one directory. The man pages and completions are made from memsensor's
//! own command line (by the example `manual` of sensor-user), so that they cannot differ from it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{exec, setup, survey::Group};

/// Build a release: binary, man pages, shell completions, configurations of load balancers.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to put it [default: target/dist]
    #[arg(long)]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(&[Group::Build])?;
    let target = exec::target_dir()?;
    let out = args.out.clone().unwrap_or_else(|| target.join("dist"));
    fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;

    let mut cargo = exec::cargo();
    cargo.args(["build", "--release", "--locked", "--package", "sensor-user"]);
    exec::run(cargo.args(["--bin", "memsensor"]))?;
    let binary = out.join("memsensor");
    copy(&target.join("release/memsensor"), &binary)?;
    for name in ["LICENSE-MIT", "LICENSE-APACHE", "README.md"] {
        copy(&exec::workspace().join(name), &out.join(name))?;
    }
    let (deploy, to) = (exec::workspace().join("sensor-user/deploy"), out.join("deploy"));
    fs::create_dir_all(&to).with_context(|| format!("create {}", to.display()))?;
    for (path, _) in files(&deploy)? {
        copy(&path, &to.join(path.file_name().context("a file has a name")?))?;
    }
    let mut manual = exec::cargo();
    manual.args([
        "run",
        "--release",
        "--locked",
        "--package",
        "sensor-user",
        "--example",
        "manual",
    ]);
    exec::run(manual.arg("--").arg(&out))?;

    let files = files(&out)?;
    for (path, bytes) in &files {
        println!("{bytes:>10}  {}", path.display());
    }
    if !files.iter().any(|(path, _)| path.ends_with("memsensor.1")) {
        bail!("the example `manual` left no memsensor.1 in {}", out.display());
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// Every file below a directory, with its size in bytes.
fn files(dir: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let list = || format!("list {}", dir.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(list)? {
        let entry = entry.with_context(list)?;
        let meta = entry.metadata().with_context(list)?;
        if meta.is_dir() {
            found.extend(files(&entry.path())?);
        } else {
            found.push((entry.path(), meta.len()));
        }
    }
    found.sort();
    Ok(found)
}
