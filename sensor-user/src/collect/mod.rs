//! The sensing loop: reads the kernel half and the host's files, evaluates each scope, publishes a
//! sample.
//!
//! * [`settings`]: how often, and which scopes.
//! * [`sampler`]: the loop; [`scan_loop`] scans processes and opens files for it.
//! * [`pressed`]: whether a scope is under pressure.
//! * [`scopes`]: the host and the named cgroups: readings in, verdicts out.
//! * [`host_reader`]: the reading of the host; [`lost_estimate`]: lost pages of a cgroup on v1.
//! * [`served`]: the cgroups that the host serves from.
//! * [`counts`]: the counts of the kernel half, or which of them could not be read.
//! * [`history`]: rows of earlier samples; [`stall_counter`]: stalls of a scope without PSI;
//!   [`vmstat_kills`]: OOM kills without probes.

pub mod counts;
pub mod history;
mod host_reader;
mod lost_estimate;
mod pressed;
pub mod sampler;
pub mod scan_loop;
pub mod scopes;
pub mod served;
pub mod settings;
pub mod stall_counter;
mod vmstat_kills;
