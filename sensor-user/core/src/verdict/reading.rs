//! One reading of one scope: counters and sizes at one moment. Counters never fall while the scope
//! exists. `None` means that this host or this kind of scope does not measure the value; it is
//! never treated as 0.

/// How many seconds before a reading the values of [`Reading::before`] were: the spans of the
/// kernel's averages.
pub const BEFORE_SECONDS: [u64; 2] = [10, 60];

/// One reading of one scope.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Reading {
    /// When it was taken: CLOCK_MONOTONIC nanoseconds.
    pub at_ns: u64,
    /// PSI memory `some`: nanoseconds in which at least one task was stalled.
    pub some_ns: Option<u64>,
    /// PSI memory `full`: nanoseconds in which all non-idle tasks were stalled.
    pub full_ns: Option<u64>,
    /// Both [`BEFORE_SECONDS`] earlier, computed from the kernel's averages: they cover time before
    /// the daemon started. Without [`Self::limits`].
    pub before: Option<[[u64; 2]; 2]>,
    /// PSI io `some`, nanoseconds.
    pub io_some_ns: Option<u64>,
    /// PSI io `full`, nanoseconds.
    pub io_full_ns: Option<u64>,
    /// The stall clock: nanoseconds that tasks spent in reclaim, compaction and throttling, summed
    /// over tasks.
    pub stall_ns: Option<u64>,
    /// Bytes that were evicted and soon had to be read again (workingset_refault_*).
    pub refaulted_bytes: Option<u64>,
    /// The part of them that was lost from the working set: anonymous pages that came back from swap,
    /// and pages of files that would still be there if reclaim had chosen others
    /// (workingset_activate_file). A file that is larger than memory and read once more adds nothing.
    pub lost_bytes: Option<u64>,
    /// Bytes that anyone on the host read from block devices (pgpgin); a cgroup has the host's.
    pub read_bytes: Option<u64>,
    /// Bytes read from swap.
    pub swapped_in_bytes: Option<u64>,
    /// Bytes written to swap.
    pub swapped_out_bytes: Option<u64>,
    /// Pages that reclaim scanned.
    pub scanned_pages: Option<u64>,
    /// Pages that reclaim freed.
    pub reclaimed_pages: Option<u64>,
    /// OOM kills because the memory of this scope was exhausted.
    pub oom_kills: Option<u64>,
    /// Memory that the scope may use: the host's, or a cgroup's limit. Without the pool of huge pages,
    /// which reclaim cannot use.
    pub total_bytes: Option<u64>,
    /// Memory that can be allocated without swapping: MemAvailable and the evictable cache of ZFS, or
    /// for a cgroup the free memory up to its limit plus its clean page cache.
    pub available_bytes: Option<u64>,
    /// Memory that is not used at all, not even for page cache: MemFree, or the rest up to a
    /// cgroup's limit.
    pub unused_bytes: Option<u64>,
    /// Free swap that the scope may use; of swap in memory (zram) only what compression gains.
    pub swap_free_bytes: Option<u64>,
    /// Free memory above the zones' low watermarks, where kswapd wakes; negative below.
    pub above_low_bytes: Option<i64>,
    /// Lowest reclaim priority of the last seconds, from 12 (a small part of the LRU lists) to 0
    /// (all of them).
    pub priority: Option<u8>,
    /// Most retries of one allocation without progress in the last seconds; above 16 the OOM killer
    /// runs.
    pub no_progress: Option<u8>,
    /// What cgroups at their own limits caused; the counters above include it. 0 for a cgroup, whose
    /// own limit counts.
    pub limits: LimitPart,
}

/// The parts of a host's counters that cgroups at their own limits caused
/// ([`super::attribution`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitPart {
    /// Of [`Reading::some_ns`].
    pub some_ns: u64,
    /// Of [`Reading::full_ns`].
    pub full_ns: u64,
    /// Of [`Reading::refaulted_bytes`].
    pub refaulted_bytes: u64,
    /// Of [`Reading::lost_bytes`].
    pub lost_bytes: u64,
    /// Of [`Reading::swapped_in_bytes`].
    pub swapped_in_bytes: u64,
}

impl Reading {
    /// [`Self::some_ns`] without the part of limits.
    pub fn own_some_ns(&self) -> Option<u64> {
        self.some_ns.map(|ns| ns.saturating_sub(self.limits.some_ns))
    }

    /// [`Self::full_ns`] without the part of limits.
    pub fn own_full_ns(&self) -> Option<u64> {
        self.full_ns.map(|ns| ns.saturating_sub(self.limits.full_ns))
    }

    /// [`Self::refaulted_bytes`] without the part of limits.
    pub fn own_refaulted_bytes(&self) -> Option<u64> {
        self.refaulted_bytes.map(|bytes| bytes.saturating_sub(self.limits.refaulted_bytes))
    }

    /// [`Self::lost_bytes`] without the part of limits.
    pub fn own_lost_bytes(&self) -> Option<u64> {
        self.lost_bytes.map(|bytes| bytes.saturating_sub(self.limits.lost_bytes))
    }

    /// [`Self::swapped_in_bytes`] without the part of limits.
    pub fn own_swapped_in_bytes(&self) -> Option<u64> {
        self.swapped_in_bytes.map(|bytes| bytes.saturating_sub(self.limits.swapped_in_bytes))
    }
}
