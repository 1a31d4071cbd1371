//! Does the verdict detect harm, and stay quiet without it? Runs workloads in real cgroups. Harm is
//! defined by the latency of a service in the same cgroup, not by what the scenario's author
//! expects.
//!
//! `scenarios` runs them. Nothing here is a test: on a shared machine it would pass and fail by
//! chance.
//!
//! * [`catalogue`]: the scenarios, as data.
//! * [`load`]: their workloads, a process each.
//! * [`probe`]: the service whose latency defines harm, also a process.
//! * [`run`]: runs a scenario and returns its record.
//! * [`record`]: the measurements of a run, stored as JSON lines.
//! * [`harm`]: when the service was harmed.
//! * [`baselines`]: when common rules would have triggered; [`replay`]: when memsensor's rules
//!   would, from a record.
//! * [`table`]: hits, misses and lead times.

pub mod baselines;
pub mod catalogue;
pub mod harm;
pub mod load;
pub mod probe;
pub mod record;
pub mod replay;
pub mod run;
pub mod table;

/// A second, in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;
