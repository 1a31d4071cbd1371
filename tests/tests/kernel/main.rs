//! Every kernel program against the verifier, and run with given arguments (BPF_PROG_TEST_RUN):
//! exact map contents, also out of order, nested, and with a missing end.
//!
//! Nothing is attached here, so only what a test runs is counted, and a program is tested also on a
//! kernel that lacks its event. Needs root.
//!
//! * [`bench`]: the loaded programs and the contents of their maps.
//! * [`verifier`]: the kernel accepts each program.
//! * [`stalls`]: begins and ends, and the stall clock.
//! * [`reclaim`]: counters of reclaim other than time.
//! * [`kills`]: OOM kills, their victims, SIGKILL from user space.
//! * [`losses`]: the debug log of losses.

#![allow(clippy::panic, reason = "the helpers of a test fail it")]

mod bench;
mod kills;
mod losses;
mod reclaim;
mod stalls;
mod verifier;

#[test]
fn whoami_returns_our_process_id() {
    assert_eq!(bench::Bench::new().run("whoami", &[]), std::process::id());
}
