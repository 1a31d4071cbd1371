//! Metrics of the daemon's connections.

use std::{fmt::Error, sync::atomic::Ordering};

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};

use super::encode::{counter, gauge};
use crate::serve::state::connections::{Connections, Outcome};

/// Writes these metrics.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder,
    connections: &Connections,
) -> Result<(), Error> {
    let help = "Connections now: open, or queued because too many came in the last moment";
    let name = "memsensor_current_connections";
    let mut now = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (listener, counts) in connections.all() {
        for (state, count) in [("open", &counts.open), ("queued", &counts.queued)] {
            let labels = vec![("listener", listener.to_owned()), ("state", state.to_owned())];
            gauge(&mut now, &labels, count.load(Ordering::Relaxed) as f64)?;
        }
    }
    let help = "Connections that ended, by outcome";
    // A gauge of this name would be the same family in OpenMetrics.
    let name = "memsensor_connections";
    let mut ended = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (listener, counts) in connections.all() {
        for outcome in Outcome::ALL {
            let labels =
                vec![("listener", listener.to_owned()), ("outcome", outcome.label().to_owned())];
            counter(&mut ended, &labels, counts.ended(outcome) as f64)?;
        }
    }
    Ok(())
}
