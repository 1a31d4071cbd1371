//! The BPF binary: the probes' kernel programs in one object, under a licence the kernel accepts.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "the host half of the vocabulary is unused here"
)]

mod bpf;
mod event;
mod hist;
mod inflight;
mod layout;
mod log_limit;
mod loss;
mod probe_id;
mod probes;
mod spec;
mod stall_kind;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier rejects a reachable endless loop, so a loaded program cannot panic.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
