//! Log2 latency histograms, as the kernel half fills them and the user half renders them.
//!
//! Bounds are powers of two *seconds*, 2^-20 s (0.95 us) to 2^6 s (64 s), and +Inf: 28 buckets.
//! They are the bounds of a Prometheus native histogram of schema 0, so an export as a native
//! histogram would be exact. Arithmetic only, no maps.

/// Finite bounds, 2^-20 s to 2^6 s.
pub const BOUNDS: usize = 27;

/// Nanoseconds above which the multiplication in [`bucket`] would overflow are scaled first.
const WIDE_NS: u64 = 1 << 33;

/// 2^40 / (10^9 / 2^20): nanoseconds times this, shifted right by 40, are units of 2^-20 s.
const UNITS_PER_NS_Q40: u64 = 1_152_921_505;

/// A histogram in a probe's row: a sum and one counter per bucket.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Log2Seconds {
    /// Sum of all observations, in nanoseconds.
    pub sum_ns: u64,
    /// Observations per bucket (not cumulative); the last is +Inf.
    pub buckets: [u64; BOUNDS + 1],
}

/// Words that a [`Log2Seconds`] takes in a row.
pub const WORDS: usize = size_of::<Log2Seconds>() / 8;

/// Upper bound of bucket `i` in seconds; `INFINITY` for the last.
pub fn bound_seconds(i: usize) -> f64 {
    if i >= BOUNDS {
        return f64::INFINITY;
    }
    let exponent = i as u64 + 1023 - 20;
    f64::from_bits(exponent << 52)
}

/// The bucket that `ns` nanoseconds fall into.
#[inline(always)]
pub fn bucket(ns: u64) -> usize {
    let units = if ns < WIDE_NS {
        (ns * UNITS_PER_NS_Q40) >> 40
    } else {
        ((ns >> 10).min(u64::MAX / UNITS_PER_NS_Q40) * UNITS_PER_NS_Q40) >> 30
    };
    // units in [2^(i-1), 2^i) belongs below bound i, which is 2^i units.
    let i = (u64::BITS - units.leading_zeros()) as usize;
    if i < BOUNDS { i } else { BOUNDS }
}

impl Log2Seconds {
    /// Nothing observed.
    pub const EMPTY: Self = Self { sum_ns: 0, buckets: [0; BOUNDS + 1] };

    /// Adds one observation.
    #[inline(always)]
    pub fn observe(&mut self, ns: u64) {
        self.sum_ns += ns;
        let i = bucket(ns);
        if let Some(n) = self.buckets.get_mut(i) {
            *n += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds_are_powers_of_two_seconds() {
        assert!((bound_seconds(0) - 2f64.powi(-20)).abs() < f64::EPSILON);
        assert!((bound_seconds(20) - 1.0).abs() < f64::EPSILON);
        assert!((bound_seconds(26) - 64.0).abs() < f64::EPSILON);
        assert!(bound_seconds(27).is_infinite());
    }

    #[test]
    fn values_at_the_bounds_fall_into_the_right_bucket() {
        for (ns, want) in [
            (0, 0),
            (953, 0),
            (954, 1),
            (1_000_000_000 - 1, 20),
            (1_000_000_001, 21),
            (63_999_999_900, 26),
            (64_000_000_100, 27),
            (u64::MAX, 27),
        ] {
            assert_eq!(bucket(ns), want, "{ns} ns");
        }
    }

    proptest! {
        #[test]
        fn every_value_lies_between_its_bounds(ns in 0u64..200_000_000_000) {
            let i = bucket(ns);
            let s = ns as f64 / 1e9;
            prop_assert!(s <= bound_seconds(i) * (1.0 + 1e-8));
            if i > 0 {
                prop_assert!(s >= bound_seconds(i - 1) * (1.0 - 1e-8));
            }
        }

        #[test]
        fn a_longer_stall_is_never_in_a_lower_bucket(a: u64, b: u64) {
            let (a, b) = (a.min(b), a.max(b));
            prop_assert!(bucket(a) <= bucket(b));
        }
    }
}
