//! Does the verdict find what harms, and leave alone what does not? Workloads in real cgroups, each
//! judged by the waits of a service in the same cgroup, not by what its author thinks of it.
//!
//! `scenarios` puts these together; nothing here is a test, for what a shared machine does meanwhile
//! would pass and fail by chance.
//!
//! * [`catalogue`]: the scenarios, as data.
//! * [`load`]: what runs in them, a process each.
//! * [`probe`]: the service whose waits are the judge, a process too.
//! * [`run`]: a scenario from its cgroup to its record.
//! * [`record`]: what was seen of one, as JSON lines.
//! * [`harm`]: when the service was harmed.
//! * [`baselines`]: when the usual rules would have said so; [`replay`]: when ours would, from a record.
//! * [`table`]: who was right, and how early.

pub mod catalogue;
pub mod load;
pub mod probe;
pub mod record;
pub mod replay;
pub mod baselines;
pub mod run;
pub mod table;
pub mod harm;

/// A second, in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;
