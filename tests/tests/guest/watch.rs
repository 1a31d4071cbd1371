//! Compares memsensor's counts with the kernel's trace. The two do not start at the same time, so
//! memsensor's count must be at least the traced events between its samples and at most all traced
//! events. Without events at the ends, the three are equal.

use std::collections::BTreeMap;

use sensor_tests::support::{
    counts::{Record, Recorded, Trace, vmstat},
    daemon::Daemon,
};

/// Series and values.
pub(crate) type Series = BTreeMap<String, f64>;

/// A daemon and a trace, both running.
pub(crate) struct Watch {
    pub(crate) daemon: Daemon,
    trace: Trace,
    before: Series,
    vmstat: BTreeMap<String, u64>,
    from: f64,
}

impl Watch {
    pub(crate) fn start(events: &[&str]) -> Self {
        Self::with("", events)
    }

    /// The same with extra configuration.
    pub(crate) fn with(config: &str, events: &[&str]) -> Self {
        let daemon = Daemon::start(config).expect("daemon");
        let trace = Trace::start(events).expect("trace");
        let before = daemon.metrics().expect("metrics");
        Self { daemon, trace, before, vmstat: vmstat().expect("vmstat"), from: now() }
    }

    pub(crate) fn stop(self) -> (Daemon, Observed) {
        let to = now();
        let vmstat_after = vmstat().expect("vmstat");
        let after = self.daemon.metrics().expect("metrics");
        let recorded = self.trace.stop().expect("trace");
        let observed = Observed {
            before: self.before,
            after,
            recorded,
            vmstat: self.vmstat,
            vmstat_after,
            from: self.from,
            to,
        };
        observed.assert_nothing_lost();
        (self.daemon, observed)
    }
}

/// CLOCK_MONOTONIC, the clock of the trace.
fn now() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The counts of memsensor and of the kernel.
pub(crate) struct Observed {
    pub(crate) before: Series,
    pub(crate) after: Series,
    pub(crate) recorded: Recorded,
    vmstat: BTreeMap<String, u64>,
    vmstat_after: BTreeMap<String, u64>,
    from: f64,
    to: f64,
}

impl Observed {
    /// The increase of a metric, summed over its series with all of `labels`.
    pub(crate) fn went_up(&self, metric: &str, labels: &[&str]) -> f64 {
        let sum = |series: &Series| -> f64 {
            let of = |s: &str| {
                s.split('{').next() == Some(metric) && labels.iter().all(|label| s.contains(label))
            };
            series.iter().filter(|(s, _)| of(s)).map(|(_, v)| v).sum()
        };
        sum(&self.after) - sum(&self.before)
    }

    /// The increase of vmstat counters between the samples, summed over names with this prefix.
    pub(crate) fn vmstat(&self, prefix: &str) -> f64 {
        let sum = |map: &BTreeMap<String, u64>| -> u64 {
            map.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, v)| v).sum()
        };
        (sum(&self.vmstat_after) - sum(&self.vmstat)) as f64
    }

    /// Records of an event.
    pub(crate) fn records(&self, event: &str) -> Vec<&Record> {
        self.recorded.of(event).expect("traced").collect()
    }

    /// Asserts the bounds for a metric that sums `of` over the records of an event; returns its
    /// increase.
    pub(crate) fn assert_between(
        &self,
        metric: &str,
        labels: &[&str],
        event: &str,
        of: impl Fn(&Record) -> f64,
    ) -> f64 {
        let counted = self.went_up(metric, labels);
        let records = self.records(event);
        let all: f64 = records.iter().map(|r| of(r)).sum();
        let within = |r: &&&Record| r.seconds >= self.from && r.seconds <= self.to;
        let within: Vec<_> = records.iter().filter(within).map(|r| of(r)).collect();
        // In the worst case the skipped events are those with the largest values.
        let mut largest = within.clone();
        largest.sort_by(|a, b| b.total_cmp(a));
        let skipped = self.skipped();
        let allowed: f64 =
            largest.iter().enumerate().filter(|(i, _)| (*i as f64) < skipped).map(|(_, n)| n).sum();
        let inner: f64 = within.iter().sum();
        assert!(
            inner - allowed <= counted && counted <= all,
            "{metric}{labels:?}: memsensor counted {counted}, the kernel traced {inner} of {event} \
             between the samples and {all} in all, and skipped {skipped}"
        );
        counted
    }

    /// The sum of the times between begin and end events with the same key.
    pub(crate) fn seconds_inside(
        &self,
        begin: &str,
        end: &str,
        key: impl Fn(&Record) -> u64,
    ) -> f64 {
        let mut events: Vec<_> = self.records(begin).into_iter().chain(self.records(end)).collect();
        events.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        let mut open = BTreeMap::new();
        let mut sum = 0.0;
        for record in events {
            if record.event == begin {
                // kswapd has several wake events before it sleeps.
                open.entry(key(record)).or_insert(record.seconds);
            } else if let Some(from) = open.remove(&key(record)) {
                sum += record.seconds - from;
            }
        }
        sum
    }

    /// Events that the kernel skipped, of any program.
    pub(crate) fn skipped(&self) -> f64 {
        self.went_up("memsensor_events_lost_total", &["reason=\"recursion\""])
    }

    fn assert_nothing_lost(&self) {
        for (series, value) in &self.after {
            if series.starts_with("memsensor_events_lost_total") && !series.contains("recursion") {
                let lost = value - self.before.get(series).copied().unwrap_or_default();
                // A skipped begin or end leaves its counterpart unmatched.
                let pairs = self.skipped();
                let halves = ["unmatched", "abandoned"].iter().any(|half| series.contains(half));
                let allowed = if halves { pairs } else { 0.0 };
                assert!(lost <= allowed, "{series}: {lost} lost, {pairs} events skipped");
            }
        }
    }
}

/// Two clocks are read at slightly different times: the times may differ by a tenth, plus 100 µs
/// per event (emulated CPUs are slow).
pub(crate) fn assert_about(ours: f64, kernel: f64, events: f64, name: &str) {
    let slack = kernel.max(ours) * 0.1 + events * 100e-6;
    assert!((ours - kernel).abs() <= slack, "{name}: {ours} s, by the kernel's trace {kernel} s");
}
