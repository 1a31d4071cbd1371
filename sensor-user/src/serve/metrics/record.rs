//! Metrics of the record on disk; absent where nothing is recorded.

use std::fmt::Error;

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType, registry::Unit};

use super::encode::{Labels, counter, flag, gauge};
use crate::publish::record::Figures;

/// Writes these metrics.
pub(super) fn encode(encoder: &mut DescriptorEncoder, figures: Figures) -> Result<(), Error> {
    let help = "Bytes written to the record on disk";
    let (name, unit) = ("memsensor_record_written", Some(&Unit::Bytes));
    let mut written = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
    counter(&mut written, &Labels::new(), figures.written_bytes as f64)?;
    let help = "Entries of the record that were lost: looks, because the disk was too slow, and \
                entries that could not be written";
    let name = "memsensor_record_entries_lost";
    let mut lost = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    let by_reason = [("slow_disk", figures.lost_looks), ("write_error", figures.lost_entries)];
    for (reason, n) in by_reason {
        counter(&mut lost, &vec![("reason", reason.to_owned())], n as f64)?;
    }
    let help = "Whether the last attempt to write the record succeeded";
    let name = "memsensor_record_writable";
    let mut writable = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    flag(&mut writable, &Labels::new(), figures.is_writable)?;
    let help = "Time at which everything recorded before was on disk, in seconds since 1970; at most \
                half a minute ago unless the disk hangs or cannot be written";
    let (name, unit) = ("memsensor_record_synced_timestamp", Some(&Unit::Seconds));
    let mut synced = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    gauge(&mut synced, &Labels::new(), figures.synced_unix as f64)
}
