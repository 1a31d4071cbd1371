//! Code for the tests of memsensor and for its measurements.
//!
//! * [`support`]: cgroups, swap, the daemon and Prometheus as tests start them, and independent
//!   counts.
//! * [`lab`]: measurements, which build on `support`. `support` never imports `lab`.
//! * `bin/`: the programs of the lab; `hog`, the workload of all tests; `trim-btf`, which makes
//!   fixtures.

pub mod lab;
pub mod support;

/// Exit code of a program of the lab; an error is printed as one line with its causes.
pub fn exit(result: anyhow::Result<()>) -> std::process::ExitCode {
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
