//! What the tests share: cgroups that clean up after themselves, workloads, the daemon from
//! outside, independent counts to compare with.
//!
//! Everything here owns what it makes and removes it when dropped, also when a test fails.

pub mod alerting;
pub mod bench;
pub mod count;
pub mod daemon;
pub mod dashboards;
pub mod fleet;
pub mod open_loop;
pub mod prometheus;
pub mod replay;
pub mod scenarios;
pub mod scope;
pub mod soak;
pub mod swap;
pub mod thrash;
pub mod undo;

/// How a program of ours ends: an error is one line, causes included.
pub fn exit(result: anyhow::Result<()>) -> std::process::ExitCode {
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
