//! What one look found in one scope. Counters never fall while the scope lives; sizes are as found.
//! `None` is what this host or this kind of scope does not tell: it is never taken to be 0.

/// How long before a reading [`Reading::before`] is, in seconds: what the kernel's averages are over.
pub const BEFORE_SECONDS: [u64; 2] = [10, 60];

/// One look at one scope.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Reading {
    /// When: CLOCK_MONOTONIC nanoseconds.
    pub at_ns: u64,
    /// PSI memory `some`: nanoseconds in which at least one task was stalled.
    pub some_ns: Option<u64>,
    /// PSI memory `full`: nanoseconds in which all non-idle tasks were stalled.
    pub full_ns: Option<u64>,
    /// Both, [`BEFORE_SECONDS`] earlier: what the kernel knows of a time before ours.
    pub before: Option<[[u64; 2]; 2]>,
    /// PSI io `full`, nanoseconds.
    pub io_full_ns: Option<u64>,
    /// The stall clock: nanoseconds that tasks spent in reclaim, compaction and throttling, summed
    /// over tasks.
    pub stall_ns: Option<u64>,
    /// Bytes that were evicted and had to be read again soon (workingset_refault_*).
    pub refaulted_bytes: Option<u64>,
    /// Bytes read from swap.
    pub swapped_in_bytes: Option<u64>,
    /// Bytes written to swap.
    pub swapped_out_bytes: Option<u64>,
    /// Pages that reclaim looked at.
    pub scanned_pages: Option<u64>,
    /// Pages that reclaim freed.
    pub reclaimed_pages: Option<u64>,
    /// Kills for lack of this scope's memory.
    pub oom_kills: Option<u64>,
    /// Memory that the scope may use: the host's, or a cgroup's limit.
    pub total_bytes: Option<u64>,
    /// What could be allocated without swapping: MemAvailable, or up to the limit what is free and
    /// what is clean page cache.
    pub available_bytes: Option<u64>,
    /// Memory that nothing uses, not even page cache: MemFree, or what is left up to a cgroup's limit.
    pub unused_bytes: Option<u64>,
    /// Free swap that the scope may use.
    pub swap_free_bytes: Option<u64>,
    /// Free memory above the zones' low watermarks, where kswapd wakes; negative below.
    pub above_low_bytes: Option<i64>,
    /// The hardest that reclaim tried in the last seconds: priority 12 (easy) to 0 (the whole LRU).
    pub priority: Option<u8>,
    /// Most rounds without progress of one allocation in the last seconds; above 16 comes the OOM
    /// killer.
    pub no_progress: Option<u8>,
}
