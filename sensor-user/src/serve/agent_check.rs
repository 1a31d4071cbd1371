//! HAProxy's agent-check: one line with the full state, on TCP.
//!
//! HAProxy takes what is not mentioned to be unchanged, and ignores an agent that it cannot reach;
//! so every answer says everything, and a balancer must have an HTTP `check` beside it.

use std::time::Duration;

use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::state::{Readiness, State};

/// A client that does not take its line within this is dropped; HAProxy's own default is 2 s.
const DEADLINE: Duration = Duration::from_secs(2);

/// The line for a state.
pub const fn line(readiness: Readiness) -> &'static str {
    match readiness {
        Readiness::Ready { .. } | Readiness::Blind { .. } => "up ready 100%\n",
        Readiness::Stale { .. } => "down#memsensor-stale\n",
        Readiness::Starting => "down#memsensor-starting\n",
    }
}

/// Answers one connection.
pub async fn answer(mut stream: TcpStream, state: State) {
    let _ = tokio::time::timeout(DEADLINE, async {
        stream.write_all(line(state.readiness()).as_bytes()).await?;
        stream.shutdown().await
    })
    .await;
}
