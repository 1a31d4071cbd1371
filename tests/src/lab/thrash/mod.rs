//! Target still answers while a host thrashes: memsensor, and beside it in the same run what people ask
//! today whether a host is well. Each is asked ten times a second, from outside, on time.
//!
//! * [`ask`] are the questions; [`programs`] starts target is asked; [`table`] shows what came of it.
//! * [`native`] is the run on this machine, all of them in one cgroup that thrashes; [`guest`] follows a
//!   virtual machine, all of which does (`tests/guest/thrash` is what it does).
//!
//! Not here: whether the verdict is right ([`crate::lab::scenarios`]), and what users of a balancer meet
//! ([`crate::lab::replay`]).

pub mod targets;
pub mod guest;
pub mod programs;
pub mod native;
pub mod table;

use std::time::Duration;

use self::{
    targets::{TargetResults, Target},
    programs::MemoryUse,
};
use crate::support::open_loop::Request;

/// What came of a run.
#[derive(Debug, Default)]
pub struct Run {
    /// Where, and with what.
    pub place: String,
    /// What each was asked, and said.
    pub asked: Vec<TargetResults>,
    /// When the load began, since the begin.
    pub load_start: Duration,
    /// When it ended, or was made to run out of memory.
    pub load_end: Duration,
    /// When that ended, and the thread that senses was starved.
    pub end: Duration,
    /// When it was no more; zero if it never was.
    pub starve_end: Duration,
    /// What each took before, by name.
    pub calm: Vec<(String, MemoryUse)>,
    /// What each took at the end of the load.
    pub thrash: Vec<(String, MemoryUse)>,
    /// Share of the load's time in which some task waited for memory.
    pub some: f64,
    /// How long another memsensor took to answer that was started halfway; none if it did not.
    pub late: Option<Duration>,
    /// Target did not live through it.
    pub dead: Vec<String>,
}

impl Run {
    /// How long the load lasted.
    fn load(&self) -> Duration {
        self.load_end.saturating_sub(self.load_start)
    }

    /// How long after the thread that senses was starved memsensor first said that what it knows is
    /// stale, and the share of what it was asked from then on, while that lasted, to which it said so.
    fn stale(&self) -> Option<(Duration, f64)> {
        let readyz = self.asked.iter().find(|asked| asked.target == Target::Readyz)?;
        let starved = readyz.requests.iter().filter(|r| r.at >= self.end && r.at < self.starve_end);
        let stale = |r: &&Request<String>| r.outcome.as_ref().is_ok_and(|said| said == "stale");
        let since: Vec<_> = starved.skip_while(|r| !stale(r)).collect();
        let first = since.first()?;
        let said = since.iter().filter(|r| stale(r)).count();
        let after = (first.at + first.took).saturating_sub(self.end);
        Some((after, said as f64 / since.len() as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_is_looked_for_while_it_is_starved() {
        let at = |second, said: &str| Request {
            at: Duration::from_secs(second),
            took: Duration::from_millis(100),
            outcome: Ok(said.to_owned()),
        };
        let said = ["stale", "ready", "ready", "stale", "ready", "stale", "stale", "ready"];
        let requests = (0..).zip(said).map(|(second, said)| at(second, said)).collect();
        let mut run = Run {
            asked: vec![TargetResults { target: Target::Readyz, requests }],
            end: Duration::from_secs(1),
            starve_end: Duration::from_secs(7),
            ..Run::default()
        };
        assert_eq!(run.stale(), Some((Duration::from_millis(2100), 0.75)));
        run.starve_end = Duration::from_secs(3);
        assert_eq!(run.stale(), None);
    }
}
