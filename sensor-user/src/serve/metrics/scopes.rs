//! The part of `/metrics` that is per scope: the verdict, and what it follows from. What a scope does
//! not tell is absent.

use std::fmt::Error;

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType, registry::Unit};

use super::{
    metrics::{Labels, counter, gauge},
    state::{ReadinessState, TrafficHealth},
};
use crate::{
    scopes::ScopeVerdict,
    verdict::{VerdictState, policy::RULES, reading::Reading, signals::Signal},
};

/// A number of a reading.
struct Value {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
    of: fn(&Reading) -> Option<f64>,
}

fn seconds(ns: Option<u64>) -> Option<f64> {
    ns.map(|ns| ns as f64 / 1e9)
}

fn number(n: Option<u64>) -> Option<f64> {
    n.map(|n| n as f64)
}

fn values() -> [Value; 11] {
    let counter = |name, help, unit, of| Value { name, help, unit, kind: MetricType::Counter, of };
    let gauge =
        |name, help, of| Value { name, help, unit: Some(Unit::Bytes), kind: MetricType::Gauge, of };
    let (s, b) = (Some(Unit::Seconds), Some(Unit::Bytes));
    [
        counter(
            "memsensor_memory_some",
            "Time in which some task waited for memory (PSI)",
            s.clone(),
            |r| seconds(r.some_ns),
        ),
        counter(
            "memsensor_memory_full",
            "Time in which all non-idle tasks waited for memory (PSI)",
            s.clone(),
            |r| seconds(r.full_ns),
        ),
        counter(
            "memsensor_io_full",
            "Time in which all non-idle tasks waited for I/O (PSI)",
            s,
            |r| seconds(r.io_full_ns),
        ),
        counter(
            "memsensor_refaulted",
            "Memory that was evicted and soon needed again",
            b.clone(),
            |r| number(r.refaulted_bytes),
        ),
        counter("memsensor_swapped_in", "Memory read from swap", b.clone(), |r| {
            number(r.swapped_in_bytes)
        }),
        counter("memsensor_swapped_out", "Memory written to swap", b, |r| {
            number(r.swapped_out_bytes)
        }),
        gauge("memsensor_memory_total", "Memory that the scope may use", |r| number(r.total_bytes)),
        gauge("memsensor_memory_available", "Memory that can be had without swapping", |r| {
            number(r.available_bytes)
        }),
        gauge("memsensor_memory_unused", "Memory that nothing uses, not even page cache", |r| {
            number(r.unused_bytes)
        }),
        gauge("memsensor_swap_free", "Free swap that the scope may use", |r| {
            number(r.swap_free_bytes)
        }),
        gauge(
            "memsensor_above_low_watermark",
            "Free memory above the zones' low watermarks, where kswapd wakes; negative below",
            |r| r.above_low_bytes.map(|n| n as f64),
        ),
    ]
}

fn of(judged: &ScopeVerdict) -> Labels {
    vec![("scope", judged.scope.to_string())]
}

fn with(judged: &ScopeVerdict, labels: &[(&'static str, &str)]) -> Labels {
    let mut all = of(judged);
    all.extend(labels.iter().map(|(key, value)| (*key, (*value).to_owned())));
    all
}

/// Writes it; `fitness` is what balancers are told of a scope now.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder,
    scopes: &[ScopeVerdict],
    fitness: impl Fn(usize) -> TrafficHealth,
) -> Result<(), Error> {
    if scopes.is_empty() {
        return Ok(());
    }
    verdicts(encoder, scopes, fitness)?;
    for value in values() {
        let known: Vec<_> =
            scopes.iter().filter_map(|j| Some((j, (value.of)(&j.reading)?))).collect();
        if known.is_empty() {
            continue;
        }
        let mut family =
            encoder.encode_descriptor(value.name, value.help, value.unit.as_ref(), value.kind)?;
        for (judged, n) in known {
            match value.kind {
                MetricType::Counter => counter(&mut family, &of(judged), n)?,
                _ => gauge(&mut family, &of(judged), n)?,
            }
        }
    }
    let forecast = |j: &ScopeVerdict| j.verdict.signals.get(Signal::Exhaustion);
    if scopes.iter().any(|j| forecast(j).is_some()) {
        let help = "Until memory and swap are gone, if the trend holds; absent without a trend";
        let unit = Unit::Seconds;
        let mut family = encoder.encode_descriptor(
            "memsensor_exhaustion",
            help,
            Some(&unit),
            MetricType::Gauge,
        )?;
        for judged in scopes {
            if let Some(seconds) = forecast(judged) {
                gauge(&mut family, &of(judged), seconds)?;
            }
        }
    }
    Ok(())
}

fn verdicts(
    encoder: &mut DescriptorEncoder,
    scopes: &[ScopeVerdict],
    fitness: impl Fn(usize) -> TrafficHealth,
) -> Result<(), Error> {
    let help = "Whether readiness says that the scope is fit for traffic";
    let mut ready = encoder.encode_descriptor("memsensor_ready", help, None, MetricType::Gauge)?;
    for (i, judged) in scopes.iter().enumerate() {
        let fit = u8::from(fitness(i).takes_traffic());
        gauge(&mut ready, &of(judged), f64::from(fit))?;
    }
    let help = "Share of its usual traffic that the scope should get, as balancers are told";
    let mut weight =
        encoder.encode_descriptor("memsensor_weight_ratio", help, None, MetricType::Gauge)?;
    for (i, judged) in scopes.iter().enumerate() {
        gauge(&mut weight, &of(judged), fitness(i).weight)?;
    }
    let help = "1 for the state that balancers are told, 0 for the others";
    let mut states = encoder.encode_descriptor("memsensor_state", help, None, MetricType::Gauge)?;
    for (i, judged) in scopes.iter().enumerate() {
        let now = fitness(i).standing;
        for standing in ReadinessState::ALL {
            let is = f64::from(u8::from(now == standing));
            gauge(&mut states, &with(judged, &[("state", standing.label())]), is)?;
        }
    }
    let help = "Changes of the verdict's state";
    let mut transitions = encoder.encode_descriptor(
        "memsensor_state_transitions",
        help,
        None,
        MetricType::Counter,
    )?;
    for judged in scopes {
        for (from, row) in VerdictState::ALL.iter().zip(judged.verdict.transitions) {
            for (to, n) in VerdictState::ALL.iter().zip(row).filter(|(to, _)| *to != from) {
                let labels = with(judged, &[("from", from.label()), ("to", to.label())]);
                counter(&mut transitions, &labels, n as f64)?;
            }
        }
    }
    let help = "1 for each rule that speaks against full traffic now, 0 for the others";
    let mut reasons =
        encoder.encode_descriptor("memsensor_verdict_reason", help, None, MetricType::Gauge)?;
    for judged in scopes {
        for rule in RULES {
            let speaks = judged.verdict.evidence.rules.iter().any(|f| f.rule == rule.name);
            let labels = with(judged, &[("reason", rule.name)]);
            gauge(&mut reasons, &labels, f64::from(u8::from(speaks)))?;
        }
    }
    Ok(())
}
