//! When memory will be gone, if what happens now goes on. It abstains where there is no trend.
//!
//! The slope is the median of the slopes between all pairs of points (Theil–Sen): a spike, or a
//! process that ends, moves it little. There is a trend if three of four such slopes go down.

/// Points that are looked at, evenly chosen: a bound on the pairs.
const MAX_POINTS: usize = 32;
/// Fewer say nothing.
const MIN_POINTS: usize = 5;
/// Shorter, and any allocation looks like a trend.
const MIN_SPAN_SECONDS: f64 = 4.0;
/// Further away is no forecast.
const MAX_SECONDS: f64 = 3600.0;

/// Seconds until nothing is left, from points of (seconds, bytes left), oldest first.
pub fn seconds_until_none(points: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let all: Vec<_> = points.collect();
    let points: Vec<_> = thinned(&all).collect();
    let (first, last) = (points.first()?, points.last()?);
    if points.len() < MIN_POINTS || last.0 - first.0 < MIN_SPAN_SECONDS {
        return None;
    }
    let mut slopes: Vec<f64> = Vec::with_capacity(points.len() * points.len() / 2);
    for (i, a) in points.iter().enumerate() {
        slopes.extend(points[i + 1..].iter().map(|b| (b.1 - a.1) / (b.0 - a.0)));
    }
    slopes.retain(|slope| slope.is_finite());
    slopes.sort_by(f64::total_cmp);
    let steepest_upwards = *slopes.get(slopes.len() * 3 / 4)?;
    let median = *slopes.get(slopes.len() / 2)?;
    if steepest_upwards >= 0.0 || median >= 0.0 {
        return None;
    }
    let seconds = last.1 / -median;
    (seconds <= MAX_SECONDS).then_some(seconds.max(0.0))
}

/// At most [`MAX_POINTS`] of them, the newest always.
fn thinned(all: &[(f64, f64)]) -> impl Iterator<Item = (f64, f64)> {
    let step = all.len().div_ceil(MAX_POINTS).max(1);
    let skip = all.len().saturating_sub(1) % step;
    all.iter().copied().skip(skip).step_by(step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIB: f64 = (1u64 << 30) as f64;

    fn line(n: u32, from: f64, per_second: f64) -> impl Iterator<Item = (f64, f64)> {
        (0..n).map(move |t| (f64::from(t), from + per_second * f64::from(t)))
    }

    #[test]
    fn a_steady_leak_ends_when_it_does() {
        let left = seconds_until_none(line(30, GIB, -GIB / 100.0)).expect("a trend");
        assert!((left - 71.0).abs() < 0.5, "{left}");
    }

    #[test]
    fn without_a_trend_there_is_no_forecast() {
        for (what, points) in [
            ("flat", line(60, GIB, 0.0).collect::<Vec<_>>()),
            ("rising", line(60, GIB, 1e6).collect()),
            ("hours away", line(60, GIB, -1e3).collect()),
            ("too short", line(4, GIB, -1e8).collect()),
            (
                "one step down",
                (0..60).map(|t| (f64::from(t), if t < 50 { GIB } else { 1e8 })).collect(),
            ),
            (
                "back and forth",
                (0..60).map(|t| (f64::from(t), GIB - f64::from(t % 2) * 1e8)).collect(),
            ),
        ] {
            assert_eq!(seconds_until_none(points.into_iter()), None, "{what}");
        }
    }

    proptest! {
        #[test]
        fn noise_moves_it_little(noise in prop::collection::vec(-1e6..1e6f64, 60)) {
            let points = line(60, GIB, -GIB / 200.0).zip(noise).map(|((t, b), n)| (t, b + n));
            let left = seconds_until_none(points).expect("a trend");
            prop_assert!((left - 141.0).abs() < 10.0, "{left}");
        }

        #[test]
        fn it_never_panics_nor_goes_below_zero(points in prop::collection::vec((0.0..1e9f64, 0.0..1e12f64), 0..100)) {
            if let Some(left) = seconds_until_none(points.into_iter()) {
                prop_assert!((0.0..=MAX_SECONDS).contains(&left));
            }
        }
    }
}
