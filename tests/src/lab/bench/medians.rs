//! Medians with confidence intervals from order statistics, without assumptions about the
//! distribution. Pure.

/// The median of `values`; NaN if there are none.
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The confidence interval (at least 95 %) of the median; `None` below six values, where no two
/// values are that certain to enclose it.
pub fn interval(values: &[f64]) -> Option<(f64, f64)> {
    let sorted = sorted(values);
    let n = sorted.len();
    // The number of values below the true median is binomial(n, 1/2). Cut from both ends as many as
    // leave less than 2.5 % on each side.
    let mut probability = 0.5f64.powi(i32::try_from(n).ok()?);
    let mut tail = probability;
    let mut cut = None;
    for k in 0..n / 2 {
        if tail > 0.025 {
            break;
        }
        cut = Some(k);
        probability *= (n - k) as f64 / (k + 1) as f64;
        tail += probability;
    }
    cut.map(|k| (sorted[k], sorted[n - 1 - k]))
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert!(close(median(&[3.0, 1.0, 2.0]), 2.0));
        assert!(close(median(&[4.0, 1.0, 2.0, 3.0]), 2.5));
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_interval_is_that_of_the_sign_test() {
        // From tables: n = 6: 1st to 6th, n = 10: 2nd to 9th, n = 20: 6th to 15th.
        let first = |n: u32| interval(&(1..=n).map(f64::from).collect::<Vec<_>>());
        assert_eq!(first(5), None);
        for (n, low, high) in [(6, 1.0, 6.0), (10, 2.0, 9.0), (20, 6.0, 15.0)] {
            let (a, b) = first(n).expect("enough values");
            assert!(close(a, low) && close(b, high), "{n}: {a} to {b}");
        }
    }
}
