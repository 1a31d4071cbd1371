//! Metrics per scope: the verdict, and the readings that it follows from.

use std::fmt::Error;

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType, registry::Unit};
use sensor_core::{
    model::readiness::{ReadinessState, TrafficHealth},
    verdict::{
        policy::RULES, reading::Reading, scope::ScopeVerdict, signals::Signal, state::VerdictState,
    },
};

use super::encode::{Field, Labels, counter, flag, gauge};

fn seconds(ns: Option<u64>) -> Option<f64> {
    ns.map(|ns| ns as f64 / 1e9)
}

fn number(n: Option<u64>) -> Option<f64> {
    n.map(|n| n as f64)
}

/// Name, help and value of a metric that is read from a reading.
type ReadingField = (&'static str, &'static str, fn(&Reading) -> Option<f64>);

const STALL_SECONDS: [ReadingField; 3] = [
    ("memsensor_memory_some", "Time in which some task waited for memory (PSI)", |r| {
        seconds(r.some_ns)
    }),
    ("memsensor_memory_full", "Time in which all non-idle tasks waited for memory (PSI)", |r| {
        seconds(r.full_ns)
    }),
    ("memsensor_io_full", "Time in which all non-idle tasks waited for I/O (PSI)", |r| {
        seconds(r.io_full_ns)
    }),
];

const EVENT_BYTES: [ReadingField; 3] = [
    ("memsensor_refaulted", "Memory that was evicted and read again soon after", |r| {
        number(r.refaulted_bytes)
    }),
    ("memsensor_swapped_in", "Memory read from swap", |r| number(r.swapped_in_bytes)),
    ("memsensor_swapped_out", "Memory written to swap", |r| number(r.swapped_out_bytes)),
];

const SIZE_BYTES: [ReadingField; 5] = [
    (
        "memsensor_memory_total",
        "Memory that the scope may use, without the pool of huge pages",
        |r| number(r.total_bytes),
    ),
    ("memsensor_memory_available", "Memory that can be allocated without swapping", |r| {
        number(r.available_bytes)
    }),
    ("memsensor_memory_unused", "Memory without any use, not even as page cache", |r| {
        number(r.unused_bytes)
    }),
    (
        "memsensor_swap_free",
        "Free swap that the scope may use; of swap on zram what compression gains",
        |r| number(r.swap_free_bytes),
    ),
    (
        "memsensor_above_low_watermark",
        "Free memory above the zones' low watermarks, where kswapd wakes; negative below",
        |r| r.above_low_bytes.map(|n| n as f64),
    ),
];

fn fields() -> impl Iterator<Item = Field<Reading>> {
    let field = |kind: MetricType, unit: Unit, (name, help, value): ReadingField| Field {
        name,
        help,
        unit: Some(unit),
        kind,
        value,
    };
    let stalls = STALL_SECONDS.map(|f| field(MetricType::Counter, Unit::Seconds, f));
    let events = EVENT_BYTES.map(|f| field(MetricType::Counter, Unit::Bytes, f));
    let sizes = SIZE_BYTES.map(|f| field(MetricType::Gauge, Unit::Bytes, f));
    stalls.into_iter().chain(events).chain(sizes)
}

fn labels_of(scope: &ScopeVerdict) -> Labels {
    vec![("scope", scope.scope.to_string())]
}

