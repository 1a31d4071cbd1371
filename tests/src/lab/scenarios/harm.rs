//! When the service was harmed, computed from its requests. Pure.
//!
//! Harm: the 99th percentile of the latencies of the last second is five times that of the calm
//! phase and stays so for two seconds, longer than one stall can be in a window of one second.

use serde::{Deserialize, Serialize};

use super::{SECOND, probe::Request};
use crate::support::score::{CALM_FLOOR_MS, SLOW_TIMES};

/// Harm is this multiple of the calm phase.
pub const TIMES: u64 = SLOW_TIMES as u64;
/// A calm latency counts as at least so many nanoseconds: five times 0.01 ms is no harm.
pub const FLOOR: u64 = CALM_FLOOR_MS * 1_000_000;
/// Minimum duration of harm, in nanoseconds.
pub const STAYS: u64 = 2 * SECOND;

const WINDOW: u64 = SECOND;
const STEP: u64 = SECOND / 10;

/// Begin and end of the phases: CLOCK_MONOTONIC nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phases {
    /// Begin of the calm phase.
    pub begin: u64,
    /// Begin of the load.
    pub load: u64,
    /// End of the load.
    pub end: u64,
}

/// The harm of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Harm {
    /// Calm latency: the median over the seconds of the calm phase of their 99th percentiles,
    /// nanoseconds.
    pub calm: u64,
    /// The highest 99th percentile after it.
    pub worst: u64,
    /// When harm began.
    pub harmed_at: Option<u64>,
    /// Total time above the threshold, nanoseconds.
    pub high: u64,
}

/// Computes the harm from requests ordered by time.
pub fn judge(requests: &[Request], phases: Phases) -> Harm {
    let calm = calm(requests, phases).unwrap_or(0);
    let limit = TIMES * calm.max(FLOOR);
    let (mut worst, mut high) = (0, 0);
    let (mut since, mut harmed_at) = (None, None);
    let first = phases.begin + WINDOW;
    for now in (first..=phases.end).step_by(usize::try_from(STEP).unwrap_or(usize::MAX)) {
        // No request in a second: the service has ended.
        let found = percentile(&waits(requests, now - WINDOW, now, now)).unwrap_or(u64::MAX);
        if now > phases.load {
            worst = worst.max(found);
        }
        if found < limit {
            since = None;
            continue;
        }
        high += STEP;
        let began = *since.get_or_insert(now);
        if now - began >= STAYS {
            harmed_at = harmed_at.or(Some(began));
        }
    }
    Harm { calm, worst, harmed_at, high }
}

/// The median, so that one disturbed second does not change the threshold.
fn calm(requests: &[Request], phases: Phases) -> Option<u64> {
    let seconds = (phases.begin + WINDOW..=phases.load).step_by(usize::try_from(WINDOW).ok()?);
    let mut each: Vec<_> =
        seconds.filter_map(|now| percentile(&waits(requests, now - WINDOW, now, now))).collect();
    each.sort_unstable();
    each.get(each.len() / 2).copied()
}

/// Latencies of the requests due between two times, as far as known at `now`.
fn waits(requests: &[Request], from: u64, to: u64, now: u64) -> Vec<u64> {
    let start = requests.partition_point(|r| r.due < from);
    let came = requests[start..].iter().take_while(|r| r.due < to);
    came.map(|r| r.done.min(now).saturating_sub(r.due)).collect()
}

fn percentile(waits: &[u64]) -> Option<u64> {
    let mut sorted = waits.to_vec();
    sorted.sort_unstable();
    sorted.get((sorted.len() * 99).div_ceil(100).checked_sub(1)?).copied()
}

/// Adds the requests that were due after the last one that was served.
pub fn with_unserved(mut requests: Vec<Request>, period: u64, end: u64) -> Vec<Request> {
    let mut due = requests.last().map_or(end, |r| r.due + period);
    while due < end {
        requests.push(Request { due, done: u64::MAX });
        due += period;
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const PHASES: Phases = Phases { begin: 0, load: 5 * SECOND, end: 15 * SECOND };

    /// Two hundred a second for 15 s, served one after the other; `wait` is how long each takes.
    fn served(wait: impl Fn(u64) -> u64) -> Vec<Request> {
        let mut free = 0;
        let serve = |n: u64| {
            let due = n * 5 * MS;
            free = due.max(free) + wait(due);
            Request { due, done: free }
        };
        (0..3000).map(serve).collect()
    }

    #[test]
    fn harm_is_five_times_the_calm_phase_for_two_seconds() {
        let slow = |from: u64, to: u64, ms: u64| {
            move |due: u64| if (from..to).contains(&due) { ms * MS } else { MS / 10 }
        };
        let judged = |wait: &dyn Fn(u64) -> u64| judge(&served(wait), PHASES);
        assert_eq!(judged(&slow(0, 0, 0)).harmed_at, None, "calm");
        assert_eq!(judged(&slow(8 * SECOND, 15 * SECOND, 4)).harmed_at, None, "40 times, and 4 ms");
        let one = judged(&slow(8 * SECOND, 8 * SECOND + 1, 500));
        assert_eq!((one.harmed_at, one.worst >= 490 * MS), (None, true), "one stall is not harm");
        let at = judged(&slow(8 * SECOND, 11 * SECOND, 50)).harmed_at.expect("harm");
        assert!((8 * SECOND..=8 * SECOND + SECOND / 5).contains(&at), "{at}");
    }

    #[test]
    fn a_disturbed_calm_second_does_not_change_the_threshold() {
        let requests = served(|due| if due == SECOND { 900 * MS } else { MS });
        assert_eq!(judge(&requests, PHASES).calm, MS);
    }

    #[test]
    fn unserved_requests_are_harm() {
        let mut requests = served(|_| MS);
        requests.truncate(1600);
        let requests = with_unserved(requests, 5 * MS, PHASES.end);
        assert_eq!(requests.len(), 3000);
        let at = judge(&requests, PHASES).harmed_at.expect("harm");
        assert!((8 * SECOND..=8 * SECOND + SECOND / 5).contains(&at), "{at}");
    }

    #[test]
    fn a_window_ignores_what_happens_after_it() {
        let late = [Request { due: 10, done: 500 }];
        assert_eq!(waits(&late, 0, 100, 100), [90]);
        assert_eq!(waits(&late, 0, 100, 900), [490]);
    }
}
