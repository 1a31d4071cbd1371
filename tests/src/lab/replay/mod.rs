//! A replay of one outage with real programs: `HAProxy` in front of two hosts with nginx and an
//! application, steady user traffic, and an agent that leaks on web-01 until the host thrashes.
//!
//! A host is a network namespace and a memory cgroup with a limit. memsensor runs on each host,
//! outside the cgroup that it judges. The result: failures and latency of the users' requests.
//!
//! * [`net`]: the namespaces and their links.
//! * [`web`]: a host: nginx, the application, the agent, memsensor.
//! * [`policy`]: the balancers' policies, as data.
//! * [`balancer`], `haproxy`, `envoy`, [`server`]: a running balancer, and what it reports.
//! * [`cause`]: what goes wrong on a host, as data.
//! * [`traffic`]: user requests at a fixed rate.
//! * [`watch`]: samples of PSI, of memsensor and of `HAProxy`.
//! * [`run`]: the sequence of a run.
//! * [`reaction`], [`report`]: reaction times, and tables; pure.
//! * [`outcome`], [`rivals`]: policies compared by the score of [`crate::support::score`]; pure.

pub mod balancer;
pub mod cause;
mod envoy;
mod haproxy;
pub mod net;
pub mod outcome;
pub mod policy;
pub mod reaction;
pub mod report;
pub mod rivals;
pub mod run;
pub mod server;
pub mod traffic;
pub mod watch;
pub mod web;

pub use policy::Policy;

/// The swap device, if any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwapSpeed {
    /// No swap, and a slow disk: page cache is reclaimed and read again, without OOM kills.
    None,
    /// Swap as fast as memory.
    Fast,
    /// Swap as slow as an overloaded disk.
    Slow,
}

/// The fault that is injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// An agent leaks on web-01, and is removed later.
    Leak,
    /// The agent leaks on both hosts.
    Fleet,
    /// All processes of web-01 are stopped for a while, including memsensor.
    Freeze,
    /// Other programs run on web-01.
    Loads(&'static Loads),
}

/// Programs that run beside the service, in the cgroup of web-01.
#[derive(Debug, PartialEq, Eq)]
pub struct Loads {
    /// A name.
    pub name: &'static str,
    /// Files on disk that are not in the page cache: names and MiB.
    pub files: &'static [(&'static str, u64)],
    /// Words of each load: `@NAME` is one of the files, `%` a tmpfs.
    pub commands: &'static [&'static [&'static str]],
}

macro_rules! words {
    ($kind:ident: $($id:ident $word:literal),*) => {
        impl $kind {
            /// All values.
            pub const ALL: &[Self] = &[$(Self::$id,)*];

            /// Its name on the command line and in tables.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$id => $word,)* }
            }
        }
    };
}

words!(SwapSpeed: None "none", Fast "fast", Slow "slow");

impl Variant {
    /// The incidents of `cargo xtask replay`.
    pub const ALL: &[Self] = &[Self::Leak, Self::Fleet, Self::Freeze];

    /// Its name on the command line and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Leak => "leak",
            Self::Fleet => "fleet",
            Self::Freeze => "freeze",
            Self::Loads(loads) => loads.name,
        }
    }
}

/// Rates, durations and sizes of a run.
pub mod scale {
    use std::time::Duration;

    use crate::support::scope::MIB;

    /// Requests per second.
    pub const RATE: u32 = 100;
    /// Timeout of a request.
    pub const PATIENCE: Duration = Duration::from_secs(5);
    /// Duration of the calm phase.
    pub const CALM: Duration = Duration::from_secs(10);
    /// Time from the first stall until the fault is cleared.
    pub const THRASH: Duration = Duration::from_secs(20);
    /// Upper bound of the time from the leak to the first stall.
    pub const LEAK: Duration = Duration::from_secs(20);
    /// Upper bound of the time to full weight: after OOM kills it takes a minute and a half.
    pub const RECOVERY: Duration = Duration::from_secs(110);
    /// Duration of the last phase where no weights are reported.
    pub const AFTER: Duration = Duration::from_secs(15);
    /// Duration of the calm phase where policies are compared.
    pub const RIVALS_CALM: Duration = Duration::from_secs(4);
    /// Duration of the last phase there.
    pub const RIVALS_AFTER: Duration = Duration::from_secs(10);
    /// Requests per second straight to each host, beside those of the users.
    pub const PROBE_RATE: u32 = 10;
    /// Memory limit of a host.
    pub const LIMIT: u64 = 160 * MIB;
    /// The application's working set in memory, in MiB.
    pub const WORKING_SET: u64 = 48;
    /// The application's file, in MiB.
    pub const FILE: u64 = 32;
    /// Memory that the agent allocates in all, in MiB: more than the host has, with swap.
    pub const AGENT: u64 = 200;
    /// Without swap: too little for an OOM kill, too much for the file to stay in the page cache.
    pub const AGENT_NO_SWAP: u64 = 92;
    /// MiB that it allocates per second.
    pub const AGENT_RATE: u64 = 12;
    /// Reads per second of the slow disk.
    pub const SLOW_DISK_READS: u32 = 300;
}
