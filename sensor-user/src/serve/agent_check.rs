//! HAProxy's agent-check: one line with the full state, on TCP.
//!
//! HAProxy takes what is not mentioned to be unchanged, and ignores an agent that it cannot reach;
//! so every answer says everything, and a balancer must have an HTTP `check` beside it.
//! `agent-send "NAME\n"` asks for a scope; without it the answer is the host's.

use std::{io::Write as _, sync::atomic::Ordering, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::state::{Fitness, Standing, State};
use crate::config::MAX_SCOPE_NAME;

/// A client that does not take its line within this is dropped; HAProxy's own default is 2 s.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long a client may take to say what it asks for. HAProxy says it with the connection, or not
/// at all; and closing with unread bytes would reset the connection and lose the answer.
const QUESTION: Duration = Duration::from_millis(100);

/// What a line can hold.
const MAX_LINE: usize = 64;

/// What HAProxy takes as no statement at all: whatever the state was, it stays.
const NO_CHANGE: &[u8] = b"\n";

/// The line for a state, written into `buffer`.
pub fn line(fitness: Fitness, buffer: &mut [u8; MAX_LINE]) -> &[u8] {
    // A weight of less than one percent is none to HAProxy.
    let percent = (fitness.weight * 100.0).round().clamp(1.0, 100.0);
    let mut rest = &mut buffer[..];
    let written = match fitness.standing {
        Standing::Ready | Standing::Degraded => writeln!(rest, "up ready {percent:.0}%"),
        Standing::Blind if fitness.takes_traffic() => writeln!(rest, "up ready 100%"),
        // Without a weight: with one, HAProxy 2.6 logs a warning at every check.
        Standing::Draining | Standing::Maintenance => writeln!(rest, "up drain"),
        Standing::Blind => writeln!(rest, "down#memsensor-blind"),
        Standing::Stale => writeln!(rest, "down#memsensor-stale"),
        Standing::Starting => writeln!(rest, "down#memsensor-starting"),
    };
    let left = rest.len();
    if written.is_err() {
        return NO_CHANGE;
    }
    &buffer[..MAX_LINE - left]
}

/// Answers one connection.
pub async fn answer(mut stream: TcpStream, state: State) {
    let _ = tokio::time::timeout(DEADLINE, async {
        let mut asked = [0; MAX_SCOPE_NAME + 2];
        let read = tokio::time::timeout(QUESTION, stream.read(&mut asked)).await;
        let len = read.ok().and_then(Result::ok).unwrap_or(0);
        let name = std::str::from_utf8(&asked[..len]).map(str::trim);
        let mut buffer = [0; MAX_LINE];
        let line = if let Some(scope) = name.ok().and_then(|name| state.scope(name)) {
            line(state.fitness(scope), &mut buffer)
        } else {
            state.unknown_scopes.fetch_add(1, Ordering::Relaxed);
            NO_CHANGE
        };
        stream.write_all(line).await?;
        stream.shutdown().await
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_said_in_full() {
        for (standing, weight, says) in [
            (Standing::Ready, 1.0, "up ready 100%\n"),
            (Standing::Degraded, 0.354, "up ready 35%\n"),
            (Standing::Degraded, 0.001, "up ready 1%\n"),
            (Standing::Draining, 0.0, "up drain\n"),
            (Standing::Maintenance, 0.0, "up drain\n"),
            (Standing::Blind, 1.0, "up ready 100%\n"),
            (Standing::Blind, 0.0, "down#memsensor-blind\n"),
            (Standing::Stale, 0.0, "down#memsensor-stale\n"),
            (Standing::Starting, 0.0, "down#memsensor-starting\n"),
        ] {
            let mut buffer = [0; MAX_LINE];
            let line = line(Fitness { standing, weight }, &mut buffer);
            assert_eq!(std::str::from_utf8(line), Ok(says));
        }
    }
}
