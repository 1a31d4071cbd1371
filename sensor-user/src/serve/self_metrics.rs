//! What memsensor tells of itself on `/metrics`: its samples, what it lost, what it costs, whether it
//! was late.

use std::{fmt::Error, sync::atomic::Ordering};

use prometheus_client::{
    encoding::DescriptorEncoder, metrics::MetricType, registry::Unit as OmUnit,
};
use sensor_ebpf::loss;

use super::{
    metrics::{Labels, counter, gauge},
    state::State,
};
use crate::{deadlines::Deadlines, snapshot::Snapshot};

/// Writes them. `last_seconds` is what rendering took the last time.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder,
    state: &State,
    snapshot: Option<&Snapshot>,
    last_seconds: f64,
) -> Result<(), Error> {
    let seconds = OmUnit::Seconds;
    if let Some(snapshot) = snapshot {
        about_sampling(encoder, snapshot)?;
    }
    let help = "How long rendering the previous answer took";
    let mut scrape =
        encoder.encode_descriptor("memsensor_scrape", help, Some(&seconds), MetricType::Gauge)?;
    gauge(&mut scrape, &Labels::new(), last_seconds)?;
    let help = "Questions about scopes that there are not, of balancers and people";
    let mut unknown = encoder.encode_descriptor(
        "memsensor_unknown_scope_requests",
        help,
        None,
        MetricType::Counter,
    )?;
    let n = state.unknown_scopes.load(Ordering::Relaxed);
    counter(&mut unknown, &Labels::new(), n as f64)?;
    let help = "Whether an operator has drained this host";
    let mut drained =
        encoder.encode_descriptor("memsensor_drained", help, None, MetricType::Gauge)?;
    let by_hand = state.maintenance.drain().is_some();
    gauge(&mut drained, &Labels::new(), f64::from(u8::from(by_hand)))?;
    about_deadlines(encoder, &state.deadlines)?;
    let help = "What is running";
    let mut build = encoder.encode_descriptor("memsensor_build", help, None, MetricType::Info)?;
    build.encode_info(&vec![
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("revision", env!("MEMSENSOR_GIT_REVISION").to_owned()),
    ])
}

fn about_deadlines(encoder: &mut DescriptorEncoder, deadlines: &Deadlines) -> Result<(), Error> {
    let help = "How often a loop of ours was too late: by a sample, or by 50 ms for an answer";
    let mut misses =
        encoder.encode_descriptor("memsensor_deadline_misses", help, None, MetricType::Counter)?;
    for (name, one) in deadlines.all() {
        counter(&mut misses, &vec![("loop", name.to_owned())], one.misses() as f64)?;
    }
    let help = "The longest that a loop of ours was late by, since the start";
    let mut longest = encoder.encode_descriptor(
        "memsensor_deadline_overrun_max",
        help,
        Some(&OmUnit::Seconds),
        MetricType::Gauge,
    )?;
    for (name, one) in deadlines.all() {
        gauge(&mut longest, &vec![("loop", name.to_owned())], one.longest().as_secs_f64())?;
    }
    Ok(())
}

fn about_sampling(encoder: &mut DescriptorEncoder, snapshot: &Snapshot) -> Result<(), Error> {
    let seconds = OmUnit::Seconds;
    let help = "When the kernel's counters were last read";
    let mut when = encoder.encode_descriptor(
        "memsensor_last_sample_timestamp",
        help,
        Some(&seconds),
        MetricType::Gauge,
    )?;
    gauge(&mut when, &Labels::new(), snapshot.taken_unix)?;
    if let Some(losses) = snapshot.rows.get(loss::ROW as usize) {
        let help = "What the kernel half could not keep, by reason";
        let mut lost =
            encoder.encode_descriptor("memsensor_events_lost", help, None, MetricType::Counter)?;
        for (reason, n) in loss::REASONS.iter().zip(losses) {
            counter(&mut lost, &vec![("reason", (*reason).to_owned())], *n as f64)?;
        }
    }
    if snapshot.costs.is_empty() {
        return Ok(());
    }
    let help = "Time in our kernel programs (only while BPF statistics are on)";
    let mut run = encoder.encode_descriptor(
        "memsensor_bpf_run",
        help,
        Some(&seconds),
        MetricType::Counter,
    )?;
    for cost in &snapshot.costs {
        let labels = vec![("program", cost.program.to_owned())];
        counter(&mut run, &labels, cost.run_ns as f64 / 1e9)?;
    }
    let help = "Runs of our kernel programs (only while BPF statistics are on)";
    let mut runs =
        encoder.encode_descriptor("memsensor_bpf_runs", help, None, MetricType::Counter)?;
    for cost in &snapshot.costs {
        counter(&mut runs, &vec![("program", cost.program.to_owned())], cost.runs as f64)?;
    }
    Ok(())
}
