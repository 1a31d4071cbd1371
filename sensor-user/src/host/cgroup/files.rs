//! Names and formats of the memory controller's files, which differ between cgroup v1 and v2.
//!
//! Not here: opening them.

use crate::host::{proc_file::numbers, vmstat::lost_pages};

/// File names of one version of the memory controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileNames {
    /// Memory charged to the cgroup.
    pub usage: &'static str,
    /// The limit of `usage`.
    pub limit: &'static str,
    /// The limit above which tasks that allocate must reclaim; v2 only.
    pub high: Option<&'static str>,
    /// Memory in swap; on v1 memory and swap together.
    pub swap_usage: &'static str,
    /// The limit of `swap_usage`.
    pub swap_limit: &'static str,
    /// The file with the line `oom_kill`.
    pub oom_kills: &'static str,
    /// 1 if an OOM kills all processes of the cgroup; v2 only.
    pub oom_group: Option<&'static str>,
}

const V1: FileNames = FileNames {
    usage: "memory.usage_in_bytes",
    limit: "memory.limit_in_bytes",
    high: None,
    swap_usage: "memory.memsw.usage_in_bytes",
    swap_limit: "memory.memsw.limit_in_bytes",
    oom_kills: "memory.oom_control",
    oom_group: None,
};

const V2: FileNames = FileNames {
    usage: "memory.current",
    limit: "memory.max",
    high: Some("memory.high"),
    swap_usage: "memory.swap.current",
    swap_limit: "memory.swap.max",
    oom_kills: "memory.events",
    oom_group: Some("memory.oom.group"),
};

impl FileNames {
    /// File names of v1 or v2.
    pub const fn of(v1: bool) -> Self {
        if v1 { V1 } else { V2 }
    }
}

/// Parses a size; `None` for `max` and for v1's "no limit", a number near 2^63.
pub fn parse_bytes(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|n| *n < i64::MAX.cast_unsigned() / 2)
}

/// Whether processes are in a v2 cgroup or below it, by its cgroup.events.
pub fn parse_populated(events: &str) -> bool {
    numbers(events, ["populated"]) == [Some(1)]
}

/// A memory.stat: sizes in bytes, events in pages. Includes descendant cgroups.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct MemoryStat {
    /// Page cache, tmpfs included.
    pub file: u64,
    /// The part of `file` that is tmpfs and shared memory.
    pub shmem: u64,
    /// Reclaimable slab; 0 on v1, which does not report it.
    pub slab: u64,
    /// Huge pages of the pool (hugetlb); 0 where they are not charged to memory, which is the default
    /// (v2 with `memory_hugetlb_accounting` does, and reports it since 6.13).
    pub hugetlb: u64,
    /// Pages that were evicted and read again.
    pub refaulted: Option<u64>,
    /// The part of them that was lost from the working set; v1 does not report it.
    pub lost: Option<u64>,
    /// Pages read from swap.
    pub swapped_in: Option<u64>,
    /// Pages written to swap.
    pub swapped_out: Option<u64>,
    /// Pages that reclaim scanned.
    pub scanned: Option<u64>,
    /// Pages that reclaim freed.
    pub reclaimed: Option<u64>,
}

/// Lines of v1's memory.stat; lines with `total_` include descendants.
const V1_STAT: [&str; 12] = [
    "total_cache",
    "total_shmem",
    "",
    "",
    "total_workingset_refault_anon",
    "total_workingset_refault_file",
    "",
    "",
    "total_pswpin",
    "total_pswpout",
    "",
    "",
];

/// Lines of v2's memory.stat; all include descendants.
const V2_STAT: [&str; 12] = [
    "file",
    "shmem",
    "slab_reclaimable",
    "hugetlb",
    "workingset_refault_anon",
    "workingset_refault_file",
    "workingset_activate_file",
    "workingset_restore_file",
    "pswpin",
    "pswpout",
    "pgscan",
    "pgsteal",
];

impl MemoryStat {
    /// Parses the text of a memory.stat.
    pub fn parse(text: &str, v1: bool) -> Self {
        let names = if v1 { V1_STAT } else { V2_STAT };
        let [file, shmem, slab, hugetlb, rest @ ..] = numbers(text, names);
        let [anon, cache, activated, restored, swapped_in, swapped_out, scanned, reclaimed] = rest;
        Self {
            file: file.unwrap_or(0),
            shmem: shmem.unwrap_or(0),
            slab: slab.unwrap_or(0),
            hugetlb: hugetlb.unwrap_or(0),
            refaulted: anon.map(|a| a.saturating_add(cache.unwrap_or(0))).or(cache),
            lost: lost_pages(anon, activated, restored),
            // pswpin exists since 6.13. An anonymous page that refaults comes from swap.
            swapped_in: swapped_in.or(anon),
            swapped_out,
            scanned,
            reclaimed,
        }
    }
}
