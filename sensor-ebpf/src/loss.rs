//! What the kernel half could not keep, counted by reason. Every bound has a reason of its own.
//!
//! A probe declares which of these it can lose ([`crate::spec::Probe::losses`]); its programs
//! cannot count any other, see `bpf::lost`.

use crate::probe_id::Id;

/// Row of the losses, behind the rows of the probes.
pub const ROW: u32 = Id::COUNT as u32;

macro_rules! losses {
    ($($(#[$doc:meta])* $name:ident = $label:literal, $meaning:literal;)*) => {
        /// Why something was lost; as a number also the word in the row.
        #[repr(u32)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Loss {
            $($(#[$doc])* $name,)*
        }

        impl Loss {
            /// Every reason, in the order of the row's words.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Reason, and what is missing because of it, for the debug log.
            #[inline(always)]
            pub const fn message(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($label, ", ", $meaning),)*
                }
            }
        }

        /// Label values of `memsensor_events_lost_total{reason}`, in the order of [`Loss`].
        pub const REASONS: [&str; Loss::ALL.len()] = [$($label,)*];
    };
}

losses! {
    /// The event ring buffer was full.
    RingFull = "ring_full", "event dropped, the ring buffer is full";
    /// An end without a begin: it began before the programs were attached, or lost a race.
    UnmatchedEnd = "unmatched_end", "end without a begin, not timed";
    /// A begin that followed a begin of the same task.
    UnmatchedBegin = "unmatched_begin", "begin without an end, the earlier begin is dropped";
    /// A task was evicted from a full bucket while it was inside.
    InflightEvicted = "inflight_evicted", "in-flight bucket full, its oldest task is dropped";
    /// A task exited while it was inside.
    Abandoned = "abandoned", "task exited before the end, not timed";
    /// No room to remember an OOM victim until it has exited.
    VictimsFull = "victims_full", "table of OOM victims full, the exit is not timed";
    /// A NUMA node beyond the highest that is counted.
    NodeOutOfRange = "node_out_of_range", "NUMA node out of range, not counted";
    /// A stall could not be charged to its cgroup.
    CgroupsFull = "cgroups_full", "cgroup table full, the stall is not charged to its cgroup";
    /// Too many kill-signal events in a short time; the signals are counted all the same.
    RateLimited = "rate_limited", "event dropped by the rate limit, the signal is counted";
    /// A cgroup's share of the stall clock, or its histogram, was evicted for another cgroup. User
    /// space counts it: an LRU map does not report evictions, so it is the number of additions less
    /// the number of entries.
    CgroupEvicted = "cgroup_evicted", "cgroup evicted from the table for another";
    /// An event that came while the same program was interrupted on the same CPU: the kernel skips
    /// it (kernel/trace/bpf_trace.c, __bpf_trace_run). User space counts it, from the kernel's own
    /// `recursion_misses` (since 5.12). Very rare before 7.x, where tracepoints became preemptible.
    Recursion = "recursion", "program skipped by the kernel";
    /// No room to record that a cgroup was created or removed; user space then looks its name up
    /// when it needs it.
    CgroupNamesFull = "cgroup_names_full", "cgroup record dropped, the ring buffer is full";
}

/// Word of the row that counts cgroups ever added to the stall clock; not a reason.
pub const CGROUPS_ADDED: usize = 64;

/// Word of the row that counts histograms ever added to those of cgroups; not a reason.
pub const HISTOGRAMS_ADDED: usize = 65;

const _: () = assert!(Loss::ALL.len() <= CGROUPS_ADDED, "reasons and other words are apart");
