//! Handles to all data that answers are made of.

use std::sync::{Arc, atomic::AtomicU64};

use arc_swap::ArcSwap;
use sensor_core::{
    common::clock::monotonic_ns,
    model::{coverage::Coverage, snapshot::Sample},
};

use super::{
    background::Background, clients::ClientTracker, connections::Connections, drain::OperatorDrain,
    protection::Protection, reload::Reload, settings::Served,
};
use crate::publish::{
    answers::ChangedAnswers, cgroup_report::PublishedCgroups, event_log::EventLog,
    loop_lag::LoopLags, own_process::PublishedProcess, record::RecordFigures,
    sample::PublishedSample, usage::PublishedUsage,
};

/// Handles to published data.
#[derive(Debug, Clone)]
pub struct Published {
    /// The last sample.
    pub sample: PublishedSample,
    /// The last scan of processes.
    pub usage: Arc<PublishedUsage>,
    /// The last report on cgroups.
    pub cgroups: PublishedCgroups,
    /// The last events.
    pub events: Arc<EventLog>,
    /// Which probes are attached.
    pub coverage: Arc<Coverage>,
    /// Lag of the daemon's loops.
    pub lags: Arc<LoopLags>,
    /// The daemon's own process.
    pub process: PublishedProcess,
    /// Figures of the record on disk.
    pub record: Arc<RecordFigures>,
    /// Answers to balancers that the recorder has not taken yet.
    pub answers: Arc<ChangedAnswers>,
}

/// State that all servers share; cheap to clone.
#[derive(Debug, Clone)]
pub struct AppState {
    /// Handles to published data.
    pub published: Published,
    /// Names of the scopes, the host first.
    pub scopes: Arc<[String]>,
    /// Settings of serving.
    pub settings: Arc<ArcSwap<Served>>,
    /// Work that the serving thread does not do itself.
    pub background: Background,
    /// Reads the configuration again; `None` in tests.
    pub reload: Option<Arc<dyn Reload>>,
    /// The operator's drain.
    pub drain: Arc<OperatorDrain>,
    /// What protects the host from the daemon.
    pub protection: Arc<Protection>,
    /// Clients that poll readiness.
    pub clients: Arc<ClientTracker>,
    /// Counts of connections.
    pub connections: Connections,
    /// Requests for scopes that do not exist.
    pub unknown_scopes: Arc<AtomicU64>,
}

impl Published {
    /// Without a sample yet.
    pub fn new(events: EventLog, coverage: Coverage, lags: LoopLags) -> Self {
        Self {
            sample: Arc::default(),
            usage: Arc::default(),
            cgroups: Arc::default(),
            events: Arc::new(events),
            coverage: Arc::new(coverage),
            lags: Arc::new(lags),
            process: Arc::default(),
            record: Arc::default(),
            answers: Arc::default(),
        }
    }
}

impl AppState {
    /// Without clients yet, and without a configuration to read again.
    pub fn new(
        published: Published,
        scopes: Arc<[String]>,
        settings: Arc<ArcSwap<Served>>,
        background: Background,
        drain: OperatorDrain,
    ) -> Self {
        Self {
            published,
            scopes,
            settings,
            background,
            reload: None,
            drain: Arc::new(drain),
            protection: Arc::default(),
            clients: Arc::new(ClientTracker::new(monotonic_ns())),
            connections: Connections::default(),
            unknown_scopes: Arc::default(),
        }
    }

    /// The last sample.
    pub fn sample(&self) -> Option<Arc<Sample>> {
        self.published.sample.load_full()
    }
}
