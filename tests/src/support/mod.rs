//! Code that tests and the lab share. It runs the real programs and reads their output, but asserts
//! nothing about it.
//!
//! Everything here owns what it makes and removes it when dropped, also when a test fails. Nothing
//! here imports [`crate::lab`].
//!
//! * [`daemon`], [`prometheus`]: those programs, started on free ports and queried.
//! * [`scope`], [`swap`], [`undo`]: a cgroup with a memory limit, a swap device, and their removal.
//! * [`counts`]: independent counts from vmstat and the kernel's trace.
//! * [`failing_calls`], [`failing_map`]: system calls of a process that fail, and one of its BPF maps.
//! * [`open_loop`]: requests at a fixed rate.
//! * [`score`]: what a policy costs users and owners of servers; pure.
//! * [`random`]: numbers that are the same in every run.
//! * [`alerting`], [`dashboards`], [`manifests`], [`repository`]: shipped files, as tests need them.
//! * [`units`]: what systemd says about the units.
//! * [`metrics_table`], [`promql`]: the metrics, labels and label values that shipped files may
//!   use.

pub mod alerting;
pub mod counts;
pub mod daemon;
pub mod dashboards;
pub mod failing_calls;
pub mod failing_map;
pub mod load_words;
pub mod manifests;
pub mod metrics_table;
pub mod open_loop;
pub mod prometheus;
pub mod promql;
pub mod random;
pub mod repository;
pub mod scope;
pub mod score;
pub mod swap;
pub mod undo;
pub mod units;
