//! HAProxy's agent-check: one line with the full state, on TCP.
//!
//! HAProxy takes what is not mentioned to be unchanged, and ignores an agent that it cannot reach;
//! so every answer says everything that is ours to say, and a balancer must have an HTTP `check` beside
//! it. Ours is whether the server is up, and its weight: not `ready`, `drain` or `maint`, which are what
//! an operator sets at HAProxy, and would be overruled at the next check.
//!
//! `agent-send "NAME\n"` asks for a scope, `"NAME?fail_on=drained\n"` as a last resort should ask
//! (see [`FailOn`]); without it the answer is the host's.

use std::{io::Write as _, sync::atomic::Ordering, time::Duration};

use clap::ValueEnum as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    askers::{Protocol, ReadinessQuery},
    state::{AppState, FailOn, ReadinessState, TrafficHealth},
};
use crate::config::MAX_SCOPE_NAME;

/// A client that does not take its line within this is dropped; HAProxy's own default is 2 s.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long a client may take to say what it asks for. HAProxy says it with the connection, or not
/// at all; and closing with unread bytes would reset the connection and lose the answer.
const QUESTION: Duration = Duration::from_millis(100);
/// The same where there is more than the host to ask for, and a late question would get its answer.
const QUESTION_OF_SCOPES: Duration = Duration::from_millis(500);

/// What an answer can hold.
const MAX_LINE: usize = 64;
/// What a question can.
const MAX_QUESTION: usize = MAX_SCOPE_NAME + "?fail_on=drained\r\n".len();

/// What HAProxy takes as no statement at all: whatever the state was, it stays.
const NO_CHANGE: &[u8] = b"\n";

/// The line for a state, written into `buffer`.
pub fn line(fitness: TrafficHealth, buffer: &mut [u8; MAX_LINE]) -> &[u8] {
    // A weight of less than one percent is none to HAProxy.
    let percent = (fitness.weight * 100.0).round().clamp(1.0, 100.0);
    let mut rest = &mut buffer[..];
    let written = if fitness.takes_traffic() {
        writeln!(rest, "up {percent:.0}%")
    } else {
        match fitness.standing {
            ReadinessState::Unknown => writeln!(rest, "down#memsensor-unknown"),
            ReadinessState::Stale => writeln!(rest, "down#memsensor-stale"),
            ReadinessState::Starting => writeln!(rest, "down#memsensor-starting"),
            // No new requests; those under way are finished, and a session that is bound to the
            // server by a cookie still reaches it.
            _ => writeln!(rest, "up 0%"),
        }
    };
    let left = rest.len();
    if written.is_err() {
        return NO_CHANGE;
    }
    &buffer[..MAX_LINE - left]
}

/// The line that is asked; what has come of it if it has no end after so long. A part of a line may be
/// another scope's name.
async fn question<'a>(
    from: &mut (impl AsyncRead + Unpin),
    buffer: &'a mut [u8; MAX_QUESTION],
    patience: Duration,
) -> &'a [u8] {
    let mut len = 0;
    let line = async {
        while len < buffer.len() && !buffer[..len].contains(&b'\n') {
            match from.read(&mut buffer[len..]).await {
                Ok(more) if more > 0 => len += more,
                _ => return,
            }
        }
    };
    let _ = tokio::time::timeout(patience, line).await;
    buffer[..len].split(|byte| *byte == b'\n').next().unwrap_or_default()
}

/// Which scope is asked for, and how.
fn understand(asked: &[u8], state: &AppState) -> Option<(usize, FailOn)> {
    let asked = std::str::from_utf8(asked).ok()?.trim();
    let (name, fail_on) = match asked.split_once("?fail_on=") {
        Some((name, word)) => (name, FailOn::from_str(word, false).ok()?),
        None => (asked, FailOn::default()),
    };
    Some((state.scope(name)?, fail_on))
}

/// Answers one connection.
pub async fn answer(mut stream: TcpStream, state: AppState) {
    let peer = stream.peer_addr().ok().map(|addr| addr.ip());
    let _ = tokio::time::timeout(DEADLINE, async {
        let mut buffer = [0; MAX_QUESTION];
        let patience = if state.scopes.len() > 1 { QUESTION_OF_SCOPES } else { QUESTION };
        let asked = question(&mut stream, &mut buffer, patience).await;
        let Some((scope, fail_on)) = understand(asked, &state) else {
            state.unknown_scopes.fetch_add(1, Ordering::Relaxed);
            stream.write_all(NO_CHANGE).await?;
            return stream.shutdown().await;
        };
        let fitness = state.fitness(scope).on(fail_on);
        stream.write_all(line(fitness, &mut [0; MAX_LINE])).await?;
        stream.shutdown().await?;
        // Only now: who hung up has heard nothing.
        if let Some(addr) = peer {
            state.told(ReadinessQuery { addr, scope, fail_on, by: Protocol::Agent }, fitness);
        }
        Ok(())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_said_in_full() {
        for (standing, weight, says) in [
            (ReadinessState::Ready, 1.0, "up 100%\n"),
            (ReadinessState::Degraded, 0.354, "up 35%\n"),
            (ReadinessState::Degraded, 0.001, "up 1%\n"),
            (ReadinessState::Overloaded, 0.0, "up 0%\n"),
            (ReadinessState::Drained, 0.0, "up 0%\n"),
            (ReadinessState::Unknown, 1.0, "up 100%\n"),
            (ReadinessState::Unknown, 0.0, "down#memsensor-unknown\n"),
            (ReadinessState::Stale, 0.0, "down#memsensor-stale\n"),
            (ReadinessState::Starting, 0.0, "down#memsensor-starting\n"),
        ] {
            let mut buffer = [0; MAX_LINE];
            let line = line(TrafficHealth { standing, weight }, &mut buffer);
            assert_eq!(std::str::from_utf8(line), Ok(says));
        }
    }

    #[tokio::test]
    async fn a_line_may_come_in_parts() {
        for (parts, hangs_up, asked) in [
            (&["web\n"][..], false, "web"),
            (&["web", "2?fail_on=", "drained\r\n"], false, "web2?fail_on=drained\r"),
            (&["web\nmore"], false, "web"),
            (&["web"], true, "web"),
            (&["web"], false, "web"),
            (&[], true, ""),
            (&[], false, ""),
        ] {
            let (mut client, mut server) = tokio::io::duplex(MAX_QUESTION);
            let write = async move {
                for part in parts {
                    client.write_all(part.as_bytes()).await.expect("written");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                (!hangs_up).then_some(client)
            };
            // However long a busy machine takes. Only what has no end is waited for in vain, and all of
            // that is there at once.
            let ends = hangs_up || parts.iter().any(|part| part.contains('\n'));
            let patience = if ends { Duration::from_mins(1) } else { Duration::from_millis(50) };
            let mut buffer = [0; MAX_QUESTION];
            let (_open, found) = tokio::join!(write, question(&mut server, &mut buffer, patience));
            assert_eq!(std::str::from_utf8(found), Ok(asked), "{parts:?}");
        }
        let endless = [b'a'; MAX_QUESTION + 1];
        let mut buffer = [0; MAX_QUESTION];
        let found = question(&mut &endless[..], &mut buffer, Duration::from_mins(1)).await;
        assert_eq!(found.len(), MAX_QUESTION);
    }
}
