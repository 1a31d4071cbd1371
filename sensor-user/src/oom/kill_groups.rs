//! Which kills are of one OOM. With `memory.oom.group` the kernel kills all processes of a cgroup,
//! and reports each as a kill of its own. Pure.
//!
//! `oom_kill_process` (mm/oom_kill.c) kills the selected process, and then those of the highest
//! cgroup with `memory.oom.group` between the victim's cgroup and the one that is out of memory. All
//! this is one call by the trigger. So the kills have the same trigger, which has not reclaimed since
//! the first one, and are at or below that cgroup. A trigger that calls the OOM killer again without
//! any reclaim (a write to `memory.max` does) finds nothing left to kill there.
//!
//! Not here: reading `memory.oom.group` (`host/cgroup/stats`).

use std::sync::Arc;

use sensor_core::{
    common::text::is_at_or_below,
    model::{
        event::{OomGroup, TaskInfo},
        oom_report::CgroupLimits,
    },
};

/// Longest time between two kills of a group. The kernel writes a line for each, which takes a tenth
/// of a second on a slow serial console.
const MAX_GAP_NS: u64 = 1_000_000_000;

/// A kill by the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kill<'a> {
    /// CLOCK_MONOTONIC.
    pub(super) time_ns: u64,
    /// When the trigger's last reclaim ended; 0 if none is known.
    pub(super) reclaim_ended_ns: u64,
    /// The process that was killed.
    pub(super) victim: &'a TaskInfo,
    /// The task whose allocation failed.
    pub(super) trigger: &'a TaskInfo,
}

/// Groups kills in the order of their events.
#[derive(Debug, Default)]
pub(super) struct KillGroups {
    last: Option<LastGroup>,
}

#[derive(Debug)]
struct LastGroup {
    group: Arc<OomGroup>,
    /// Process and thread id of the trigger.
    trigger: (u32, u32),
    first_ns: u64,
    last_ns: u64,
}

impl KillGroups {
    /// The group of a kill whose event has this id. `cgroup` is the one whose processes are killed
    /// if the kill is the first of an OOM, if there is one; it is evaluated only then.
    pub(super) fn group_of(
        &mut self,
        kill: Kill<'_>,
        id: String,
        cgroup: impl FnOnce() -> Option<String>,
    ) -> Option<Arc<OomGroup>> {
        let trigger = (kill.trigger.pid, kill.trigger.tid);
        if let Some(last) = self.last.as_mut().filter(|last| last.has(kill)) {
            last.last_ns = kill.time_ns;
            return Some(Arc::clone(&last.group));
        }
        let (first_ns, last_ns) = (kill.time_ns, kill.time_ns);
        self.last = cgroup().map(|cgroup| {
            let group = Arc::new(OomGroup { first: id, cgroup });
            LastGroup { group, trigger, first_ns, last_ns }
        });
        self.last.as_ref().map(|last| Arc::clone(&last.group))
    }
}

impl LastGroup {
    fn has(&self, kill: Kill<'_>) -> bool {
        let path = kill.victim.cgroup.as_deref();
        self.trigger == (kill.trigger.pid, kill.trigger.tid)
            && kill.reclaim_ended_ns <= self.first_ns
            && kill.time_ns >= self.last_ns
            && kill.time_ns - self.last_ns <= MAX_GAP_NS
            && path.is_some_and(|path| is_at_or_below(path, &self.group.cgroup))
    }
}

