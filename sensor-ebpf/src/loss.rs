//! What the kernel half could not keep, counted: a bound that turned something away says so.

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
    /// `recursion_misses` (5.12). Next to never before 7.x, where tracepoints became preemptible.
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
