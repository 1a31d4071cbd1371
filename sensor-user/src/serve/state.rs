//! What all readers share: the published snapshot, what is attached, and whether it is fresh.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use crate::{
    events::Log,
    host::clock::monotonic_ns,
    kernel::load::{Coverage, ProbeState},
    sense::Published,
    snapshot::Snapshot,
};

/// What all readers share; cheap to clone.
#[derive(Debug, Clone)]
pub struct State {
    /// The last snapshot.
    pub published: Published,
    /// What is attached.
    pub coverage: Arc<Coverage>,
    /// Rare events.
    pub events: Arc<Log>,
    /// When a snapshot is too old to be an answer.
    pub stale_after: Duration,
}

/// Whether this host is fit for traffic, as far as we can say now.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Readiness {
    /// Sensing, and the last sample is fresh.
    Ready {
        /// Seconds since the last sample.
        age_seconds: f64,
    },
    /// Nothing could be attached and that was allowed: fit as far as we can say, which is not far.
    Blind {
        /// Seconds since the last sample.
        age_seconds: f64,
    },
    /// The last sample is too old: a frozen sensor is what a frozen host looks like.
    Stale {
        /// Seconds since the last sample.
        age_seconds: f64,
    },
    /// No sample yet.
    Starting,
}

impl State {
    /// The verdict now. For the time being: started and fresh.
    pub fn readiness(&self) -> Readiness {
        let snapshot = self.published.load();
        let blind = !self.coverage.probes.iter().any(ProbeState::measures);
        readiness(snapshot.as_deref(), blind, monotonic_ns(), self.stale_after)
    }
}

fn readiness(
    snapshot: Option<&Snapshot>,
    blind: bool,
    now_ns: u64,
    stale_after: Duration,
) -> Readiness {
    let Some(snapshot) = snapshot else { return Readiness::Starting };
    let age = Duration::from_nanos(now_ns.saturating_sub(snapshot.taken_ns));
    let age_seconds = age.as_secs_f64();
    if age > stale_after {
        Readiness::Stale { age_seconds }
    } else if blind {
        Readiness::Blind { age_seconds }
    } else {
        Readiness::Ready { age_seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::read::Inside;

    #[test]
    fn a_sample_that_is_too_old_is_no_answer() {
        let snapshot = Snapshot {
            taken_ns: 1_000_000_000,
            taken_unix: 0.0,
            rows: Arc::default(),
            window_start: Arc::default(),
            inside: Inside::default(),
            costs: Vec::new(),
        };
        let at = |now_ns| readiness(Some(&snapshot), false, now_ns, Duration::from_secs(5));
        assert!(matches!(at(1_000_000_000), Readiness::Ready { .. }));
        assert!(matches!(at(6_000_000_000), Readiness::Ready { .. }));
        assert!(matches!(at(6_000_000_001), Readiness::Stale { .. }));
        let blind = readiness(Some(&snapshot), true, 1_000_000_000, Duration::from_secs(5));
        assert!(matches!(blind, Readiness::Blind { .. }));
        assert_eq!(readiness(None, false, 0, Duration::from_secs(5)), Readiness::Starting);
    }
}
