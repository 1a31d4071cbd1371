//! The standard `process_*` metrics of the daemon, and its locked memory, from published figures:
//! opening files of /proc could wait for memory on the thread that answers load balancers.

use std::fmt::Error;

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType, registry::Unit};

use super::encode::{Field, Labels};
use crate::publish::own_process::ProcessFigures;

type ProcessField = (&'static str, &'static str, Option<Unit>, fn(&ProcessFigures) -> Option<f64>);

const CPU: ProcessField =
    ("process_cpu", "Time on a CPU, in user and kernel mode", Some(Unit::Seconds), |p| {
        p.cpu_seconds
    });

const GAUGES: [ProcessField; 7] = [
    ("process_resident_memory", "Resident memory", Some(Unit::Bytes), |p| p.resident_bytes),
    ("memsensor_locked_memory", "Memory that cannot be reclaimed", Some(Unit::Bytes), |p| {
        p.locked_bytes
    }),
    ("process_virtual_memory", "Address space", Some(Unit::Bytes), |p| p.virtual_bytes),
    ("process_threads", "Threads", None, |p| p.threads),
    ("process_start_time", "Start, in seconds since 1970", Some(Unit::Seconds), |p| {
        p.start_seconds
    }),
    ("process_open_fds", "Open file descriptors", None, |p| p.open_fds),
    ("process_max_fds", "Most file descriptors that may be open", None, |p| p.max_fds),
];

/// Writes these metrics; those without a value are absent.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder,
    figures: &ProcessFigures,
) -> Result<(), Error> {
    let gauges = GAUGES.map(|field| (MetricType::Gauge, field));
    let fields = [(MetricType::Counter, CPU)].into_iter().chain(gauges);
    for (kind, (name, help, unit, value)) in fields {
        Field { name, help, unit, kind, value }.encode(encoder, [(Labels::new(), figures)])?;
    }
    Ok(())
}
