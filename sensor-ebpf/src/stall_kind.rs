//! The two classifications of stalls: what an in-flight task is inside ([`Kind`]), and what its
//! time is charged to ([`Cause`]).
//!
//! Not here: the table of in-flight tasks ([`crate::inflight`]), metrics ([`crate::spec`]).

/// What a task can be inside.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Global direct reclaim: the allocating task reclaims because its node ran low.
    Direct = 1,
    /// Limit reclaim of a memory cgroup.
    Memcg = 2,
    /// Soft-limit reclaim (memcg v1), inside direct reclaim or kswapd.
    Softlimit = 3,
    /// Direct compaction.
    Compaction = 4,
    /// kswapd, awake.
    Kswapd = 5,
    /// The sleep before direct reclaim, when the reserves of the node are nearly used up.
    Pfmemalloc = 6,
}

/// Number of kinds, for tables indexed by `Kind as usize` (0 is no kind).
pub const KINDS: usize = 7;

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Why a task stalled on memory. The causes are exclusive: their sum is the time stalled.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Cause {
            $($(#[$doc])* $name,)*
        }

        impl Cause {
            /// Number of causes.
            pub const COUNT: usize = [$($label),*].len();

            /// Every cause, in order.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$name),*];

            /// The `cause` label.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }
        }
    };
}

causes! {
    /// In global direct reclaim.
    DirectReclaim = "direct_reclaim",
    /// In limit reclaim of a memory cgroup.
    MemcgReclaim = "memcg_reclaim",
    /// Put to sleep by the reclaim code, inside global direct reclaim or before it.
    Throttle = "throttle",
    /// In direct compaction.
    Compaction = "compaction",
    /// Put to sleep by the reclaim code, inside limit reclaim of a memory cgroup.
    MemcgThrottle = "memcg_throttle",
}

impl Cause {
    /// Whether a cgroup's own limit is the cause, not a shortage of the host.
    pub const fn is_limit(self) -> bool {
        matches!(self, Self::MemcgReclaim | Self::MemcgThrottle)
    }
}
