//! The bounded table of tasks inside reclaim, compaction or kswapd. An access touches one or two
//! cache lines.
//!
//! A begin/end pair needs a start time per task. A hash map costs 350 ns per pair when caches are
//! cold, and in reclaim they always are. Here the thread id selects one bucket of four slots in a
//! plain array, which the JIT reaches without a helper call. The algorithm on a bucket is here,
//! pure and tested; the map that holds the buckets is `bpf::inflight`.
//!
//! Bounds: a begin without an end leaks at most one slot, until a pass over all tasks finds its task
//! outside of reclaim (`process_table`), its task exits (the `process_exit` program removes it) or
//! a fifth task needs the bucket; then the oldest task is evicted and counted. An end without a
//! begin finds no slot and is counted.
//!
//! Slots are written without a lock: two tasks of one bucket that begin within a few nanoseconds
//! on two CPUs may take the same slot. The loser's end is then counted as unmatched. The winner may
//! keep the loser's start time, which is a few nanoseconds off, or its cgroup.

use crate::stall_kind::Cause;
pub use crate::stall_kind::{KINDS, Kind};

/// Slots per bucket.
pub const WAYS: usize = 4;
/// Buckets per array element: bigger elements, fewer system calls when user space reads all.
pub const BUCKETS_PER_CHUNK: usize = 16;
/// Array elements.
pub const CHUNKS: usize = 128;
/// Words of a chunk, as user space reads it.
pub const CHUNK_WORDS: usize = size_of::<Chunk>() / 8;

/// How long [`Bucket::recent`] trusts an ended slot.
const RECENT_NS: u64 = 100_000_000;

/// How long a task may be inside before a pass over all tasks doubts it: a task that has just begun
/// or ended may not be marked as reclaiming by the kernel.
pub const DOUBTED_NS: u64 = 2_000_000_000;

/// One task inside one kind of stall.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slot {
    /// `tid << 8 | kind`; 0 = never used.
    pub owner: u64,
    /// CLOCK_MONOTONIC nanoseconds; 0 = ended.
    pub start_ns: u64,
    /// While inside: nanoseconds already charged to nested stalls. Once ended: the time of the end.
    pub inner_ns: u64,
    /// Reclaim, compaction: cgroup id of the task. kswapd: node. Pfmemalloc: the task's count of
    /// voluntary context switches at the begin.
    pub aux: u64,
    /// Reclaim, compaction: nanoseconds of ended stalls that are not yet charged to cgroup `aux`.
    /// They are charged when the slot is given to another task or cgroup, and when the task exits:
    /// the cold cache lines of a hash map at each end would cost more than the rest of the program.
    pub unsettled_ns: u64,
}

/// The slots that a thread id may use.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Bucket(pub [Slot; WAYS]);

/// One element of the array.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Chunk(pub [Bucket; BUCKETS_PER_CHUNK]);

/// A reclaim that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reclaim {
    /// Limit reclaim of a memory cgroup, not global reclaim.
    pub memcg: bool,
    /// CLOCK_MONOTONIC nanoseconds of its end.
    pub ended_ns: u64,
}

/// Result of [`Bucket::begin`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// A free slot.
    Fresh,
    /// The same task was already inside the same kind: an end was missed.
    Restarted,
    /// All slots were in use; the oldest was evicted.
    Evicted,
}

/// Chunk of a thread id, and its bucket in the chunk. The kernel assigns thread ids in sequence,
/// so neighbours never share a bucket.
#[inline(always)]
pub fn place(tid: u32) -> (u32, usize) {
    let i = tid as usize % (CHUNKS * BUCKETS_PER_CHUNK);
    ((i / BUCKETS_PER_CHUNK) as u32, i % BUCKETS_PER_CHUNK)
}

/// The owner word of a task that is inside `kind`.
#[inline(always)]
pub fn owner(tid: u32, kind: Kind) -> u64 {
    u64::from(tid) << 8 | kind as u64
}

impl Slot {
    /// The owner's thread id.
    #[inline(always)]
    pub fn tid(&self) -> u32 {
        (self.owner >> 8) as u32
    }

    /// Whether the owner is of this kind.
    #[inline(always)]
    pub fn is(&self, kind: Kind) -> bool {
        self.owner & 0xff == kind as u64
    }

    /// The cause that its unsettled nanoseconds are charged to; `None` for kinds without any.
    #[inline(always)]
    pub fn cause(&self) -> Option<Cause> {
        if self.is(Kind::Memcg) {
            Some(Cause::MemcgReclaim)
        } else if self.is(Kind::Direct) {
            Some(Cause::DirectReclaim)
        } else if self.is(Kind::Compaction) {
            Some(Cause::Compaction)
        } else {
            None
        }
    }

