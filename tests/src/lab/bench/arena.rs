//! A cgroup with a limit, swap, and a file larger than the limit. All of it is removed on drop,
//! also if this process is killed.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::work::Load;
use crate::support::{
    scope::{MIB, Scope},
    swap::Swap,
    undo::Undo,
};

/// The cgroup's limit, in MiB.
const LIMIT: u64 = 64;
/// The workload's working set, in MiB.
const TOUCHED: u64 = 96;
const SWAP: u64 = 192;

/// A cgroup, swap and a file. removed in this order.
#[derive(Debug)]
pub struct Arena {
    scope: Scope,
    swap: Swap,
    _undo: Undo,
}

impl Arena {
    /// Needs root, 300 MiB on disk and util-linux.
    pub fn new() -> Result<Self> {
        let swap = Swap::new(SWAP)?;
        let mut undo = Undo::new()?;
        let scope = Scope::with_swap("bench", LIMIT * MIB)?;
        for group in scope.groups() {
            undo.remove_group(group)?;
        }
        Ok(Self { scope, swap, _undo: undo })
    }

    /// Runs a workload of so many passes; returns their duration.
    pub fn thrash(&self, load: Load, passes: u32) -> Result<Duration> {
        let exe = std::env::current_exe().context("find the path of the benchmark itself")?;
        let out = self
            .scope
            .command(exe)
            .args(["work", load.name(), &TOUCHED.to_string(), &passes.to_string()])
            .arg(self.swap.dir().join("file"))
            .output()
            .context("start the workload in its cgroup")?;
        let stderr = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "the workload {}: {}", out.status, stderr.trim());
        let ns = String::from_utf8_lossy(&out.stdout).trim().parse();
        Ok(Duration::from_nanos(ns.context("the workload printed no duration")?))
    }
}
