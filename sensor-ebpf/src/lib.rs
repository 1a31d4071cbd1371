//! The vocabulary of memsensor: what the kernel half counts and how the user half reads it.
//!
//! This library is `no_std` and pure. The BPF binary (`main.rs`) compiles the same modules and,
//! beside them, [`bpf`](self) and each probe's `kernel` module, which exist only on the BPF target
//! (or under `--cfg kernel_check`, where clippy reads them on the host). It never does I/O and
//! never names aya on the host: `aya-ebpf` defines `memcpy`, and would silently replace libc's.
//!
//! * [`spec`]: what a probe says of itself: kernel events, arguments, metrics.
//! * [`probes`]: one file per probe, and the list of them.
//! * [`hist`]: log2 histogram arithmetic, shared by both halves.
//! * [`inflight`]: who is inside reclaim now, in a bounded table.
//! * [`event`]: records of rare events (an OOM kill), as they cross the ring buffer.
//! * [`layout`]: offsets of kernel structures that programs read.
#![cfg_attr(not(test), no_std)]
#![allow(
    clippy::inline_always,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::needless_pass_by_value,
    reason = "a BPF program is one function, as the verifier sees it; arguments are words of which \
              the event's own type says how much counts; contexts are passed as the kernel does"
)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod event;
pub mod hist;
pub mod inflight;
pub mod layout;
pub mod loss;
pub mod probes;
pub mod spec;

#[cfg(any(target_arch = "bpf", kernel_check))]
mod bpf;
