//! How late the daemon's own loops are: the sensing loop and the serving loop. A sensor that was
//! late reports it once it runs again.
//!
//! Not here: refusing old samples (`serve/state/readiness`), which must not depend on a loop that
//! may hang.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// How often the serving loop measures its own lag.
pub const TICK: Duration = Duration::from_millis(100);

/// Allowed lag of the serving loop: an answer is due within this.
const MAX_SERVE_LAG: Duration = Duration::from_millis(50);

/// The lag of both loops.
#[derive(Debug)]
pub struct LoopLags {
    /// The sensing loop. It may be late by one sample: under pressure samples are more frequent.
    pub sense: LoopTimer,
    /// The serving loop.
    pub serve: LoopTimer,
}

impl LoopLags {
    /// No lag yet. `interval` is the time between samples.
    pub fn new(interval: Duration) -> Self {
        Self { sense: LoopTimer::new(interval), serve: LoopTimer::new(MAX_SERVE_LAG) }
    }

    /// Both, by name.
    pub fn all(&self) -> [(&'static str, &LoopTimer); 2] {
        [("sense", &self.sense), ("serve", &self.serve)]
    }

    /// Whether both have run since `since_ns` of CLOCK_MONOTONIC.
    pub fn alive_since(&self, since_ns: u64) -> bool {
        self.all().iter().all(|(_, l)| l.last_ns.load(Ordering::Relaxed) >= since_ns)
    }
}

/// A loop that is due at certain times.
#[derive(Debug)]
pub struct LoopTimer {
    max_lag: Duration,
    misses: AtomicU64,
    longest_ns: AtomicU64,
    last_ns: AtomicU64,
}

impl LoopTimer {
    fn new(max_lag: Duration) -> Self {
        let [misses, longest_ns, last_ns] = Default::default();
        Self { max_lag, misses, longest_ns, last_ns }
    }

    /// The loop runs at `now_ns` and was due at `due_ns`.
    pub fn tick(&self, now_ns: u64, due_ns: u64) {
        self.last_ns.store(now_ns, Ordering::Relaxed);
        let late_ns = now_ns.saturating_sub(due_ns);
        self.longest_ns.fetch_max(late_ns, Ordering::Relaxed);
        if Duration::from_nanos(late_ns) > self.max_lag {
            self.misses.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often it was later than allowed.
    pub fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }

    /// The longest lag, also if it was allowed.
    pub fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest_ns.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lag_beyond_the_allowed_counts_as_a_miss() {
        const MS: u64 = 1_000_000;
        let lags = LoopLags::new(Duration::from_secs(1));
        for (now, due) in [(100, 100), (150, 100), (90, 100)] {
            lags.serve.tick(now * MS, due * MS);
        }
        assert_eq!(lags.serve.misses(), 0);
        lags.serve.tick(301 * MS, 250 * MS);
        lags.serve.tick(310 * MS, 309 * MS);
        assert_eq!(lags.serve.misses(), 1);
        assert_eq!(lags.serve.longest(), Duration::from_millis(51));
        assert!(!lags.alive_since(1), "the other loop has not run");
        lags.sense.tick(320 * MS, 0);
        assert_eq!(lags.sense.misses(), 0);
        assert!(lags.alive_since(310 * MS));
        assert!(!lags.alive_since(311 * MS), "neither has run since");
    }
}
