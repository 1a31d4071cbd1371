//! Counters of which a reader sees only the present value: how far they rose since the last
//! reading, by the ways in which they can fall.
//!
//! | counter | it falls when | policy |
//! |---|---|---|
//! | stalls of a host or scope | one ends during the reading, or has no end | [`SteadyCounter`] |
//! | the same of a cgroup, by cause | the same, or its entry was evicted | [`rise_of_clock`] |
//! | histogram of a cgroup | it was evicted | [`rise_of_words`] |
//! | file of a cgroup | the cgroup was created again | [`FileCounter`] |
//!
//! [`MergedCounter`] counts what two sources report of the same events.

use std::time::Duration;

/// Nanoseconds of a duration; the largest value if they do not fit (584 years).
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A counter over a source that falls at times. It never falls itself.
///
/// Most falls are made up by the next reading: a stall that ends while two maps are read is in
/// neither. Others are for good: a stall in progress whose end was missed is dropped. After those
/// the counter goes on from the lower value, so later stalls count at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SteadyCounter {
    value: u64,
    /// What the source lost for good.
    dropped: u64,
    /// The source at its fall, until that is made up.
    fallen_to: Option<u64>,
}

impl SteadyCounter {
    /// A counter that is at `value` when the source is.
    pub const fn starting_at(value: u64) -> Self {
        Self { value, dropped: 0, fallen_to: None }
    }

    /// Whether the source is still below the counter.
    pub const fn is_behind(&self) -> bool {
        self.fallen_to.is_some()
    }

    /// Takes the present value of the source; returns the counter. `for_good`: if the source is
    /// below the counter, it will not make that up.
    pub fn update(&mut self, now: u64, for_good: bool) -> u64 {
        if now.saturating_add(self.dropped) >= self.value {
            self.value = now.saturating_add(self.dropped);
            self.fallen_to = None;
            return self.value;
        }
        let lowest = self.fallen_to.map_or(now, |fallen| fallen.min(now));
        if for_good {
            self.dropped = self.value - lowest;
            self.value = now.saturating_add(self.dropped);
            self.fallen_to = None;
        } else {
            self.fallen_to = Some(lowest);
        }
        self.value
    }
}

/// How far a stall clock rose above the highest value that was read, which it replaces.
///
/// While a stall is being charged it may be missing or counted twice, and part of it may be charged
/// to another cause: so a value that is slightly lower is ignored until the clock passes the
/// highest one again. A value below half was evicted and started again at 0, or a stall whose end
/// was missed was dropped: the clock rises from there. The past does not count again.
pub fn rise_of_clock(highest: &mut u64, now: u64) -> u64 {
    if now < *highest / 2 {
        *highest = now;
    }
    let rose = now.saturating_sub(*highest);
    *highest = now.max(*highest);
    rose
}

/// How far each word rose. If one fell, the kernel half evicted the entry and all started again at
/// 0.
pub fn rise_of_words<const N: usize>(now: &[u64; N], last: &[u64; N]) -> [u64; N] {
    let restarted = now.iter().zip(last).any(|(now, last)| now < last);
    std::array::from_fn(|i| if restarted { now[i] } else { now[i] - last[i] })
}

/// How far a counter in a cgroup's file rose, over all cgroups that had this path. The first value
/// was there before us and counts nothing; a lower one is that of a new cgroup.
#[derive(Debug, Default)]
pub struct FileCounter {
    last: Option<u64>,
    sum: u64,
}

impl FileCounter {
    /// Takes the present value; returns the sum of all rises.
    pub fn update(&mut self, now: u64) -> u64 {
        let from = self.last.replace(now).map_or(now, |last| if last <= now { last } else { 0 });
        self.sum = self.sum.saturating_add(now - from);
        self.sum
    }
}

/// Counts events that two sources report. Either may miss one, and one may report the same event a
/// little later: so the larger rise counts, from when both were last at rest.
#[derive(Debug, Default)]
pub struct MergedCounter {
    sum: u64,
    from: [u64; 2],
    last: [u64; 2],
    moved_ns: u64,
}

/// By then the slower of the two sources has reported.
const SETTLED_NS: u64 = 5_000_000_000;

