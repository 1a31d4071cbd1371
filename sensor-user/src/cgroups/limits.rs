//! Finds the cgroup whose own limit stalls tasks most. Pure.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use sensor_core::{model::counters::ByCause, verdict::explain::UncountedLimit};
use sensor_ebpf::probes::Cause;

/// Tasks in limit reclaim, on average, from which on a cgroup is reported.
const STALLED_TASKS: f64 = 0.05;
/// Most cgroups that are logged: users may create any number.
const MAX_LOGGED: usize = 64;

/// Compares the stall clocks of two collections.
#[derive(Debug, Default)]
pub(super) struct LimitStalls {
    last_ns: Option<u64>,
    /// Nanoseconds by id.
    clocks: HashMap<u64, u64>,
    logged: BTreeSet<Arc<str>>,
}

impl LimitStalls {
    /// The cgroup that stalled most since the last call, if it stalled for long enough; `path` has
    /// none for cgroups that are counted, or are not known.
    pub(super) fn update(
        &mut self,
        now_ns: Option<u64>,
        stalls: &[(u64, ByCause)],
        path: impl Fn(u64) -> Option<Arc<str>>,
    ) -> Option<UncountedLimit> {
        let now_ns = now_ns?;
        let last_ns = self.last_ns.replace(now_ns);
        let clocks: HashMap<u64, u64> =
            stalls.iter().map(|(id, by_cause)| (*id, of_limits(by_cause))).collect();
        let last = std::mem::replace(&mut self.clocks, clocks);
        let ns = now_ns.saturating_sub(last_ns?);
        let rose = |id: &u64, now: u64| now.saturating_sub(*last.get(id).unwrap_or(&0));
        let rises = self.clocks.iter().map(|(id, now)| (rose(id, *now), *id));
        let uncounted = rises.filter_map(|(rise, id)| Some((rise, path(id)?)));
        let (longest, cgroup) = uncounted.max()?;
        let stalled_tasks = longest as f64 / ns.max(1) as f64;
        (stalled_tasks >= STALLED_TASKS).then_some(UncountedLimit { cgroup, stalled_tasks })
    }

    /// Whether this cgroup was not reported before.
    pub(super) fn is_new(&mut self, cgroup: &Arc<str>) -> bool {
        self.logged.len() < MAX_LOGGED && self.logged.insert(Arc::clone(cgroup))
    }
}

fn of_limits(by_cause: &ByCause) -> u64 {
    let causes = Cause::ALL.iter().zip(by_cause).filter(|(cause, _)| cause.is_limit());
    causes.map(|(_, ns)| *ns).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_cgroup_that_stalls_most_is_found() {
        let mut limits = LimitStalls::default();
        let path = |id: u64| (id != 9).then(|| format!("/{id}").into());
        let clock = |id: u64, memcg: u64, throttle: u64| {
            let mut by_cause = [7 * SECOND; Cause::COUNT];
            by_cause[Cause::MemcgReclaim as usize] = memcg;
            by_cause[Cause::MemcgThrottle as usize] = throttle;
            (id, by_cause)
        };
        let mut update = |second: u64, clocks: &[(u64, ByCause)]| {
            let found = limits.update(Some(second * SECOND), clocks, path)?;
            Some((found.cgroup.to_string(), found.stalled_tasks))
        };
        let first = [clock(1, 50 * SECOND, 0), clock(2, 0, 0), clock(9, 0, 0)];
        assert_eq!(update(10, &first), None, "nothing to compare with");
        let second = [
            clock(1, 50 * SECOND, SECOND / 10),
            clock(2, 2 * SECOND, SECOND),
            clock(9, 9 * SECOND, 0),
        ];
        assert_eq!(update(15, &second), Some(("/2".to_owned(), 0.6)), "9 is counted");
        assert_eq!(update(20, &second), None, "calm");
        assert_eq!(limits.update(None, &second, path), None, "the clocks cannot be read");
    }

    #[test]
    fn each_cgroup_is_logged_once_and_not_all() {
        let mut limits = LimitStalls::default();
        let logged = |limits: &mut LimitStalls, n: usize| limits.is_new(&format!("/{n}").into());
        assert!(logged(&mut limits, 0));
        assert!(!logged(&mut limits, 0));
        assert_eq!((0..1000).filter(|n| logged(&mut limits, *n)).count(), MAX_LOGGED - 1);
    }
}