    /// Whether the owner is still inside.
    #[inline(always)]
    pub fn active(&self) -> bool {
        self.start_ns != 0
    }

    /// Order of eviction: the slot that ended first; if none has ended, the one that began first.
    #[inline(always)]
    fn rank(&self) -> (bool, u64) {
        if self.active() { (true, self.start_ns) } else { (false, self.inner_ns) }
    }

    /// Nanoseconds inside at `now`, less those charged to nested stalls.
    #[inline(always)]
    pub fn exclusive_ns(&self, now: u64) -> u64 {
        now.saturating_sub(self.start_ns).saturating_sub(self.inner_ns)
    }
}

impl Bucket {
    /// Enters a task. Also returns the slot's previous content: the caller charges its
    /// `unsettled_ns`.
    #[inline(always)]
    pub fn begin(&mut self, owner: u64, now: u64, aux: u64) -> (Begin, Slot) {
        let mut slot = Slot { owner, start_ns: now, inner_ns: 0, aux, unsettled_ns: 0 };
        for s in &mut self.0 {
            if s.owner == owner {
                let how = if s.active() { Begin::Restarted } else { Begin::Fresh };
                let mut was = *s;
                if was.aux == aux {
                    slot.unsettled_ns = was.unsettled_ns;
                    was.unsettled_ns = 0;
                }
                *s = slot;
                return (how, was);
            }
        }
        let first = self.next_slot();
        let how = if first.active() { Begin::Evicted } else { Begin::Fresh };
        let was = *first;
        *first = slot;
        (how, was)
    }

    /// `aux` of the owner's last stall, if that ended less than `RECENT_NS` ago. A thrashing task
    /// reclaims thousands of times per second, and reading its cgroup's id touches five cold cache
    /// lines. A task that moves to another cgroup is charged to the old one for that time longer.
    #[inline(always)]
    pub fn recent(&self, owner: u64, now: u64) -> Option<u64> {
        for s in &self.0 {
            if s.owner == owner && !s.active() && now.wrapping_sub(s.inner_ns) < RECENT_NS {
                return Some(s.aux);
            }
        }
        None
    }

    /// The slot to use next, by [`Slot::rank`]: a free slot that ended later may still be needed by
    /// [`Bucket::recent`] and [`Bucket::last_reclaim`].
    #[inline(always)]
    fn next_slot(&mut self) -> &mut Slot {
        // Not a loop over indices: the verifier would have to bound them.
        let [a, b, c, d] = &mut self.0;
        let ab = if a.rank() <= b.rank() { a } else { b };
        let cd = if c.rank() <= d.rank() { c } else { d };
        if ab.rank() <= cd.rank() { ab } else { cd }
    }

    /// Ends the task's stall and returns its slot as it was; `None` if it is not inside.
    ///
    /// The slot keeps the time of the end for [`Bucket::last_reclaim`].
    #[inline(always)]
    pub fn end(&mut self, owner: u64, now: u64) -> Option<Slot> {
        for s in &mut self.0 {
            if s.owner == owner && s.active() {
                let was = *s;
                s.start_ns = 0;
                s.inner_ns = now;
                s.unsettled_ns += was.exclusive_ns(now);
                return Some(was);
            }
        }
        None
    }

    /// The outermost stall of `tid` that can contain others. Soft-limit reclaim is part of another
    /// stall, and kswapd's work is not a stall. The sleep before reclaim contains no other stall:
    /// if it looks active, its end was missed.
    #[inline(always)]
    pub fn stall_of(&mut self, tid: u32) -> Option<&mut Slot> {
        self.0.iter_mut().find(|s| {
            s.active()
                && s.tid() == tid
                && (s.is(Kind::Direct) || s.is(Kind::Memcg) || s.is(Kind::Compaction))
        })
    }

    /// What `tid` scans for: the kind it is inside. Soft-limit reclaim counts as the kind around
    /// it.
    #[inline(always)]
    pub fn scanner(&self, tid: u32) -> Option<Kind> {
        for s in &self.0 {
            if s.active() && s.tid() == tid {
                for kind in [Kind::Direct, Kind::Memcg, Kind::Kswapd] {
                    if s.is(kind) {
                        return Some(kind);
                    }
                }
            }
        }
        None
    }

    /// Removes the owner's slot and returns it, active or not.
    #[inline(always)]
    pub fn take(&mut self, owner: u64) -> Option<Slot> {
        for s in &mut self.0 {
            if s.owner == owner {
                let was = *s;
                *s = Slot::default();
                return Some(was);
            }
        }
        None
    }

