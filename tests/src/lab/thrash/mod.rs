//! Who still answers while a host thrashes: memsensor, and beside it in the same run what people ask
//! today whether a host is well. Each is asked ten times a second, from outside, on time.
//!
//! * [`ask`] are the questions; [`hosts`] starts who is asked; [`table`] shows what came of it.
//! * [`native`] is the run on this machine, all of them in one cgroup that thrashes; [`guest`] follows a
//!   virtual machine, all of which does (`tests/guest/thrash` is what it does).
//!
//! Not here: whether the verdict is right ([`crate::lab::scenarios`]), and what users of a balancer meet
//! ([`crate::lab::replay`]).

pub mod ask;
pub mod guest;
pub mod hosts;
pub mod native;
pub mod table;

use std::time::Duration;

use self::{
    ask::{Asked, Who},
    hosts::Takes,
};
use crate::support::open_loop::Request;

/// What came of a run.
#[derive(Debug, Default)]
pub struct Run {
    /// Where, and with what.
    pub place: String,
    /// What each was asked, and said.
    pub asked: Vec<Asked>,
    /// When the load began, since the begin.
    pub disturbed: Duration,
    /// When it ended, or was made to run out of memory.
    pub relieved: Duration,
    /// When that ended, and the thread that senses was starved.
    pub end: Duration,
    /// When it was no more; zero if it never was.
    pub fed: Duration,
    /// What each took before, by name.
    pub calm: Vec<(String, Takes)>,
    /// What each took at the end of the load.
    pub thrash: Vec<(String, Takes)>,
    /// Share of the load's time in which some task waited for memory.
    pub some: f64,
    /// How long another memsensor took to answer that was started halfway; none if it did not.
    pub late: Option<Duration>,
    /// Who did not live through it.
    pub dead: Vec<String>,
}

impl Run {
    /// How long the load lasted.
    fn load(&self) -> Duration {
        self.relieved.saturating_sub(self.disturbed)
    }

    /// How long after the thread that senses was starved memsensor first said that what it knows is
    /// stale, and the share of what it was asked from then on, while that lasted, to which it said so.
    fn stale(&self) -> Option<(Duration, f64)> {
        let readyz = self.asked.iter().find(|asked| asked.who == Who::Readyz)?;
        let starved = readyz.requests.iter().filter(|r| r.at >= self.end && r.at < self.fed);
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
            asked: vec![Asked { who: Who::Readyz, requests }],
            end: Duration::from_secs(1),
            fed: Duration::from_secs(7),
            ..Run::default()
        };
        assert_eq!(run.stale(), Some((Duration::from_millis(2100), 0.75)));
        run.fed = Duration::from_secs(3);
        assert_eq!(run.stale(), None);
    }
}
