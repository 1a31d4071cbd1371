//! Whether our own loops keep their times, as they tell themselves: a sensor that was late says so, once
//! it can.
//!
//! Not here: that readers must not take an old sample for an answer (see [`crate::serve::state`]); that
//! does not hang on a loop which may stand still.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// How often the answering loop looks whether it is late.
pub const TICK: Duration = Duration::from_millis(100);

/// What the answering loop may be late by: an answer is to come within this.
const ANSWER_WITHIN: Duration = Duration::from_millis(50);

/// Both loops.
#[derive(Debug)]
pub struct LoopLags {
    /// The one that senses. It may be late by one sample: what is pressing is sampled more often.
    pub sense: Loop,
    /// The one that answers.
    pub serve: Loop,
}

impl LoopLags {
    /// Nothing missed yet. `interval` is that of samples.
    pub fn new(interval: Duration) -> Self {
        Self { sense: Loop::new(interval), serve: Loop::new(ANSWER_WITHIN) }
    }

    /// Both, by name.
    pub fn all(&self) -> [(&'static str, &Loop); 2] {
        [("sense", &self.sense), ("serve", &self.serve)]
    }

    /// Whether both have turned since `since_ns` of CLOCK_MONOTONIC.
    pub fn alive_since(&self, since_ns: u64) -> bool {
        self.all().iter().all(|(_, l)| l.turned_ns.load(Ordering::Relaxed) >= since_ns)
    }
}

/// A loop that ought to turn at certain times.
#[derive(Debug)]
pub struct Loop {
    may_be_late: Duration,
    misses: AtomicU64,
    longest_ns: AtomicU64,
    turned_ns: AtomicU64,
}

impl Loop {
    fn new(may_be_late: Duration) -> Self {
        let [misses, longest_ns, turned_ns] = Default::default();
        Self { may_be_late, misses, longest_ns, turned_ns }
    }

    /// It turned at `now_ns`, and should have at `due_ns`.
    pub fn turned(&self, now_ns: u64, due_ns: u64) {
        self.turned_ns.store(now_ns, Ordering::Relaxed);
        let late_ns = now_ns.saturating_sub(due_ns);
        self.longest_ns.fetch_max(late_ns, Ordering::Relaxed);
        if Duration::from_nanos(late_ns) > self.may_be_late {
            self.misses.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often it was too late.
    pub fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }

    /// The longest that it was late by, whether or not that is too late.
    pub fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest_ns.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_is_later_than_allowed() {
        const MS: u64 = 1_000_000;
        let deadlines = LoopLags::new(Duration::from_secs(1));
        for (now, due) in [(100, 100), (150, 100), (90, 100)] {
            deadlines.serve.turned(now * MS, due * MS);
        }
        assert_eq!(deadlines.serve.misses(), 0);
        deadlines.serve.turned(301 * MS, 250 * MS);
        deadlines.serve.turned(310 * MS, 309 * MS);
        assert_eq!(deadlines.serve.misses(), 1);
        assert_eq!(deadlines.serve.longest(), Duration::from_millis(51));
        assert!(!deadlines.alive_since(1), "the other has not turned");
        deadlines.sense.turned(320 * MS, 0);
        assert_eq!(deadlines.sense.misses(), 0);
        assert!(deadlines.alive_since(310 * MS));
        assert!(!deadlines.alive_since(311 * MS), "it stands");
    }
}
