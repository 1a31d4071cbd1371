//! Answers to balancers that differ from the ones before, on their way to the recorder: a bounded queue
//! without a lock, so that the serving thread never waits for the recorder.
//!
//! Not here: who asked before (`serve/state/clients`).

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use crossbeam_queue::ArrayQueue;
use sensor_core::model::readiness::ReadinessState;

/// Answers that may wait; the recorder takes them several times a second.
const WAITING: usize = 256;

/// An answer that differs from the one before to the same query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChangedAnswer {
    /// When it was given: CLOCK_MONOTONIC nanoseconds.
    pub at_ns: u64,
    /// The client's address.
    pub client: IpAddr,
    /// The scope's index.
    pub scope: usize,
    /// `http` or `agent`.
    pub protocol: &'static str,
    /// The state in the answer.
    pub state: ReadinessState,
    /// The weight in the answer: 0 to 1.
    pub weight: f64,
}

/// The queue.
#[derive(Debug)]
pub struct ChangedAnswers {
    queue: ArrayQueue<ChangedAnswer>,
    dropped: AtomicU64,
}

impl Default for ChangedAnswers {
    fn default() -> Self {
        Self { queue: ArrayQueue::new(WAITING), dropped: AtomicU64::new(0) }
    }
}

impl ChangedAnswers {
    /// Adds an answer, or drops and counts it if there is no room. Neither waits nor allocates.
    pub fn push(&self, answer: ChangedAnswer) {
        if self.queue.push(answer).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The next one.
    pub fn pop(&self) -> Option<ChangedAnswer> {
        self.queue.pop()
    }

    /// How many were dropped since the last call.
    pub fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}
