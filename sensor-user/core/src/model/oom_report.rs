//! What else was known at the moment of a kill: limits above the victim, the largest and the
//! fastest growing processes, stalls of the minute before, and contradictions between sources.
//!
//! Not here: how it is put together (`oom/report_builder` of the daemon).

use serde::{Deserialize, Serialize};

use super::memory_usage::{CgroupUsage, ProcessUsage};

/// Limits and usage of one cgroup, at the moment of the event or shortly after. Sizes in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CgroupLimits {
    /// Path of the cgroup.
    pub path: String,
    /// Memory charged to it and to the cgroups below it.
    pub current_bytes: Option<u64>,
    /// `memory.max`; absent without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// `memory.high`; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high_bytes: Option<u64>,
    /// Memory in swap; on v1 memory and swap together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap_bytes: Option<u64>,
    /// The part of `current_bytes` that is anonymous memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anon_bytes: Option<u64>,
    /// The part that is page cache, with `shmem_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_bytes: Option<u64>,
    /// The part of `file_bytes` that is tmpfs and shared memory. It belongs to no process, and
    /// cannot be freed without swap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shmem_bytes: Option<u64>,
    /// The part that is the kernel's slab; v2 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slab_bytes: Option<u64>,
    /// The limit of `swap_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap_max_bytes: Option<u64>,
    /// Processes in it that the OOM killer killed, by the cgroup's own count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
    /// `memory.oom.group`: whether an OOM kills all of its processes; v2 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_group: Option<bool>,
    /// How often an OOM killed all of its processes, by the cgroup's own count (since Linux 5.17).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_group_kills: Option<u64>,
    /// How often systemd-oomd decided to kill it, by the mark that it leaves (`user.oomd_ooms`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oomd_ooms: Option<u64>,
    /// Processes in it that systemd-oomd killed (`user.oomd_kill`, written after the kill).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oomd_kills: Option<u64>,
}

/// What the host's memory was used for, by /proc/meminfo. Each value is absent if the kernel does not
/// report it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HostMemoryUsage {
    /// All memory (`MemTotal`).
    pub total_bytes: Option<u64>,
    /// Memory that could be had without swapping (`MemAvailable`).
    pub available_bytes: Option<u64>,
    /// Anonymous memory of processes (`AnonPages`).
    pub anon_bytes: Option<u64>,
    /// tmpfs and shared memory (`Shmem`).
    pub shmem_bytes: Option<u64>,
    /// Slab that the kernel can free, such as cached inodes (`SReclaimable`).
    pub slab_reclaimable_bytes: Option<u64>,
    /// Slab that the kernel cannot free (`SUnreclaim`).
    pub slab_unreclaimable_bytes: Option<u64>,
    /// Page tables (`PageTables`).
    pub page_tables_bytes: Option<u64>,
    /// Stacks of tasks in the kernel (`KernelStack`).
    pub kernel_stack_bytes: Option<u64>,
    /// Memory of the kernel per CPU (`Percpu`).
    pub percpu_bytes: Option<u64>,
    /// Huge pages of the pools, used or not (`Hugetlb`).
    pub hugetlb_bytes: Option<u64>,
    /// The cache of ZFS. `MemAvailable` does not include it.
    pub zfs_arc_bytes: Option<u64>,
    /// Swap (`SwapTotal`).
    pub swap_total_bytes: Option<u64>,
    /// Free swap (`SwapFree`).
    pub swap_free_bytes: Option<u64>,
}

/// How long the host stalled in a window before the event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StallWindow {
    /// Length of the window; less than a minute if the daemon started within it.
    pub within_seconds: f64,
    /// Time in which some task waited for memory (PSI).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub some_seconds: Option<f64>,
    /// Time in which all non-idle tasks did (PSI).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_seconds: Option<f64>,
    /// Time in reclaim, compaction and throttling, summed over tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_seconds: Option<f64>,
}

/// What else was known at the moment of a kill.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OomReport {
    /// The victim's cgroup and those above it, its own first, without those that no longer exist.
    pub cgroups: Vec<CgroupLimits>,
    /// The cgroup that was out of memory: by the kernel's log, otherwise the one nearest its limit.
    /// The processes below are those in this cgroup, or those of the host if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_cgroup: Option<String>,
    /// Seconds from the scan of processes to the event; negative if the scan came after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_age_seconds: Option<f64>,
    /// The largest processes at that scan.
    pub largest: Vec<ProcessUsage>,
    /// The processes that grew most in the ten minutes before.
    pub top_growers: Vec<ProcessUsage>,
    /// The cgroups that grew most in the ten minutes before.
    pub growing_cgroups: Vec<CgroupUsage>,
    /// What the host's memory was used for, shortly after the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_memory: Option<HostMemoryUsage>,
    /// Stalls of the minute before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<StallWindow>,
    /// Facts from different sources that do not agree.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contradictions: Vec<String>,
}
