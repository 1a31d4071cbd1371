//! OOM kills where no probe counts them: by vmstat's `oom_kill`, which is the count of all kills.
//!
//! What ran out of memory is not in vmstat, but it has a sign. Before the page allocator calls the
//! OOM killer for the host, it reclaims directly and frees nothing (__alloc_pages_slowpath,
//! mm/page_alloc.c), and vmstat counts this in `allocstall_*`. A cgroup at its limit reclaims its own
//! memory, which these do not count (do_try_to_free_pages, mm/vmscan.c), nor does sysrq-f. So a kill
//! without direct reclaim is not the host's. The reverse does not hold: a cgroup's kill counts as
//! the host's if the host reclaimed directly at that time. The kill counters in cgroups' files do not
//! help: they count by the victim's cgroup, whatever ran out.
//!
//! Not here: kills that a probe counts (`publish/oom_kills`).

use sensor_core::model::event::OomType;

use crate::host::vmstat::KillCounts;

/// How long before a kill its direct reclaim may be. In between the kernel writes its report on all
/// processes to the console, which may be slow.
const RECLAIM_TO_KILL_NS: u64 = 5_000_000_000;

/// Kills since the first reading, by [`OomType`].
#[derive(Debug, Default)]
pub(super) struct VmstatKills {
    last: Option<KillCounts>,
    /// When direct reclaim was last known or possible: CLOCK_MONOTONIC nanoseconds.
    reclaimed_ns: u64,
    kills: [u64; OomType::ALL.len()],
}

impl VmstatKills {
    /// Takes the present counts; returns the kills so far.
    pub(super) fn update(&mut self, now_ns: u64, counts: KillCounts) -> [u64; OomType::ALL.len()] {
        // What was before the first reading is not known.
        let last = self.last.replace(counts);
        if last.is_none_or(|last| counts.direct_reclaims > last.direct_reclaims) {
            self.reclaimed_ns = now_ns;
        }
        let killed = last.map_or(0, |last| counts.kills.saturating_sub(last.kills));
        let host_reclaimed = now_ns.saturating_sub(self.reclaimed_ns) <= RECLAIM_TO_KILL_NS;
        let oom_type = if host_reclaimed { OomType::Global } else { OomType::Memcg };
        let sum = &mut self.kills[oom_type as usize];
        *sum = sum.saturating_add(killed);
        self.kills
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kill_after_direct_reclaim_may_be_the_host_s() {
        let mut kills = VmstatKills::default();
        for (second, killed, direct_reclaims, expected, about) in [
            (100, 7, 50, [0, 0], "kills before the first reading do not count"),
            (101, 8, 50, [1, 0], "direct reclaim before the first reading is not known"),
            (112, 8, 50, [1, 0], "calm"),
            (113, 10, 50, [1, 2], "two kills of cgroups"),
            (114, 11, 51, [2, 2], "one of the host"),
            (115, 11, 60, [2, 2], "reclaim alone"),
            (120, 12, 60, [3, 2], "a report to a slow console"),
            (121, 13, 60, [3, 3], "a cgroup again"),
            (127, 1, 60, [3, 3], "a counter never falls"),
        ] {
            let counts = KillCounts { kills: killed, direct_reclaims };
            assert_eq!(kills.update(second * 1_000_000_000, counts), expected, "{about}");
        }
    }
}
