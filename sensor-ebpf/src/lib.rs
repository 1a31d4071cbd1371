//! The vocabulary of memsensor: what the kernel half counts and how the user half reads it.
//!
//! This library is `no_std` and pure. The BPF binary (`main.rs`) compiles the same modules, and
//! in addition `bpf` and each probe's `kernel` module, which exist only on the BPF target (or under
//! `--cfg kernel_check`, for clippy on the host). The library does no I/O and does not link aya on
//! the host: `aya-ebpf` defines `memcpy`, and would silently replace libc's.
//!
//! Each module imports only modules above it in this list:
//!
//! * [`event`]: records of rare events (an OOM kill), as they cross the ring buffer.
//! * [`hist`]: log2 histogram arithmetic, shared by both halves.
//! * [`log_limit`]: the rate limit of the kernel half's debug log.
//! * [`probe_id`]: the list of probes.
//! * [`stall_kind`]: kinds and causes of stalls.
//! * [`inflight`]: the bounded table of tasks inside reclaim, compaction or kswapd.
//! * [`loss`]: what the kernel half could not keep, by reason.
//! * [`spec`]: what a probe declares: kernel events, arguments, metrics, losses.
//! * [`layout`]: offsets of kernel structures that programs read.
//! * `bpf`: maps and helpers of the kernel programs.
//! * [`probes`]: one file per probe.
#![cfg_attr(not(test), no_std)]
#![allow(
    clippy::inline_always,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::needless_pass_by_value,
    reason = "the verifier sees a BPF program as one function; arguments are words, of which the \
              event's type says how much counts; contexts are passed in the kernel's way"
)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod event;
pub mod hist;
pub mod inflight;
pub mod layout;
pub mod log_limit;
pub mod loss;
pub mod probe_id;
pub mod probes;
pub mod spec;
pub mod stall_kind;

#[cfg(any(target_arch = "bpf", kernel_check))]
mod bpf;
