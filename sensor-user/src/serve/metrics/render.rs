//! Renders all parts of `/metrics`.

use std::{
    fmt::Error,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::body::Bytes;
use prometheus_client::{
    collector::Collector, encoding::DescriptorEncoder, encoding::text, registry::Registry,
};
use sensor_core::{
    common::counter::nanos,
    model::{readiness::TrafficHealth, snapshot::Sample},
};

use super::{
    cgroups, classic,
    growth_labels::GrowthLabels,
    probes::{self, ProbeMetrics},
    process, scopes, sensor,
};
use crate::serve::state::{app::AppState, settings::Metrics};

/// A page is rendered again after this, also without a new sample. A flood of requests costs no
/// more than ten pages a second, and their bodies share memory.
const MAX_AGE: Duration = Duration::from_millis(100);

/// A text format of Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The older text format.
    Classic,
}

impl Format {
    /// The media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Renders `/metrics` once for all clients of a moment, and remembers how long that took.
#[derive(Debug, Default)]
pub struct Renderer {
    last_ns: AtomicU64,
    page: Mutex<Option<Page>>,
    growth_labels: Arc<GrowthLabels>,
}

/// What a page must not differ in from the answers of `/readyz`.
#[derive(Debug, Clone, PartialEq)]
struct PageKey {
    taken_ns: Option<u64>,
    drained: bool,
    health: Vec<TrafficHealth>,
}

impl PageKey {
    fn of(state: &AppState) -> Self {
        Self {
            taken_ns: state.sample().map(|sample| sample.snapshot.taken_ns),
            drained: state.drain.is_drained(),
            health: (0..state.scopes.len()).map(|scope| state.health(scope)).collect(),
        }
    }
}

#[derive(Debug)]
struct Page {
    key: PageKey,
    at: Instant,
    open_metrics: Bytes,
    classic: Option<Bytes>,
}

impl Page {
    fn is_valid(&self, key: &PageKey, now: Instant) -> bool {
        self.key == *key && now.saturating_duration_since(self.at) < MAX_AGE
    }

    fn body(&mut self, format: Format) -> Bytes {
        match format {
            Format::OpenMetrics => self.open_metrics.clone(),
            Format::Classic => {
                let text = std::str::from_utf8(&self.open_metrics).unwrap_or_default();
                let classic = || classic::from_open_metrics(text).into();
                self.classic.get_or_insert_with(classic).clone()
            }
        }
    }
}

impl Renderer {
    /// All metrics, not older than the last sample and than a tenth of a second.
    pub fn page(&self, state: &AppState, format: Format) -> Bytes {
        self.page_at(state, format, Instant::now())
    }

    fn page_at(&self, state: &AppState, format: Format, now: Instant) -> Bytes {
        let key = PageKey::of(state);
        // Only the serving thread takes the lock.
        let mut page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(page) = page.as_mut().filter(|page| page.is_valid(&key, now)) {
            return page.body(format);
        }
        let open_metrics = self.render(state).into();
        page.insert(Page { key, at: now, open_metrics, classic: None }).body(format)
    }

    /// Renders all metrics as OpenMetrics text.
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
        let Metrics { buckets, growing_processes: count } = state.settings.load().metrics;
        if let Some(sample) = sample {
            let snapshot = &sample.snapshot;
            let (coverage, events) = (&published.coverage, &published.events);
            ProbeMetrics { snapshot, coverage, events, buckets }.encode(&mut encoder)?;
            if let Some(kills) = sample.vmstat_kills {
                probes::encode_vmstat_kills(&mut encoder, kills)?;
            }
            scopes::encode(&mut encoder, &sample.scopes, |scope| state.health(scope))?;
            if let Some(usage) = published.usage.load() {
                cgroups::growth(&mut encoder, &usage, count, growth_labels)?;
            }
        }
        if let Some(report) = &*published.cgroups.load() {
            cgroups::encode(&mut encoder, report, buckets)?;
        }
        sensor::encode(
            &mut encoder,
            state,
            sample.as_ref().map(|sample| &sample.snapshot),
            *last_seconds,
        )?;
        let figures = published.process.load();
        figures.as_deref().map_or(Ok(()), |figures| process::encode(&mut encoder, figures))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use arc_swap::ArcSwap;
    use sensor_core::{
        common::state_file::StateFile,
        model::{coverage::Coverage, readiness::OnUnknown, snapshot::Snapshot},
        verdict::scope::HOST,
    };

    use super::*;
    use crate::{
        publish::{
            event_log::EventLog,
            loop_lag::{self, LoopLags},
        },
        serve::state::{
            app::Published,
            background::Background,
            drain::OperatorDrain,
            settings::{Buckets, Http, Readiness, Served},
        },
    };

    fn state() -> AppState {
        let lags = LoopLags::new(Duration::from_secs(1), loop_lag::WATCHDOG, 0);
        let published = Published::new(EventLog::new(""), Coverage::none("none"), lags);
        let no_file = StateFile::beside(Path::new("/nonexistent/socket"), "drain.json");
        let (stale_after, on_unknown) = (Duration::from_secs(5), OnUnknown::Pass);
        let settings = Served {
            policy: Arc::default(),
            readiness: Readiness { stale_after, on_unknown },
            metrics: Metrics { buckets: Buckets::default(), growing_processes: 5 },
            http: Http::default(),
        };
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let drain = OperatorDrain::load(no_file).expect("an eventfd");
        let scopes = [HOST.to_owned()].into();
        AppState::new(published, scopes, settings, Background::new().0, drain)
    }

    #[test]
    fn clients_of_a_moment_share_a_page() {
        let (state, renderer, start) = (state(), Renderer::default(), Instant::now());
        let page = |format, ms| renderer.page_at(&state, format, start + Duration::from_millis(ms));
        let same = |a: &Bytes, b: &Bytes| a.as_ptr() == b.as_ptr();
        for format in [Format::OpenMetrics, Format::Classic] {
            let first = page(format, 0);
            assert!(same(&first, &page(format, 99)), "{format:?}");
        }
        let before = page(Format::OpenMetrics, 99);
        let after = page(Format::OpenMetrics, 100);
        assert!(!same(&before, &after), "it is old");
        state.drain.begin("test", None);
        let drained = page(Format::OpenMetrics, 100);
        assert!(!same(&after, &drained) && !same(&before, &drained));
        let contains = |page: &Bytes, text| String::from_utf8_lossy(page).contains(text);
        assert!(contains(&drained, "memsensor_drained 1.0"));
        let snapshot = Snapshot { taken_ns: 1, taken_unix: 7.0, ..Snapshot::default() };
        let sample = Sample { snapshot, ..Sample::default() };
        state.published.sample.store(Some(Arc::new(sample)));
        let sampled = page(Format::Classic, 100);
        assert!(contains(&sampled, "memsensor_last_sample_timestamp_seconds 7.0"), "a new sample");
    }
}
