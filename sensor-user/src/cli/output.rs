//! Writing to stdout. A reader that closes the pipe (`memsensor events | head`) is no error.

use std::io::{ErrorKind, Write as _};

use anyhow::Result;

/// Writes a text.
pub(super) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    ignore_closed_pipe(written.map_err(Into::into))
}

/// Turns the error of a closed pipe into success.
pub(super) fn ignore_closed_pipe(written: Result<()>) -> Result<()> {
    let closed = |e: &anyhow::Error| {
        let io = e.downcast_ref::<std::io::Error>();
        io.is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
    };
    match written {
        Err(e) if closed(&e) => Ok(()),
        other => other,
    }
}
