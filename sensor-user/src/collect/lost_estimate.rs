//! Estimates the pages that a cgroup on v1 has lost from its working set. Its memory.stat has only
//! `workingset_refault_*`; the host's vmstat also has `workingset_activate_file`. Pure.

use sensor_core::verdict::reading::Reading;

/// Time constant of the ratio.
const SECONDS: f64 = 10.0;
const PAGE: f64 = 4096.0;

/// Applies the host's present ratio of lost pages to refaults to the refaults of a cgroup.
#[derive(Debug, Default)]
pub(super) struct LostEstimate {
    last: Option<Counters>,
    /// Decayed sums of the host's bytes.
    lost: f64,
    refaulted: f64,
    sum: u64,
}

#[derive(Debug, Clone, Copy)]
struct Counters {
    at_ns: u64,
    host_lost: u64,
    host_refaulted: u64,
    refaulted: u64,
}

impl LostEstimate {
    /// Bytes lost since the first call; `None` if the host or the cgroup has no counters. Never
    /// falls.
    pub(super) fn update(&mut self, host: &Reading, refaulted: Option<u64>) -> Option<u64> {
        let now = Counters {
            at_ns: host.at_ns,
            host_lost: host.lost_bytes?,
            host_refaulted: host.refaulted_bytes?,
            refaulted: refaulted?,
        };
        if let Some(last) = self.last.replace(now) {
            let seconds = now.at_ns.saturating_sub(last.at_ns) as f64 / 1e9;
            let factor = (-seconds / SECONDS).exp();
            let rise = |from: u64, to: u64| to.saturating_sub(from) as f64;
            self.lost = self.lost.mul_add(factor, rise(last.host_lost, now.host_lost));
            self.refaulted =
                self.refaulted.mul_add(factor, rise(last.host_refaulted, now.host_refaulted));
            let lost = rise(last.refaulted, now.refaulted) * self.ratio();
            self.sum = self.sum.saturating_add(whole(lost));
        }
        Some(self.sum)
    }

    fn ratio(&self) -> f64 {
        if self.refaulted < PAGE { 1.0 } else { (self.lost / self.refaulted).clamp(0.0, 1.0) }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a part of a u64, so it is neither negative nor too large; the cast saturates"
)]
const fn whole(bytes: f64) -> u64 {
    bytes as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn refaults_count_as_far_as_the_hosts_do() {
        for (lost_percent, expected) in [(0, 0), (25, 250), (100, 1000)] {
            let mut estimate = LostEstimate::default();
            let mut at = |second: u64| {
                let host = Reading {
                    at_ns: second * SECOND,
                    refaulted_bytes: Some(second * (8 << 20)),
                    lost_bytes: Some(second * (8 << 20) * lost_percent / 100),
                    ..Reading::default()
                };
                estimate.update(&host, Some(second * 100))
            };
            assert_eq!(at(1), Some(0), "the first reading");
            let last = (2..=11).map(&mut at).last().flatten();
            assert_eq!(last, Some(expected), "{lost_percent} %");
        }
    }

    #[test]
    fn without_counters_there_is_no_estimate() {
        let mut estimate = LostEstimate::default();
        let known = Reading { refaulted_bytes: Some(1), lost_bytes: Some(1), ..Reading::default() };
        assert_eq!(estimate.update(&Reading::default(), Some(1)), None);
        assert_eq!(estimate.update(&known, None), None);
        assert_eq!(estimate.update(&known, Some(1)), Some(0));
    }
}
