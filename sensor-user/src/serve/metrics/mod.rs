//! `/metrics`: a snapshot as OpenMetrics, generic over the probes' specs.
//!
//! What was not measured is absent, never 0: a probe that is not attached shows none of its metrics,
//! and says why in `memsensor_probe_info`. The names here are only those of memsensor itself.

use std::{
    fmt::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder, NoLabelSet, text},
    metrics::{MetricType, exemplar::CounterWithExemplar},
    registry::{Registry, Unit as OmUnit},
};
use sensor_ebpf::{
    hist, probes,
    spec::{Label, MAX_NODES, Metric, Need, Row, Shape, Unit},
};

use super::{cgroup_metrics, scope_metrics, self_metrics, state::AppState};
use crate::{events::OomType, kernel::load::ProbeState, snapshot::Snapshot};

/// What every name begins with.
pub const PREFIX: &str = "memsensor_";

pub(super) type Labels = Vec<(&'static str, String)>;

/// Renders `/metrics`; remembers how long that took.
#[derive(Debug, Default)]
pub struct Renderer {
    last_ns: AtomicU64,
}

impl Renderer {
    /// The exposition as OpenMetrics text.
    pub fn render(&self, state: &AppState) -> String {
        let begun = Instant::now();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Exposition {
            snapshot: state.published.load_full(),
            state: state.clone(),
            last_seconds: self.last_ns.load(Ordering::Relaxed) as f64 / 1e9,
        }));
        let mut text = String::with_capacity(32 * 1024);
        // Writing to a String does not fail.
        let _ = text::encode(&mut text, &registry);
        let ns = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.last_ns.store(ns, Ordering::Relaxed);
        text
    }
}

#[derive(Debug)]
struct Exposition {
    snapshot: Option<Arc<Snapshot>>,
    state: AppState,
    last_seconds: f64,
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        if let Some(snapshot) = &self.snapshot {
            for (name, members) in families() {
                self.family(&mut encoder, snapshot, &name, &members)?;
            }
            let fitness = |scope| self.state.fitness(scope);
            scope_metrics::encode(&mut encoder, &snapshot.scopes, fitness)?;
            if let Some(who) = &snapshot.who {
                cgroup_metrics::growth(&mut encoder, who, self.state.growing_processes)?;
            }
        }
        if let Some(report) = &*self.state.cgroups.load() {
            cgroup_metrics::encode(&mut encoder, report, self.state.buckets)?;
        }
        self.about_probes(&mut encoder)?;
        self_metrics::encode(
            &mut encoder,
            &self.state,
            self.snapshot.as_deref(),
            self.last_seconds,
        )?;
        crate::host::process::encode(&mut encoder)
    }
}

