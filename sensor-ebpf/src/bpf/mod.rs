//! What the kernel programs share: maps, tasks, the table of who is inside, the stall clock.
//!
//! Only the BPF target (and `--cfg kernel_check`) compiles this. Nothing here sleeps, loops without
//! a bound, or wakes user space on a hot path.
#![cfg_attr(
    kernel_check,
    allow(dead_code, reason = "programs are entered by the kernel, not by name")
)]

pub(crate) mod args;
pub(crate) mod count;
mod harness;
pub(crate) mod histogram;
pub(crate) mod read;
pub(crate) mod ring;
pub(crate) mod stall;
pub(crate) mod task;
pub(crate) mod track;
