//! When the cgroup tree is walked: requests of the event thread, which has real-time priority, to
//! the thread `cgroups`, which has not.
//!
//! A walk over fifty thousand cgroups takes a second or more, and any user who may create cgroups
//! can cause the need for one. So walks are paced by what they cost, and a waiter gives up soon.
//!
//! Not here: the walk (`walker`).

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::Result;
use rustix::event::{PollFd, PollFlags};
use sensor_core::common::counter::nanos;

use crate::publish::{
    control::{EventFd, Shutdown},
    wait::wait_for,
};

/// Shortest time between two walks for an event.
pub(super) const WALK_FOR_EVENT: Duration = Duration::from_secs(1);

/// After a walk the tree is left alone for this many times the processor time that it took.
const REST: u64 = 10;

/// Longest time that an event waits for a walk.
const WAIT: Duration = Duration::from_millis(100);

/// The time from which on the next walk may begin, `gap` after the end of the last one or later;
/// CLOCK_MONOTONIC nanoseconds. `took_ns` is processor time: a walk that waited for a processor
/// has cost nothing meanwhile.
pub(super) fn next_walk_ns(took_ns: u64, ended_ns: u64, gap: Duration) -> u64 {
    let rest = took_ns.saturating_mul(REST);
    ended_ns.saturating_add(rest.max(nanos(gap)))
}

/// Requests and results of walks.
#[derive(Debug)]
pub(super) struct WalkRequests {
    requested: EventFd,
    finished: EventFd,
    /// When the next walk for an event may begin; 0 before the end of the first.
    due_ns: AtomicU64,
    /// Walks that are finished.
    walks: AtomicU64,
}

/// A waiter's memory: the number of walks that were finished when it last waited in vain.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Patience(Option<u64>);

impl Patience {
    /// Whether it is worth waiting: a walk may begin soon, and the walking thread has not let an
    /// earlier wait time out since it last finished a walk. Otherwise each event would wait while
    /// that thread has no processor.
    fn may_wait(self, now: u64, due_ns: u64, walks: u64) -> bool {
        self.0 != Some(walks) && due_ns <= now.saturating_add(nanos(WAIT))
    }
}

