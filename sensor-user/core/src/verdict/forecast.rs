//! Forecasts when memory is exhausted if the present trend continues. Without a clear trend there
//! is no forecast.
//!
//! The slope is the median of the slopes between all pairs of points (Theil–Sen), so a spike or the
//! end of one process changes it little. There is a trend if three quarters of these slopes fall.

/// Most points that are compared, evenly spaced: a bound on the number of pairs.
const MAX_POINTS: usize = 32;
/// Fewest points for a trend.
const MIN_POINTS: usize = 5;
/// Shortest time for a trend: in less, any single allocation looks like one.
const MIN_SPAN_SECONDS: f64 = 4.0;
/// Longest forecast.
const MAX_SECONDS: f64 = 3600.0;

/// Seconds until no bytes are left, from points of (seconds, bytes left), oldest first.
pub fn seconds_until_none(points: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let points: Vec<_> = points.collect();
    let points: Vec<_> = evenly_spaced(&points).collect();
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
    let upper_quartile = *slopes.get(slopes.len() * 3 / 4)?;
    let median = *slopes.get(slopes.len() / 2)?;
    if upper_quartile >= 0.0 || median >= 0.0 {
        return None;
    }
    let seconds = last.1 / -median;
    (seconds <= MAX_SECONDS).then_some(seconds.max(0.0))
}

/// At most [`MAX_POINTS`] of the points, always with the newest.
fn evenly_spaced(points: &[(f64, f64)]) -> impl Iterator<Item = (f64, f64)> {
    let step = points.len().div_ceil(MAX_POINTS).max(1);
    let skip = points.len().saturating_sub(1) % step;
    points.iter().copied().skip(skip).step_by(step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIB: f64 = (1u64 << 30) as f64;

    fn line(seconds: u32, first: f64, per_second: f64) -> impl Iterator<Item = (f64, f64)> {
        (0..seconds).map(move |t| (f64::from(t), first + per_second * f64::from(t)))
    }

    #[test]
    fn a_steady_leak_is_forecast_exactly() {
        let left = seconds_until_none(line(30, GIB, -GIB / 100.0)).expect("a trend");
        assert!((left - 71.0).abs() < 0.5, "{left}");
    }

    #[test]
    fn without_a_trend_there_is_no_forecast() {
        for (case, points) in [
            ("constant", line(60, GIB, 0.0).collect::<Vec<_>>()),
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
            assert_eq!(seconds_until_none(points.into_iter()), None, "{case}");
        }
    }

    proptest! {
        #[test]
        fn noise_changes_the_forecast_little(noise in prop::collection::vec(-1e6..1e6f64, 60)) {
            let points = line(60, GIB, -GIB / 200.0).zip(noise).map(|((t, b), n)| (t, b + n));
            let left = seconds_until_none(points).expect("a trend");
            prop_assert!((left - 141.0).abs() < 10.0, "{left}");
        }

        #[test]
        fn any_forecast_is_within_its_range(
            points in prop::collection::vec((0.0..1e9f64, 0.0..1e12f64), 0..100),
        ) {
            if let Some(left) = seconds_until_none(points.into_iter()) {
                prop_assert!((0.0..=MAX_SECONDS).contains(&left));
            }
        }
    }
}