/// The cgroup whose processes are killed with a process of the first of these cgroups, which are
/// ordered from the lowest to the highest. `oom_cgroup` is the one that was out of memory, if the
/// kernel's log names it. Otherwise, if `is_limited`, it is one of those with a limit.
pub(super) fn cgroup_of(
    cgroups: &[CgroupLimits],
    oom_cgroup: Option<&str>,
    is_limited: bool,
) -> Option<String> {
    let has_limit =
        |cgroup: &&CgroupLimits| cgroup.max_bytes.is_some() || cgroup.swap_max_bytes.is_some();
    let highest_limit = || cgroups.iter().rfind(has_limit).map(|cgroup| cgroup.path.as_str());
    let within = oom_cgroup.or_else(|| is_limited.then(highest_limit).flatten());
    let is_group = |cgroup: &&CgroupLimits| {
        cgroup.oom_group == Some(true)
            && within.is_none_or(|within| is_at_or_below(&cgroup.path, within))
    };
    cgroups.iter().rfind(is_group).map(|cgroup| cgroup.path.clone())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sensor_core::model::workload::WorkloadId;

    use super::*;

    fn task(pid: u32, cgroup: Option<&str>) -> TaskInfo {
        TaskInfo {
            pid,
            tid: pid,
            comm: "x".into(),
            uid: 0,
            oom_score_adj: 0,
            cgroup_id: 0,
            cgroup: cgroup.map(Into::into),
            workload: WorkloadId::default(),
        }
    }

    /// The first event of its group, for a kill at `ms` in `cgroup` by the task `trigger`, whose last
    /// reclaim ended at `reclaimed`.
    fn first(
        groups: &mut KillGroups,
        (ms, reclaimed): (u64, u64),
        trigger: u32,
        cgroup: Option<&str>,
        group: Option<&str>,
    ) -> Option<String> {
        let (victim, trigger) = (task(9, cgroup), task(trigger, None));
        let (time_ns, reclaim_ended_ns) = (ms * 1_000_000, reclaimed * 1_000_000);
        let kill = Kill { time_ns, reclaim_ended_ns, victim: &victim, trigger: &trigger };
        groups
            .group_of(kill, ms.to_string(), || group.map(str::to_owned))
            .map(|group| group.first.clone())
    }

    #[test]
    fn kills_of_one_call_are_a_group() {
        let groups = &mut KillGroups::default();
        let some = |id: &str| Some(id.to_owned());
        let x = Some("/x");
        assert_eq!(first(groups, (10, 9), 1, Some("/x/a"), x), some("10"));
        // The cgroup may be gone when the second event is read.
        assert_eq!(first(groups, (11, 9), 1, Some("/x/b"), None), some("10"));
        assert_eq!(first(groups, (900, 0), 1, x, None), some("10"), "a slow console");
        assert_eq!(first(groups, (1800, 9), 1, x, None), some("10"));
        for (kill, trigger, cgroup, why) in [
            ((1802, 1801), 1, x, "the trigger reclaimed since the first kill"),
            ((1801, 9), 2, x, "another trigger"),
            ((2801, 9), 1, x, "later"),
            ((1801, 9), 1, Some("/xy"), "another cgroup"),
            ((1801, 9), 1, None, "an unknown cgroup"),
        ] {
            let groups = &mut KillGroups::default();
            assert_eq!(first(groups, (1800, 9), 1, x, x), some("1800"));
            assert_eq!(first(groups, kill, trigger, cgroup, None), None, "{why}");
            assert_eq!(first(groups, (2802, 9), 1, x, None), None, "the group has ended");
        }
    }

    proptest! {
        /// OOMs at random times, each with its kills: exactly the kills of one call get one id.
        #[test]
        fn each_call_is_one_group(
            calls in prop::collection::vec(
                (1u64..50, 1u32..3, 0usize..3, prop::collection::vec(0u64..5, 0..6)),
                1..40,
            ),
        ) {
            let mut groups = KillGroups::default();
            let (mut now, mut expected, mut found) = (0, Vec::new(), Vec::new());
            for (pause, trigger, cgroup, members) in calls {
                // The trigger reclaims before it calls the OOM killer.
                let reclaimed = now + pause;
                now = reclaimed + 1;
                let group = [None, Some("/a"), Some("/b")][cgroup];
                let cgroup = ["/c", "/a/x", "/b"][cgroup];
                let begun = now.to_string();
                // Without memory.oom.group one process is killed.
                let members = if group.is_some() { members } else { Vec::new() };
                for step in std::iter::once(0).chain(members) {
                    now += step;
                    let kill = (now, reclaimed);
                    found.push(first(&mut groups, kill, trigger, Some(cgroup), group));
                    expected.push(group.map(|_| begun.clone()));
                }
            }
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn the_highest_cgroup_within_the_oom_is_the_group() {
        let cgroup = |path: &str, max: Option<u64>, group: Option<bool>| CgroupLimits {
            path: path.to_owned(),
            max_bytes: max,
            oom_group: group,
            ..CgroupLimits::default()
        };
        let cgroups = [
            cgroup("/a/b/c/d", None, Some(false)),
            cgroup("/a/b/c", None, Some(true)),
            cgroup("/a/b", Some(1), Some(true)),
            cgroup("/a", None, Some(true)),
        ];
        let of = |oom_cgroup, is_limited| cgroup_of(&cgroups, oom_cgroup, is_limited);
        let some = |path: &str| Some(path.to_owned());
        assert_eq!(of(Some("/a/b/c"), true), some("/a/b/c"));
        assert_eq!(of(Some("/a/b/c/d"), true), None);
        assert_eq!(of(None, true), some("/a/b"), "no cgroup above has a limit");
        assert_eq!(of(None, false), some("/a"), "the host is out of memory");
        assert_eq!(cgroup_of(&cgroups[..1], None, true), None);
        let v1 = [cgroup("/a", Some(1), None)];
        assert_eq!(cgroup_of(&v1, None, true), None);
    }
}
