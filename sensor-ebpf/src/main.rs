//! The BPF binary: the probes' kernel programs in one object, under a licence the kernel accepts.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![allow(dead_code, unreachable_pub, reason = "the host half of the vocabulary is unused here")]

mod bpf;
mod event;
mod hist;
mod inflight;
mod layout;
mod loss;
mod probes;
mod spec;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses an endless loop that can be reached, so no panic can be reached.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
