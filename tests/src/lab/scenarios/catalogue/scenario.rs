//! What a scenario is. Not here: the scenarios.

use crate::lab::scenarios::services::Service;

/// The author's expectation. The result is decided by the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// The service is harmed.
    Harm,
    /// The service is not harmed.
    Fine,
}

/// Thresholds may be tuned on one half; the other one validates them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// For tuning.
    Tune,
    /// Not used for tuning.
    HeldOut,
}

impl Half {
    /// Its name in tables and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tune => "tune",
            Self::HeldOut => "held-out",
        }
    }
}

/// The swap device of the cgroup, with its size in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// No swap.
    None,
    /// Swap as fast as memory.
    Fast(u64),
    /// Swap with 300 reads per second.
    Slow(u64),
    /// Compressed swap in memory (zram).
    Zram(u64),
}

impl Swap {
    /// Its size in MiB.
    pub const fn mib(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Fast(mib) | Self::Slow(mib) | Self::Zram(mib) => mib,
        }
    }
}

/// The cgroups, and which of them is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One cgroup for service and load.
    One,
    /// Service and load have sibling cgroups; their parent has the limit and is judged.
    NeighbourWatchAbove,
    /// The same, but the service's cgroup is judged.
    NeighbourWatchOwn,
    /// Sibling cgroups; only the load's has a limit, of so many MiB. The host is judged.
    NeighbourLimited(u64),
    /// Sibling cgroups without a limit; the host is judged.
    Unlimited,
}

/// What is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// A cgroup, as a named scope.
    Scope,
    /// The host.
    Host,
}

/// A service and a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// A description.
    pub about: &'static str,
    /// The author's expectation.
    pub expected: Expected,
    /// Its half.
    pub half: Half,
    /// The service that judges.
    pub service: Service,
    /// The service's data, all in its working set, in MiB.
    pub data: u64,
    /// Limit of the cgroup, or memory of the guest, in MiB.
    pub limit: u64,
    /// Whether it runs in a guest of its own, whose memory is the limit.
    pub guest: bool,
    /// The swap device.
    pub swap: Swap,
    /// Reads per second of the disk, if it is throttled.
    pub disk: Option<u32>,
    /// The cgroups.
    pub layout: Layout,
    /// Files that are on disk and not in the page cache: names and MiB.
    pub files: &'static [(&'static str, u64)],
    /// Loads that must be ready before the limit is set.
    pub before: &'static [&'static [&'static str]],
    /// Loads of the load phase.
    pub load: &'static [&'static [&'static str]],
    /// Duration of the load phase, in seconds.
    pub seconds: u64,
}

impl Scenario {
    /// What is judged.
    pub const fn judged(&self) -> Judged {
        match self.layout {
            Layout::NeighbourLimited(_) | Layout::Unlimited => Judged::Host,
            _ => Judged::Scope,
        }
    }
}

/// Defaults of the probe.
pub(super) const SYNTHETIC: Scenario = Scenario {
    name: "",
    about: "",
    expected: Expected::Fine,
    half: Half::Tune,
    service: Service::Probe,
    data: 8,
    limit: 128,
    guest: false,
    swap: Swap::None,
    disk: None,
    layout: Layout::One,
    files: &[],
    before: &[],
    load: &[],
    seconds: 15,
};
/// The same, with harm.
pub(super) const SYNTHETIC_HARM: Scenario = Scenario { expected: Expected::Harm, ..SYNTHETIC };
/// Reads per second of a slow disk.
pub(super) const SLOW_DISK: Option<u32> = Some(300);

/// Defaults by service: its data, and a limit in which it is at ease.
pub(super) const fn of(service: Service, half: Half, data: u64, limit: u64) -> Scenario {
    Scenario { half, service, data, limit, ..SYNTHETIC }
}
