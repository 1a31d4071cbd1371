//! `/metrics`: published data as OpenMetrics.
//!
//! A value that was not measured is absent, never 0: a probe that is not attached has no metrics,
//! and `memsensor_probe_info` reports why.
//!
//! * [`render`] puts the parts together, once for all clients of a moment; [`classic`] turns the
//!   text into the older format.
//! * `probes`: metrics of the probes, generic over their specs; `scopes`, `cgroups`, `sensor` (the
//!   daemon itself), `connections` (its clients), `record`, `process` (`process_*`): the other
//!   parts.
//! * `encode`, `histogram`: writing series; `growth_labels`: a bound of series over time.

mod cgroups;
pub mod classic;
mod connections;
mod encode;
mod growth_labels;
mod histogram;
mod probes;
mod process;
mod record;
pub mod render;
mod scopes;
mod sensor;

pub use probes::PREFIX;
