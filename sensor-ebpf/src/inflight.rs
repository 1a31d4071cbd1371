//! Who is inside reclaim, compaction or kswapd now: a bounded table, one cache line or two a touch.
//!
//! A begin/end pair needs its start time kept per task. A hash map costs 350 ns a pair when caches
//! are cold, and they always are in reclaim; here a task's thread id picks one bucket of four
//! slots in a plain array, which the JIT reaches without a helper call. The algorithm on a bucket
//! is here, pure and tested; the map that holds the buckets is in `bpf`.
//!
//! What cannot happen: a begin without end leaks at most one slot until its task exits (the
//! `process_exit` program sweeps it) or a fifth task needs the bucket; then the oldest is evicted
//! and counted. An end without begin finds nothing and is counted.
//!
//! Slots are written without a lock: two tasks of one bucket that begin in the same few
//! nanoseconds on two CPUs may take the same slot. The loser's end is then counted as unmatched.
//! The winner may keep the loser's start time, a few nanoseconds off, or its cgroup.

use crate::probes::Cause;

/// Slots per bucket.
pub const WAYS: usize = 4;
/// Buckets per array element: bigger elements, fewer system calls when user space reads all.
pub const BUCKETS_PER_CHUNK: usize = 16;
/// Array elements.
pub const CHUNKS: usize = 128;
/// Words of a chunk, as user space reads it.
pub const CHUNK_WORDS: usize = size_of::<Chunk>() / 8;

/// How long [`Bucket::recent`] trusts a note.
const RECENT_NS: u64 = 100_000_000;

/// What a task can be inside of.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Global direct reclaim: the allocating task reclaims because the node ran low.
    Direct = 1,
    /// Limit reclaim of a memory cgroup.
    Memcg = 2,
    /// Soft-limit reclaim (memcg v1), inside direct reclaim or kswapd.
    Softlimit = 3,
    /// Direct compaction.
    Compaction = 4,
    /// kswapd, awake.
    Kswapd = 5,
    /// Where a task is put to sleep before direct reclaim, if the node's reserves are nearly gone.
    Pfmemalloc = 6,
}

/// Number of kinds, for tables indexed by `Kind as usize`.
pub const KINDS: usize = 7;

/// One task inside one thing.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slot {
    /// `tid << 8 | kind`; 0 = never used.
    pub owner: u64,
    /// CLOCK_MONOTONIC nanoseconds; 0 = ended.
    pub start_ns: u64,
    /// While inside: nanoseconds that something nested already accounted for. Once ended: when.
    pub inner_ns: u64,
    /// Reclaim, compaction: cgroup id of the task. kswapd: node. Pfmemalloc: how often the task had
    /// slept before.
    pub aux: u64,
    /// Reclaim, compaction: nanoseconds of ended stalls that are not yet charged to cgroup `aux`.
    /// Settled when the slot is given to another task or cgroup, and when its task exits: a hash
    /// map's cold cache lines at the end of every stall cost more than all else there.
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

/// A reclaim that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reclaim {
    /// Of a memory cgroup at its limit, rather than global.
    pub memcg: bool,
    /// When it ended, CLOCK_MONOTONIC nanoseconds.
    pub ended_ns: u64,
}

/// What [`Bucket::begin`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// A free slot.
    Fresh,
    /// The same task was inside the same thing already: an end was missed.
    Restarted,
    /// All slots were taken; the oldest was given up.
    Evicted,
}

/// Chunk and bucket in the chunk for a thread id. Thread ids are handed out in sequence, so
/// neighbours never share a bucket.
#[inline(always)]
pub fn place(tid: u32) -> (u32, usize) {
    let i = tid as usize % (CHUNKS * BUCKETS_PER_CHUNK);
    ((i / BUCKETS_PER_CHUNK) as u32, i % BUCKETS_PER_CHUNK)
}

/// The owner word of a task inside `kind`.
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

    /// What its unsettled nanoseconds are charged as; `None` if that kind never has any.
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

    /// Which slot to give up first: the one that ended first, and only when none has, the one that
    /// began first.
    #[inline(always)]
    fn rank(&self) -> (bool, u64) {
        if self.active() { (true, self.start_ns) } else { (false, self.inner_ns) }
    }

    /// Nanoseconds inside at `now`, less what nested accounts already have.
    #[inline(always)]
    pub fn exclusive_ns(&self, now: u64) -> u64 {
        now.saturating_sub(self.start_ns).saturating_sub(self.inner_ns)
    }
}

