//! Metrics of the probes, generic over their specs: names, labels and shapes are written in each
//! probe's `PROBE` only.

use std::{fmt::Error, sync::Arc, time::SystemTime};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder},
    metrics::{MetricType, exemplar::CounterWithExemplar},
    registry::Unit as OmUnit,
};
use sensor_core::model::{coverage::Coverage, event::OomType, snapshot::Snapshot};
use sensor_ebpf::{
    hist,
    probes::{self, Id, oom_kill},
    spec::{Label, MAX_NODES, Metric, Row, Shape, Unit},
};

use super::{
    encode::{Labels, counter, gauge},
    histogram,
};
use crate::{publish::event_log::EventLog, serve::state::settings::Buckets};

/// The prefix of every name.
pub const PREFIX: &str = "memsensor_";

/// Data for the metrics of the probes.
pub(super) struct ProbeMetrics<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) coverage: &'a Coverage,
    pub(super) events: &'a Arc<EventLog>,
    pub(super) buckets: Buckets,
}

/// A metric, and the index of its probe.
type Member = (usize, &'static Metric);

/// Metrics by name, in the order of the specs; several probes may add to one.
fn families() -> Vec<(String, Vec<Member>)> {
    let mut families: Vec<(String, Vec<Member>)> = Vec::new();
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

impl ProbeMetrics<'_> {
    /// Writes the metrics of all probes that are attached. While their maps cannot be read, counters
    /// keep their last values, and gauges are absent.
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder) -> Result<(), Error> {
        if self.snapshot.rows.is_empty() {
            return Ok(());
        }
        families().iter().try_for_each(|(name, members)| self.family(encoder, name, members))
    }

    fn is_measured(&self, probe: usize, metric: &Metric) -> bool {
        let is_gauge = matches!(metric_type(metric.shape), MetricType::Gauge);
        if is_gauge && self.snapshot.unread.counters {
            return false;
        }
        let state = self.coverage.probes.get(probe);
        state.is_some_and(|state| state.measures_metric(probes::ALL[probe].programs, metric))
    }

    fn family(
        &self,
        encoder: &mut DescriptorEncoder,
        name: &str,
        members: &[Member],
    ) -> Result<(), Error> {
        let members: Vec<_> =
            members.iter().filter(|(probe, metric)| self.is_measured(*probe, metric)).collect();
        let Some((_, first)) = members.first() else { return Ok(()) };
        let (kind, unit) = (metric_type(first.shape), om_unit(first.unit));
        let mut encoder = encoder.encode_descriptor(name, first.help, unit.as_ref(), kind)?;
        // Probes that measure stalls of the same cause share a series.
        let mut stalls: Vec<(Labels, u64)> = Vec::new();
        for (probe, metric) in members {
            let Shape::Stall { at, cause, .. } = metric.shape else {
                self.metric(&mut encoder, *probe, metric)?;
                continue;
            };
            let labels: Labels =
                cause.map(|c| ("cause", c.label().to_owned())).into_iter().collect();
            let ns = self.snapshot.rows[*probe][at];
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
        probe: usize,
        metric: &Metric,
    ) -> Result<(), Error> {
        let row = &self.snapshot.rows[probe];
        match metric.shape {
            Shape::Counter { at } => self.counters(encoder, probe, metric, at),
            Shape::NodeActive { at, .. } => {
                for (node, ns) in row[at..at + MAX_NODES].iter().enumerate() {
                    if *ns > 0 || node == 0 {
                        let labels = vec![("node", node.to_string())];
                        counter(encoder, &labels, in_unit(metric, *ns))?;
                    }
                }
                Ok(())
            }
            // See `family`.
            Shape::Stall { .. } => Ok(()),
            Shape::Histogram { at } => {
                histogram::encode(encoder, self.buckets, &row[at..at + hist::WORDS])
            }
            Shape::Inside { kind, label } => {
                let tasks = self.snapshot.in_flight.tasks[kind as usize];
                gauge(encoder, &vec![("kind", label.to_owned())], f64::from(tasks))
            }
            Shape::Lowest { at, len, calm } => {
                let lowest = self.snapshot.moved_in_window(probe, at, len).lowest();
                gauge(encoder, &Labels::new(), lowest.map_or(f64::from(calm), |i| i as f64))
            }
            Shape::Highest { at, len } => {
                let highest = self.snapshot.moved_in_window(probe, at, len).highest();
                gauge(encoder, &Labels::new(), highest.unwrap_or(0) as f64)
            }
        }
    }

    fn counters(
        &self,
        encoder: &mut MetricEncoder,
        probe: usize,
        metric: &Metric,
        at: usize,
    ) -> Result<(), Error> {
        let row = &self.snapshot.rows[probe];
        for (labels, word) in self.series(metric, row, at) {
            match self.last_event(probe, word) {
                Some(event) if row[word] > 0 => with_exemplar(encoder, &labels, row[word], event)?,
                _ => counter(encoder, &labels, in_unit(metric, row[word]))?,
            }
        }
        Ok(())
    }

    /// Id and time of the event that a word counted last; only OOM kills have one.
    fn last_event(&self, probe: usize, word: usize) -> Option<(String, SystemTime)> {
        let index =
            word.checked_sub(oom_kill::KILLS_WORD).filter(|_| probe == Id::oom_kill as usize);
        let oom_type = OomType::ALL.get(index?)?;
        self.events.events().last_kill(*oom_type).cloned()
    }

    /// A counter's series: labels, and the word of the row, for each word that has a name.
    fn series(&self, metric: &Metric, row: &Row, at: usize) -> Vec<(Labels, usize)> {
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
        series
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
            // Node 0 always, others from their first count on.
            Label::Node => (0..MAX_NODES)
                .map(|n| (n == 0 || row[at + n] > 0).then(|| ("node", n.to_string())))
                .collect(),
            Label::KernelEnum { key, ty, .. } => {
                let names = self.coverage.enums.get(ty).map_or(&[][..], Vec::as_slice);
                names.iter().map(|name| name.clone().map(|name| (key, name))).collect()
            }
            Label::Sender => {
                self.coverage.senders.iter().map(|s| Some(("sender", s.clone()))).collect()
            }
        }
    }
}

