//! Processes from /proc, for kernels that cannot load the iterator
//! ([`sensor_ebpf::probes::processes`]).
//!
//! Each process costs several system calls and about forty microseconds. Therefore a walk is done
//! in steps, and on a host with more than [`MAX_PROCESSES`] processes only those with the lowest
//! ids are read. They are the oldest only until ids are reused.

use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use procfs::{ProcError, process::Process as Entry};
use sensor_ebpf::event::{COMM, Process, Sizes, Task};

/// Most processes in one walk.
const MAX_PROCESSES: usize = 4096;

/// A walk in progress.
#[derive(Debug)]
pub struct ProcWalk {
    /// Ids that are still to be read, the last first.
    pending: Vec<i32>,
    /// Mount point of the memory controller's hierarchy.
    root: PathBuf,
    /// Ids of cgroups by path: most processes share a cgroup with others.
    cgroup_ids: BTreeMap<String, u64>,
}

impl ProcWalk {
    /// Lists the processes. `root` is the mount point of the memory controller's hierarchy.
    pub fn begin(root: &Path) -> Result<Self> {
        let processes = procfs::process::all_processes().context("list /proc")?;
        let mut pending: Vec<_> =
            processes.flatten().take(MAX_PROCESSES).map(|entry| entry.pid()).collect();
        pending.reverse();
        Ok(Self { pending, root: root.to_owned(), cgroup_ids: BTreeMap::new() })
    }

    /// Reads up to `count` more processes, and passes each that has memory to `each`. Returns
    /// whether the walk is complete.
    pub fn step(&mut self, count: usize, mut each: impl FnMut(&Process)) -> bool {
        let rest = self.pending.len().saturating_sub(count);
        for pid in self.pending.split_off(rest).into_iter().rev() {
            // Skips a process that has ended in the meantime.
            if let Ok(Some(process)) = self.read(pid) {
                each(&process);
            }
        }
        self.pending.is_empty()
    }

    fn read(&mut self, pid: i32) -> Result<Option<Process>, ProcError> {
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

    /// The id of the cgroup that the process's memory is charged to.
    fn cgroup(&mut self, entry: &Entry) -> Option<u64> {
        let cgroups = entry.cgroups().ok()?.0;
        let has_memory = |controllers: &[String]| controllers.iter().any(|name| name == "memory");
        let memory = cgroups.iter().find(|c| has_memory(&c.controllers));
        let path = &memory.or(cgroups.iter().find(|c| c.hierarchy == 0))?.pathname;
        if let Some(id) = self.cgroup_ids.get(path) {
            return Some(*id);
        }
        let dir = self.root.join(path.trim_start_matches('/'));
        let id = std::fs::metadata(dir).ok()?.ino();
        self.cgroup_ids.insert(path.clone(), id);
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_with_its_memory() {
        let root = PathBuf::new();
        let mut walk = ProcWalk::begin(&root).expect("/proc");
        let mut own = None;
        while !walk.step(3, |process| {
            if process.task.tgid == std::process::id() {
                own = Some(*process);
            }
        }) {}
        let process = own.expect("this process");
        let status = Entry::myself().and_then(|p| p.status()).expect("status");
        let kib = status.rssanon.expect("some");
        let bytes = process.sizes.anon_pages * procfs::page_size();
        assert!(bytes.abs_diff(kib * 1024) < 4 << 20, "{bytes} {kib}");
        assert!(process.sizes.file_pages > 0 && process.start_ns > 0);
        assert_eq!(process.task.uid, status.ruid);
    }
}
