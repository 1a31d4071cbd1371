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
    /// Counts the tasks of all slots; `now` is CLOCK_MONOTONIC. `slots` are in the order of the
    /// table, with or without those that are not in use.
    pub fn of(slots: &[Slot], now: u64) -> Self {
        let mut in_flight = Self::default();
        for (i, slot) in slots.iter().enumerate().filter(|(_, slot)| slot.active()) {
            if has_continued(slots, i) {
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
    for (i, slot) in slots.iter().enumerate() {
        let Some(cause) = slot.cause() else { continue };
        let is_under_way = slot.active() && !has_continued(slots, i);
        let under_way = if is_under_way { slot.exclusive_ns(now) } else { 0 };
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

/// Whether the end of the stall in slot `i` was missed: its task has entered or left another stall
/// since, and none of these kinds contains another. (Soft-limit reclaim is part of the reclaim
/// around it, and kswapd's work is not a stall.)
fn has_continued(slots: &[Slot], i: usize) -> bool {
    let is_stall = |slot: &Slot| slot.cause().is_some() || slot.is(Kind::Pfmemalloc);
    let Some(stall) = slots.get(i).filter(|slot| is_stall(slot)) else { return false };
    // All slots of a task are in one bucket, and buckets are in order.
    let neighbours = i.saturating_sub(WAYS - 1)..slots.len().min(i + WAYS);
    slots[neighbours].iter().any(|other| {
        let last = if other.active() { other.start_ns } else { other.inner_ns };
        other.tid() == stall.tid()
            && other.owner != stall.owner
            && is_stall(other)
            && last > stall.start_ns
    })
}

/// How long a stall under way is believed where no pass over the tasks can confirm it.
pub const UNCONFIRMED_NS: u64 = 10_000_000_000;

/// Lets no stall under way count for longer than [`UNCONFIRMED_NS`]: its end may have been missed.
pub fn limit_unconfirmed(slots: &mut [Slot], now: u64) {
    for slot in slots.iter_mut().filter(|slot| slot.active() && !slot.is(Kind::Kswapd)) {
        if slot.exclusive_ns(now) > UNCONFIRMED_NS {
            let begun = now.saturating_sub(slot.inner_ns).saturating_sub(UNCONFIRMED_NS);
            slot.start_ns = begun.max(1);
        }
    }
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
        let by_cgroup = BTreeMap::from([(7, [1000, 5 + 90, 0, 0, 0]), (8, [90, 0, 0, 0, 0])]);
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

    #[test]
    fn a_stall_is_over_when_its_task_is_in_a_later_one() {
        let slot = |tid, kind, start_ns, inner_ns| Slot {
            owner: owner(tid, kind),
            start_ns,
            inner_ns,
            aux: 7,
            unsettled_ns: 0,
        };
        let phantom = slot(1, Kind::Memcg, 100, 0);
        for (case, other, is_inside) in [
            ("another task", slot(2, Kind::Direct, 150, 0), true),
            ("a later reclaim under way", slot(1, Kind::Direct, 150, 0), false),
            ("a later reclaim that ended", slot(1, Kind::Direct, 0, 150), false),
            ("a later compaction", slot(1, Kind::Compaction, 150, 0), false),
            ("an earlier reclaim", slot(1, Kind::Direct, 0, 90), true),
            ("the soft-limit reclaim within", slot(1, Kind::Softlimit, 150, 0), true),
            ("the soft-limit reclaim within, ended", slot(1, Kind::Softlimit, 0, 150), true),
        ] {
            let unused = Slot::default();
            // As the kernel half has them, and without the unused ones; in each order.
            for slots in [
                vec![unused, phantom, unused, other],
                vec![other, unused, unused, phantom],
                vec![phantom, other],
                vec![slot(9, Kind::Direct, 0, 1), phantom, other],
                vec![slot(9, Kind::Direct, 0, 1), slot(9, Kind::Memcg, 0, 1), other, phantom],
            ] {
                let tasks = InFlight::of(&slots, 200).tasks[Kind::Memcg as usize];
                assert_eq!(tasks, u32::from(is_inside), "{case}: {slots:?}");
                let memcg_ns = unsettled_stalls(&slots, 200).get(&7).map_or(0, |by| by[1]);
                assert_eq!(memcg_ns, if is_inside { 100 } else { 0 }, "{case}: {slots:?}");
            }
        }
    }

    #[test]
    fn an_unconfirmed_stall_counts_for_a_limited_time() {
        let hour = 3_600_000_000_000;
        let slot = |start_ns, inner_ns, kind| Slot {
            owner: owner(1, kind),
            start_ns,
            inner_ns,
            ..Slot::default()
        };
        for (case, slot, expected) in [
            ("an hour", slot(1, 0, Kind::Direct), UNCONFIRMED_NS),
            ("with an inner stall", slot(1, 5, Kind::Memcg), UNCONFIRMED_NS),
            ("all of it inner", slot(1, hour, Kind::Memcg), 0),
            ("a second", slot(hour - 1_000_000_000, 0, Kind::Memcg), 1_000_000_000),
            ("kswapd", slot(1, 0, Kind::Kswapd), hour - 1),
        ] {
            let mut slots = [slot];
            limit_unconfirmed(&mut slots, hour);
            assert_eq!(slots[0].exclusive_ns(hour), expected, "{case}");
            assert!(slots[0].active(), "{case}");
        }
    }
}
