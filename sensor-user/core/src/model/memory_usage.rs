//! Processes and cgroups by size and by growth, as one scan found them.
//!
//! *Own* memory of a process is memory that the kernel cannot simply drop: anonymous and
//! shared-memory pages, in memory or in swap. It is what fills up a host. Pages of files are listed
//! apart. A cgroup's own memory is the sum over its processes: memory that processes share counts
//! for each of them, and memory of no process (page cache, tmpfs, kernel memory) is not included.
//!
//! Not here: the scan (`usage/scanner` of the daemon) and how growth is followed (`usage/tracker`).

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::workload::WorkloadId;

/// Bytes more than some time ago; negative if less.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Growth {
    /// Than a minute ago.
    pub minute_bytes: i64,
    /// Than ten minutes ago.
    pub ten_minutes_bytes: i64,
    /// Than an hour ago.
    pub hour_bytes: i64,
}

/// Memory of one process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ProcessUsage {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// The kernel's name of it; any characters but control characters.
    pub comm: String,
    /// User id.
    pub uid: u32,
    /// -1000 to 1000.
    pub oom_score_adj: i32,
    /// Id of the cgroup that its memory is charged to.
    pub cgroup: u64,
    /// Path of that cgroup, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_path: Option<Arc<str>>,
    /// Unit, container and pod; filled in only for the few processes that are shown.
    #[serde(flatten)]
    pub workload: WorkloadId,
    /// Seconds since it was started.
    pub age_seconds: u32,
    /// True if it was started since the host was last calm.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_new: bool,
    /// Anonymous and shared memory, in memory or in swap.
    pub own_bytes: u64,
    /// The part of `own_bytes` in swap.
    pub swap_bytes: u64,
    /// Pages of files.
    pub file_bytes: u64,
    /// Page tables.
    pub page_table_bytes: u64,
    /// Growth of `own_bytes`.
    #[serde(flatten)]
    pub growth: Growth,
    /// Seconds that `growth.minute_bytes` covers: fewer if the process was first seen since,
    /// somewhat more where scans are far apart. 0 if there is nothing to compare with yet.
    #[serde(skip)]
    pub minute_seconds: u32,
}

/// Memory of the processes of one cgroup.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CgroupUsage {
    /// Its id: the inode number of its directory.
    pub cgroup: u64,
    /// Its path, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_path: Option<Arc<str>>,
    /// Unit, container and pod; filled in only for the few cgroups that are shown.
    #[serde(flatten)]
    pub workload: WorkloadId,
    /// Seconds that its tasks stalled since the daemon started, without those of cgroups below it;
    /// filled in by the answer to `memsensor top`.
    #[serde(default)]
    pub stall_seconds: f64,
    /// Processes in it, without those of cgroups below it.
    pub processes: u32,
    /// Their own memory.
    pub own_bytes: u64,
    /// The part of `own_bytes` in swap.
    pub swap_bytes: u64,
    /// Growth of `own_bytes`.
    #[serde(flatten)]
    pub growth: Growth,
}

/// The result of one scan, largest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryUsage {
    /// When the scan began: CLOCK_MONOTONIC nanoseconds.
    #[serde(skip)]
    pub taken_ns: u64,
    /// True if it was read from /proc, where the kernel's iterator is not available.
    pub usage_from_proc: bool,
    /// Seconds since the host was last calm; absent if it is calm, or never was since the daemon
    /// started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calm_seconds_ago: Option<u32>,
    /// Processes that have memory, including those that are not listed.
    pub seen: u32,
    /// Cgroups that have such processes.
    pub cgroups_seen: u32,
    /// The largest processes.
    pub processes: Vec<ProcessUsage>,
    /// The largest cgroups.
    pub cgroups: Vec<CgroupUsage>,
    /// Id and own memory in bytes of every cgroup that was added up.
    #[serde(skip)]
    pub sums: Vec<(u64, u64)>,
}

impl MemoryUsage {
    /// Marks the processes that were started since the host was last calm, so many seconds ago.
    pub fn mark_new(&mut self, calm_seconds_ago: Option<u32>) {
        self.calm_seconds_ago = calm_seconds_ago;
        for process in &mut self.processes {
            process.is_new = calm_seconds_ago.is_some_and(|ago| process.age_seconds < ago);
        }
    }

    /// The known paths of its cgroups, by id.
    pub fn paths(&self) -> BTreeMap<u64, &Arc<str>> {
        let of_processes = self.processes.iter().map(|p| (p.cgroup, &p.cgroup_path));
        let of_cgroups = self.cgroups.iter().map(|c| (c.cgroup, &c.cgroup_path));
        let all = of_processes.chain(of_cgroups);
        all.filter_map(|(id, path)| Some((id, path.as_ref()?))).collect()
    }

    /// Fills in the paths of its cgroups.
    pub fn fill_paths(&mut self, path: impl Fn(u64) -> Option<Arc<str>>) {
        for process in &mut self.processes {
            process.cgroup_path = path(process.cgroup);
        }
        for cgroup in &mut self.cgroups {
            cgroup.cgroup_path = path(cgroup.cgroup);
        }
    }
}

impl ProcessUsage {
    /// Fills in unit, container and pod from the path of its cgroup.
    pub fn fill_workload(&mut self) {
        self.workload = self.cgroup_path.as_deref().map(WorkloadId::of).unwrap_or_default();
    }
}

impl CgroupUsage {
    /// Fills in unit, container and pod from its path.
    pub fn fill_workload(&mut self) {
        self.workload = self.cgroup_path.as_deref().map(WorkloadId::of).unwrap_or_default();
    }
}
