//! The list of probes: one line each, and the row of counters that follows from its place.
//!
//! Not here: what a probe is ([`crate::spec`]), and the probes themselves ([`crate::probes`], which
//! makes its modules from this list).

/// Passes the names of all probes, in the order of their rows, to the macro `$then`.
///
/// A new probe is one line here and a file of this name in `probes/`.
macro_rules! for_each_probe {
    ($then:ident) => {
        $then! {
            oom_kill,
            victim_exit,
            direct_reclaim,
            memcg_reclaim,
            kswapd,
            reclaim_scan,
            throttle,
            pfmemalloc_throttle,
            compaction,
            alloc_retry,
            alloc_failure,
            kill_signal,
            processes,
            cgroups,
        }
    };
}
pub(crate) use for_each_probe;

macro_rules! ids {
    ($($name:ident,)*) => {
        /// A probe; as a number its row in the counters.
        #[allow(non_camel_case_types, reason = "the variants are the names of the probes")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Id { $(
            #[doc = concat!("The probe `", stringify!($name), "`.")]
            $name,
        )* }

        impl Id {
            /// Every probe, in order.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Number of probes.
            pub const COUNT: usize = Self::ALL.len();

            /// Name of the probe and of its file.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

for_each_probe!(ids);
