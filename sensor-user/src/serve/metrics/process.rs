//! The standard `process_*` metrics of the daemon, from /proc/self.

use std::fmt::Error;

use procfs::process::{LimitValue, Process};
use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

use crate::host::footprint::Footprint;

/// Writes these metrics, and the locked memory. Skips values that cannot be read.
pub(super) fn encode(encoder: &mut DescriptorEncoder) -> Result<(), Error> {
    let Ok(process) = Process::myself() else { return Ok(()) };
    let Ok(stat) = process.stat() else { return Ok(()) };
    let ticks = procfs::ticks_per_second() as f64;
    let seconds = Unit::Seconds;
    encoder
        .encode_descriptor(
            "process_cpu",
            "Time on a CPU, in user and kernel mode",
            Some(&seconds),
            MetricType::Counter,
        )?
        .encode_counter::<NoLabelSet, f64, f64>(
            &((stat.utime + stat.stime) as f64 / ticks),
            None,
        )?;
    let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: f64| {
        encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
    };
    let bytes = Unit::Bytes;
    let resident = stat.rss * procfs::page_size();
    gauge("process_resident_memory", "Resident memory", Some(&bytes), resident as f64)?;
    let locked = Footprint::now().map(|footprint| footprint.locked as f64);
    if let Some(locked) = locked {
        gauge("memsensor_locked_memory", "Memory that cannot be reclaimed", Some(&bytes), locked)?;
    }
    gauge("process_virtual_memory", "Address space", Some(&bytes), stat.vsize as f64)?;
    gauge("process_threads", "Threads", None, stat.num_threads as f64)?;
    if let Ok(boot) = procfs::boot_time_secs() {
        let started = boot as f64 + stat.starttime as f64 / ticks;
        gauge("process_start_time", "Start, in seconds since 1970", Some(&seconds), started)?;
    }
    if let Ok(fds) = process.fd_count() {
        gauge("process_open_fds", "Open file descriptors", None, fds as f64)?;
    }
    if let Ok(limits) = process.limits()
        && let LimitValue::Value(max) = limits.max_open_files.soft_limit
    {
        gauge("process_max_fds", "Most file descriptors that may be open", None, max as f64)?;
    }
    Ok(())
}
