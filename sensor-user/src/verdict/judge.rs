//! Readings in, verdicts out, for one scope.

use std::sync::Arc;

use super::{
    pace::{Pace, Position, Settings},
    policy::{Evidence, Policy},
    reading::Reading,
    signals::{Past, Signals},
};

/// What was decided, and from what.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// State and weight.
    pub position: Position,
    /// Since when it is in this state: CLOCK_MONOTONIC nanoseconds.
    pub since_ns: u64,
    /// What spoke against full traffic.
    pub evidence: Evidence,
    /// The numbers.
    pub signals: Signals,
    /// How long it must be calm before it gets better.
    pub recover_after: std::time::Duration,
    /// Changes of state so far, from row to column, by [`State`].
    pub transitions: [[u64; 3]; 3],
}

/// Judges one scope.
#[derive(Debug, Clone)]
pub struct Judge {
    policy: Arc<Policy>,
    past: Past,
    pace: Pace,
    signals: Signals,
    evidence: Evidence,
    since_ns: Option<u64>,
    transitions: [[u64; 3]; 3],
}

impl Judge {
    /// Knows nothing yet, and takes the scope to be ready.
    pub fn new(policy: Arc<Policy>, settings: Settings) -> Self {
        Self {
            policy,
            past: Past::default(),
            pace: Pace::new(settings),
            signals: Signals::default(),
            evidence: Evidence::default(),
            since_ns: None,
            transitions: [[0; 3]; 3],
        }
    }

    /// Goes on from where an earlier judge left the scope.
    pub fn resume(&mut self, stood: Position) {
        self.pace.resume(stood);
    }

    /// Takes a reading. One that is not later than the last changes nothing.
    pub fn judge(&mut self, reading: Reading) -> Verdict {
        let (now, before) = (reading.at_ns, self.pace.position().state);
        if let Some(signals) = self.past.push(reading) {
            self.signals = signals;
            self.evidence = self.policy.weigh(&signals);
            self.pace.step(now, self.evidence.fires, self.evidence.holds);
        }
        let state = self.pace.position().state;
        if state != before {
            self.transitions[before as usize][state as usize] += 1;
            self.since_ns = Some(now);
        }
        self.verdict(now)
    }

    /// Nothing can be told at this time: the scope stays as it is, for no news is not good news.
    pub fn pause(&mut self, now_ns: u64) -> Verdict {
        self.past.interrupt();
        self.pace.pause();
        self.signals = Signals::default();
        self.evidence = Evidence::default();
        self.verdict(now_ns)
    }

    fn verdict(&mut self, now_ns: u64) -> Verdict {
        Verdict {
            position: self.pace.position(),
            since_ns: *self.since_ns.get_or_insert(now_ns),
            evidence: self.evidence.clone(),
            signals: self.signals,
            recover_after: self.pace.recover_after(),
            transitions: self.transitions,
        }
    }
}