impl WalkRequests {
    /// Without a request.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            requested: EventFd::new()?,
            finished: EventFd::new()?,
            due_ns: AtomicU64::new(0),
            walks: AtomicU64::new(0),
        })
    }

    /// Requests a walk as soon as one is due. Never waits.
    pub(super) fn request(&self) {
        self.requested.signal();
    }

    /// Whether a walk was requested since the last call.
    pub(super) fn take(&self) -> bool {
        self.requested.take()
    }

    /// Publishes that a walk has ended.
    pub(super) fn finish(&self, due_ns: u64) {
        self.due_ns.store(due_ns, Ordering::Relaxed);
        self.walks.fetch_add(1, Ordering::Release);
        self.finished.signal();
    }

    /// Requests a walk, and waits until `found` returns a value after a walk; `None` if that takes
    /// too long or no walk is due.
    pub(super) fn walk_for<T>(
        &self,
        patience: &mut Patience,
        now: impl Fn() -> u64,
        found: impl Fn() -> Option<T>,
    ) -> Option<T> {
        self.finished.take();
        self.request();
        let end = now().saturating_add(nanos(WAIT));
        loop {
            let (now, walks) = (now(), self.walks.load(Ordering::Acquire));
            if !patience.may_wait(now, self.due_ns.load(Ordering::Relaxed), walks) {
                return None;
            }
            if !self.finished.wait(Duration::from_nanos(end.saturating_sub(now))) {
                patience.0 = Some(walks);
                return None;
            }
            self.finished.take();
            let value = found();
            if value.is_some() {
                return value;
            }
        }
    }

    /// Waits for a request, for shutdown, or until the timeout.
    pub(super) fn wait(&self, shutdown: &Shutdown, timeout: Duration) {
        let mut fds =
            [PollFd::new(shutdown, PollFlags::IN), PollFd::new(&self.requested, PollFlags::IN)];
        // If interrupted, the caller checks again.
        wait_for(&mut fds, timeout);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, atomic::AtomicBool},
        time::Instant,
    };

    use sensor_core::common::clock::monotonic_ns;

    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn the_next_walk_waits_ten_times_as_long_as_the_last_took() {
        let second = Duration::from_secs(1);
        for (took, ended, gap, next) in [
            // A usual host: a walk takes a millisecond.
            (MS, MS, second, 1001 * MS),
            (MS, 5001 * MS, 10 * second, 15_001 * MS),
            // Exactly as long as the gap, and longer.
            (100 * MS, 100 * MS, second, 1100 * MS),
            (101 * MS, 101 * MS, second, 1111 * MS),
            // Fifty thousand cgroups: two seconds, measured from the end.
            (2000 * MS, 2000 * MS, second, 22_000 * MS),
            (2000 * MS, 2007 * MS, 10 * second, 22_007 * MS),
            // It waited for a processor.
            (MS, 9000 * MS, second, 10_000 * MS),
            // A clock that stands still, and numbers that are too large.
            (0, 9 * MS, second, 1009 * MS),
            (MS, u64::MAX - 1, second, u64::MAX),
            (u64::MAX / 2, MS, second, u64::MAX),
        ] {
            assert_eq!(next_walk_ns(took, ended, gap), next, "{took} until {ended}, {gap:?}");
        }
    }

    #[test]
    fn walks_take_at_most_a_tenth_of_the_time() {
        for took in [1, MS, 250 * MS, 30_000 * MS] {
            let (mut at, mut walked) = (0, 0);
            for _ in 0..50 {
                walked += took;
                at = next_walk_ns(took, at + took, WALK_FOR_EVENT);
            }
            assert!(walked <= at / 10, "{took}: {walked} of {at}");
        }
    }

    #[test]
    fn an_event_waits_only_for_a_walk_that_may_come() {
        let now = 60_000 * MS;
        for (vain, due, walks, waits) in [
            (None, 0, 0, true),
            (None, now, 3, true),
            (None, now + 100 * MS, 3, true),
            (None, now + 101 * MS, 3, false),
            (None, u64::MAX, 3, false),
            // A wait for the fourth walk has timed out.
            (Some(3), 0, 3, false),
            (Some(3), 0, 4, true),
            (Some(0), 0, 0, false),
        ] {
            let patience = Patience(vain);
            assert_eq!(patience.may_wait(now, due, walks), waits, "{patience:?} {due} {walks}");
        }
    }

    #[test]
    fn an_event_waits_once_for_a_thread_that_does_not_run() {
        let requests = WalkRequests::new().expect("eventfd");
        let mut patience = Patience::default();
        let begun = Instant::now();
        for _ in 0..20 {
            assert_eq!(requests.walk_for(&mut patience, monotonic_ns, || None::<()>), None);
        }
        let took = begun.elapsed();
        assert!(took >= WAIT && took < 5 * WAIT, "{took:?}");
        assert!(requests.take(), "the request stays");
        // The thread runs again, and the next walk is not due.
        requests.finish(u64::MAX);
        assert_eq!(requests.walk_for(&mut patience, monotonic_ns, || Some(1)), None);
    }

    #[test]
    fn an_event_gets_what_a_walk_found() {
        let requests = Arc::new(WalkRequests::new().expect("eventfd"));
        let found = Arc::new(AtomicBool::new(false));
        let walking = std::thread::spawn({
            let (requests, found) = (Arc::clone(&requests), Arc::clone(&found));
            move || {
                requests.wait(&Shutdown::new().expect("eventfd"), Duration::from_mins(1));
                assert!(requests.take());
                found.store(true, Ordering::Release);
                requests.finish(u64::MAX);
            }
        });
        let walked = || found.load(Ordering::Acquire).then_some(7);
        // A slow machine may not start the thread in time.
        let mut patience = Patience::default();
        let result = requests.walk_for(&mut patience, monotonic_ns, walked);
        walking.join().expect("no panic");
        assert!(result == Some(7) || patience.0.is_some(), "{result:?} {patience:?}");
    }
}
