//! Errors as one line on stderr and an exit code.

use std::{fmt, process::ExitCode};

use sensor_core::common::text::Sentence;

use super::{logging::Log, past::part::WrongOptions};
use crate::daemon::failure::Failure;

/// A mistake in the configuration.
#[derive(Debug)]
pub struct Misconfigured;

impl fmt::Display for Misconfigured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("configuration")
    }
}

/// The error with its causes; names in it are escaped.
pub fn error_line(error: &anyhow::Error) -> String {
    let line = format!("{error:#}").replace('\n', " ");
    format!("memsensor: {}", Sentence(&line))
}

/// Prints the error with its causes; returns the code of its kind.
pub fn report(error: &anyhow::Error, log: &Log) -> ExitCode {
    log.print(&error_line(error));
    if error.is::<Misconfigured>() || error.is::<WrongOptions>() {
        return ExitCode::from(2);
    }
    ExitCode::from(match error.downcast_ref::<Failure>() {
        Some(Failure::Unsupported) => 3,
        Some(Failure::InUse) => 4,
        None => 1,
    })
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn an_error_is_one_line_without_escape_sequences() {
        let error = anyhow!("no scope \"a\u{1b}[2J\u{9b}\"\n").context("the daemon's\u{2028}");
        let line = error_line(&error);
        assert_eq!(line, "memsensor: the daemon's\\u{2028}: no scope \"a\\u{1b}[2J\\u{9b}\" ");
    }
}
