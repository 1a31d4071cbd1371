//! Where the thrash takes place: a cgroup with a limit, swap, and a file larger than the limit. All of
//! it is ours and is removed when the arena is dropped, or we are killed.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::work::Load;
use crate::support::{
    scope::{MIB, Scope},
    swap::Swap,
    undo::Undo,
};

/// What the cgroup may have, in MiB.
const LIMIT: u64 = 64;
/// What the workload goes over, in MiB.
const TOUCHED: u64 = 96;
const SWAP: u64 = 192;

/// A cgroup, swap and a file. In this medians they are removed.
#[derive(Debug)]
pub struct Arena {
    scope: Scope,
    swap: Swap,
    _undo: Undo,
}

impl Arena {
    /// Makes everything; needs root, 300 MiB of disk and util-linux.
    pub fn new() -> Result<Self> {
        let swap = Swap::new(SWAP)?;
        let mut undo = Undo::new()?;
        let scope = Scope::with_swap("bench", LIMIT * MIB)?;
        for group in scope.groups() {
            undo.remove_group(group)?;
        }
        Ok(Self { scope, swap, _undo: undo })
    }

    /// Lets a workload go over its memory so many times; how long the passes took.
    pub fn thrash(&self, load: Load, passes: u32) -> Result<Duration> {
        let own = std::env::current_exe().context("find the path of the benchmark itself")?;
        let out = self
            .scope
            .command(own)
            .args(["work", load.name(), &TOUCHED.to_string(), &passes.to_string()])
            .arg(self.swap.dir().join("file"))
            .output()
            .context("start the workload in its cgroup")?;
        let said = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "the workload {}: {}", out.status, said.trim());
        let ns = String::from_utf8_lossy(&out.stdout).trim().parse();
        Ok(Duration::from_nanos(ns.context("the workload does not say how long it took")?))
    }
}