/// Metrics by name, in the order of the specs; several probes may add to one.
fn families() -> Vec<(String, Vec<(usize, &'static Metric)>)> {
    let mut families: Vec<(String, Vec<(usize, &Metric)>)> = Vec::new();
    for (i, probe) in probes::ALL.iter().enumerate() {
        for metric in probe.metrics {
            let name = format!("{PREFIX}{}", metric.name);
            match families.iter_mut().find(|(n, _)| *n == name) {
                Some((_, members)) => members.push((i, metric)),
                None => families.push((name, vec![(i, metric)])),
            }
        }
    }
    families
}

impl Exposition {
    fn family(
        &self,
        encoder: &mut DescriptorEncoder,
        snapshot: &Snapshot,
        name: &str,
        members: &[(usize, &Metric)],
    ) -> Result<(), Error> {
        let measured = |(i, m): &&(usize, &Metric)| {
            self.state
                .coverage
                .probes
                .get(*i)
                .is_some_and(|p| is_measured(p, probes::ALL[*i].programs, m))
        };
        let members: Vec<_> = members.iter().filter(measured).collect();
        let Some((_, first)) = members.first() else { return Ok(()) };
        let (kind, unit) = (metric_type(first.shape), om_unit(first.unit));
        let mut encoder = encoder.encode_descriptor(name, first.help, unit.as_ref(), kind)?;
        // Probes that measure stalls of the same cause share a series.
        let mut stalls: Vec<(Labels, u64)> = Vec::new();
        for (i, metric) in members {
            let Shape::Stall { at, cause, .. } = metric.shape else {
                self.metric(&mut encoder, snapshot, *i, metric)?;
                continue;
            };
            let labels: Labels = cause.map(|c| ("cause", c.to_owned())).into_iter().collect();
            let ns = snapshot.rows[*i][at];
            match stalls.iter_mut().find(|(l, _)| *l == labels) {
                Some((_, sum)) => *sum = sum.saturating_add(ns),
                None => stalls.push((labels, ns)),
            }
        }
        stalls.iter().try_for_each(|(labels, ns)| counter(&mut encoder, labels, *ns as f64 / 1e9))
    }

    fn metric(
        &self,
        encoder: &mut MetricEncoder,
        snapshot: &Snapshot,
        probe: usize,
        metric: &Metric,
    ) -> Result<(), Error> {
        let row = &snapshot.rows[probe];
        let value = |ns: u64| match metric.unit {
            Unit::None => ns as f64,
            Unit::Seconds => ns as f64 / 1e9,
        };
        match metric.shape {
            Shape::Counter { at } => {
                for (labels, word) in self.series(metric, row, at) {
                    match self.exemplar(probe, &labels) {
                        Some(kill) if word > 0 => with_exemplar(encoder, &labels, word, kill)?,
                        _ => counter(encoder, &labels, value(word))?,
                    }
                }
                Ok(())
            }
            Shape::NodeActive { at, .. } => {
                for (node, ns) in row[at..at + MAX_NODES].iter().enumerate() {
                    if *ns > 0 || node == 0 {
                        counter(encoder, &vec![("node", node.to_string())], value(*ns))?;
                    }
                }
                Ok(())
            }
            // See `family`.
            Shape::Stall { .. } => Ok(()),
            Shape::Histogram { at } => {
                self.state.buckets.write(encoder, &row[at..at + hist::WORDS])
            }
            Shape::Inside { kind, label } => {
                let tasks = snapshot.inside.tasks[kind as usize];
                gauge(encoder, &vec![("kind", label.to_owned())], f64::from(tasks))
            }
            Shape::Lowest { at, len, calm } => {
                let lowest = snapshot.in_window(probe, at, len).lowest();
                gauge(encoder, &Labels::new(), lowest.map_or(f64::from(calm), |i| i as f64))
            }
            Shape::Highest { at, len } => {
                let highest = snapshot.in_window(probe, at, len).highest().unwrap_or(0);
                gauge(encoder, &Labels::new(), highest as f64)
            }
        }
    }

    /// The event behind the last count of OOM kills of a scope.
    fn exemplar(&self, probe: usize, labels: &Labels) -> Option<(String, SystemTime)> {
        let scopes = [OomType::Global, OomType::Memcg];
        let scope = scopes.iter().find(|s| labels.contains(&("type", s.label().to_owned())));
        let of_kills = probe == probes::Id::oom_kill as usize;
        scope.filter(|_| of_kills).and_then(|scope| self.state.events.last_kill(*scope))
    }

    /// A counter's series: labels and value for each of its words that has a name.
    fn series(&self, metric: &Metric, row: &Row, at: usize) -> Vec<(Labels, u64)> {
        let mut series = vec![(Labels::new(), at)];
        for label in metric.labels {
            let values = self.label_values(label, row, at);
            let span = values.len();
            series = series
                .into_iter()
                .flat_map(|(labels, word)| {
                    let first = at + (word - at) * span;
                    values.iter().enumerate().filter_map(move |(i, value)| {
                        let (key, value) = value.clone()?;
                        let mut labels = labels.clone();
                        labels.push((key, value));
                        Some((labels, first + i))
                    })
                })
                .collect();
        }
        series.into_iter().map(|(labels, word)| (labels, row[word])).collect()
    }

    /// A label's values in the order of the row's words; `None` where a word has no name.
    fn label_values(
        &self,
        label: &Label,
        row: &Row,
        at: usize,
    ) -> Vec<Option<(&'static str, String)>> {
        match *label {
            Label::Fixed { key, values } => {
                values.iter().map(|v| Some((key, (*v).to_owned()))).collect()
            }
            // Node 0 always; another from when it first counted.
            Label::Node => (0..MAX_NODES)
                .map(|n| (n == 0 || row[at + n] > 0).then(|| ("node", n.to_string())))
                .collect(),
            Label::KernelEnum { key, ty, .. } => {
                let names = self.state.coverage.enums.get(ty).map_or(&[][..], Vec::as_slice);
                names.iter().map(|name| name.clone().map(|name| (key, name))).collect()
            }
            Label::Sender => {
                self.state.coverage.senders.iter().map(|s| Some(("sender", s.clone()))).collect()
            }
        }
    }

    fn about_probes(&self, encoder: &mut DescriptorEncoder) -> Result<(), Error> {
        let help = "Whether a program of a probe is attached to its kernel event";
        let mut attached =
            encoder.encode_descriptor("memsensor_probe_attached", help, None, MetricType::Gauge)?;
        for probe in &self.state.coverage.probes {
            for program in &probe.programs {
                let labels =
                    vec![("probe", probe.name.to_owned()), ("program", program.name.to_owned())];
                gauge(&mut attached, &labels, f64::from(u8::from(program.missing.is_none())))?;
            }
        }
        let help = "How far a probe got on this host, and why no further";
        let mut info =
            encoder.encode_descriptor("memsensor_probe", help, None, MetricType::Info)?;
        for probe in &self.state.coverage.probes {
            info.encode_info(&vec![
                ("probe", probe.name.to_owned()),
                ("state", probe.state.label().to_owned()),
                ("reason", probe.reason.clone()),
            ])?;
        }
        let help = "Kernel memory that the maps take";
        let unit = OmUnit::Bytes;
        let mut bytes =
            encoder.encode_descriptor("memsensor_bpf_map", help, Some(&unit), MetricType::Gauge)?;
        let sum: u64 = self.state.coverage.map_bytes.values().sum();
        gauge(&mut bytes, &Labels::new(), sum as f64)
    }
}

/// A metric is measured if its probe is, and no program that it hangs on is missing.
fn is_measured(probe: &ProbeState, specs: &[sensor_ebpf::spec::Program], metric: &Metric) -> bool {
    probe.measures()
        && !probe.programs.iter().zip(specs).any(|(state, spec)| {
            matches!(spec.need, Need::Optional { metrics, .. }
                if state.missing.is_some() && metrics.contains(&metric.name))
        })
}

fn metric_type(shape: Shape) -> MetricType {
    match shape {
        Shape::Counter { .. } | Shape::Stall { .. } | Shape::NodeActive { .. } => {
            MetricType::Counter
        }
        Shape::Histogram { .. } => MetricType::Histogram,
        Shape::Inside { .. } | Shape::Lowest { .. } | Shape::Highest { .. } => MetricType::Gauge,
    }
}

fn om_unit(unit: Unit) -> Option<OmUnit> {
    match unit {
        Unit::None => None,
        Unit::Seconds => Some(OmUnit::Seconds),
    }
}

pub(super) fn counter(
    encoder: &mut MetricEncoder,
    labels: &Labels,
    value: f64,
) -> Result<(), Error> {
    if labels.is_empty() {
        return encoder.encode_counter::<NoLabelSet, f64, f64>(&value, None);
    }
    encoder.encode_family(labels)?.encode_counter::<NoLabelSet, f64, f64>(&value, None)
}

/// Writes a counter, the last count of which was that event.
fn with_exemplar(
    encoder: &mut MetricEncoder,
    labels: &Labels,
    count: u64,
    (id, time): (String, SystemTime),
) -> Result<(), Error> {
    let counter = CounterWithExemplar::<Labels>::default();
    counter.inc_by(count - 1, None, None);
    counter.inc_by(1, Some(vec![("event_id", id)]), Some(time));
    counter.encode(encoder.encode_family(labels)?)
}

/// Writes a gauge.
pub(crate) fn gauge(encoder: &mut MetricEncoder, labels: &Labels, value: f64) -> Result<(), Error> {
    if labels.is_empty() {
        return encoder.encode_gauge(&value);
    }
    encoder.encode_family(labels)?.encode_gauge(&value)
}
