//! The content of the kernel half's maps, decoded: tasks in flight, stall clocks and reclaim
//! histograms per cgroup, the cost of programs. Pure.
//!
//! Not here: reading the maps (the daemon's `kernel/read`).

use std::collections::BTreeMap;

use sensor_ebpf::{
    hist,
    inflight::{KINDS, Kind, Slot, WAYS},
    probes::Cause,
    spec::MAX_NODES,
};

/// Tasks that are in reclaim, compaction, throttling or the like at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InFlight {
    /// Tasks by [`Kind`].
    pub tasks: [u32; KINDS],
    /// Nanoseconds since they entered, by [`Kind`], without time in an inner one.
    pub exclusive_ns: [u64; KINDS],
    /// Nanoseconds that each node's kswapd has been awake.
    pub kswapd_ns: [u64; MAX_NODES],
}

impl Default for InFlight {
    fn default() -> Self {
        Self { tasks: [0; KINDS], exclusive_ns: [0; KINDS], kswapd_ns: [0; MAX_NODES] }
    }
}

impl InFlight {
    /// Counts the tasks of all slots, in the order of the table; `now` is CLOCK_MONOTONIC.
    pub fn of(slots: &[Slot], now: u64) -> Self {
        let mut in_flight = Self::default();
        let buckets = slots.chunks(WAYS).flat_map(|bucket| bucket.iter().map(move |s| (bucket, s)));
        for (bucket, slot) in buckets.filter(|(_, s)| s.active()) {
            if slot.is(Kind::Pfmemalloc) && has_continued(slot, bucket) {
                continue;
            }
            let kind = (slot.owner & 0xff) as usize;
            let Some(tasks) = in_flight.tasks.get_mut(kind) else { continue };
            *tasks += 1;
            let ns = slot.exclusive_ns(now);
            in_flight.exclusive_ns[kind] = in_flight.exclusive_ns[kind].saturating_add(ns);
            if slot.is(Kind::Kswapd)
                && let Ok(node) = usize::try_from(slot.aux)
                && let Some(awake) = in_flight.kswapd_ns.get_mut(node)
            {
                *awake = awake.saturating_add(ns);
            }
        }
        in_flight
    }
}

/// Nanoseconds by [`Cause`].
pub type ByCause = [u64; Cause::COUNT];

/// Stalls by cgroup id that are not in the stall clocks yet: those that ended and were not charged,
/// and those under way. One pass over the slots: there may be thousands, and hundreds of cgroups.
pub fn unsettled_stalls(slots: &[Slot], now: u64) -> BTreeMap<u64, ByCause> {
    let mut by_cgroup = BTreeMap::<u64, ByCause>::new();
    for slot in slots {
        let Some(cause) = slot.cause() else { continue };
        let under_way = if slot.active() { slot.exclusive_ns(now) } else { 0 };
        let ns = slot.unsettled_ns.saturating_add(under_way);
        if ns > 0 {
            let sum = &mut by_cgroup.entry(slot.aux).or_default()[cause as usize];
            *sum = sum.saturating_add(ns);
        }
    }
    by_cgroup
}

/// Sum over all causes, in nanoseconds.
pub fn total_ns(by_cause: &ByCause) -> u64 {
    by_cause.iter().copied().fold(0, u64::saturating_add)
}

/// Whether a task has entered or left another kind since it was throttled: then it is awake, and
/// the end of the throttling was missed (see the probe `pfmemalloc_throttle`). All slots of a task
/// are in one bucket.
fn has_continued(throttled: &Slot, bucket: &[Slot]) -> bool {
    bucket.iter().any(|s| {
        let last = if s.active() { s.start_ns } else { s.inner_ns };
        s.tid() == throttled.tid() && last > throttled.start_ns
    })
}

/// Kinds of reclaim that tasks of a cgroup do themselves, with their labels.
pub const RECLAIM_KINDS: [(Kind, &str); 2] = [(Kind::Direct, "direct"), (Kind::Memcg, "memcg")];

/// Durations of one kind of reclaim in one cgroup: a [`hist::Log2Seconds`] as words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CgroupReclaim {
    /// Id of the cgroup.
    pub cgroup: u64,
    /// One of [`RECLAIM_KINDS`].
    pub kind: Kind,
    /// Sum and buckets of the histogram.
    pub words: [u64; hist::WORDS],
}

/// The cost of one of our kernel programs, where BPF statistics are on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramCost {
    /// Name of the program.
    pub program: &'static str,
    /// Sum of its run time in nanoseconds.
    pub run_ns: u64,
    /// Number of runs.
    pub runs: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensor_ebpf::inflight::owner;

    #[test]
    fn uncharged_stalls_are_summed_by_cgroup() {
        let slot = |tid, kind, start_ns, aux, unsettled_ns| Slot {
            owner: owner(tid, kind),
            start_ns,
            inner_ns: 10,
            aux,
            unsettled_ns,
        };
        let slots = [
            slot(1, Kind::Memcg, 100, 7, 5),
            slot(2, Kind::Direct, 0, 7, 1000),
            slot(3, Kind::Direct, 100, 8, 0),
            slot(4, Kind::Kswapd, 100, 7, 0),
        ];
        let by_cgroup = BTreeMap::from([(7, [1000, 5 + 90, 0, 0]), (8, [90, 0, 0, 0])]);
        assert_eq!(unsettled_stalls(&slots, 200), by_cgroup);
    }

    #[test]
    fn only_tasks_in_flight_are_counted() {
        let slot = |tid, kind, start_ns, inner_ns, aux| Slot {
            owner: owner(tid, kind),
            start_ns,
            inner_ns,
            aux,
            unsettled_ns: 0,
        };
        let slots = [
            slot(1, Kind::Direct, 100, 30, 7),
            slot(2, Kind::Direct, 0, 150, 7),
            slot(3, Kind::Memcg, 190, 0, 7),
            slot(4, Kind::Kswapd, 50, 0, 1),
            slot(5, Kind::Pfmemalloc, 120, 0, 9),
            slot(5, Kind::Direct, 0, 110, 7),
            // Tasks 6 and 7 are awake: one is in reclaim, the other was since it was throttled.
            slot(6, Kind::Pfmemalloc, 120, 0, 9),
            slot(6, Kind::Direct, 195, 0, 7),
            slot(7, Kind::Pfmemalloc, 120, 0, 9),
            slot(7, Kind::Direct, 0, 150, 7),
            Slot::default(),
        ];
        let in_flight = InFlight::of(&slots, 200);
        assert_eq!(in_flight.tasks[Kind::Direct as usize], 2);
        assert_eq!(in_flight.exclusive_ns[Kind::Direct as usize], 75);
        assert_eq!(in_flight.exclusive_ns[Kind::Memcg as usize], 10);
        assert_eq!(in_flight.kswapd_ns[..3], [0, 150, 0]);
        assert_eq!(in_flight.tasks[Kind::Pfmemalloc as usize], 1);
        assert_eq!(in_flight.exclusive_ns[Kind::Pfmemalloc as usize], 80);
    }
}
