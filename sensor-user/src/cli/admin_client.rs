//! Requests to the running daemon over its root-only socket.

use std::{
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    os::unix::net::UnixStream,
    path::Path,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::serve::admin_protocol::{Request, Response};

/// Sends a request, and passes each line of the answer to `each` until the daemon closes the
/// connection. Fails if the daemon reports an error, or sends no answer to a request other than for
/// events.
pub fn call(
    path: &Path,
    request: &Request,
    mut each: impl FnMut(&str, Response) -> Result<()>,
) -> Result<()> {
    let mut stream = UnixStream::connect(path).with_context(|| {
        format!("connect to {} (is memsensor running, and is this root?)", path.display())
    })?;
    let timeout = request.timeout();
    stream.set_read_timeout(timeout)?;
    writeln!(stream, "{}", serde_json::to_string(request)?)?;
    let mut answered = matches!(request, Request::Events { .. });
    for line in BufReader::new(stream).lines() {
        let line = match line {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let timeout = humantime::format_duration(timeout.unwrap_or_default());
                bail!("the daemon did not answer within {timeout}: is it stopped?");
            }
            line => line.context("read from the daemon")?,
        };
        match serde_json::from_str(&line).context("parse the daemon's answer")? {
            Response::Error { error } => bail!("the daemon reports: {error}"),
            response => each(&line, response)?,
        }
        answered = true;
    }
    ensure!(answered, "the daemon closed the connection without an answer (see its log)");
    Ok(())
}

/// Sends a request that has one answer, which `pick` selects.
pub fn call_one<T>(
    path: &Path,
    request: &Request,
    pick: impl Fn(Response) -> Option<T>,
) -> Result<T> {
    let mut picked = None;
    call(path, request, |_, response| {
        picked = pick(response).or(picked.take());
        Ok(())
    })?;
    picked.context("the daemon did not answer the request")
}
