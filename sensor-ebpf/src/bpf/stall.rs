//! The stall clock: nanoseconds that tasks were stalled on memory, per cgroup and cause.
//!
//! Exclusive: the time of a stall inside another stall (throttling inside direct reclaim) is
//! charged once, to the inner cause. The totals per cause are in the probes' rows; here is the
//! split by cgroup, in one shared LRU map and not a per-CPU map: a per-CPU map of 4,096 cgroups
//! costs 64 bytes for each of them on each possible CPU, and stalls of one cgroup are too rare for
//! contention on the atomic add.

use aya_ebpf::{macros::map, maps::LruHashMap};

use super::{
    clock,
    count::{self, Counters},
    inflight, lost, task,
};
use crate::{
    inflight::Slot,
    loss::{self, Loss},
    stall_kind::{Cause, Kind},
};

/// Nanoseconds by [`Cause`].
type ByCause = [u64; Cause::COUNT];

#[map]
static STALLS: LruHashMap<u64, ByCause> = LruHashMap::with_max_entries(4096, 0);

/// Checks when compiled that a probe whose stalls are charged declares what is lost then.
///
/// The loss itself is recorded in the name of the stall clock: `charge` runs in the program that
/// takes over the slot, which may be of another probe.
macro_rules! charges {
    ($state:ty) => {
        $crate::bpf::lost::declared!($state, $crate::loss::Loss::CgroupsFull);
        $crate::bpf::lost::declared!($state, $crate::loss::Loss::CgroupEvicted);
    };
}
pub(crate) use charges;

/// Exclusive time of the current task's stall, which has just ended; its slot keeps it unsettled.
#[inline(always)]
pub(crate) fn ended(slot: &Slot, now: u64) -> u64 {
    let ns = slot.exclusive_ns(now);
    if let Some(outer) = inflight::bucket(slot.tid()).and_then(|b| b.stall_of(slot.tid())) {
        outer.inner_ns += now.saturating_sub(slot.start_ns);
    }
    ns
}

/// The same for a slot that is removed and has no cgroup: charged at once.
#[inline(always)]
pub(crate) fn ended_and_removed<S: Counters>(cause: Cause, slot: &Slot, now: u64) -> u64 {
    charges!(S);
    let ns = ended(slot, now);
    charge(cause, task::current_cgroup(), ns);
    ns
}

/// Charges `ns` that the current task was throttled inside a stall. Returns whether that stall is
/// limit reclaim, and the time that counts: `None` outside of a stall (kswapd), when no task waited.
/// At most the time inside the stall so far: the kernel reports sleeps in whole jiffies.
#[inline(always)]
pub(crate) fn throttled(ns: u64) -> Option<(bool, u64)> {
    let tid = task::tid();
    let outer = inflight::bucket(tid).and_then(|b| b.stall_of(tid))?;
    let ns = ns.min(outer.exclusive_ns(clock::now()));
    outer.inner_ns += ns;
    let in_limit = outer.is(Kind::Memcg);
    charge(if in_limit { Cause::MemcgThrottle } else { Cause::Throttle }, outer.aux, ns);
    Some((in_limit, ns))
}

/// Charges the unsettled time of a slot that another task takes over.
#[inline(always)]
pub(crate) fn settle(was: &Slot) {
    if was.unsettled_ns != 0
        && let Some(cause) = was.cause()
    {
        charge(cause, was.aux, was.unsettled_ns);
    }
}

#[inline(always)]
fn charge(cause: Cause, cgroup: u64, ns: u64) {
    let i = cause as usize;
    if let Some(by_cause) = STALLS.get_ptr_mut(cgroup) {
        add(by_cause, i, ns);
        return;
    }
    let mut fresh = [0; Cause::COUNT];
    fresh[i] = ns;
    // BPF_NOEXIST (1): if another CPU was faster, add to its entry.
    if STALLS.insert(cgroup, fresh, 1).is_err() {
        match STALLS.get_ptr_mut(cgroup) {
            Some(by_cause) => add(by_cause, i, ns),
            None => lost::record("stall clock", Loss::CgroupsFull, "cgroup", || cgroup),
        }
    } else {
        count::add(loss::CGROUPS_ADDED);
    }
}

#[inline(always)]
fn add(by_cause: *mut ByCause, i: usize, ns: u64) {
    // SAFETY: `i` < COUNT, so the word lies in the map value, which is made of u64.
    unsafe { count::add_atomic(by_cause.cast::<u64>().add(i), ns) };
}
