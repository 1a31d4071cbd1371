//! The result of a run.

use std::time::Duration;

use super::{
    programs::MemoryUse,
    targets::{Target, TargetResults},
};
use crate::support::open_loop::Request;

/// The result of a run. Times are since its start.
#[derive(Debug, Default)]
pub struct Run {
    /// Where it ran, as the first words of its table.
    pub place: String,
    /// The queries of each target.
    pub targets: Vec<TargetResults>,
    /// When the load began.
    pub load_start: Duration,
    /// When the load ended, or began to run out of memory.
    pub load_end: Duration,
    /// When the sensing thread was starved of CPU, or `load_end`.
    pub starve_start: Duration,
    /// When the starvation ended; zero without one.
    pub starve_end: Duration,
    /// Memory of each program before the load, by name.
    pub calm: Vec<(String, MemoryUse)>,
    /// The same at the end of the load.
    pub thrash: Vec<(String, MemoryUse)>,
    /// Share of the load's time in which some task waited for memory (PSI `some`).
    pub some_share: f64,
    /// Time until another memsensor, started halfway, responded; none if it did not.
    pub late_start: Option<Duration>,
    /// Programs that ended during the run.
    pub ended: Vec<String>,
}

impl Run {
    /// Duration of the load.
    pub(super) fn load_duration(&self) -> Duration {
        self.load_end.saturating_sub(self.load_start)
    }

    /// Time from the starvation of the sensing thread to the first response `stale`, and the share
    /// of `stale` among all responses from then until the starvation ended.
    pub(super) fn stale(&self) -> Option<(Duration, f64)> {
        let readyz = self.targets.iter().find(|results| results.target == Target::Readyz)?;
        let starved =
            readyz.requests.iter().filter(|r| r.at >= self.starve_start && r.at < self.starve_end);
        let stale = |r: &&Request<String>| r.outcome.as_ref().is_ok_and(|state| state == "stale");
        let since: Vec<_> = starved.skip_while(|r| !stale(r)).collect();
        let first = since.first()?;
        let count = since.iter().filter(|r| stale(r)).count();
        let after = (first.at + first.took).saturating_sub(self.starve_start);
        Some((after, count as f64 / since.len() as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_counts_only_during_the_starvation() {
        let at = |second, state: &str| Request {
            at: Duration::from_secs(second),
            took: Duration::from_millis(100),
            outcome: Ok(state.to_owned()),
        };
        let states = ["stale", "ready", "ready", "stale", "ready", "stale", "stale", "ready"];
        let requests = (0..).zip(states).map(|(second, state)| at(second, state)).collect();
        let mut run = Run {
            targets: vec![TargetResults { target: Target::Readyz, requests }],
            starve_start: Duration::from_secs(1),
            starve_end: Duration::from_secs(7),
            ..Run::default()
        };
        assert_eq!(run.stale(), Some((Duration::from_millis(2100), 0.75)));
        run.starve_end = Duration::from_secs(3);
        assert_eq!(run.stale(), None);
    }
}
