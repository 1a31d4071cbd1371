//! The scenarios, as data: a service that judges, and a load beside it.
//!
//! In the words of a load, `@NAME` is a file of [`Scenario::files`] and `%` a tmpfs. A load whose
//! first word is `sh` is a shell script in the directory of these files; the service's address is in
//! its environment. All other loads are programs of [`load`](super::load).

mod causes;
mod held_out;
mod synthetic;
mod tuned;

use super::services::Service;

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
}

impl Swap {
    /// Its size in MiB.
    pub const fn mib(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Fast(mib) | Self::Slow(mib) => mib,
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
    /// Limit of the cgroup, in MiB.
    pub limit: u64,
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
            Layout::NeighbourLimited(_) => Judged::Host,
            _ => Judged::Scope,
        }
    }
}

const SYNTHETIC: Scenario = Scenario {
    name: "",
    about: "",
    expected: Expected::Fine,
    half: Half::Tune,
    service: Service::Probe,
    data: 8,
    limit: 128,
    swap: Swap::None,
    disk: None,
    layout: Layout::One,
    files: &[],
    before: &[],
    load: &[],
    seconds: 15,
};
const SYNTHETIC_HARM: Scenario = Scenario { expected: Expected::Harm, ..SYNTHETIC };
const SLOW_DISK: Option<u32> = Some(300);

/// Defaults by service: its data, and a limit in which it is at ease.
const fn of(service: Service, half: Half, data: u64, limit: u64) -> Scenario {
    Scenario { service, half, data, limit, ..SYNTHETIC }
}

/// All scenarios.
pub fn all() -> impl Iterator<Item = &'static Scenario> + Clone {
    synthetic::ALL.iter().chain(tuned::ALL).chain(held_out::ALL)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_halves_are_balanced() {
        let names: BTreeSet<_> = all().map(|s| s.name).collect();
        assert_eq!(names.len(), all().count());
        for expected in [Expected::Harm, Expected::Fine] {
            let of = |half| {
                synthetic::ALL.iter().filter(|s| s.expected == expected && s.half == half).count()
            };
            assert!(of(Half::Tune).abs_diff(of(Half::HeldOut)) <= 1, "{expected:?}");
        }
    }

    #[test]
    fn real_services_are_either_tuned_or_held_out() {
        let services = |half| {
            let of = all().filter(move |s| s.half == half && s.service != Service::Probe);
            of.map(|s| s.service.name()).collect::<BTreeSet<_>>()
        };
        let (tuned, held_out) = (services(Half::Tune), services(Half::HeldOut));
        assert!(tuned.is_disjoint(&held_out), "{tuned:?} {held_out:?}");
        assert!(held_out.len() >= 3);
        let real = all().filter(|s| s.service != Service::Probe).count();
        assert!(real >= 40 && all().count() >= 60, "{real} of {}", all().count());
    }

    #[test]
    fn every_file_of_a_load_is_declared() {
        for s in all() {
            let words = s.before.iter().chain(s.load).flat_map(|words| words.iter());
            for name in words.filter_map(|word| word.strip_prefix('@')) {
                assert!(s.files.iter().any(|f| f.0 == name), "{}: {name}", s.name);
            }
        }
    }
}
