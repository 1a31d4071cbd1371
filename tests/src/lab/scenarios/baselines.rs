//! Common rules as policies of a balancer, evaluated on the same samples of what memsensor judges: a
//! server gets no traffic while the rule holds. Pure.

use super::{
    SECOND,
    catalogue::{Judged, Scenario},
    record::Sample,
};
use crate::support::scope::MIB;

/// A common rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    /// Available memory below a tenth.
    Available,
    /// PSI `some avg10` above 10 %.
    Some,
    /// PSI `full avg10` above 10 %.
    Full,
    /// systemd-oomd's default: PSI `full` above 60 % for 30 s.
    Oomd,
    /// earlyoom's default: available memory and free swap both below a tenth.
    Earlyoom,
    /// The alert NodeMemoryHighUtilization of node-mixin: available memory below a tenth for 15 min.
    NodeMixin,
}

impl Baseline {
    /// All rules.
    pub const ALL: [Self; 6] =
        [Self::Available, Self::Some, Self::Full, Self::Oomd, Self::Earlyoom, Self::NodeMixin];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Available => "available < 10 %",
            Self::Some => "some avg10 > 10",
            Self::Full => "full avg10 > 10",
            Self::Oomd => "systemd-oomd",
            Self::Earlyoom => "earlyoom",
            Self::NodeMixin => "node-mixin",
        }
    }

    /// How long its condition must hold, in nanoseconds.
    const fn waits(self) -> u64 {
        match self {
            Self::Oomd => 30 * SECOND,
            Self::NodeMixin => 15 * 60 * SECOND,
            _ => 0,
        }
    }

    /// Whether it holds at each sample.
    pub fn holds(self, samples: &[Sample], scenario: &Scenario) -> Vec<bool> {
        let mut since = None;
        let holds = |sample: &Sample| {
            if !self.is_met(sample, scenario) {
                since = None;
                return false;
            }
            let from = *since.get_or_insert(sample.at_ns());
            sample.at_ns() - from >= self.waits()
        };
        samples.iter().map(holds).collect()
    }

    /// When it first holds.
    pub fn triggers_at(self, samples: &[Sample], scenario: &Scenario) -> Option<u64> {
        let first = self.holds(samples, scenario).iter().position(|holds| *holds)?;
        samples.get(first).map(Sample::at_ns)
    }

    fn is_met(self, sample: &Sample, scenario: &Scenario) -> bool {
        let reading = match scenario.judged() {
            Judged::Scope => &sample.scope,
            Judged::Host => &sample.host,
        };
        // The run's own swap; the limit of a cgroup has more.
        let swap = scenario.swap.mib() * MIB;
        let scarce = || {
            let total = reading.total_bytes.unwrap_or(0);
            reading.available_bytes.is_some_and(|free| free < total / 10)
        };
        match self {
            Self::Available | Self::NodeMixin => scarce(),
            Self::Some => sample.some_avg10 > 10.0,
            Self::Full => sample.full_avg10 > 10.0,
            Self::Oomd => sample.full_avg10 > 60.0,
            Self::Earlyoom => {
                scarce() && reading.swap_free_bytes.unwrap_or(0).min(swap) <= swap / 10
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::scenarios::catalogue;
    use sensor_core::verdict::reading::Reading;

    fn sample(second: u64, available: u64, swap: u64, psi: [f64; 2]) -> Sample {
        let scope = Reading {
            at_ns: second * SECOND,
            total_bytes: Some(100),
            available_bytes: Some(available),
            swap_free_bytes: Some(swap),
            ..Reading::default()
        };
        Sample { scope, some_avg10: psi[0], full_avg10: psi[1], ..Sample::default() }
    }

    fn with_swap(mib: u64) -> Scenario {
        let swap = catalogue::Swap::Fast(mib);
        Scenario { swap, ..*catalogue::all().next().expect("a scenario") }
    }

    #[test]
    fn each_triggers_when_its_condition_is_met() {
        let samples = [
            sample(0, 50, 50 << 20, [0.0, 0.0]),
            sample(1, 9, 50 << 20, [0.0, 0.0]),
            sample(2, 9, 5 << 20, [11.0, 61.0]),
            sample(32, 9, 0, [80.0, 70.0]),
            sample(950, 9, 0, [80.0, 70.0]),
        ];
        let at = |samples: &[Sample]| {
            let scenario = with_swap(50);
            Baseline::ALL.map(|rule| rule.triggers_at(samples, &scenario).map(|ns| ns / SECOND))
        };
        assert_eq!(at(&samples), [Some(1), Some(2), Some(2), Some(32), Some(2), Some(950)]);
        assert_eq!(at(&samples[..1]), [None; Baseline::ALL.len()]);
    }

    #[test]
    fn oomd_restarts_its_wait_when_pressure_falls() {
        let psi = [90.0, 90.0];
        let samples = [
            sample(0, 50, 0, psi),
            sample(20, 50, 0, [9.0, 9.0]),
            sample(25, 50, 0, psi),
            sample(50, 50, 0, psi),
            sample(55, 50, 0, psi),
            sample(56, 50, 0, [9.0, 9.0]),
        ];
        let holds = Baseline::Oomd.holds(&samples, &with_swap(50));
        assert_eq!(holds, [false, false, false, false, true, false]);
    }

    #[test]
    fn without_swap_earlyoom_checks_memory_only() {
        let samples = [sample(1, 9, 0, [0.0; 2])];
        assert_eq!(Baseline::Earlyoom.triggers_at(&samples, &with_swap(0)), Some(SECOND));
    }
}
