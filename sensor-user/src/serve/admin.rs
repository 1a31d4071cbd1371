//! The root-only Unix socket: one JSON line asks, JSON lines answer.
//!
//! `{"ask":"events","follow":true}` is answered with the kept events, oldest first, and then with
//! new ones until the client hangs up. It is how `memsensor events` talks to the daemon.

use std::{
    io::{BufRead as _, BufReader as StdBufReader, ErrorKind, Write as _},
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixStream as StdUnixStream,
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use sensor_ebpf::probes;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{broadcast::error::RecvError, watch},
};

use super::{
    askers::DrainAcks,
    state::{AppState, TrafficHealth},
};
use crate::{
    events::{Event, EventKind},
    host::clock::monotonic_ns,
    kernel::load,
    top::{Summary, Top},
    verdict::{
        explain::{Explanation, explain},
        signals::Signal,
    },
};

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
pub enum Request {
    /// The kept events, and new ones if `follow`.
    Events {
        /// Stay and send new events as they happen.
        follow: bool,
    },
    /// One kill, with all that is known of it.
    Event {
        /// Its id; that of the last one if empty.
        id: String,
    },
    /// Why a scope's verdict is what it is.
    Explain {
        /// Which; the host's if empty.
        scope: String,
    },
    /// No traffic, until it is taken back or the time is over.
    Drain {
        /// Shown to whoever asks why.
        reason: String,
        /// How long, in seconds; without it, until `Undrain`.
        seconds: Option<f64>,
    },
    /// Takes a drain back.
    Undrain,
    /// Who asks for readiness, and has been told of a drain.
    DrainAcks,
    /// Who has the memory.
    Top,
}

impl Request {
    /// How long a client waits for each line of the answer.
    fn patience(&self) -> Option<Duration> {
        match self {
            Self::Events { follow: true } => None,
            // It is written to the disk first.
            Self::Drain { .. } | Self::Undrain => Some(Duration::from_mins(1)),
            _ => Some(Duration::from_secs(10)),
        }
    }
}

/// One line of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Response {
    /// An event.
    Event(Arc<Event>),
    /// The client was too slow; so many events are not shown.
    Missed {
        /// How many.
        missed: u64,
    },
    /// Why a verdict is what it is.
    Explanation(Box<Explanation>),
    /// Who has heard of a drain.
    DrainAcks(DrainAcks),
    /// Who has the memory.
    Top(Box<Top>),
    /// It is done.
    Done {
        /// What.
        done: String,
    },
    /// It was not understood, or could not be done.
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
pub async fn answer(stream: UnixStream, state: AppState, stop: watch::Receiver<bool>) {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut limited = BufReader::new(read).take(MAX_QUESTION);
    let asked = tokio::time::timeout(QUESTION_TIMEOUT, limited.read_line(&mut line)).await;
    if !matches!(asked, Ok(Ok(n)) if n > 0) {
        return;
    }
    match serde_json::from_str(&line) {
        Ok(Request::Events { follow }) => {
            let hangup = async move {
                // A client has nothing more to say: whatever comes now, or the end, is a goodbye.
                let _ = limited.into_inner().read_u8().await;
            };
            tokio::select! {
                _ = events(&mut write, &state, follow, stop) => {}
                () = hangup, if follow => {}
            }
        }
        Ok(question) => {
            let answer = match question {
                Request::Events { .. } => return,
                Request::Event { id } => event(&id, &state),
                Request::Explain { scope } => explained(&scope, &state),
                Request::Drain { reason, seconds } => drain(&reason, seconds, &state).await,
                Request::Undrain => undrain(&state).await,
                Request::Top => top(&state),
                Request::DrainAcks => Ok(Response::DrainAcks(state.askers.heard(monotonic_ns()))),
            };
            let answer = answer.unwrap_or_else(|e| Response::Error { error: format!("{e:#}") });
            let _ = send(&mut write, &answer).await;
        }
        Err(e) => {
            let _ = send(&mut write, &Response::Error { error: e.to_string() }).await;
        }
    }
}

fn explained(scope: &str, state: &AppState) -> Result<Response> {
    let at = state
        .scope(scope)
        .with_context(|| format!("no scope {scope:?}; there are: {}", state.scopes.join(", ")))?;
    let snapshot = state.published.load();
    let snapshot = snapshot.as_ref().context("no sample yet")?;
    let judged = snapshot.scopes.get(at).context("no sample yet")?;
    let now_ns = monotonic_ns();
    let mut why = explain(&judged.scope, &judged.verdict, &state.policy, now_ns);
    let TrafficHealth { standing, weight } = state.fitness(at);
    why.told =
        (standing.label() != why.state.label()).then(|| (standing.label().to_owned(), weight));
    why.age_seconds = now_ns.saturating_sub(snapshot.taken_ns) as f64 / 1e9;
    why.unknown_reason = judged.unknown_reason.as_deref().map(str::to_owned);
    let drain = state.maintenance.drain();
    why.drained = drain.and_then(|d| Some(d.as_ref()?.reason.clone()));
    Ok(Response::Explanation(Box::new(why)))
}

