//! Who has the memory, from /proc: where the kernel does not let the iterator load
//! ([`sensor_ebpf::probes::processes`]).
//!
//! It costs several system calls and some forty microseconds for each process. So it is done in pieces,
//! and of a host with more than [`MOST`] processes only those with the lowest ids are looked at,
//! which are the oldest only until ids are used again.

use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use procfs::{ProcError, process::Process as Entry};
use sensor_ebpf::event::{COMM, Process, Sizes, Task};

use crate::who::ScanBatch;

/// Processes that are looked at.
const MOST: usize = 4096;

/// A walk under way.
#[derive(Debug)]
pub struct Walk {
    /// Not looked at yet, the last first.
    left: Vec<i32>,
    root: PathBuf,
    /// Ids of cgroups by path: most processes share theirs with others.
    ids: BTreeMap<String, u64>,
    pass: ScanBatch,
}

impl Walk {
    /// Lists the processes; `root` is where memory's cgroups are mounted.
    pub fn begin(root: &Path) -> Result<Self> {
        let all = procfs::process::all_processes().context("list /proc")?;
        let mut left: Vec<_> = all.flatten().take(MOST).map(|entry| entry.pid()).collect();
        left.reverse();
        Ok(Self { left, root: root.to_owned(), ids: BTreeMap::new(), pass: ScanBatch::default() })
    }

    /// Looks at so many more; all of it, once these were the last.
    pub fn step(&mut self, most: usize) -> Option<ScanBatch> {
        for pid in self.left.split_off(self.left.len().saturating_sub(most)).into_iter().rev() {
            // One that has ended meanwhile is none, nor is one without memory.
            if let Ok(Some(process)) = self.look(pid) {
                self.pass.add(&process);
            }
        }
        self.left.is_empty().then(|| std::mem::take(&mut self.pass))
    }

    fn look(&mut self, pid: i32) -> Result<Option<Process>, ProcError> {
        let entry = Entry::new(pid)?;
        let (stat, status) = (entry.stat()?, entry.status()?);
        if status.vmrss.is_none() {
            return Ok(None);
        }
        let page = procfs::page_size();
        let pages = |kib: Option<u64>| kib.unwrap_or_default().saturating_mul(1024) / page;
        let mut comm = [0; COMM];
        for (to, from) in comm[..COMM - 1].iter_mut().zip(stat.comm.bytes()) {
            *to = from;
        }
        let pid = pid.cast_unsigned();
        let adj = entry.oom_score_adj().unwrap_or_default();
        let cgroup = self.cgroup(&entry).unwrap_or_default();
        let task =
            Task { tgid: pid, tid: pid, uid: status.ruid, oom_score_adj: adj.into(), cgroup, comm };
        Ok(Some(Process {
            task,
            start_ns: stat.starttime.saturating_mul(1_000_000_000 / procfs::ticks_per_second()),
            sizes: Sizes {
                anon_pages: pages(status.rssanon),
                file_pages: pages(status.rssfile),
                shmem_pages: pages(status.rssshmem),
                swap_pages: pages(status.vmswap),
                pgtables_bytes: status.vmpte.unwrap_or_default().saturating_mul(1024),
            },
        }))
    }

    /// The id of the cgroup that its memory is charged to.
    fn cgroup(&mut self, entry: &Entry) -> Option<u64> {
        let all = entry.cgroups().ok()?.0;
        let memory = all.iter().find(|c| c.controllers.iter().any(|name| name == "memory"));
        let path = &memory.or(all.iter().find(|c| c.hierarchy == 0))?.pathname;
        if let Some(id) = self.ids.get(path) {
            return Some(*id);
        }
        let dir = self.root.join(path.trim_start_matches('/'));
        let id = std::fs::metadata(dir).ok()?.ino();
        self.ids.insert(path.clone(), id);
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{host::cgroup, who::UsageTracker};

    #[test]
    fn we_are_among_those_that_are_found() {
        let root = cgroup::memory_root().unwrap_or_default();
        let mut walk = Walk::begin(&root).expect("/proc");
        let pass = std::iter::repeat_with(|| walk.step(3)).find_map(|pass| pass).expect("its end");
        let now = u32::try_from(crate::host::clock::since_boot_ns() / 1_000_000_000);
        let who = UsageTracker::new(procfs::page_size()).update(pass, now.expect("not so long"));
        let we = who.processes.iter().find(|p| p.pid == std::process::id()).expect("we");
        let status = Entry::myself().and_then(|p| p.status()).expect("status");
        let own = 1024 * (status.rssanon.expect("some") + status.vmswap.unwrap_or_default());
        assert!(we.own_bytes.abs_diff(own) < 4 << 20, "{we:?}, {own}");
        assert!(we.age_seconds < 600 && we.file_bytes > 0, "{we:?}");
        assert_eq!(we.growth.hour_bytes.unsigned_abs(), we.own_bytes, "it is new");
    }
}
