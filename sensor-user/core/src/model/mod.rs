//! The data that flows from collectors to servers. Plain types: no I/O, no locks, no decisions.
//!
//! * [`coverage`]: which probes are attached on this host.
//! * [`counters`]: the content of the kernel half's maps, decoded.
//! * [`snapshot`]: the measurements of one sample, with a verdict for each scope.
//! * [`memory_usage`]: processes and cgroups by size and growth.
//! * [`cgroup_report`]: the cgroups that have metrics of their own.
//! * [`event`]: OOM kills and other kills; [`oom_report`]: the state of memory at that moment.
//! * [`readiness`]: state and weight, as load balancers get them.
//! * [`workload`]: the unit, container and pod of a cgroup.

pub mod cgroup_report;
pub mod counters;
pub mod coverage;
pub mod event;
pub mod memory_usage;
pub mod oom_report;
pub mod readiness;
pub mod snapshot;
pub mod workload;
