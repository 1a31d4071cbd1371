//! Errors as one line on stderr and an exit code.

use std::{fmt, process::ExitCode};

use super::logging::Log;
use crate::daemon::failure::Failure;

/// A mistake in the configuration.
#[derive(Debug)]
pub struct Misconfigured;

impl fmt::Display for Misconfigured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("configuration")
    }
}

/// Prints the error with its causes; returns the code of its kind.
pub fn report(error: &anyhow::Error, log: &Log) -> ExitCode {
    let line = format!("{error:#}").replace('\n', " ");
    log.print(&format!("memsensor: {line}"));
    if error.downcast_ref::<Misconfigured>().is_some() {
        return ExitCode::from(2);
    }
    ExitCode::from(match error.downcast_ref::<Failure>() {
        Some(Failure::Unsupported) => 3,
        Some(Failure::InUse) => 4,
        None => 1,
    })
}