    /// The last direct or limit reclaim of `tid` that is still in the bucket.
    #[inline(always)]
    pub fn last_reclaim(&self, tid: u32) -> Option<Reclaim> {
        let mut last = Reclaim { memcg: false, ended_ns: 0 };
        for s in &self.0 {
            // The kind, if the task is ours; one comparison, for the verifier walks every path.
            let kind = s.owner ^ (u64::from(tid) << 8);
            // An ended slot has start 0, so the sum is its end. The caller is not inside reclaim,
            // so a slot that looks active has ended and its end was skipped (Loss::Recursion):
            // then the sum is some time within it, which is exact enough.
            let ended_ns = s.start_ns.wrapping_add(s.inner_ns);
            if kind.wrapping_sub(Kind::Direct as u64) < 2 && ended_ns >= last.ended_ns {
                last = Reclaim { memcg: kind == Kind::Memcg as u64, ended_ns };
            }
        }
        (last.ended_ns > 0).then_some(last)
    }

    /// Ends what `tid` has been inside for long, because the task is not in reclaim at `now`: the
    /// ends were missed. Returns their number. The time inside is unknown and is not counted.
    #[inline(always)]
    pub fn end_missed(&mut self, tid: u32, now: u64) -> u64 {
        let mut missed = 0;
        for s in &mut self.0 {
            if s.active() && s.tid() == tid && now.saturating_sub(s.start_ns) > DOUBTED_NS {
                missed += 1;
                // The time of the end: some time within, as in `last_reclaim`.
                s.inner_ns = s.start_ns.wrapping_add(s.inner_ns);
                s.start_ns = 0;
            }
        }
        missed
    }

