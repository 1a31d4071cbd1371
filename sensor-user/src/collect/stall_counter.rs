//! How a cgroup's count of stalls is followed, which the kernel half may forget; and the stall clock of
//! a cgroup without PSI: one count over it and the groups below it, which come and go.

use std::collections::BTreeMap;

/// By how much a count of a cgroup's stalls rose above the highest that was seen, which it becomes. A
/// stall that is just being charged may be missing or be there twice, so a count that fell is waited for;
/// one that is far below was forgotten by the kernel half, and counts from 0.
pub fn rise(highest: &mut u64, now: u64) -> u64 {
    if now < *highest / 2 {
        *highest = 0;
    }
    let rose = now.saturating_sub(*highest);
    *highest = now.max(*highest);
    rose
}

/// What is not listed for so long is gone: groups are listed once a minute, and a listing may miss some.
const GONE_NS: u64 = 150_000_000_000;

/// Nanoseconds that tasks stalled while we looked. Never falls.
#[derive(Debug, Default)]
pub struct StallClock {
    sum_ns: u64,
    /// By id. Bounded: a listing is, and what it no longer has is dropped.
    groups: BTreeMap<u64, LastSeen>,
}

#[derive(Debug)]
struct LastSeen {
    stall_ns: u64,
    at_ns: u64,
}

impl StallClock {
    /// Adds by how much each group's own count rose. What it had before it was first seen is not of
    /// now, and a group that is not there adds nothing and takes nothing back.
    pub fn see(&mut self, now_ns: u64, groups: impl IntoIterator<Item = (u64, u64)>) -> u64 {
        for (id, stall_ns) in groups {
            let last = self.groups.entry(id).or_insert(LastSeen { stall_ns, at_ns: now_ns });
            last.at_ns = now_ns;
            self.sum_ns = self.sum_ns.saturating_add(rise(&mut last.stall_ns, stall_ns));
        }
        self.groups.retain(|_, last| now_ns.saturating_sub(last.at_ns) < GONE_NS);
        self.sum_ns
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn it_goes_on_over_what_is_forgotten() {
        let mut clock = StallClock::default();
        let seen = [100, 90, 110, 5, 30, 25, 40].map(|ns| clock.see(SECOND, [(1, ns)]));
        assert_eq!(seen, [0, 0, 10, 15, 40, 40, 50]);
    }

    #[test]
    fn groups_come_and_go() {
        let mut clock = StallClock::default();
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
            assert_eq!(clock.see(SECOND, groups.iter().copied()), sum, "{what}");
        }
    }

    #[test]
    fn what_is_gone_is_dropped() {
        let mut clock = StallClock::default();
        for at in 0..10_000 {
            clock.see(at * SECOND, [(at, 0)]);
        }
        assert!(clock.groups.len() <= 150, "{}", clock.groups.len());
    }

    proptest! {
        #[test]
        fn it_never_falls_and_counts_no_backlog(
            looks in prop::collection::vec(prop::collection::btree_map(0u64..5, 0u64..1000, 0..5), 1..50)
        ) {
            let mut clock = StallClock::default();
            let (mut last, mut seen) = (0, BTreeMap::new());
            for (at, groups) in (0..).zip(looks) {
                let most: u64 = groups.iter().filter(|(id, _)| seen.contains_key(*id)).map(|(_, ns)| ns).sum();
                let now = clock.see(at * SECOND, groups.clone());
                prop_assert!(now >= last && now - last <= most, "{last} {now}");
                last = now;
                seen.extend(groups);
            }
        }
    }
}
