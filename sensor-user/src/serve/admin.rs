//! The root-only Unix socket: one JSON line asks, JSON lines answer.
//!
//! `{"ask":"events","follow":true}` is answered with the kept events, oldest first, and then with
//! new ones until the client hangs up. It is how `memsensor events` talks to the daemon.

use std::{
    io::{BufRead as _, BufReader as StdBufReader, Write as _},
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixStream as StdUnixStream,
    },
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{broadcast::error::RecvError, watch},
};

use super::state::State;
use crate::events::Event;

/// Clients at a time.
pub const MAX_CLIENTS: usize = 16;
/// A question must be complete within this and no longer than [`MAX_QUESTION`] bytes.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_QUESTION: u64 = 4096;
/// A client that does not read for this long is dropped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Question {
    /// The kept events, and new ones if `follow`.
    Events {
        /// Stay and send new events as they happen.
        follow: bool,
    },
}

/// One line of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// An event.
    Event(Box<Event>),
    /// The client was too slow; so many events are not shown.
    Missed {
        /// How many.
        missed: u64,
    },
    /// The question was not understood.
    Error {
        /// Why.
        error: String,
    },
}

/// Binds the socket for root alone. A socket that nobody listens on any more is replaced.
pub fn bind(path: &Path) -> Result<UnixListener> {
    let context = || format!("bind the socket {}", path.display());
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(context)?;
    }
    if StdUnixStream::connect(path).is_ok() {
        let taken = std::io::Error::from(std::io::ErrorKind::AddrInUse);
        return Err(taken).with_context(|| {
            format!(
                "{}: another memsensor answers there; stop it or set another socket",
                path.display()
            )
        });
    }
    if let Ok(found) = std::fs::symlink_metadata(path) {
        ensure!(found.file_type().is_socket(), "{} is there and is no socket", path.display());
        std::fs::remove_file(path).with_context(context)?;
    }
    let listener = UnixListener::bind(path).with_context(context)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).with_context(context)?;
    Ok(listener)
}

/// Answers one client.
pub async fn answer(stream: UnixStream, state: State, stop: watch::Receiver<bool>) {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut limited = BufReader::new(read).take(MAX_QUESTION);
    let asked = tokio::time::timeout(QUESTION_TIMEOUT, limited.read_line(&mut line)).await;
    if !matches!(asked, Ok(Ok(n)) if n > 0) {
        return;
    }
    match serde_json::from_str(&line) {
        Ok(Question::Events { follow }) => {
            let hangup = async move {
                // A client has nothing more to say: whatever comes now, or the end, is a goodbye.
                let _ = limited.into_inner().read_u8().await;
            };
            tokio::select! {
                _ = events(&mut write, &state, follow, stop) => {}
                () = hangup, if follow => {}
            }
        }
        Err(e) => {
            let _ = send(&mut write, &Answer::Error { error: e.to_string() }).await;
        }
    }
}

type Writer = tokio::net::unix::OwnedWriteHalf;

async fn send(write: &mut Writer, answer: &Answer) -> Result<()> {
    let mut line = serde_json::to_string(answer)?;
    line.push('\n');
    Ok(tokio::time::timeout(WRITE_TIMEOUT, write.write_all(line.as_bytes())).await??)
}

async fn events(
    write: &mut Writer,
    state: &State,
    follow: bool,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let (kept, mut feed) = state.events.follow();
    for event in kept {
        send(write, &Answer::Event(Box::new(event))).await?;
    }
    if !follow {
        return Ok(());
    }
    loop {
        let next = tokio::select! {
            next = feed.recv() => next,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        match next {
            Ok(event) => send(write, &Answer::Event(Box::new(event))).await?,
            Err(RecvError::Lagged(missed)) => send(write, &Answer::Missed { missed }).await?,
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

/// The client's side: asks for events and hands each answer to `each` until the daemon hangs up.
pub fn ask_events(
    path: &Path,
    follow: bool,
    mut each: impl FnMut(&str, Answer) -> Result<()>,
) -> Result<()> {
    let mut stream = StdUnixStream::connect(path).with_context(|| {
        format!("connect to {} (is memsensor running, and are we root?)", path.display())
    })?;
    writeln!(stream, "{}", serde_json::to_string(&Question::Events { follow })?)?;
    for line in StdBufReader::new(stream).lines() {
        let line = line.context("read from the daemon")?;
        let answer = serde_json::from_str(&line).context("understand the daemon")?;
        each(&line, answer)?;
    }
    Ok(())
}
