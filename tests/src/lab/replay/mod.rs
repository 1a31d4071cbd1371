//! The run of web-01, replayed with real programs: `HAProxy` in front of two hosts with nginx and an
//! application, steady user_stats, and an agent that leaks on web-01 until it thrashes.
//!
//! A host is a network namespace and a memory cgroup with a limit; memsensor runs on each, outside of
//! the cgroup that it judges. What the user_stats met is the result.
//!
//! * [`net`]: the namespaces and cables.
//! * [`web`]: a host: nginx, the application, the agent, memsensor.
//! * [`balancer`]: `HAProxy`, with the configuration that we ship.
//! * [`traffic`]: user_stats, who come whether or not others have been served.
//! * [`watch`]: what PSI, memsensor and `HAProxy` say, and when.
//! * [`run`]: what happens when.
//! * [`reaction`], [`report`]: what follows from that, in numbers and tables; pure.

pub mod balancer;
pub mod net;
pub mod reaction;
pub mod run;
pub mod traffic;
pub mod report;
pub mod watch;
pub mod web;

/// Who decides where requests go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckMode {
    /// Nobody: HAProxy without a check, in turns.
    Unchecked,
    /// HAProxy's plain check of the web server, in turns.
    Check,
    /// The shipped configuration without memsensor: the check, and whoever has fewer open.
    Unsensed,
    /// The shipped configuration: memsensor and the plain check.
    Memsensor,
}

/// What there is when memory runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwapSpeed {
    /// No swap, and a tired disk: page cache goes and is read again, and nothing is killed.
    None,
    /// Swap as fast as memory.
    Fast,
    /// Swap like a tired disk.
    Slow,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// An agent leaks on web-01, and is removed later.
    Leak,
    /// It does on both hosts.
    Fleet,
    /// Everything on web-01 stands still for a while, memsensor too.
    Freeze,
}

macro_rules! words {
    ($kind:ident: $($id:ident $word:literal),*) => {
        impl $kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$id,)*];

            /// Its name on the command line and in tables.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$id => $word,)* }
            }
        }
    };
}

words!(CheckMode: Unchecked "unchecked", Check "check", Unsensed "unsensed", Memsensor "memsensor");
words!(SwapSpeed: None "none", Fast "fast", Slow "slow");
words!(Variant: Leak "leak", Fleet "fleet", Freeze "freeze");

/// How fast the user_stats ask, how long things take, how big they are.
pub mod scale {
    use std::time::Duration;

    use crate::support::scope::MIB;

    /// Requests per second.
    pub const RATE: u32 = 100;
    /// How long a user waits; then the request has failed.
    pub const PATIENCE: Duration = Duration::from_secs(5);
    /// Before anything happens.
    pub const CALM: Duration = Duration::from_secs(10);
    /// From the first stall until the agent is removed.
    pub const THRASH: Duration = Duration::from_secs(20);
    /// Most that the leak takes until there is a stall.
    pub const LEAK: Duration = Duration::from_secs(20);
    /// Most that is waited for full weight: after OOM kills it takes a minute and a half.
    pub const RECOVERY: Duration = Duration::from_secs(110);
    /// At the end, without anything that tells of weights.
    pub const AFTER: Duration = Duration::from_secs(15);
    /// A host's memory.
    pub const LIMIT: u64 = 160 * MIB;
    /// What the application keeps in memory, and in a file, in MiB.
    pub const WORKING_SET: u64 = 48;
    /// See [`WORKING_SET`].
    pub const FILE: u64 = 32;
    /// What the agent takes in all, in MiB: with swap it never has enough.
    pub const AGENT: u64 = 200;
    /// Without swap: less than would be killed for, and too much for the file to stay in memory.
    pub const AGENT_NO_SWAP: u64 = 92;
    /// How much more it takes each second.
    pub const AGENT_RATE: u64 = 12;
    /// Reads per second of the tired disk.
    pub const SLOW_DISK_READS: u32 = 300;
}
