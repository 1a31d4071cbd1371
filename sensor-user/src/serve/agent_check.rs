//! HAProxy's agent-check: one line with the full state, on TCP.
//!
//! HAProxy keeps every setting that a line does not mention, and ignores an agent that it cannot
//! reach. Therefore every line has the complete state, and a backend needs an HTTP `check` too. A
//! line has up or down and the weight. It never has `ready`, `drain` or `maint`: an operator sets
//! those in HAProxy, and the next agent-check would overwrite them.
//!
//! `agent-send "NAME\n"` selects a scope, `"NAME?fail_on=drained\n"` a scope with a [`FailOn`];
//! without `agent-send` the answer is for the host.

use std::{io::Write as _, time::Duration};

use sensor_core::{
    model::readiness::{FailOn, ReadinessState, TrafficHealth},
    verdict::scope::MAX_SCOPE_NAME,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::state::{
    app::AppState,
    clients::{Protocol, ReadinessQuery},
};

/// A client that has not read its line after this time is dropped; HAProxy's default timeout is 2
/// s.
const DEADLINE: Duration = Duration::from_secs(2);
/// Time for a question to arrive. HAProxy sends it when it connects, or not at all. Closing with
/// unread bytes would reset the connection and lose the answer.
const QUESTION_TIMEOUT: Duration = Duration::from_millis(100);
/// Time for a question if scopes are configured. A client that is later gets the host's answer.
const SCOPE_QUESTION_TIMEOUT: Duration = Duration::from_millis(500);

/// Longest answer.
const MAX_LINE: usize = 64;
/// Longest question.
const MAX_QUESTION: usize = MAX_SCOPE_NAME + "?fail_on=overloaded\r\n".len();

/// An empty line changes nothing in HAProxy.
const NO_CHANGE: &[u8] = b"\n";

/// The answer for a state, written into `buffer`.
pub fn line(health: TrafficHealth, buffer: &mut [u8; MAX_LINE]) -> &[u8] {
    // HAProxy treats a weight below one percent as 0.
    let percent = (health.weight * 100.0).round().clamp(1.0, 100.0);
    let mut rest = &mut buffer[..];
    let written = if health.takes_traffic() {
        writeln!(rest, "up {percent:.0}%")
    } else {
        match health.state {
            ReadinessState::Unknown | ReadinessState::Stale | ReadinessState::Starting => {
                writeln!(rest, "down#memsensor-{}", health.state.label())
            }
            // No new requests. Requests in progress are finished, and a session with a cookie for
            // this server still reaches it.
            _ => writeln!(rest, "up 0%"),
        }
    };
    let left = rest.len();
    if written.is_err() {
        return NO_CHANGE;
    }
    &buffer[..MAX_LINE - left]
}

/// Reads a question: one line, or what has arrived when the timeout ends. A line may arrive in
/// parts.
async fn read_question<'a>(
    from: &mut (impl AsyncRead + Unpin),
    buffer: &'a mut [u8; MAX_QUESTION],
    timeout: Duration,
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
    let _ = tokio::time::timeout(timeout, line).await;
    buffer[..len].split(|byte| *byte == b'\n').next().unwrap_or_default()
}

/// The scope's index, and from which state on the client takes it out of service.
fn parse_question(question: &[u8], state: &AppState) -> Option<(usize, FailOn)> {
    let question = std::str::from_utf8(question).ok()?.trim();
    let (name, fail_on) = match question.split_once("?fail_on=") {
        Some((name, word)) => (name, FailOn::parse(word)?),
        None => (question, FailOn::default()),
    };
    Some((state.scope_index(name)?, fail_on))
}

/// Answers one connection.
pub async fn answer(mut stream: TcpStream, state: AppState) {
    let peer = stream.peer_addr().ok().map(|addr| addr.ip());
    let _ = tokio::time::timeout(DEADLINE, async {
        let mut buffer = [0; MAX_QUESTION];
        let has_scopes = state.scopes.len() > 1;
        let timeout = if has_scopes { SCOPE_QUESTION_TIMEOUT } else { QUESTION_TIMEOUT };
        let question = read_question(&mut stream, &mut buffer, timeout).await;
        let Some((scope, fail_on)) = parse_question(question, &state) else {
            state.count_unknown_scope();
            stream.write_all(NO_CHANGE).await?;
            return stream.shutdown().await;
        };
        let health = state.health(scope).with_fail_on(fail_on);
        stream.write_all(line(health, &mut [0; MAX_LINE])).await?;
        stream.shutdown().await?;
        // Record it last: a client that closed the connection earlier has not read the answer.
        if let Some(addr) = peer {
            let query = ReadinessQuery { addr, scope, fail_on, protocol: Protocol::Agent };
            state.record_client(query, health);
        }
        Ok(())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_its_line() {
        for (state, weight, expected) in [
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
            let line = line(TrafficHealth { state, weight }, &mut buffer);
            assert_eq!(std::str::from_utf8(line), Ok(expected));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_may_arrive_in_parts() {
        for (parts, hangs_up, expected) in [
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
            let start = tokio::time::Instant::now();
            let mut buffer = [0; MAX_QUESTION];
            let read = read_question(&mut server, &mut buffer, QUESTION_TIMEOUT);
            let (_open, question) = tokio::join!(write, read);
            assert_eq!(std::str::from_utf8(question), Ok(expected), "{parts:?}");
            // Only a question without an end takes the whole timeout.
            let has_end = hangs_up || parts.iter().any(|part| part.contains('\n'));
            assert_eq!(start.elapsed() < QUESTION_TIMEOUT, has_end, "{parts:?}");
        }
        let endless = [b'a'; MAX_QUESTION + 1];
        let mut buffer = [0; MAX_QUESTION];
        let question = read_question(&mut &endless[..], &mut buffer, QUESTION_TIMEOUT).await;
        assert_eq!(question.len(), MAX_QUESTION);
    }
}
