//! The stall clock: nanoseconds that tasks spent stalled on memory, per cgroup and cause.
//!
//! Exclusive: time of a stall inside another stall (throttling inside direct reclaim) is charged
//! once, to the inner cause. The totals per cause live in the probes' rows; here is the split by
//! cgroup, in one shared LRU map rather than a per-CPU one: a per-CPU map of 4,096 cgroups costs
//! 64 bytes for each of them on each possible CPU, and a stall is far too rare per cgroup for the
//! atomic add to be contended.

use aya_ebpf::{macros::map, maps::LruHashMap};

use super::{
    count::{self, lost},
    task, track,
};
use crate::{
    inflight::Slot,
    loss::{self, Loss},
    probes::Cause,
};

/// Nanoseconds by [`Cause`].
type ByCause = [u64; Cause::COUNT];

#[map]
static STALLS: LruHashMap<u64, ByCause> = LruHashMap::with_max_entries(4096, 0);

/// The exclusive time of the current task's stall that has just ended; its slot has it unsettled.
#[inline(always)]
pub(crate) fn ended(slot: &Slot, now: u64) -> u64 {
    let ns = slot.exclusive_ns(now);
    if let Some(outer) = track::bucket(slot.tid()).and_then(|b| b.stall_of(slot.tid())) {
        outer.inner_ns += now.saturating_sub(slot.start_ns);
    }
    ns
}

/// The same for a slot that is gone already and never had a cgroup: charged at once.
#[inline(always)]
pub(crate) fn ended_and_gone(cause: Cause, slot: &Slot, now: u64) -> u64 {
    let ns = ended(slot, now);
    charge(cause, task::current_cgroup(), ns);
    ns
}

/// Charges `ns` that the current task spent asleep inside a stall; returns what counts: 0 if it is
/// inside of none (kswapd), for then nobody waited. Never more than it has been inside: the kernel
/// tells sleeps in whole jiffies.
#[inline(always)]
pub(crate) fn inside(cause: Cause, ns: u64) -> u64 {
    let tid = task::tid();
    let Some(outer) = track::bucket(tid).and_then(|b| b.stall_of(tid)) else { return 0 };
    let ns = ns.min(outer.exclusive_ns(track::now()));
    outer.inner_ns += ns;
    charge(cause, outer.aux, ns);
    ns
}

/// Charges what a slot's owner has not been charged for yet; the slot is another's now.
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
    // BPF_NOEXIST (1): if another CPU was faster, add to what it made.
    if STALLS.insert(cgroup, fresh, 1).is_err() {
        match STALLS.get_ptr_mut(cgroup) {
            Some(by_cause) => add(by_cause, i, ns),
            None => lost(Loss::CgroupsFull),
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
