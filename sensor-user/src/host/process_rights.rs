//! Rights of a process, as the kernel reports them in /proc/PID/task/*/status: user, capabilities,
//! no_new_privs and seccomp belong to threads, so all threads are read.
//!
//! Not here: Landlock, which the kernel does not report (`serve/state/protection`).

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use procfs::process::{Process, Status};
use rustix::thread::CapabilitySet;
use serde::Serialize;

/// What holds for all threads of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ProcessRights {
    /// Real, effective, saved and file-system user ids of all threads.
    pub uids: BTreeSet<u32>,
    /// The same of groups, with supplementary groups.
    pub gids: BTreeSet<u32>,
    /// Permitted capabilities of any thread.
    pub capabilities: Vec<String>,
    /// Whether all threads have it.
    pub no_new_privs: bool,
    /// Whether a seccomp filter restricts all threads.
    pub seccomp_filter: bool,
    /// Number of threads.
    pub threads: usize,
}

impl ProcessRights {
    /// Reads those of a process.
    pub fn of(pid: i32) -> Result<Self> {
        let process = Process::new(pid).with_context(|| format!("open /proc/{pid}"))?;
        let tasks = process.tasks().with_context(|| format!("list the threads of {pid}"))?;
        // A thread may end meanwhile.
        let statuses: Vec<_> = tasks.flatten().filter_map(|task| task.status().ok()).collect();
        ensure!(!statuses.is_empty(), "process {pid} has ended");
        Ok(Self::all(&statuses))
    }

    fn all(statuses: &[Status]) -> Self {
        let uids = |s: &Status| [s.ruid, s.euid, s.suid, s.fuid];
        let gids = |s: &Status| [s.rgid, s.egid, s.sgid, s.fgid];
        let groups = statuses.iter().flat_map(|s| s.groups.iter().copied());
        let permitted = statuses.iter().fold(0, |all, s| all | s.capprm | s.capeff | s.capinh);
        let permitted = CapabilitySet::from_bits_retain(permitted);
        let name = |(name, _): (&str, _)| format!("CAP_{name}");
        Self {
            uids: statuses.iter().flat_map(uids).collect(),
            gids: statuses.iter().flat_map(gids).chain(groups).collect(),
            capabilities: permitted.iter_names().map(name).collect(),
            no_new_privs: statuses.iter().all(|s| s.nonewprivs == Some(1)),
            seccomp_filter: statuses.iter().all(|s| s.seccomp == Some(2)),
            threads: statuses.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_has_rights() {
        let own = i32::try_from(std::process::id()).expect("a process id");
        let rights = ProcessRights::of(own).expect("it runs");
        assert!(rights.threads >= 1, "{rights:?}");
        assert!(rights.uids.contains(&rustix::process::getuid().as_raw()), "{rights:?}");
        assert!(!rights.seccomp_filter, "{rights:?}");
        ProcessRights::of(0).expect_err("no process");
    }
}