impl MergedCounter {
    /// Takes the present values of both sources; returns the events so far, or `None` if neither
    /// counts.
    pub fn update(&mut self, now_ns: u64, sources: [Option<u64>; 2]) -> Option<u64> {
        let now = [0, 1].map(|i| sources[i].unwrap_or(self.last[i]));
        let rose = |from: [u64; 2], to: [u64; 2]| {
            to[0].saturating_sub(from[0]).max(to[1].saturating_sub(from[1]))
        };
        if now_ns.saturating_sub(self.moved_ns) >= SETTLED_NS {
            self.sum = self.sum.saturating_add(rose(self.from, self.last));
            self.from = self.last;
        }
        if now != self.last {
            (self.last, self.moved_ns) = (now, now_ns);
        }
        let counted = sources.iter().any(Option::is_some);
        counted.then(|| self.sum.saturating_add(rose(self.from, now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_one_of_two_sources_misses_counts_once() {
        let (first, second) = (|n| [Some(n), None], |n| [None, Some(n)]);
        let both = |a, b| [Some(a), Some(b)];
        for (case, readings, expected) in [
            (
                "the second misses one, then it alone sees the next",
                &[(1, both(1, 0)), (20, both(1, 1))][..],
                2,
            ),
            ("the same with the sources exchanged", &[(1, both(0, 1)), (20, both(1, 1))], 2),
            ("the second reports a little later", &[(1, both(1, 0)), (2, both(1, 1))], 1),
            ("the first does", &[(1, both(0, 1)), (2, both(1, 1)), (30, both(1, 1))], 1),
            ("two at once", &[(1, both(1, 2)), (2, both(2, 2))], 2),
            (
                "one after the other, each late",
                &[(1, both(1, 0)), (2, both(2, 1)), (3, both(2, 2))],
                2,
            ),
            ("no second source", &[(1, first(1)), (20, first(2))], 2),
            ("no first source", &[(1, second(1)), (20, second(2))], 2),
            (
                "the first cannot be read once",
                &[(1, both(2, 1)), (2, second(1)), (3, both(2, 1))],
                2,
            ),
        ] {
            let mut counter = MergedCounter::default();
            assert_eq!(counter.update(0, [None, None]), None, "neither counts");
            let counts: Vec<_> =
                readings.iter().map(|(s, both)| counter.update(s * 1_000_000_000, *both)).collect();
            assert!(counts.is_sorted(), "{case}: {counts:?}");
            assert_eq!(counts.last(), Some(&Some(expected)), "{case}");
        }
    }

    #[test]
    fn a_file_counter_goes_on_over_the_lives_of_a_cgroup() {
        let mut counter = FileCounter::default();
        let sums = [5, 5, 7, 0, 1, 1].map(|now| counter.update(now));
        assert_eq!(sums, [0, 0, 2, 2, 3, 3]);
    }

    #[test]
    fn a_clock_ignores_a_small_fall_and_never_counts_the_past_again() {
        let mut highest = 0;
        let rises = [100, 90, 110, 40, 60].map(|now| rise_of_clock(&mut highest, now));
        assert_eq!(rises, [100, 0, 10, 0, 20]);
        assert_eq!(rise_of_words(&[3, 5], &[1, 5]), [2, 0]);
        assert_eq!(rise_of_words(&[3, 4], &[1, 5]), [3, 4]);
    }

    #[test]
    fn a_steady_counter_follows_its_source_after_a_fall() {
        for (case, readings, expected) in [
            ("rises", &[(5, false), (7, true)][..], &[5, 7][..]),
            ("made up by the next", &[(100, false), (90, false), (101, false)], &[100, 100, 101]),
            ("for good", &[(3600, false), (10, true), (13, false)], &[3600, 3600, 3603]),
            (
                "known to be for good one reading later",
                &[(3600, false), (10, false), (13, true), (14, false)],
                &[3600, 3600, 3603, 3604],
            ),
            (
                "falls again meanwhile",
                &[(50, false), (10, false), (4, true), (5, false)],
                &[50, 50, 50, 51],
            ),
        ] {
            let mut counter = SteadyCounter::default();
            let values: Vec<_> =
                readings.iter().map(|(now, good)| counter.update(*now, *good)).collect();
            assert_eq!(values, expected, "{case}");
        }
    }
}
