//! HAProxy's agent-check: one line with the full state, on TCP.
//!
//! HAProxy keeps every setting that a line does not mention, and ignores an agent that it cannot
//! reach. Therefore every line has the complete state, and a backend needs an HTTP `check` too. A
//! line is `up` and the weight. It never has `ready`, `drain` or `maint`: an operator sets those in
//! HAProxy, and the next agent-check would overwrite them. Nor has it `down`: only an agent's `up`
//! would end it, so the server would stay DOWN where memsensor dies and does not come back. A weight
//! of 0 gets no new requests either; requests in progress are finished, and a session with a cookie
//! for this server still reaches it. Whether the server itself responds is for the HTTP check.
//!
//! `agent-send "NAME\n"` asks for a scope, `"NAME?fail_on=drained\n"` for a scope with a
//! [`FailOn`]; without `agent-send` the answer is for the host.
//!
//! HAProxy sends its question as soon as it is connected, or not at all. Where scopes are
//! configured, the answer waits for a question. Where none is, it waits only for clients that have
//! sent one before.

use std::{
    io::Write as _,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sensor_core::{
    model::readiness::{FailOn, TrafficHealth},
    verdict::scope::MAX_SCOPE_NAME,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    limits::Ticket,
    state::{
        app::AppState,
        clients::{Protocol, ReadinessQuery},
    },
};

/// A client that has not read its line after this time is dropped; HAProxy's default timeout is 2
/// s.
const DEADLINE: Duration = Duration::from_secs(2);
/// Time for a question of a client that has not sent one before, if no scope is configured.
const FIRST_QUESTION_TIMEOUT: Duration = Duration::from_millis(2);
/// The same for a client that has sent one.
const QUESTION_TIMEOUT: Duration = Duration::from_millis(100);
/// The same if scopes are configured: a client whose question is late gets the host's answer.
const SCOPE_QUESTION_TIMEOUT: Duration = Duration::from_millis(500);
/// Time for the client to close the connection after the answer. Closing with unread bytes would
/// reset the connection and lose the answer.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// Most bytes that are read in that time; a client that sends more gets a reset.
const MAX_UNREAD: usize = 4096;
/// Most clients that are known to send questions; the one that did so first is forgotten first.
const MAX_ASKERS: usize = 64;

/// Longest answer.
const MAX_LINE: usize = 16;
/// Longest question.
pub(crate) const MAX_QUESTION: usize = MAX_SCOPE_NAME + "?fail_on=overloaded\r\n".len();

/// An empty line changes nothing in HAProxy.
const NO_CHANGE: &[u8] = b"\n";

/// The answer for a state, written into `buffer`.
pub fn line(health: TrafficHealth, buffer: &mut [u8; MAX_LINE]) -> &[u8] {
    // HAProxy treats a weight below one percent as 0.
    let percent = if health.takes_traffic() {
        (health.weight * 100.0).round().clamp(1.0, 100.0)
    } else {
        0.0
    };
    let mut rest = &mut buffer[..];
    let written = writeln!(rest, "up {percent:.0}%");
    let left = rest.len();
    if written.is_err() {
        return NO_CHANGE;
    }
    &buffer[..MAX_LINE - left]
}

/// Reads a question: one line, or what has arrived when the timeout ends. A line may arrive in
/// parts.
pub(crate) async fn read_question<'a>(
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
pub(crate) fn parse_question(question: &[u8], state: &AppState) -> Option<(usize, FailOn)> {
    let question = std::str::from_utf8(question).ok()?.trim();
    let (name, fail_on) = match question.split_once("?fail_on=") {
        Some((name, word)) => (name, FailOn::parse(word)?),
        None => (question, FailOn::default()),
    };
    Some((state.scope_index(name)?, fail_on))
}

/// Addresses that have sent a question.
#[derive(Debug, Default)]
struct Askers(Mutex<Vec<IpAddr>>);

impl Askers {
    fn add(&self, addr: IpAddr) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains(&addr) {
            if known.len() == MAX_ASKERS {
                known.remove(0);
            }
            known.push(addr);
        }
    }

    fn contains(&self, addr: IpAddr) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&addr)
    }
}

/// Answers agent-checks.
#[derive(Debug)]
pub struct Agent {
    state: AppState,
    askers: Askers,
}

impl Agent {
    /// Answers from this state.
    pub fn new(state: AppState) -> Self {
        Self { state, askers: Askers::default() }
    }