impl Bucket {
    /// Enters a task; returns also what was in its slot, whose `unsettled_ns` are to be charged.
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
        let first = self.first_to_go();
        let how = if first.active() { Begin::Evicted } else { Begin::Fresh };
        let was = *first;
        *first = slot;
        (how, was)
    }

    /// What was noted with the owner's last stay, if it ended a moment ago: in a thrash a task
    /// reclaims thousands of times a second, and its cgroup's id is five cold cache lines away. A
    /// task that moves to another cgroup is charged to the old one for that moment longer.
    #[inline(always)]
    pub fn recent(&self, owner: u64, now: u64) -> Option<u64> {
        for s in &self.0 {
            if s.owner == owner && !s.active() && now.wrapping_sub(s.inner_ns) < RECENT_NS {
                return Some(s.aux);
            }
        }
        None
    }

    /// A free slot; of several the one that ended first, for later ones are notes that may still be
    /// needed. When all are inside, the one that began first.
    #[inline(always)]
    fn first_to_go(&mut self) -> &mut Slot {
        // Not a loop over indices: the verifier would have to bound them.
        let [a, b, c, d] = &mut self.0;
        let ab = if a.rank() <= b.rank() { a } else { b };
        let cd = if c.rank() <= d.rank() { c } else { d };
        if ab.rank() <= cd.rank() { ab } else { cd }
    }

    /// Takes a task out again and returns its slot as it was; `None` if it is not in.
    ///
    /// The slot stays behind as a note of what the task was last inside of: see
    /// [`Bucket::last_reclaim`].
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

    /// The stall that `tid` is inside of and that others may be inside of; softlimit reclaim is part of one,
    /// kswapd is none. Nothing is inside of the sleep before reclaim: one that looks as if it were going on
    /// has missed its end.
    #[inline(always)]
    pub fn stall_of(&mut self, tid: u32) -> Option<&mut Slot> {
        self.0.iter_mut().find(|s| {
            s.active()
                && s.tid() == tid
                && (s.is(Kind::Direct) || s.is(Kind::Memcg) || s.is(Kind::Compaction))
        })
    }

    /// Who scans: what `tid` is inside of, softlimit reclaim being part of what encloses it.
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

    /// Takes a task out of what it is inside of without leaving a note.
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

    /// The last direct or limit reclaim of `tid`, as far as it is noted.
    #[inline(always)]
    pub fn last_reclaim(&self, tid: u32) -> Option<Reclaim> {
        let mut last = Reclaim { memcg: false, ended_ns: 0 };
        for s in &self.0 {
            // The kind, if the task is ours; one comparison, for the verifier walks every path.
            let kind = s.owner ^ (u64::from(tid) << 8);
            // Of an ended one the end, for its start is 0. Who asks is not inside of reclaim, so one
            // that looks active has ended, and its end was skipped (Loss::Recursion): some time
            // within it will do.
            let ended_ns = s.start_ns.wrapping_add(s.inner_ns);
            if kind.wrapping_sub(Kind::Direct as u64) < 2 && ended_ns >= last.ended_ns {
                last = Reclaim { memcg: kind == Kind::Memcg as u64, ended_ns };
            }
        }
        (last.ended_ns > 0).then_some(last)
    }

    /// Removes every trace of `tid`; returns how many it was still inside of.
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
    fn an_end_finds_its_begin_and_only_once() {
        let mut b = Bucket::default();
        assert_eq!(b.begin(owner(7, D), 100, 42).0, Begin::Fresh);
        let slot = b.end(owner(7, D), 150).expect("is inside");
        assert_eq!((slot.exclusive_ns(150), slot.aux), (50, 42));
        assert_eq!(b.end(owner(7, D), 160), None);
    }

    #[test]
    fn a_cgroup_is_remembered_for_a_moment_only() {
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
    fn a_full_bucket_gives_up_its_oldest() {
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
    fn nested_kinds_do_not_meet() {
        let mut b = Bucket::default();
        b.begin(owner(7, D), 100, 0);
        b.begin(owner(7, Kind::Softlimit), 120, 0);
        assert_eq!(b.scanner(7), Some(D));
        b.stall_of(7).expect("direct").inner_ns += 5;
        assert_eq!(b.end(owner(7, Kind::Softlimit), 130).expect("in").exclusive_ns(130), 10);
        assert_eq!(b.end(owner(7, D), 200).expect("in").exclusive_ns(200), 95);
    }

    #[test]
    fn a_sleep_before_reclaim_has_nothing_inside_and_leaves_nothing_behind() {
        let mut b = Bucket::default();
        let asleep = owner(7, Kind::Pfmemalloc);
        b.begin(asleep, 100, 5);
        assert!(b.stall_of(7).is_none());
        assert_eq!((b.scanner(7), b.last_reclaim(7)), (None, None), "it reclaims nothing");
        let slot = b.take(asleep).expect("is inside");
        assert_eq!((slot.exclusive_ns(150), slot.aux), (50, 5));
        assert_eq!((b.take(asleep), b.0), (None, Bucket::default().0));
        // Its end was missed: the reclaim that follows is a stall of its own.
        b.begin(asleep, 200, 5);
        b.begin(owner(7, D), 210, 42);
        assert_eq!(b.end(owner(7, D), 220).expect("in").exclusive_ns(220), 10);
        assert_eq!(b.begin(asleep, 230, 5).0, Begin::Restarted);
        assert_eq!(b.take(asleep).expect("in").exclusive_ns(231), 1);
    }

    #[test]
    fn the_last_reclaim_tells_the_scope_of_an_oom() {
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

    /// Its end was skipped: the kill that follows is of the cgroup all the same.
    #[test]
    fn a_reclaim_whose_end_was_missed_tells_the_scope_too() {
        let mut b = Bucket::default();
        b.begin(owner(7, D), 100, 0);
        b.end(owner(7, D), 110);
        b.begin(owner(7, Kind::Memcg), 120, 0);
        assert_eq!(b.last_reclaim(7), Some(Reclaim { memcg: true, ended_ns: 120 }));
    }

    proptest! {
        /// Against the obvious model: as long as a bucket is not full, it is a map.
        #[test]
        fn a_bucket_is_a_map_until_it_is_full(ops in prop::collection::vec((0u32..4, any::<bool>()), 1..200)) {
            let mut bucket = Bucket::default();
            let mut model = std::collections::HashMap::new();
            for (now, (tid, enter)) in (1u64..).zip(ops) {
                if enter {
                    let how = bucket.begin(owner(tid, D), now, now).0;
                    let fresh = model.insert(tid, now).is_none();
                    prop_assert_eq!(how, if fresh { Begin::Fresh } else { Begin::Restarted });
                } else {
                    prop_assert_eq!(bucket.end(owner(tid, D), now).map(|s| s.start_ns), model.remove(&tid));
                }
            }
        }

        #[test]
        fn a_slot_is_never_taken_by_the_wrong_task(ops in prop::collection::vec((0u32..40, any::<bool>()), 1..400)) {
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