fn labels_with(scope: &ScopeVerdict, more: &[(&'static str, &str)]) -> Labels {
    let mut labels = labels_of(scope);
    labels.extend(more.iter().map(|(key, value)| (*key, (*value).to_owned())));
    labels
}

/// Writes the metrics of all scopes; `health` returns the present state and weight of a
/// scope, as load balancers get them.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder,
    scopes: &[ScopeVerdict],
    health: impl Fn(usize) -> TrafficHealth,
) -> Result<(), Error> {
    if scopes.is_empty() {
        return Ok(());
    }
    let health: Vec<_> = (0..scopes.len()).map(health).collect();
    readiness(encoder, scopes, &health)?;
    transitions(encoder, scopes)?;
    reasons(encoder, scopes)?;
    for field in fields() {
        field.encode(encoder, scopes.iter().map(|scope| (labels_of(scope), &scope.reading)))?;
    }
    Field {
        name: "memsensor_exhaustion",
        help: "Time until memory and swap are used up at the present trend; absent without a trend",
        unit: Some(Unit::Seconds),
        kind: MetricType::Gauge,
        value: |scope: &ScopeVerdict| scope.verdict.signals.get(Signal::Exhaustion),
    }
    .encode(encoder, scopes.iter().map(|scope| (labels_of(scope), scope)))?;
    limit_stalls(encoder, scopes)
}

/// Only of the host: the limit of a scope counts for the scope.
fn limit_stalls(encoder: &mut DescriptorEncoder, scopes: &[ScopeVerdict]) -> Result<(), Error> {
    Field {
        name: "memsensor_limit_stall",
        help: "Part of the host's memsensor_memory_some_seconds_total that cgroups at their own limits caused; the \
               host's verdict does not count it",
        unit: Some(Unit::Seconds),
        kind: MetricType::Counter,
        value: |reading: &Reading| reading.some_ns.and_then(|_| seconds(Some(reading.limits.some_ns))),
    }
    .encode(encoder, scopes.iter().take(1).map(|host| (Labels::new(), &host.reading)))
}

fn readiness(
    encoder: &mut DescriptorEncoder,
    scopes: &[ScopeVerdict],
    health: &[TrafficHealth],
) -> Result<(), Error> {
    let help = "Whether the scope should get traffic";
    let mut ready = encoder.encode_descriptor("memsensor_ready", help, None, MetricType::Gauge)?;
    for (scope, health) in scopes.iter().zip(health) {
        flag(&mut ready, &labels_of(scope), health.takes_traffic())?;
    }
    let help = "Share of its usual traffic that the scope should get, as load balancers get it";
    let mut weight =
        encoder.encode_descriptor("memsensor_weight_ratio", help, None, MetricType::Gauge)?;
    for (scope, health) in scopes.iter().zip(health) {
        gauge(&mut weight, &labels_of(scope), health.weight)?;
    }
    let help = "1 for the state that load balancers get, 0 for the others";
    let mut states = encoder.encode_descriptor("memsensor_state", help, None, MetricType::Gauge)?;
    for (scope, health) in scopes.iter().zip(health) {
        for state in ReadinessState::ALL {
            let labels = labels_with(scope, &[("state", state.label())]);
            flag(&mut states, &labels, health.state == state)?;
        }
    }
    Ok(())
}

fn transitions(encoder: &mut DescriptorEncoder, scopes: &[ScopeVerdict]) -> Result<(), Error> {
    let help = "Changes of the verdict's state";
    let name = "memsensor_state_transitions";
    let mut transitions = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for scope in scopes {
        for (from, row) in VerdictState::ALL.iter().zip(scope.verdict.transitions) {
            for (to, n) in VerdictState::ALL.iter().zip(row).filter(|(to, _)| *to != from) {
                let labels = labels_with(scope, &[("from", from.label()), ("to", to.label())]);
                counter(&mut transitions, &labels, n as f64)?;
            }
        }
    }
    Ok(())
}

fn reasons(encoder: &mut DescriptorEncoder, scopes: &[ScopeVerdict]) -> Result<(), Error> {
    let help = "1 for each rule that takes weight now, 0 for the others";
    let name = "memsensor_verdict_reason";
    let mut reasons = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for scope in scopes {
        for rule in RULES {
            let results = &scope.verdict.evidence.rules;
            let active = results.iter().any(|result| result.rule == rule.name);
            flag(&mut reasons, &labels_with(scope, &[("reason", rule.name)]), active)?;
        }
    }
    Ok(())
}
