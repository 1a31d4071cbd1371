//! What the kernel half could not keep, counted: a bound that turned something away says so.

use crate::probes::Id;

/// Row of the losses, behind the probes' rows.
pub const ROW: u32 = crate::probes::ALL.len() as u32;

/// Why something was lost; also the word in the row.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The event ring buffer was full.
    RingFull = 0,
    /// An end for which no begin was seen (it began before we attached, or lost a race).
    UnmatchedEnd = 1,
    /// A begin that followed a begin of the same task.
    UnmatchedBegin = 2,
    /// A task was pushed out of a full bucket while inside.
    InflightEvicted = 3,
    /// A task exited while inside.
    Abandoned = 4,
    /// No room to remember an OOM victim until it has exited.
    VictimsFull = 5,
    /// A NUMA node beyond the highest that is counted.
    NodeOutOfRange = 6,
    /// A stall could not be charged to its cgroup.
    CgroupsFull = 7,
    /// Too many kill-signal events in a short time; they are counted all the same.
    RateLimited = 8,
    /// A cgroup's share of the stall clock, or its histogram, gave way to another cgroup's. User space
    /// fills this in: an LRU map does not tell what it evicts, so it is what was ever added less what is
    /// there.
    CgroupEvicted = 9,
    /// An event that came while the same program was interrupted on the same CPU: the kernel skips
    /// it (kernel/trace/bpf_trace.c, __bpf_trace_run). User space fills this in, by the kernel's own
    /// `recursion_misses`, which kernels before 5.12 do not tell. Next to never before 7.x, where
    /// tracepoints became preemptible.
    Recursion = 10,
    /// No room to tell that a cgroup was made or removed; its name is looked for when it is asked for.
    CgroupNamesFull = 11,
}

/// Word of the row that counts cgroups ever added to the stall clock; no reason of its own.
pub const CGROUPS_ADDED: usize = 64;

/// Word of the row that counts histograms ever added to the cgroups' reclaim; no reason of its own.
pub const HISTOGRAMS_ADDED: usize = 65;

/// Label values of `memsensor_events_lost_total{reason}`, in the order of [`Loss`].
pub const REASONS: [&str; 12] = [
    "ring_full",
    "unmatched_end",
    "unmatched_begin",
    "inflight_evicted",
    "abandoned",
    "victims_full",
    "node_out_of_range",
    "cgroups_full",
    "rate_limited",
    "cgroup_evicted",
    "recursion",
    "cgroup_names_full",
];

/// Probes whose stalls have a place in the stall clock, and in the cgroups' histograms.
const CHARGE: &[Id] =
    &[Id::direct_reclaim, Id::memcg_reclaim, Id::pfmemalloc_throttle, Id::compaction];

/// Probes that keep who is inside.
const BEGIN: &[Id] =
    &[Id::direct_reclaim, Id::memcg_reclaim, Id::kswapd, Id::pfmemalloc_throttle, Id::compaction];

/// Which probes notice a loss, in the order of [`Loss`]. Where none of them is attached it is not
/// measured, so it is absent. The kernel itself tells of [`Loss::Recursion`].
pub const NOTICED_BY: [&[Id]; REASONS.len()] = [
    &[Id::oom_kill, Id::victim_exit, Id::kill_signal],
    &[Id::direct_reclaim, Id::memcg_reclaim, Id::compaction],
    BEGIN,
    BEGIN,
    &[Id::victim_exit],
    &[Id::victim_exit],
    &[Id::kswapd],
    CHARGE,
    &[Id::kill_signal],
    CHARGE,
    &[],
    &[Id::cgroups],
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::probes;

    /// What a probe's source has that notices a loss.
    const NOTICE: [(Loss, &[&str]); REASONS.len()] = [
        (Loss::RingFull, &["ring::send("]),
        (Loss::UnmatchedEnd, &["track::end("]),
        (Loss::UnmatchedBegin, &["track::begin"]),
        (Loss::InflightEvicted, &["track::begin"]),
        (Loss::Abandoned, &["Loss::Abandoned"]),
        (Loss::VictimsFull, &["Loss::VictimsFull"]),
        (Loss::NodeOutOfRange, &["Loss::NodeOutOfRange"]),
        (Loss::CgroupsFull, &["track::begin_stall(", "stall::ended_and_gone("]),
        (Loss::RateLimited, &["Loss::RateLimited"]),
        (Loss::CgroupEvicted, &["track::begin_stall(", "stall::ended_and_gone("]),
        (Loss::Recursion, &[]),
        (Loss::CgroupNamesFull, &["Loss::CgroupNamesFull"]),
    ];

    #[test]
    fn a_loss_is_of_the_probes_that_notice_it() {
        for (i, (loss, words)) in NOTICE.into_iter().enumerate() {
            assert_eq!(i, loss as usize);
            let notices = |name: &&str| {
                let file = format!("{}/src/probes/{name}.rs", env!("CARGO_MANIFEST_DIR"));
                let text = std::fs::read_to_string(file).expect("a probe's source");
                words.iter().any(|word| text.contains(word))
            };
            let names = probes::ALL.iter().map(|probe| probe.name);
            let expected: BTreeSet<_> = names.filter(notices).collect();
            let listed: BTreeSet<_> =
                NOTICED_BY[i].iter().map(|id| probes::ALL[*id as usize].name).collect();
            assert_eq!(listed, expected, "{}", REASONS[i]);
        }
    }
}
