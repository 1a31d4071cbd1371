//! Common rules, evaluated on the same samples of the same cgroup. Pure.

use super::{SECOND, record::Sample};

/// A common rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    /// Available memory below a tenth.
    Available,
    /// PSI `some avg10` above 10 %.
    Some,
    /// systemd-oomd's default: PSI `full` above 60 % for 30 s.
    Oomd,
    /// earlyoom's default: available memory and free swap both below a tenth.
    Earlyoom,
}

/// Duration that systemd-oomd waits, in nanoseconds.
pub const OOMD_WAITS: u64 = 30 * SECOND;

impl Baseline {
    /// All rules.
    pub const ALL: [Self; 4] = [Self::Available, Self::Some, Self::Oomd, Self::Earlyoom];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Available => "available < 10 %",
            Self::Some => "some avg10 > 10",
            Self::Oomd => "systemd-oomd",
            Self::Earlyoom => "earlyoom",
        }
    }

    /// When it first triggers; `swap` is the size of the swap device in bytes. For systemd-oomd the
    /// pressure at the end of the samples is assumed to continue.
    pub fn triggers_at(self, samples: &[Sample], swap: u64) -> Option<u64> {
        let met = |sample: &&Sample| self.is_met(sample, swap);
        if self != Self::Oomd {
            return samples.iter().find(met).map(Sample::at_ns);
        }
        let mut since = None;
        for sample in samples {
            if !met(&sample) {
                since = None;
                continue;
            }
            let from = *since.get_or_insert(sample.at_ns());
            if sample.at_ns() - from >= OOMD_WAITS {
                break;
            }
        }
        since.map(|from: u64| from + OOMD_WAITS)
    }

    fn is_met(self, sample: &Sample, swap: u64) -> bool {
        let scarce = || {
            let total = sample.scope.total_bytes.unwrap_or(0);
            sample.scope.available_bytes.is_some_and(|free| free < total / 10)
        };
        match self {
            Self::Available => scarce(),
            Self::Some => sample.some_avg10 > 10.0,
            Self::Oomd => sample.full_avg10 > 60.0,
            Self::Earlyoom => {
                scarce() && sample.scope.swap_free_bytes.unwrap_or(0).min(swap) <= swap / 10
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

    #[test]
    fn each_triggers_when_its_condition_is_met() {
        let samples = [
            sample(0, 50, 50, [0.0, 0.0]),
            sample(1, 9, 50, [0.0, 0.0]),
            sample(2, 9, 5, [11.0, 61.0]),
            sample(3, 9, 0, [80.0, 70.0]),
        ];
        let at =
            Baseline::ALL.map(|baseline| baseline.triggers_at(&samples, 50).map(|ns| ns / SECOND));
        assert_eq!(at, [Some(1), Some(2), Some(32), Some(2)]);
        let calm = Baseline::ALL.map(|baseline| baseline.triggers_at(&samples[..1], 50));
        assert_eq!(calm, [None; 4]);
    }

    #[test]
    fn oomd_restarts_its_wait_when_pressure_falls() {
        let psi = [90.0, 90.0];
        let samples =
            [sample(0, 50, 0, psi), sample(20, 50, 0, [9.0, 9.0]), sample(25, 50, 0, psi)];
        assert_eq!(Baseline::Oomd.triggers_at(&samples, 0), Some(55 * SECOND));
        let samples =
            [sample(0, 50, 0, psi), sample(31, 50, 0, psi), sample(32, 50, 0, [0.0, 0.0])];
        assert_eq!(
            Baseline::Oomd.triggers_at(&samples, 0),
            Some(30 * SECOND),
            "pressure that falls later changes nothing"
        );
    }

    #[test]
    fn without_swap_earlyoom_checks_memory_only() {
        assert_eq!(Baseline::Earlyoom.triggers_at(&[sample(1, 9, 0, [0.0; 2])], 0), Some(SECOND));
    }
}
