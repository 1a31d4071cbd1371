//! The usual rules, over the same samples at the same cgroup. Pure.

use super::{SECOND, record::CgroupSample};

/// A rule that others use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    /// Less than a tenth can be had without swapping.
    Available,
    /// PSI `some`, the kernel's average over ten seconds, above 10 %.
    Some,
    /// systemd-oomd as it comes: PSI `full` above 60 % for 30 s.
    Oomd,
    /// earlyoom as it comes: less than a tenth can be had, and of swap less than a tenth is free.
    Earlyoom,
}

/// For how long systemd-oomd waits, in nanoseconds.
pub const OOMD_WAITS: u64 = 30 * SECOND;

impl Baseline {
    /// All.
    pub const ALL: [Self; 4] = [Self::Available, Self::Some, Self::Oomd, Self::Earlyoom];

    /// As it is called in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Available => "available < 10 %",
            Self::Some => "some avg10 > 10",
            Self::Oomd => "systemd-oomd",
            Self::Earlyoom => "earlyoom",
        }
    }

    /// When it first speaks; `swap` is what the cgroup may swap to, in bytes. For systemd-oomd: when
    /// it would, if what is at the end of the samples goes on.
    pub fn triggers_at(self, samples: &[CgroupSample], swap: u64) -> Option<u64> {
        let met = |look: &&CgroupSample| self.is_met(look, swap);
        if self != Self::Oomd {
            return samples.iter().find(met).map(CgroupSample::at_ns);
        }
        let mut since = None;
        for look in samples {
            if !met(&look) {
                since = None;
                continue;
            }
            let from = *since.get_or_insert(look.at_ns());
            if look.at_ns() - from >= OOMD_WAITS {
                break;
            }
        }
        since.map(|from: u64| from + OOMD_WAITS)
    }

    fn is_met(self, look: &CgroupSample, swap: u64) -> bool {
        let scarce = || {
            let total = look.reading.total_bytes.unwrap_or(0);
            look.reading.available_bytes.is_some_and(|free| free < total / 10)
        };
        match self {
            Self::Available => scarce(),
            Self::Some => look.some_avg10 > 10.0,
            Self::Oomd => look.full_avg10 > 60.0,
            Self::Earlyoom => {
                scarce() && look.reading.swap_free_bytes.unwrap_or(0).min(swap) <= swap / 10
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensor_user::verdict::reading::Reading;

    fn look(second: u64, available: u64, swap: u64, psi: [f64; 2]) -> CgroupSample {
        let reading = Reading {
            at_ns: second * SECOND,
            total_bytes: Some(100),
            available_bytes: Some(available),
            swap_free_bytes: Some(swap),
            ..Reading::default()
        };
        CgroupSample { reading, some_avg10: psi[0], full_avg10: psi[1] }
    }

    #[test]
    fn each_speaks_when_its_condition_is_met() {
        let samples = [
            look(0, 50, 50, [0.0, 0.0]),
            look(1, 9, 50, [0.0, 0.0]),
            look(2, 9, 5, [11.0, 61.0]),
            look(3, 9, 0, [80.0, 70.0]),
        ];
        let at = Baseline::ALL.map(|baseline| baseline.triggers_at(&samples, 50).map(|ns| ns / SECOND));
        assert_eq!(at, [Some(1), Some(2), Some(32), Some(2)]);
        let calm = Baseline::ALL.map(|baseline| baseline.triggers_at(&samples[..1], 50));
        assert_eq!(calm, [None; 4]);
    }

    #[test]
    fn oomd_waits_anew_after_a_better_moment() {
        let psi = [90.0, 90.0];
        let samples = [look(0, 50, 0, psi), look(20, 50, 0, [9.0, 9.0]), look(25, 50, 0, psi)];
        assert_eq!(Baseline::Oomd.triggers_at(&samples, 0), Some(55 * SECOND));
        let samples = [look(0, 50, 0, psi), look(31, 50, 0, psi), look(32, 50, 0, [0.0, 0.0])];
        assert_eq!(
            Baseline::Oomd.triggers_at(&samples, 0),
            Some(30 * SECOND),
            "and does not take it back"
        );
    }

    #[test]
    fn without_swap_earlyoom_looks_at_memory_only() {
        assert_eq!(Baseline::Earlyoom.triggers_at(&[look(1, 9, 0, [0.0; 2])], 0), Some(SECOND));
    }
}
