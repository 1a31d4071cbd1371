//! Renders all parts of `/metrics`.

use std::{
    fmt::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use prometheus_client::{
    collector::Collector, encoding::DescriptorEncoder, encoding::text, registry::Registry,
};
use sensor_core::{common::counter::nanos, model::snapshot::Sample};

use super::{cgroups, growth_labels::GrowthLabels, probes::ProbeMetrics, process, scopes, sensor};
use crate::serve::state::app::AppState;

/// Renders `/metrics`, and remembers how long that took.
#[derive(Debug, Default)]
pub struct Renderer {
    last_ns: AtomicU64,
    growth_labels: Arc<GrowthLabels>,
}

impl Renderer {
    /// All metrics as OpenMetrics text.
    pub fn render(&self, state: &AppState) -> String {
        let begun = Instant::now();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Exposition {
            sample: state.sample(),
            state: state.clone(),
            growth_labels: Arc::clone(&self.growth_labels),
            last_seconds: self.last_ns.load(Ordering::Relaxed) as f64 / 1e9,
        }));
        let mut text = String::with_capacity(32 * 1024);
        // Writing to a String does not fail.
        let _ = text::encode(&mut text, &registry);
        self.last_ns.store(nanos(begun.elapsed()), Ordering::Relaxed);
        text
    }
}

#[derive(Debug)]
struct Exposition {
    sample: Option<Arc<Sample>>,
    state: AppState,
    growth_labels: Arc<GrowthLabels>,
    last_seconds: f64,
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        let Self { sample, state, growth_labels, last_seconds } = self;
        let published = &state.published;
        if let Some(sample) = sample {
            let snapshot = &sample.snapshot;
            let buckets = state.metrics.buckets;
            let (coverage, events) = (&published.coverage, &published.events);
            ProbeMetrics { snapshot, coverage, events, buckets }.encode(&mut encoder)?;
            scopes::encode(&mut encoder, &sample.scopes, |scope| state.health(scope))?;
            if let Some(usage) = published.usage.load() {
                let count = state.metrics.growing_processes;
                cgroups::growth(&mut encoder, &usage, count, growth_labels)?;
            }
        }
        if let Some(report) = &*published.cgroups.load() {
            cgroups::encode(&mut encoder, report, state.metrics.buckets)?;
        }
        sensor::encode(
            &mut encoder,
            state,
            sample.as_ref().map(|sample| &sample.snapshot),
            *last_seconds,
        )?;
        process::encode(&mut encoder)
    }
}
