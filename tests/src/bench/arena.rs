//! Where the thrash takes place: a cgroup with a limit, swap, and a file larger than the limit.
//!
//! All of it is ours and is removed when the arena is dropped. Swap must not be left behind by a
//! benchmark that is interrupted or killed either, so the removal is done by a shell that waits for
//! our end: a pipe that only we hold open.

use std::{
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::work::{Load, fill};
use crate::scope::{MIB, Scope};

/// What the cgroup may have, in MiB.
const LIMIT: u64 = 64;
/// What the workload goes over, in MiB.
const TOUCHED: u64 = 96;
const SWAP: u64 = 192;

/// Waits for our end; then removes swap ($1), directory ($2), groups (the rest). Groups first: while
/// the workload still dies, its limit leaves swapoff no memory to read its pages back into.
const REMOVE: &str = r#"trap '' INT TERM HUP
cat
swap=$1 dir=$2
shift 2
for try in $(seq 100); do
    left=
    for group; do rmdir "$group" 2>/dev/null; [ ! -d "$group" ] || left=1; done
    if [ ! "$left" ]; then break; fi
    sleep 0.1
done
for try in $(seq 100); do
    if ! grep -q "^$swap " /proc/swaps || swapoff "$swap" 2>/dev/null; then break; fi
    sleep 0.1
done
rm -rf "$dir""#;

/// A cgroup, swap and a file.
#[derive(Debug)]
pub struct Arena {
    scope: Option<Scope>,
    dir: PathBuf,
    remover: Child,
}

impl Arena {
    /// Makes everything; needs root, 300 MiB of disk and mkswap, swapon, swapoff.
    pub fn new() -> Result<Self> {
        let scope = Scope::with_swap("bench", LIMIT * MIB)?;
        // Not /tmp: it may be a tmpfs, on which no swap file can be.
        let dir = PathBuf::from(format!("/var/tmp/memsensor-bench-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("mkdir {}", dir.display()))?;
        let swap = dir.join("swap");
        let remover = Command::new("sh")
            .args(["-c", REMOVE, "sh"])
            .args([&swap, &dir])
            .args([scope.memory(), scope.unified()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // A Ctrl-C is for us, not for who cleans up after us.
            .process_group(0)
            .spawn()
            .context("start the shell that cleans up")?;
        let arena = Self { scope: Some(scope), dir, remover };

        fill(&swap, SWAP)?;
        fs::set_permissions(&swap, Permissions::from_mode(0o600))?;
        let mut mkswap = Command::new("mkswap");
        succeed(mkswap.arg(&swap), "put /var/tmp on a file system that takes swap files")?;
        let mut swapon = Command::new("swapon");
        // Before any other swap of the machine, whose speed is not ours to measure.
        succeed(swapon.args(["-p", "32767"]).arg(&swap), "the kernel's log says why")?;
        Ok(arena)
    }

    /// Lets a workload go over its memory so many times; how long the passes took.
    pub fn thrash(&self, load: Load, passes: u32) -> Result<Duration> {
        let scope = self.scope.as_ref().context("the arena is gone")?;
        let own = std::env::current_exe().context("find the path of the benchmark itself")?;
        let out = scope
            .command(own)
            .args(["work", load.name(), &TOUCHED.to_string(), &passes.to_string()])
            .arg(self.dir.join("file"))
            .output()
            .context("start the workload in its cgroup")?;
        let said = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "the workload {}: {}", out.status, said.trim());
        let ns = String::from_utf8_lossy(&out.stdout).trim().parse();
        Ok(Duration::from_nanos(ns.context("the workload does not say how long it took")?))
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // First the scope, which kills who is still inside and would be in the way of swapoff.
        self.scope = None;
        drop(self.remover.stdin.take());
        let _ = self.remover.wait();
    }
}

fn succeed(command: &mut Command, remedy: &str) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command.output().with_context(|| format!("start {name} (install util-linux)"))?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{name}: {}; {remedy}", said.trim());
    Ok(())
}
