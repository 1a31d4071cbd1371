//! Maps and helpers that the kernel programs share. Each imports only those above it:
//!
//! * `args`, `read`: arguments of events, members of kernel structures.
//! * `clock`, `task`: the time, the current task, other tasks.
//! * `count`: the rows of counters.
//! * `lost`: losses, counted and written to the debug log.
//! * `ring`, `histogram`, `inflight`: the maps of events, cgroup histograms and in-flight tasks.
//! * `stall`, `track`: the stall clock, and the begins and ends that it charges.
//! * `harness`: programs for start-up and benchmarks.
//!
//! Only the BPF target (and `--cfg kernel_check`) compiles this. Nothing here sleeps, loops without
//! a bound, or wakes user space on a hot path.
#![cfg_attr(
    kernel_check,
    allow(dead_code, reason = "programs are entered by the kernel, not by name")
)]

pub(crate) mod args;
pub(crate) mod clock;
pub(crate) mod count;
mod harness;
pub(crate) mod histogram;
pub(crate) mod inflight;
pub(crate) mod lost;
pub(crate) mod read;
pub(crate) mod ring;
pub(crate) mod stall;
pub(crate) mod task;
pub(crate) mod track;