    /// Removes all slots of `tid`; returns the number of those that were still active.
    #[inline(always)]
    pub fn forget(&mut self, tid: u32) -> u64 {
        let mut inside = 0;
        for s in &mut self.0 {
            if s.owner != 0 && s.tid() == tid {
                inside += u64::from(s.active());
                *s = Slot::default();
            }
        }
        inside
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const D: Kind = Kind::Direct;

    #[test]
    fn an_end_matches_its_begin_once() {
        let mut b = Bucket::default();
        assert_eq!(b.begin(owner(7, D), 100, 42).0, Begin::Fresh);
        let slot = b.end(owner(7, D), 150).expect("is inside");
        assert_eq!((slot.exclusive_ns(150), slot.aux), (50, 42));
        assert_eq!(b.end(owner(7, D), 160), None);
    }

    #[test]
    fn a_cgroup_is_reused_for_a_short_time_only() {
        let mut b = Bucket::default();
        assert_eq!(b.recent(owner(7, D), 1), None);
        b.begin(owner(7, D), 100, 42);
        assert_eq!(b.recent(owner(7, D), 110), None, "still inside: its end was missed");
        b.end(owner(7, D), 150);
        assert_eq!(b.recent(owner(7, D), 151), Some(42));
        assert_eq!(b.recent(owner(7, Kind::Memcg), 151), None);
        assert_eq!(b.recent(owner(7, D), 150 + RECENT_NS), None);
        b.forget(7);
        assert_eq!(b.recent(owner(7, D), 151), None);
    }

    #[test]
    fn a_missed_end_restarts_the_clock() {
        let mut b = Bucket::default();
        b.begin(owner(7, D), 100, 0);
        assert_eq!(b.begin(owner(7, D), 1000, 0).0, Begin::Restarted);
        assert_eq!(b.end(owner(7, D), 1010).expect("is inside").exclusive_ns(1010), 10);
    }

    #[test]
    fn a_task_outside_of_reclaim_is_not_inside_for_long() {
        let mut b = Bucket::default();
        b.begin(owner(7, D), 100, 42);
        b.end(owner(7, D), 150);
        b.begin(owner(7, D), 200, 42);
        b.begin(owner(7, Kind::Compaction), 300 + DOUBTED_NS, 42);
        b.begin(owner(8, D), 200, 43);
        assert_eq!(b.end_missed(7, 200 + DOUBTED_NS), 0, "it may have begun just now");
        assert_eq!(b.end_missed(7, 201 + DOUBTED_NS), 1, "of direct reclaim");
        assert_eq!(b.end(owner(7, D), 400 + DOUBTED_NS), None);
        assert!(b.end(owner(7, Kind::Compaction), 400 + DOUBTED_NS).is_some());
        assert!(b.end(owner(8, D), 400 + DOUBTED_NS).is_some(), "another task");
        assert_eq!(b.last_reclaim(7), Some(Reclaim { memcg: false, ended_ns: 200 }));
        let earlier = b.0.iter().find(|s| s.owner == owner(7, D)).map(|s| s.unsettled_ns);
        assert_eq!(earlier, Some(50), "earlier stalls are still charged");
    }

    #[test]
    fn a_full_bucket_evicts_its_oldest_task() {
        let mut b = Bucket::default();
        for (tid, now) in [(1, 30), (2, 10), (3, 20), (4, 40)] {
            b.begin(owner(tid, D), now, 0);
        }
        assert_eq!(b.begin(owner(5, D), 50, 0).0, Begin::Evicted);
        assert_eq!(b.end(owner(2, D), 60), None);
        for tid in [1, 3, 4, 5] {
            assert!(b.end(owner(tid, D), 60).is_some(), "{tid}");
        }
    }

    #[test]
    fn nested_kinds_are_timed_apart() {
        let mut b = Bucket::default();
        b.begin(owner(7, D), 100, 0);
        b.begin(owner(7, Kind::Softlimit), 120, 0);
        assert_eq!(b.scanner(7), Some(D));
        b.stall_of(7).expect("direct").inner_ns += 5;
        assert_eq!(b.end(owner(7, Kind::Softlimit), 130).expect("in").exclusive_ns(130), 10);
        assert_eq!(b.end(owner(7, D), 200).expect("in").exclusive_ns(200), 95);
    }

    #[test]
    fn a_sleep_before_reclaim_contains_no_stall() {
        let mut b = Bucket::default();
        let asleep = owner(7, Kind::Pfmemalloc);
        b.begin(asleep, 100, 5);
        assert!(b.stall_of(7).is_none());
        assert_eq!((b.scanner(7), b.last_reclaim(7)), (None, None), "it reclaims nothing");
        let slot = b.take(asleep).expect("is inside");
        assert_eq!((slot.exclusive_ns(150), slot.aux), (50, 5));
        assert_eq!((b.take(asleep), b.0), (None, Bucket::default().0));
        // Its end was missed: the reclaim after it is a separate stall.
        b.begin(asleep, 200, 5);
        b.begin(owner(7, D), 210, 42);
        assert_eq!(b.end(owner(7, D), 220).expect("in").exclusive_ns(220), 10);
        assert_eq!(b.begin(asleep, 230, 5).0, Begin::Restarted);
        assert_eq!(b.take(asleep).expect("in").exclusive_ns(231), 1);
    }

    #[test]
    fn the_last_reclaim_gives_the_type_of_an_oom_kill() {
        let mut b = Bucket::default();
        assert_eq!(b.last_reclaim(7), None);
        b.begin(owner(7, D), 100, 0);
        b.end(owner(7, D), 110);
        b.begin(owner(7, Kind::Memcg), 120, 0);
        b.end(owner(7, Kind::Memcg), 130);
        assert_eq!(b.last_reclaim(7), Some(Reclaim { memcg: true, ended_ns: 130 }));
        assert_eq!(b.last_reclaim(8), None);
        assert_eq!(b.forget(7), 0);
        assert_eq!(b.last_reclaim(7), None);
    }

    /// Its end was skipped: the kill after it is still a kill of the cgroup.
    #[test]
    fn a_reclaim_without_an_end_gives_the_type_too() {
        let mut b = Bucket::default();
        b.begin(owner(7, D), 100, 0);
        b.end(owner(7, D), 110);
        b.begin(owner(7, Kind::Memcg), 120, 0);
        assert_eq!(b.last_reclaim(7), Some(Reclaim { memcg: true, ended_ns: 120 }));
    }

    proptest! {
        /// Against the obvious model: as long as a bucket is not full, it is a map.
        #[test]
        fn a_bucket_is_a_map_until_it_is_full(
            ops in prop::collection::vec((0u32..4, any::<bool>()), 1..200),
        ) {
            let mut bucket = Bucket::default();
            let mut model = std::collections::HashMap::new();
            for (now, (tid, enter)) in (1u64..).zip(ops) {
                if enter {
                    let how = bucket.begin(owner(tid, D), now, now).0;
                    let fresh = model.insert(tid, now).is_none();
                    prop_assert_eq!(how, if fresh { Begin::Fresh } else { Begin::Restarted });
                } else {
                    let start = bucket.end(owner(tid, D), now).map(|s| s.start_ns);
                    prop_assert_eq!(start, model.remove(&tid));
                }
            }
        }

        #[test]
        fn a_task_never_ends_the_stall_of_another(
            ops in prop::collection::vec((0u32..40, any::<bool>()), 1..400),
        ) {
            let mut bucket = Bucket::default();
            for (now, (tid, enter)) in (1u64..).zip(ops) {
                if enter {
                    bucket.begin(owner(tid, D), now, u64::from(tid));
                } else if let Some(s) = bucket.end(owner(tid, D), now) {
                    prop_assert_eq!(s.aux, u64::from(tid));
                    prop_assert!(s.start_ns < now);
                }
            }
        }
    }
}
