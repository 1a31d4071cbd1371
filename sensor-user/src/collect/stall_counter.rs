//! The stall clock of a scope without PSI: one counter over its cgroup and those below, which come and go.

use sensor_core::common::counter::rise_of_clock;
use std::collections::BTreeMap;

/// A cgroup that was not listed for this long was removed: cgroups are listed once a minute, and a listing may
/// miss some.
const REMOVED_AFTER_NS: u64 = 150_000_000_000;

/// Nanoseconds that tasks stalled since the first update. Never falls.
#[derive(Debug, Default)]
pub struct StallCounter {
    sum_ns: u64,
    /// By id. Bounded as a listing is: removed cgroups are dropped.
    cgroups: BTreeMap<u64, LastSeen>,
}

#[derive(Debug)]
struct LastSeen {
    stall_ns: u64,
    at_ns: u64,
}

impl StallCounter {
    /// Adds the rise of each cgroup's own clock; returns the sum. The first value of a cgroup is from before
    /// and adds nothing, and a cgroup that is missing changes nothing.
    pub fn update(&mut self, now_ns: u64, cgroups: impl IntoIterator<Item = (u64, u64)>) -> u64 {
        for (id, stall_ns) in cgroups {
            let last = self.cgroups.entry(id).or_insert(LastSeen { stall_ns, at_ns: now_ns });
            last.at_ns = now_ns;
            self.sum_ns = self.sum_ns.saturating_add(rise_of_clock(&mut last.stall_ns, stall_ns));
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
    fn it_goes_on_over_an_evicted_clock() {
        let mut counter = StallCounter::default();
        let seen = [100, 90, 110, 5, 30, 25, 40].map(|ns| counter.update(SECOND, [(1, ns)]));
        assert_eq!(seen, [0, 0, 10, 15, 40, 40, 50]);
    }

    #[test]
    fn cgroups_come_and_go() {
        let mut counter = StallCounter::default();
        for (what, groups, sum) in [
            ("two with a past", &[(1, 1000), (2, 500)][..], 0),
            ("both stall", &[(1, 1010), (2, 505)], 15),
            ("nothing could be listed", &[], 15),
            ("it could again", &[(1, 1020), (2, 505)], 25),
            ("a child is gone", &[(1, 1020)], 25),
            ("the rest goes on", &[(1, 1030)], 35),
            ("a new one with a backlog", &[(1, 1030), (3, 9000)], 35),
            ("which goes on", &[(1, 1030), (3, 9001)], 36),
            ("the child was only missed", &[(1, 1030), (2, 508), (3, 9001)], 39),
        ] {
            assert_eq!(counter.update(SECOND, groups.iter().copied()), sum, "{what}");
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
        fn it_never_falls_and_counts_no_backlog(
            looks in prop::collection::vec(prop::collection::btree_map(0u64..5, 0u64..1000, 0..5), 1..50)
        ) {
            let mut counter = StallCounter::default();
            let (mut last, mut seen) = (0, BTreeMap::new());
            for (at, groups) in (0..).zip(looks) {
                let most: u64 = groups.iter().filter(|(id, _)| seen.contains_key(*id)).map(|(_, ns)| ns).sum();
                let now = counter.update(at * SECOND, groups.clone());
                prop_assert!(now >= last && now - last <= most, "{last} {now}");
                last = now;
                seen.extend(groups);
            }
        }
    }
}
