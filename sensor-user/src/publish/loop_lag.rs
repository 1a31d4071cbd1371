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

/// A loop that has not run for this long is stuck, if no supervisor has another time: as the
/// watchdog of the systemd unit.
pub const WATCHDOG: Duration = Duration::from_mins(2);

/// The lag of both loops.
#[derive(Debug)]
pub struct LoopLags {
    stuck_after: Duration,
    /// The sensing loop. It may be late by one sample: under pressure samples are more frequent.
    pub sense: LoopTimer,
    /// The serving loop.
    pub serve: LoopTimer,
}

impl LoopLags {
    /// No lag yet, at `now_ns` of CLOCK_MONOTONIC. `interval` is the time between samples, and
    /// `watchdog` that after which a loop is stuck.
    pub fn new(interval: Duration, watchdog: Duration, now_ns: u64) -> Self {
        Self {
            stuck_after: watchdog.max(interval * 2),
            sense: LoopTimer::new(interval, now_ns),
            serve: LoopTimer::new(MAX_SERVE_LAG, now_ns),
        }
    }

    /// The name of a loop that has not run for the watchdog's time.
    pub fn stuck(&self, now_ns: u64) -> Option<&'static str> {
        let is_stuck = |timer: &LoopTimer| {
            let last_ns = timer.last_ns.load(Ordering::Relaxed);
            Duration::from_nanos(now_ns.saturating_sub(last_ns)) > self.stuck_after
        };
        self.all().into_iter().find(|(_, timer)| is_stuck(timer)).map(|(name, _)| name)
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
    /// When it last ran, or when it was made.
    last_ns: AtomicU64,
}

impl LoopTimer {
    fn new(max_lag: Duration, now_ns: u64) -> Self {
        let [misses, longest_ns] = Default::default();
        Self { max_lag, misses, longest_ns, last_ns: AtomicU64::new(now_ns) }
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
        let lags = LoopLags::new(Duration::from_secs(1), WATCHDOG, 0);
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

    #[test]
    fn a_loop_that_has_not_run_for_two_minutes_is_stuck() {
        const SECOND: u64 = 1_000_000_000;
        let (interval, start) = (Duration::from_secs(1), 1000 * SECOND);
        let lags = LoopLags::new(interval, WATCHDOG, start);
        let at = |seconds: u64| start + seconds * SECOND;
        assert_eq!((lags.stuck(at(0)), lags.stuck(at(120))), (None, None), "it starts");
        assert!(lags.stuck(at(121)).is_some());
        lags.serve.tick(at(200), at(200));
        assert_eq!(lags.stuck(at(200)), Some("sense"));
        lags.sense.tick(at(201), at(201));
        assert_eq!((lags.stuck(at(201)), lags.stuck(at(320))), (None, None));
        lags.sense.tick(at(321), at(321));
        assert_eq!(lags.stuck(at(321)), Some("serve"));
        let slow = LoopLags::new(Duration::from_mins(1), Duration::from_secs(10), 0);
        assert_eq!((slow.stuck(120 * SECOND), slow.stuck(121 * SECOND)), (None, Some("sense")));
    }
}
