//! Histograms as they are told: every bound is a series, of each histogram on each host.
//!
//! The kernel half counts between powers of two seconds (`sensor_ebpf::hist`).

use std::fmt::Error;

use prometheus_client::encoding::{MetricEncoder, NoLabelSet};
use sensor_ebpf::hist;
use serde::{Deserialize, Serialize};

/// How finely histograms are told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Buckets {
    /// Bounds at powers of four, from 15 us: 15 series each.
    #[default]
    Coarse,
    /// At powers of two, from 1 us: 30 series each.
    Fine,
}

/// Coarse bounds are every second one from this on, 2^-16 s: most reclaims take longer.
const COARSE_FROM: usize = 4;

impl Buckets {
    /// Whether the upper bound of bucket `i` is told; that of the last always is.
    fn tell(self, i: usize) -> bool {
        match self {
            Self::Fine => true,
            Self::Coarse => i == hist::BOUNDS || (i >= COARSE_FROM && i.is_multiple_of(2)),
        }
    }

    /// Upper bounds in seconds and how many are between it and the one before.
    fn of(self, counts: &[u64]) -> Vec<(f64, u64)> {
        let mut told = Vec::with_capacity(counts.len());
        let mut since = 0;
        for (i, n) in counts.iter().enumerate() {
            since += n;
            if self.tell(i) {
                told.push((hist::bound_seconds(i), since));
                since = 0;
            }
        }
        told
    }

    /// Writes a [`hist::Log2Seconds`], given as words.
    pub(super) fn write(self, encoder: &mut MetricEncoder, words: &[u64]) -> Result<(), Error> {
        let Some((sum_ns, counts)) = words.split_first() else { return Err(Error) };
        let sum = *sum_ns as f64 / 1e9;
        encoder.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &self.of(counts), None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn coarse_bounds_are_powers_of_four() {
        let told = Buckets::Coarse.of(&[1; hist::BOUNDS + 1]);
        let bounds: Vec<_> = told.iter().map(|(bound, _)| *bound).collect();
        let mut expected: Vec<_> = (-8..=3).map(|n| 4f64.powi(n)).collect();
        expected.push(f64::INFINITY);
        assert_eq!(bounds, expected);
        assert_eq!(told[0].1, 5, "all that took less are in the first");
        assert_eq!(Buckets::Fine.of(&[1; hist::BOUNDS + 1]).len(), hist::BOUNDS + 1);
    }

    proptest! {
        #[test]
        fn both_have_as_many_below_the_bounds_that_both_tell(
            counts in prop::collection::vec(0u64..1000, hist::BOUNDS + 1),
        ) {
            let below = |told: &[(f64, u64)], bound: f64| {
                told.iter().filter(|(b, _)| *b <= bound).map(|(_, n)| n).sum::<u64>()
            };
            let [coarse, fine] = [Buckets::Coarse, Buckets::Fine].map(|how| how.of(&counts));
            for (bound, _) in &coarse {
                prop_assert_eq!(below(&coarse, *bound), below(&fine, *bound), "{}", bound);
            }
        }
    }
}
