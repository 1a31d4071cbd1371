//! The stall clock of a scope without PSI: one counter over its cgroup and the descendants, which
//! are created and removed. Pure.

use std::collections::BTreeMap;

use sensor_core::common::counter::SteadyCounter;

/// A cgroup that was not listed for this long was removed: cgroups are listed once a minute, and
/// one listing may be incomplete.
const REMOVED_AFTER_NS: u64 = 150_000_000_000;

/// Nanoseconds that tasks stalled since the first update. Never falls.
#[derive(Debug, Default)]
pub struct StallCounter {
    sum_ns: u64,
    /// By id. As bounded as a listing: removed cgroups are dropped.
    cgroups: BTreeMap<u64, LastSeen>,
}

#[derive(Debug)]
struct LastSeen {
    clock: SteadyCounter,
    last_ns: u64,
    at_ns: u64,
}

impl StallCounter {
    /// Adds the rise of each cgroup's own clock; returns the sum. The first value of a cgroup is
    /// from the time before it was listed and adds nothing. A missing cgroup changes nothing.
    pub fn update(&mut self, now_ns: u64, cgroups: impl IntoIterator<Item = (u64, u64)>) -> u64 {
        for (id, stall_ns) in cgroups {
            let first = || LastSeen {
                clock: SteadyCounter::starting_at(stall_ns),
                last_ns: stall_ns,
                at_ns: now_ns,
            };
            let last = self.cgroups.entry(id).or_insert_with(first);
            // A fall that the next reading does not make up: the clock was evicted, or a stall whose
            // end was missed was dropped.
            let clock_ns = last.clock.update(stall_ns, last.clock.is_behind());
            self.sum_ns = self.sum_ns.saturating_add(clock_ns - last.last_ns);
            (last.last_ns, last.at_ns) = (clock_ns, now_ns);
        }
        self.cgroups.retain(|_, last| now_ns.saturating_sub(last.at_ns) < REMOVED_AFTER_NS);
        self.sum_ns
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn an_evicted_clock_does_not_reset_the_counter() {
        let mut counter = StallCounter::default();
        let sums = [100, 90, 110, 5, 30, 25, 40].map(|ns| counter.update(SECOND, [(1, ns)]));
        assert_eq!(sums, [0, 0, 10, 10, 35, 35, 45]);
    }

    #[test]
    fn a_phantom_that_vanishes_does_not_count_the_past_again() {
        let mut counter = StallCounter::default();
        // 100 s of real stalls, then a stall without an end for an hour.
        let clocks = [100, 1900, 3700, 100, 101, 103].map(|s| s * SECOND);
        let sums = clocks.map(|ns| counter.update(SECOND, [(1, ns)]) / SECOND);
        assert_eq!(sums, [0, 1800, 3600, 3600, 3601, 3603]);
    }

    #[test]
    fn cgroups_are_added_and_removed() {
        let mut counter = StallCounter::default();
        for (case, clocks, sum) in [
            ("two with earlier stalls", &[(1, 1000), (2, 500)][..], 0),
            ("both stall", &[(1, 1010), (2, 505)], 15),
            ("an empty listing", &[], 15),
            ("a complete listing", &[(1, 1020), (2, 505)], 25),
            ("a child is missing", &[(1, 1020)], 25),
            ("the other stalls", &[(1, 1030)], 35),
            ("a new cgroup with earlier stalls", &[(1, 1030), (3, 9000)], 35),
            ("the new cgroup stalls", &[(1, 1030), (3, 9001)], 36),
            ("the child is listed again", &[(1, 1030), (2, 508), (3, 9001)], 39),
        ] {
            assert_eq!(counter.update(SECOND, clocks.iter().copied()), sum, "{case}");
        }
    }

    #[test]
    fn removed_cgroups_are_dropped() {
        let mut counter = StallCounter::default();
        for at in 0..10_000 {
            counter.update(at * SECOND, [(at, 0)]);
        }
        assert!(counter.cgroups.len() <= 150, "{}", counter.cgroups.len());
    }

    proptest! {
        #[test]
        fn it_never_falls_and_ignores_earlier_stalls(
            samples in prop::collection::vec(
                prop::collection::btree_map(0u64..5, 0u64..1000, 0..5),
                1..50,
            ),
        ) {
            let mut counter = StallCounter::default();
            let (mut last, mut known) = (0, BTreeMap::new());
            for (at, clocks) in (0..).zip(samples) {
                let risen = clocks.iter().filter(|(id, _)| known.contains_key(*id));
                let max_rise: u64 = risen.map(|(_, ns)| ns).sum();
                let now = counter.update(at * SECOND, clocks.clone());
                prop_assert!(now >= last && now - last <= max_rise, "{last} {now}");
                last = now;
                known.extend(clocks);
            }
        }
    }
}
