//! The score of a policy: user-seconds lost, and capacity given away without need, against an
//! oracle that knows the future and withholds a server exactly while its requests would be slow.
//! Pure; time and units are the caller's.
//!
//! Not here: how a second is measured.

use std::{
    fmt::Write as _,
    iter::Sum,
    ops::{Add, RangeInclusive},
};

/// A user-second lost counts as so many seconds of one server's capacity withheld. Fixed before
/// anything was measured.
pub const EXCHANGE: u32 = 10;

/// The exchange rates of [`sweep`].
pub const RATES: RangeInclusive<u32> = 1..=100;

/// A request is lost if it fails or takes so many times the calm 99th percentile.
pub const SLOW_TIMES: u32 = 5;

/// The calm 99th percentile counts as at least so many milliseconds.
pub const CALM_FLOOR_MS: u64 = 2;

/// One second of one server.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Second {
    /// Share of the users' requests that were lost.
    pub lost: f64,
    /// Share of the server's weight that was withheld.
    pub withheld: f64,
    /// Whether the oracle would have withheld the server.
    pub needed: bool,
}

/// User-seconds lost, and seconds of a server's capacity withheld without need.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// User-seconds lost.
    pub lost: f64,
    /// Server-seconds withheld without need.
    pub withheld: f64,
}

impl Score {
    /// Of these seconds.
    pub fn of(seconds: impl IntoIterator<Item = Second>) -> Self {
        let one =
            |s: Second| Self { lost: s.lost, withheld: if s.needed { 0.0 } else { s.withheld } };
        seconds.into_iter().map(one).sum()
    }

    /// Both in seconds of one server's capacity, at an exchange rate. Less is better.
    pub fn total(self, rate: u32) -> f64 {
        f64::from(rate).mul_add(self.lost, self.withheld)
    }
}

impl Add for Score {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { lost: self.lost + other.lost, withheld: self.withheld + other.withheld }
    }
}

impl Sum for Score {
    fn sum<I: Iterator<Item = Self>>(scores: I) -> Self {
        scores.fold(Self::default(), Add::add)
    }
}

/// The index of the best score at a rate; of equal ones the first.
pub fn best(scores: &[Score], rate: u32) -> Option<usize> {
    (0..scores.len()).min_by(|a, b| scores[*a].total(rate).total_cmp(&scores[*b].total(rate)))
}

/// The best at each of [`RATES`], as ranges of rates with an index.
pub fn sweep(scores: &[Score]) -> Vec<(RangeInclusive<u32>, usize)> {
    let mut ranges: Vec<(RangeInclusive<u32>, usize)> = Vec::new();
    for rate in RATES {
        let Some(best) = best(scores, rate) else { return ranges };
        match ranges.last_mut() {
            Some((range, index)) if *index == best => *range = *range.start()..=rate,
            _ => ranges.push((rate..=rate, best)),
        }
    }
    ranges
}

/// The sweep in words: `1 to 7: check; 8 to 100: memsensor`.
pub fn sweep_text(scores: &[Score], names: &[&str]) -> String {
    let mut out = String::new();
    for (range, index) in sweep(scores) {
        let separator = if out.is_empty() { "" } else { "; " };
        let name = names.get(index).copied().unwrap_or("?");
        let _ = write!(out, "{separator}{} to {}: {name}", range.start(), range.end());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn second(lost: f64, withheld: f64, needed: bool) -> Second {
        Second { lost, withheld, needed }
    }

    #[test]
    fn only_what_is_withheld_without_need_counts() {
        for (seconds, lost, withheld) in [
            (&[][..], 0.0, 0.0),
            (&[second(0.5, 0.0, true), second(0.25, 0.0, false)], 0.75, 0.0),
            (&[second(0.0, 1.0, true), second(0.0, 1.0, true)], 0.0, 0.0),
            (&[second(0.0, 1.0, false), second(0.0, 0.5, false)], 0.0, 1.5),
            (&[second(1.0, 0.75, false), second(0.0, 0.75, true)], 1.0, 0.75),
        ] {
            let score = Score::of(seconds.iter().copied());
            assert_eq!((score.lost, score.withheld), (lost, withheld), "{seconds:?}");
        }
    }

    #[test]
    fn a_user_second_counts_as_often_as_the_rate_says() {
        let score = Score { lost: 2.0, withheld: 3.0 };
        for (rate, total) in [(1, 5.0), (10, 23.0), (100, 203.0)] {
            assert!((score.total(rate) - total).abs() < 1e-9, "{rate}");
        }
        let sum: Score = [score, Score { lost: 0.5, withheld: 1.0 }].into_iter().sum();
        assert_eq!(sum, Score { lost: 2.5, withheld: 4.0 });
    }

    #[test]
    fn the_best_changes_where_the_totals_cross() {
        let none = Score { lost: 1.0, withheld: 0.0 };
        let eager = Score { lost: 0.0, withheld: 20.5 };
        let between = Score { lost: 0.5, withheld: 3.0 };
        for (scores, ranges) in [
            (&[][..], vec![]),
            (&[none], vec![(1..=100, 0)]),
            // The first of equal ones.
            (&[none, none], vec![(1..=100, 0)]),
            (&[none, eager], vec![(1..=20, 0), (21..=100, 1)]),
            // Equal at 6, and again at 35.
            (&[none, eager, between], vec![(1..=6, 0), (7..=34, 2), (35..=100, 1)]),
        ] {
            assert_eq!(sweep(scores), ranges, "{scores:?}");
        }
        let text = sweep_text(&[none, eager], &["none", "eager"]);
        assert_eq!(text, "1 to 20: none; 21 to 100: eager");
    }
}
