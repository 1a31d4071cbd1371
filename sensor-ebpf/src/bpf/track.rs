//! Begins and ends: the current task enters and leaves the table of in-flight tasks.

use super::{
    clock,
    count::Counters,
    inflight::bucket,
    lost::lost,
    stall::{self, charges},
    task,
};
use crate::{
    inflight::{Begin, Bucket, Slot, owner},
    loss::Loss,
    stall_kind::Kind,
};

/// The current task enters `kind`.
#[inline(always)]
pub(crate) fn begin<S: Counters>(kind: Kind, aux: u64) {
    let tid = task::tid();
    if let Some(bucket) = bucket(tid) {
        enter::<S>(bucket, owner(tid, kind), clock::now(), aux);
    }
}

/// The current task enters a stall, which is charged to its cgroup.
#[inline(always)]
pub(crate) fn begin_stall<S: Counters>(kind: Kind) {
    charges!(S);
    let tid = task::tid();
    let Some(bucket) = bucket(tid) else { return };
    let (owner, now) = (owner(tid, kind), clock::now());
    let cgroup = match bucket.recent(owner, now) {
        Some(cgroup) => cgroup,
        None => task::current_cgroup(),
    };
    enter::<S>(bucket, owner, now, cgroup);
}

#[inline(always)]
fn enter<S: Counters>(bucket: &mut Bucket, owner: u64, now: u64, aux: u64) {
    let (how, was) = bucket.begin(owner, now, aux);
    stall::settle(&was);
    match how {
        Begin::Fresh => {}
        Begin::Restarted => lost!(S, Loss::UnmatchedBegin, "thread", was.tid()),
        Begin::Evicted => lost!(S, Loss::InflightEvicted, "thread", was.tid()),
    }
}

/// The current task leaves `kind`: its slot as it was, and the time now.
#[inline(always)]
pub(crate) fn end<S: Counters>(kind: Kind) -> Option<(Slot, u64)> {
    let ended = try_end(kind);
    if ended.is_none() {
        unmatched_end::<S>();
    }
    ended
}

/// The same, for callers that expect tasks without a begin.
#[inline(always)]
pub(crate) fn try_end(kind: Kind) -> Option<(Slot, u64)> {
    let tid = task::tid();
    let now = clock::now();
    let slot = bucket(tid)?.end(owner(tid, kind), now)?;
    Some((slot, now))
}

/// Counts an end of the current task without a begin.
#[inline(always)]
pub(crate) fn unmatched_end<S: Counters>() {
    lost!(S, Loss::UnmatchedEnd, "thread", task::tid());
}