fn event(id: &str, state: &AppState) -> Result<Response> {
    let (kept, _) = state.events.follow();
    let is_kill = |event: &Event| !matches!(event.what, EventKind::VictimExit { .. });
    if id.is_empty() {
        let last = kept.into_iter().rfind(|event| is_kill(event));
        return Ok(Response::Event(
            last.context("nothing has been killed since the daemon started")?,
        ));
    }
    let found = kept.into_iter().find(|event| event.id == id);
    let found = found.with_context(|| {
        format!("no event {id:?} is kept (any more); `memsensor events` lists those that are")
    })?;
    Ok(Response::Event(found))
}

fn top(state: &AppState) -> Result<Response> {
    let probe = state.coverage.probes.get(probes::Id::processes as usize);
    if let Some(probe) = probe.filter(|probe| probe.state == load::AttachState::Disabled) {
        bail!("who has the memory cannot be told here: {}", probe.reason);
    }
    let snapshot = state.published.load();
    let who = snapshot.as_ref().and_then(|snapshot| snapshot.who.as_deref());
    let mut who = who.context("nobody has looked yet who has the memory")?.clone();
    let snapshot = snapshot.as_ref().context("no sample yet")?;
    for group in &mut who.cgroups {
        let clock = &snapshot.stall_clock;
        if let Ok(at) = clock.binary_search_by_key(&group.cgroup, |(id, _)| *id) {
            let ns = clock[at].1.into_iter().fold(0, u64::saturating_add);
            group.stall_seconds = ns as f64 / 1e9;
        }
    }
    let TrafficHealth { standing, weight } = state.fitness(0);
    let signals = snapshot.scopes.first().map(|host| &host.verdict.signals);
    let signals = Signal::ALL.iter().filter_map(|s| Some((s.name().to_owned(), signals?.get(*s)?)));
    let host = Summary { state: standing.label().to_owned(), weight, signals: signals.collect() };
    let seen_seconds_ago = monotonic_ns().saturating_sub(who.taken_ns) as f64 / 1e9;
    let stall_clock_seconds = snapshot.stall_clock_ns.map(|ns| ns as f64 / 1e9);
    Ok(Response::Top(Box::new(Top { host, seen_seconds_ago, stall_clock_seconds, who })))
}

async fn drain(reason: &str, seconds: Option<f64>, state: &AppState) -> Result<Response> {
    let lasts = seconds.map(Duration::try_from_secs_f64).transpose();
    state.maintenance.begin(reason, lasts.context("how long")?);
    Arc::clone(&state.maintenance).keep().await?;
    Ok(Response::Done { done: "drained".to_owned() })
}

async fn undrain(state: &AppState) -> Result<Response> {
    let held = state.maintenance.end();
    Arc::clone(&state.maintenance).keep().await?;
    let done = if held { "no longer drained" } else { "it was not drained" };
    Ok(Response::Done { done: done.to_owned() })
}

type Writer = tokio::net::unix::OwnedWriteHalf;

async fn send(write: &mut Writer, answer: &Response) -> Result<()> {
    let mut line = serde_json::to_string(answer)?;
    line.push('\n');
    Ok(tokio::time::timeout(WRITE_TIMEOUT, write.write_all(line.as_bytes())).await??)
}

async fn events(
    write: &mut Writer,
    state: &AppState,
    follow: bool,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let (kept, mut feed) = state.events.follow();
    for event in kept {
        send(write, &Response::Event(event)).await?;
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
            Ok(event) => send(write, &Response::Event(event)).await?,
            Err(RecvError::Lagged(missed)) => send(write, &Response::Missed { missed }).await?,
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

/// The client's side: asks and hands each answer to `each` until the daemon hangs up. That it could not be
/// done is an error, and so is no answer, save where there are no events to tell of.
pub fn ask(
    path: &Path,
    question: &Request,
    mut each: impl FnMut(&str, Response) -> Result<()>,
) -> Result<()> {
    let mut stream = StdUnixStream::connect(path).with_context(|| {
        format!("connect to {} (is memsensor running, and are we root?)", path.display())
    })?;
    let patience = question.patience();
    stream.set_read_timeout(patience)?;
    writeln!(stream, "{}", serde_json::to_string(question)?)?;
    let mut answered = matches!(question, Request::Events { .. });
    for line in StdBufReader::new(stream).lines() {
        let line = match line {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let patience = humantime::format_duration(patience.unwrap_or_default());
                bail!("the daemon has not answered within {patience}: is it stopped?");
            }
            line => line.context("read from the daemon")?,
        };
        match serde_json::from_str(&line).context("understand the daemon")? {
            Response::Error { error } => bail!("the daemon says: {error}"),
            answer => each(&line, answer)?,
        }
        answered = true;
    }
    ensure!(answered, "the daemon hung up without an answer (see its log)");
    Ok(())
}
