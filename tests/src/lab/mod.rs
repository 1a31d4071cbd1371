//! Measurements that take minutes and have no pass or fail: each has a program in `src/bin`, which
//! prints a table for `docs/measured.md`. Short runs of some are live tests.
//!
//! The parts do not import each other; what they share is in [`crate::support`].
//!
//! * [`bench`]: the cost of the BPF programs.
//! * [`dashboards`]: a scenario run for the pictures of the Grafana dashboards.
//! * [`fleet`]: the cost of many hosts for Prometheus and VictoriaMetrics.
//! * [`flood`]: a flood of connections from one address.
//! * [`replay`]: user requests behind `HAProxy` while one host thrashes.
//! * [`scenarios`]: the verdict's hits and false alarms over many workloads.
//! * [`soak`]: a long run under mixed load.
//! * [`syscalls`]: the system calls of the sensing and the answering thread in a thrash.
//! * [`thrash`]: response times of monitoring agents while a host thrashes.

pub mod bench;
pub mod dashboards;
pub mod fleet;
pub mod flood;
pub mod replay;
pub mod scenarios;
pub mod soak;
pub mod syscalls;
pub mod thrash;
