//! What is recorded of a scan: the largest and the fastest growing processes and cgroups. Pure.

use std::collections::{BTreeMap, BTreeSet};

use sensor_core::{
    model::{
        counters::{ByCause, total_ns},
        memory_usage::{CgroupUsage, MemoryUsage, ProcessUsage},
        oom_report::{CgroupLimits, HostMemoryUsage},
    },
    record::content::{CgroupSize, ProcessSize, Usage},
};

/// Processes that are recorded, by size and as many by growth.
const PROCESSES: usize = 10;
/// Cgroups, likewise.
const CGROUPS: usize = 20;

/// A kind of the host's memory.
type Kind = (&'static str, fn(&HostMemoryUsage) -> Option<u64>);

/// The kinds of memory that are recorded. Their names are in each segment.
pub const MEMORY: [Kind; 9] = [
    ("anon", |m| m.anon_bytes),
    ("shmem", |m| m.shmem_bytes),
    ("slab_reclaimable", |m| m.slab_reclaimable_bytes),
    ("slab_unreclaimable", |m| m.slab_unreclaimable_bytes),
    ("page_tables", |m| m.page_tables_bytes),
    ("kernel_stack", |m| m.kernel_stack_bytes),
    ("percpu", |m| m.percpu_bytes),
    ("hugetlb", |m| m.hugetlb_bytes),
    ("zfs_arc", |m| m.zfs_arc_bytes),
];

/// A kind of a cgroup's memory.
type CgroupKind = (&'static str, fn(&CgroupLimits) -> Option<u64>);

/// The kinds of a scope's memory that are recorded.
pub const SCOPE_MEMORY: [CgroupKind; 4] = [
    ("anon", |m| m.anon_bytes),
    ("file", |m| m.file_bytes),
    ("shmem", |m| m.shmem_bytes),
    // What is charged and neither of the first two: v1 has no count of slab.
    ("kernel", |m| m.current_bytes?.checked_sub(m.anon_bytes?)?.checked_sub(m.file_bytes?)),
];

/// The memory of a scope by kind; empty if its cgroup does not exist.
pub fn scope_memory(limits: Option<&CgroupLimits>) -> Vec<Option<u64>> {
    limits.map_or_else(Vec::new, |m| SCOPE_MEMORY.iter().map(|(_, of)| of(m)).collect())
}

/// The record of a scan without the memory of scopes; `stalls` is the stall clock by cgroup id.
pub fn usage(
    scan: &MemoryUsage,
    stalls: &[(u64, ByCause)],
    memory: Option<&HostMemoryUsage>,
) -> Usage {
    let stalls: BTreeMap<u64, u64> = stalls.iter().map(|(id, by)| (*id, total_ns(by))).collect();
    let (size, growth) = (|p: &ProcessUsage| p.own_bytes, |p: &ProcessUsage| p.growth.minute_bytes);
    let processes = largest(&scan.processes, PROCESSES, size, growth);
    let (size, growth) = (|c: &CgroupUsage| c.own_bytes, |c: &CgroupUsage| c.growth.minute_bytes);
    let cgroups = largest(&scan.cgroups, CGROUPS, size, growth);
    Usage {
        calm_seconds_ago: scan.calm_seconds_ago,
        scopes: Vec::new(),
        memory: memory.map_or_else(Vec::new, |m| MEMORY.iter().map(|(_, of)| of(m)).collect()),
        processes: processes.map(process).collect(),
        cgroups: cgroups
            .map(|c| cgroup(c, stalls.get(&c.cgroup).copied().unwrap_or_default()))
            .collect(),
    }
}

/// The largest by size, and those that grow fastest, in the order of the list.
fn largest<T>(
    all: &[T],
    count: usize,
    size: impl Fn(&T) -> u64,
    growth: impl Fn(&T) -> i64,
) -> impl Iterator<Item = &T> {
    let mut by_size: Vec<_> = (0..all.len()).collect();
    by_size.sort_by_key(|n| std::cmp::Reverse(size(&all[*n])));
    let mut by_growth: Vec<_> = (0..all.len()).filter(|n| growth(&all[*n]) > 0).collect();
    by_growth.sort_by_key(|n| std::cmp::Reverse(growth(&all[*n])));
    let chosen: BTreeSet<_> =
        by_size.into_iter().take(count).chain(by_growth.into_iter().take(count)).collect();
    chosen.into_iter().map(|n| &all[n])
}

fn process(process: &ProcessUsage) -> ProcessSize {
    ProcessSize {
        pid: process.pid,
        comm: process.comm.clone(),
        cgroup: process.cgroup_path.as_deref().unwrap_or_default().to_owned(),
        age_seconds: process.age_seconds,
        own_bytes: process.own_bytes,
        swap_bytes: process.swap_bytes,
        growth_bytes: process.growth.minute_bytes,
        growth_seconds: process.minute_seconds,
    }
}

fn cgroup(cgroup: &CgroupUsage, stall_ns: u64) -> CgroupSize {
    CgroupSize {
        path: cgroup.cgroup_path.as_deref().unwrap_or_default().to_owned(),
        processes: cgroup.processes,
        own_bytes: cgroup.own_bytes,
        swap_bytes: cgroup.swap_bytes,
        growth_bytes: cgroup.growth.minute_bytes,
        stall_ns,
    }
}

#[cfg(test)]
mod tests {
    use sensor_core::model::memory_usage::Growth;

    use super::*;

    #[test]
    fn the_largest_and_the_fastest_growing_are_recorded_once() {
        let process = |pid: u32, own_bytes, minute_bytes| ProcessUsage {
            pid,
            own_bytes,
            growth: Growth { minute_bytes, ..Growth::default() },
            ..ProcessUsage::default()
        };
        // 100 processes by size; the last two and the first grow.
        let grows = |pid| if pid == 0 || pid >= 98 { 1 + i64::from(pid) } else { -1 };
        let processes = (0..100).map(|pid| process(pid, u64::from(1000 - pid), grows(pid)));
        let cgroup = CgroupUsage { cgroup: 7, own_bytes: 5, ..CgroupUsage::default() };
        let scan = MemoryUsage {
            processes: processes.collect(),
            cgroups: vec![cgroup],
            ..MemoryUsage::default()
        };
        let usage = usage(&scan, &[(7, [1, 2, 0, 0, 0])], None);
        let pids: Vec<_> = usage.processes.iter().map(|process| process.pid).collect();
        assert_eq!(pids, (0..10).chain([98, 99]).collect::<Vec<_>>());
        assert_eq!(usage.cgroups[0].stall_ns, 3);
    }
}
