//! The table of who is inside what: the map around [`crate::inflight`].

use aya_ebpf::{helpers::bpf_ktime_get_ns, macros::map, maps::Array};

use super::{count::lost, stall, task};
use crate::{
    inflight::{Begin, Bucket, CHUNKS, Chunk, Kind, Slot, owner, place},
    loss::Loss,
};

#[map]
static INFLIGHT: Array<Chunk> = Array::with_max_entries(CHUNKS as u32, 0);

/// CLOCK_MONOTONIC, nanoseconds.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper takes no arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// The bucket of a thread.
#[inline(always)]
pub(crate) fn bucket(tid: u32) -> Option<&'static mut Bucket> {
    let (chunk, i) = place(tid);
    let chunk = INFLIGHT.get_ptr_mut(chunk)?;
    // SAFETY: the map value is a Chunk. Other CPUs may write other slots of the bucket; the
    // algorithm is made for that (see crate::inflight), and every bit pattern is a valid Slot.
    let chunk = unsafe { &mut *chunk };
    chunk.0.get_mut(i)
}

/// The current task enters `kind`.
#[inline(always)]
pub(crate) fn begin(kind: Kind, aux: u64) {
    let tid = task::tid();
    if let Some(bucket) = bucket(tid) {
        enter(bucket, owner(tid, kind), now(), aux);
    }
}

/// The current task enters a stall, which is charged to its cgroup.
#[inline(always)]
pub(crate) fn begin_stall(kind: Kind) {
    let tid = task::tid();
    let Some(bucket) = bucket(tid) else { return };
    let (owner, now) = (owner(tid, kind), now());
    let cgroup = match bucket.recent(owner, now) {
        Some(cgroup) => cgroup,
        None => task::current_cgroup(),
    };
    enter(bucket, owner, now, cgroup);
}

#[inline(always)]
fn enter(bucket: &mut Bucket, owner: u64, now: u64, aux: u64) {
    let (how, was) = bucket.begin(owner, now, aux);
    stall::settle(&was);
    match how {
        Begin::Fresh => {}
        Begin::Restarted => lost(Loss::UnmatchedBegin),
        Begin::Evicted => lost(Loss::InflightEvicted),
    }
}

/// The current task leaves `kind`: its slot as it was, and the time now.
#[inline(always)]
pub(crate) fn end(kind: Kind) -> Option<(Slot, u64)> {
    let ended = try_end(kind);
    if ended.is_none() {
        lost(Loss::UnmatchedEnd);
    }
    ended
}

/// The same, for who knows why a task may not be inside.
#[inline(always)]
pub(crate) fn try_end(kind: Kind) -> Option<(Slot, u64)> {
    let tid = task::tid();
    let now = now();
    let slot = bucket(tid)?.end(owner(tid, kind), now)?;
    Some((slot, now))
}