    fn question_timeout(&self, peer: IpAddr) -> Duration {
        question_timeout(self.state.scopes.len() > 1, self.askers.contains(peer))
    }

    /// Answers one connection.
    pub async fn answer(self: Arc<Self>, mut stream: TcpStream, ticket: Arc<Ticket>) {
        let exchange = async {
            self.exchange(&mut stream, &ticket).await?;
            ticket.set_answered();
            if drain(&mut stream, CLOSE_TIMEOUT).await > 0 {
                // Its question came after the answer: the next one is waited for.
                self.askers.add(ticket.peer());
            }
            Ok::<_, std::io::Error>(())
        };
        if tokio::time::timeout(DEADLINE, exchange).await.is_err() {
            ticket.set_timed_out();
        }
    }

    async fn exchange(&self, stream: &mut TcpStream, ticket: &Ticket) -> std::io::Result<()> {
        let (state, addr) = (&self.state, ticket.peer());
        let mut buffer = [0; MAX_QUESTION];
        let question = read_question(stream, &mut buffer, self.question_timeout(addr)).await;
        if !question.is_empty() {
            self.askers.add(addr);
        }
        ticket.set_active();
        let Some((scope, fail_on)) = parse_question(question, state) else {
            state.count_unknown_scope();
            stream.write_all(NO_CHANGE).await?;
            return stream.shutdown().await;
        };
        let health = state.health(scope).with_fail_on(fail_on);
        stream.write_all(line(health, &mut [0; MAX_LINE])).await?;
        stream.shutdown().await?;
        // Record it last: a client that closed the connection earlier has not read the answer.
        let query = ReadinessQuery { addr, scope, fail_on, protocol: Protocol::Agent };
        state.record_client(query, health);
        Ok(())
    }
}

fn question_timeout(has_scopes: bool, has_asked: bool) -> Duration {
    match (has_scopes, has_asked) {
        (true, _) => SCOPE_QUESTION_TIMEOUT,
        (false, true) => QUESTION_TIMEOUT,
        (false, false) => FIRST_QUESTION_TIMEOUT,
    }
}

/// Reads until the client closes the connection, or the timeout ends. Returns the number of bytes.
async fn drain(from: &mut (impl AsyncRead + Unpin), timeout: Duration) -> usize {
    let mut len = 0;
    let read = async {
        let mut buffer = [0; 256];
        while let Ok(more) = from.read(&mut buffer).await {
            len += more;
            if more == 0 || len > MAX_UNREAD {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(timeout, read).await;
    len
}

#[cfg(test)]
mod tests {
    use sensor_core::model::readiness::ReadinessState;

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
            (ReadinessState::Unknown, 0.0, "up 0%\n"),
            (ReadinessState::Stale, 0.0, "up 0%\n"),
            (ReadinessState::Starting, 0.0, "up 0%\n"),
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

    #[test]
    fn only_clients_that_ask_are_waited_for() {
        let askers = Askers::default();
        let addr = |n: u8| IpAddr::from([10, 0, 0, n]);
        let timeout = |scopes, n| question_timeout(scopes, askers.contains(addr(n)));
        assert!(timeout(false, 1) <= Duration::from_millis(4));
        assert_eq!(timeout(true, 1), SCOPE_QUESTION_TIMEOUT);
        askers.add(addr(1));
        askers.add(addr(1));
        assert_eq!(timeout(false, 1), QUESTION_TIMEOUT);
        for n in 2..=64 {
            askers.add(addr(n));
        }
        assert!(askers.contains(addr(1)) && askers.contains(addr(64)));
        askers.add(addr(65));
        assert!(!askers.contains(addr(1)), "the first is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_after_the_answer_is_read() {
        for (late, expected) in [(0, 0), (20, 20), (MAX_UNREAD + 1000, MAX_UNREAD + 1)] {
            let (mut client, mut server) = tokio::io::duplex(64);
            let bytes = vec![b'a'; late];
            let write = async move {
                let _ = client.write_all(&bytes).await;
                client
            };
            let start = tokio::time::Instant::now();
            let read = async move { drain(&mut server, CLOSE_TIMEOUT).await };
            let (_open, len) = tokio::join!(write, read);
            assert!((expected..expected + 256).contains(&len), "{len}");
            assert_eq!(start.elapsed() < CLOSE_TIMEOUT, late > MAX_UNREAD);
        }
        assert_eq!(drain(&mut &b""[..], CLOSE_TIMEOUT).await, 0, "the client closed it");
    }
}