/// Writes OOM kills where no probe counts them, as far as vmstat shows what ran out of memory.
pub(super) fn encode_vmstat_kills(
    encoder: &mut DescriptorEncoder,
    kills: [u64; OomType::ALL.len()],
) -> Result<(), Error> {
    let [metric] = oom_kill::PROBE.metrics else { return Ok(()) };
    let name = format!("{PREFIX}{}", metric.name);
    let help = "Processes killed by the kernel's OOM killer, from vmstat, because no probe counts \
                them; type is global if the host reclaimed directly within the five seconds before, \
                otherwise memcg";
    let mut encoder = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
    for (oom_type, kills) in OomType::ALL.iter().zip(kills) {
        counter(&mut encoder, &vec![("type", oom_type.label().to_owned())], kills as f64)?;
    }
    Ok(())
}

fn in_unit(metric: &Metric, word: u64) -> f64 {
    match metric.unit {
        Unit::None => word as f64,
        Unit::Seconds => word as f64 / 1e9,
    }
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

/// Writes a counter with the event that it counted last as exemplar.
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prometheus_client::{collector::Collector, encoding::text, registry::Registry};
    use sensor_core::model::{
        coverage::{AttachState, Coverage},
        snapshot::UnreadMaps,
    };
    use sensor_ebpf::spec::ROW_WORDS;

    use super::*;

    #[derive(Debug)]
    struct Page(Snapshot, Coverage, Arc<EventLog>);

    impl Collector for Page {
        fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
            let Self(snapshot, coverage, events) = self;
            let buckets = Buckets::Coarse;
            ProbeMetrics { snapshot, coverage, events, buckets }.encode(&mut encoder)
        }
    }

    fn page(snapshot: &Snapshot) -> String {
        let mut coverage = Coverage::none("");
        coverage.probes.iter_mut().for_each(|probe| {
            probe.state = AttachState::Attached;
            probe.programs.clear();
        });
        let mut registry = Registry::default();
        let events = Arc::new(EventLog::new(""));
        registry.register_collector(Box::new(Page(snapshot.clone(), coverage, events)));
        let mut text = String::new();
        text::encode(&mut text, &registry).expect("a page");
        text
    }

    #[test]
    fn without_maps_counters_stay_and_gauges_are_absent() {
        let unread = UnreadMaps { counters: true, cgroups: true };
        let before_the_first = Snapshot { unread, ..Snapshot::default() };
        assert_eq!(page(&before_the_first), "# EOF\n");
        let rows: Arc<Vec<Row>> = Arc::new(vec![[7; ROW_WORDS]; probes::ALL.len() + 1]);
        let [window_start, recent_start] = [Arc::clone(&rows), Arc::clone(&rows)];
        let read = Snapshot { rows, window_start, recent_start, ..Snapshot::default() };
        let kept = Snapshot { unread, ..read.clone() };
        for (snapshot, has_gauges) in [(read, true), (kept, false)] {
            let text = page(&snapshot);
            assert!(text.contains("memsensor_oom_kills_total{type=\"global\"} 7"), "{text}");
            assert_eq!(text.contains("memsensor_reclaiming_tasks"), has_gauges);
            assert_eq!(text.contains("memsensor_reclaim_priority_min"), has_gauges);
        }
    }
}
