//! Where a service runs. Not here: the services.

use std::{path::PathBuf, process::Command};

use crate::support::scope::Scope;

/// Where a service runs.
#[derive(Debug)]
pub struct Place<'a> {
    /// Its cgroup.
    pub scope: &'a Scope,
    /// A directory of its own on the disk.
    pub dir: PathBuf,
    /// The size of its data, in MiB.
    pub data: u64,
    /// The limit that the cgroup will have, in MiB.
    pub limit: u64,
}

impl Place<'_> {
    /// A command in the cgroup at nice -10: the service's waits are for memory, not for a CPU.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = self.scope.command("nice");
        command.args(["-n", "-10", program]);
        command
    }
}

/// The port of the service on 127.0.0.1; the next two are free for its parts.
pub const PORT: u16 = 21_700;
