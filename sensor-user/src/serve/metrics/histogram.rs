//! Histograms with coarse or fine bounds: every bound is a series, of each histogram on each host.
//!
//! The kernel half counts between powers of two seconds (`sensor_ebpf::hist`).

use std::fmt::Error;

use prometheus_client::encoding::{MetricEncoder, NoLabelSet};
use sensor_ebpf::hist;

use crate::serve::state::settings::Buckets;

/// Coarse bounds are every second one from this on, 2^-16 s: most reclaims take longer.
const COARSE_FROM: usize = 4;

/// Whether bucket `i` has an upper bound in the output; the last one always has.
fn has_bound(resolution: Buckets, i: usize) -> bool {
    match resolution {
        Buckets::Fine => true,
        Buckets::Coarse => i == hist::BOUNDS || (i >= COARSE_FROM && i.is_multiple_of(2)),
    }
}

/// Upper bounds in seconds, each with the count since the bound before.
fn buckets(resolution: Buckets, counts: &[u64]) -> Vec<(f64, u64)> {
    let mut buckets = Vec::with_capacity(counts.len());
    let mut since = 0;
    for (i, n) in counts.iter().enumerate() {
        since += n;
        if has_bound(resolution, i) {
            buckets.push((hist::bound_seconds(i), since));
            since = 0;
        }
    }
    buckets
}

/// Writes a [`hist::Log2Seconds`], given as words.
pub(super) fn encode(
    encoder: &mut MetricEncoder,
    resolution: Buckets,
    words: &[u64],
) -> Result<(), Error> {
    let Some((sum_ns, counts)) = words.split_first() else { return Err(Error) };
    let (sum, count) = (*sum_ns as f64 / 1e9, counts.iter().sum());
    encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets(resolution, counts), None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn coarse_bounds_are_powers_of_four() {
        let coarse = buckets(Buckets::Coarse, &[1; hist::BOUNDS + 1]);
        let bounds: Vec<_> = coarse.iter().map(|(bound, _)| *bound).collect();
        let mut expected: Vec<_> = (-8..=3).map(|n| 4f64.powi(n)).collect();
        expected.push(f64::INFINITY);
        assert_eq!(bounds, expected);
        assert_eq!(coarse[0].1, 5, "all shorter ones are in the first bucket");
        assert_eq!(buckets(Buckets::Fine, &[1; hist::BOUNDS + 1]).len(), hist::BOUNDS + 1);
    }

    proptest! {
        #[test]
        fn both_resolutions_agree_at_common_bounds(
            counts in prop::collection::vec(0u64..1000, hist::BOUNDS + 1),
        ) {
            let below = |buckets: &[(f64, u64)], bound: f64| {
                buckets.iter().filter(|(b, _)| *b <= bound).map(|(_, n)| n).sum::<u64>()
            };
            let resolutions = [Buckets::Coarse, Buckets::Fine];
            let [coarse, fine] = resolutions.map(|resolution| buckets(resolution, &counts));
            for (bound, _) in &coarse {
                prop_assert_eq!(below(&coarse, *bound), below(&fine, *bound), "{}", bound);
            }
        }
    }
}
