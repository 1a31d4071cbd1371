//! Every kernel program against the verifier, and run by hand with made-up arguments
//! (BPF_PROG_TEST_RUN): exact map contents, also out of order, nested, and with a missing end.
//!
//! Nothing is attached here, so only what a test runs is counted, and a program is tested also on
//! a kernel that has no such event. Needs root.
//!
//! * [`bench`]: the programs and what they left in their maps.
//! * [`stalls`]: begins and ends, and the stall clock.
//! * [`reclaim`]: what is counted of reclaim beside time.
//! * [`kills`]: OOM kills, their victims, SIGKILL by others.

#![allow(clippy::panic, reason = "the helpers of a test fail it")]

mod bench;
mod kills;
mod reclaim;
mod stalls;

use sensor_ebpf::probes;

use crate::bench::Bench;

#[test]
fn every_program_passes_the_verifier() {
    let bench = Bench::new();
    let mut seen = 0;
    for program in probes::ALL.iter().flat_map(|p| p.programs) {
        let loaded = bench.ebpf.program(program.name).expect(program.name);
        let aya::programs::Program::RawTracePoint(loaded) = loaded else { continue };
        let info = loaded.info().expect("info");
        println!(
            "{:16} {:5} instructions walked, {:5} bytes translated",
            program.name,
            info.verified_instruction_count().map_or("?".to_owned(), |n| n.to_string()),
            info.size_translated().map_or("?".to_owned(), |n| n.to_string()),
        );
        assert_eq!(loaded.info().expect("info").name_as_str(), Some(program.name));
        seen += 1;
    }
    assert_eq!(seen, 21);
}

#[test]
fn the_kernel_says_who_we_are() {
    assert_eq!(Bench::new().run("whoami", &[]), std::process::id());
}
