//! Counts of the connections of each listener, for `/metrics`. Not here: which connections are
//! accepted (`serve/places`).

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its request was answered.
    Served,
    /// It was closed at once: its address is not allowed, had its share of the places, or all were
    /// taken.
    Refused,
    /// It was closed for a newer connection before its request was complete.
    Evicted,
    /// It was closed at a deadline.
    TimedOut,
    /// The client closed it before its request was complete.
    Abandoned,
}

impl Outcome {
    /// All outcomes, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::Served, Self::Refused, Self::Evicted, Self::TimedOut, Self::Abandoned];

    /// The word in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Refused => "refused",
            Self::Evicted => "evicted",
            Self::TimedOut => "timed_out",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Connections of one kind of listener.
#[derive(Debug, Default)]
pub struct ConnectionCounts {
    /// Connections that are served now.
    pub open: AtomicU64,
    /// Accepted connections that wait because there were too many in the last moment.
    pub queued: AtomicU64,
    ended: [AtomicU64; Outcome::ALL.len()],
}

impl ConnectionCounts {
    /// Counts a connection that ended.
    pub fn end(&self, outcome: Outcome) {
        self.ended[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Connections that ended so.
    pub fn ended(&self, outcome: Outcome) -> u64 {
        self.ended[outcome as usize].load(Ordering::Relaxed)
    }
}

/// Connections by kind of listener; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Connections {
    /// All HTTP listeners.
    pub http: Arc<ConnectionCounts>,
    /// The agent-check's.
    pub agent: Arc<ConnectionCounts>,
}

impl Connections {
    /// Both, by name.
    pub fn all(&self) -> [(&'static str, &ConnectionCounts); 2] {
        [("http", &*self.http), ("agent", &*self.agent)]
    }
}
