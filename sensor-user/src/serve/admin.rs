//! The root-only Unix socket of `memsensor events`, `event`, `explain`, `top`, `drain` and
//! `undrain`.
//!
//! `{"ask":"events","follow":true}` returns the kept events, oldest first, and then new ones until
//! the client closes the connection.

use std::{
    os::{
        fd::OwnedFd,
        unix::{fs::FileTypeExt as _, net::UnixStream as StdUnixStream},
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    fs::Mode,
    net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use sensor_core::{
    common::clock::monotonic_ns,
    model::{
        coverage::AttachState,
        event::{Event, EventKind, OperatorCommand},
        memory_usage::CgroupUsage,
        readiness::TrafficHealth,
        snapshot::Snapshot,
    },
    verdict::{explain::explain, signals::Signal},
};
use sensor_ebpf::probes;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, broadcast::error::RecvError, watch},
};

use super::{
    admin_protocol::{HostSummary, ProtectedProcess, Request, Response, Top},
    audit::Peer,
    state::app::AppState,
};

/// Clients at a time.
pub const MAX_CLIENTS: usize = 16;
/// Clients that follow events; the other places are for requests that end.
pub const MAX_FOLLOWERS: usize = MAX_CLIENTS - 4;
/// Time for all events of a client that does not follow.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections that may wait for a place.
const BACKLOG: i32 = 128;
/// A request must be complete within this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest request in bytes.
const MAX_REQUEST: u64 = 4096;
/// A client that does not read for this long is dropped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Binds the socket, for root only. A socket without a listener is replaced.
pub fn bind(path: &Path) -> Result<UnixListener> {
    let context = || format!("bind the socket {}", path.display());
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(context)?;
    }
    if StdUnixStream::connect(path).is_ok() {
        let in_use = std::io::Error::from(std::io::ErrorKind::AddrInUse);
        return Err(in_use).with_context(|| {
            format!(
                "{}: another memsensor listens there; stop it or set another socket",
                path.display()
            )
        });
    }
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        ensure!(metadata.file_type().is_socket(), "{} exists and is not a socket", path.display());
        std::fs::remove_file(path).with_context(context)?;
    }
    let socket = private_socket(path).with_context(context)?;
    net::listen(&socket, BACKLOG).with_context(context)?;
    UnixListener::from_std(socket.into()).with_context(context)
}

/// A socket of mode 0600 that does not listen yet. The kernel makes the file with the mode of the
/// socket, so that there is no moment at which others could connect.
fn private_socket(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Answers clients of the socket.
#[derive(Debug)]
pub struct Admin {
    state: AppState,
    followers: Semaphore,
    stop: watch::Receiver<bool>,
}

impl Admin {
    /// Answers from this state until `stop`.
    pub fn new(state: AppState, stop: watch::Receiver<bool>) -> Self {
        Self { state, followers: Semaphore::new(MAX_FOLLOWERS), stop }
    }

    /// Answers one client.
    pub async fn answer(self: Arc<Self>, stream: UnixStream) {
        answer(stream, &self.state, &self.followers, self.stop.clone()).await;
    }
}

async fn answer(
    stream: UnixStream,
    state: &AppState,
    followers: &Semaphore,
    stop: watch::Receiver<bool>,
) {
    let peer = Peer::of(&stream);
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut limited = BufReader::new(read).take(MAX_REQUEST);
    let read = tokio::time::timeout(REQUEST_TIMEOUT, limited.read_line(&mut line)).await;
    if !matches!(read, Ok(Ok(n)) if n > 0) {
        return;
    }
    let peer = match peer {
        Ok(peer) => peer,
        Err(e) => {
            let _ = send(&mut write, &error(e)).await;
            return;
        }
    };
    let response = match serde_json::from_str(&line) {
        Ok(Request::Events { follow: false }) => {
            let all = send_events(&mut write, state, false, stop);
            let _ = tokio::time::timeout(EVENTS_TIMEOUT, all).await;
            return;
        }
        Ok(Request::Events { follow: true }) => match followers.try_acquire() {
            Ok(_place) => {
                let hangup = async move {
                    // The client has nothing more to send: any byte, or the end, closes the
                    // connection.
                    let _ = limited.into_inner().read_u8().await;
                };
                tokio::select! {
                    _ = send_events(&mut write, state, true, stop) => {}
                    () = hangup => {}
                }
                return;
            }
            Err(_) => error(format!("{MAX_FOLLOWERS} clients follow events; end one of them")),
        },
        Ok(request) => {
            handle(request, peer, state).await.unwrap_or_else(|e| error(format!("{e:#}")))
        }
        Err(e) => error(e.to_string()),
    };
    let _ = send(&mut write, &response).await;
}

fn error(error: String) -> Response {
    Response::Error { error }
}

async fn handle(request: Request, peer: Peer, state: &AppState) -> Result<Response> {
    match request {
        Request::Events { .. } => bail!("events are sent one by one"),
        Request::Event { id } => event(&id, state).map(Response::Event),
        Request::Explain { scope } => explanation(&scope, state),
        Request::Drain { reason, seconds } => drain(&reason, seconds, peer, state).await,
        Request::Undrain => undrain(peer, state).await,
        Request::Top => top(state),
        Request::Reload => reload(peer, state).await,
        Request::Protection => Ok(Response::Protection(ProtectedProcess {
            pid: std::process::id(),
            protection: (*state.protection).clone(),
        })),
        Request::DrainAcks => Ok(Response::DrainAcks(state.clients.drain_acks(monotonic_ns()))),
    }
}

fn explanation(scope: &str, state: &AppState) -> Result<Response> {
    let index = state
        .scope_index(scope)
        .with_context(|| format!("no scope {scope:?}; there are: {}", state.scopes.join(", ")))?;
    let sample = state.sample().context("no sample yet")?;
    let verdict = sample.scopes.get(index).context("no sample yet")?;
    let now_ns = monotonic_ns();
    let mut explanation =
        explain(&verdict.scope, &verdict.verdict, &state.settings.load().policy, now_ns);
    let TrafficHealth { state: reported, weight } = state.health(index);
    explanation.reported = (reported.label() != explanation.state.label())
        .then(|| (reported.label().to_owned(), weight));
    explanation.age_seconds = now_ns.saturating_sub(sample.snapshot.taken_ns) as f64 / 1e9;
    explanation.unknown_reason = verdict.unknown_reason.as_deref().map(str::to_owned);
    explanation.decided_by = verdict.decided_by.as_deref().map(str::to_owned);
    if index == 0 {
        let report = state.published.cgroups.load();
        explanation.uncounted = report.as_ref().and_then(|report| report.uncounted.clone());
    }
    explanation.drained = state.drain.reason();
    Ok(Response::Explanation(Box::new(explanation)))
}

fn event(id: &str, state: &AppState) -> Result<Arc<Event>> {
    let kept = state.published.events.events();
    if id.is_empty() {
        let is_kill = |event: &Event| {
            matches!(event.kind, EventKind::OomKill { .. } | EventKind::KillSignal { .. })
        };
        let last = kept.iter().rfind(|event| is_kill(event));
        // Of a group, the first kill: its process was selected, and the kernel's log has it.
        let first = |last: &Arc<Event>| {
            let group = last.follows_in()?;
            kept.iter().find(|event| event.id == group.first)
        };
        return last
            .map(|last| first(last).unwrap_or(last))
            .cloned()
            .context("no kill since the daemon started");
    }
    let event = kept.iter().find(|event| event.id == id);
    event.cloned().with_context(|| {
        format!("no event {id:?} is kept (any more); `memsensor events` lists those that are")
    })
}

fn top(state: &AppState) -> Result<Response> {
    let probe = state.published.coverage.probe(probes::Id::processes);
    if let Some(probe) = probe.filter(|probe| probe.state == AttachState::Disabled) {
        bail!("processes are not scanned: the probe `processes` is {}", probe.reason);
    }
    let usage = state.published.usage.load().context("no scan of processes yet")?;
    let mut usage = (*usage).clone();
    let sample = state.sample().context("no sample yet")?;
    add_stalls(&mut usage.cgroups, &sample.snapshot);
    let TrafficHealth { state: reported, weight } = state.health(0);
    let signals = sample.scopes.first().map(|host| &host.verdict.signals);
    let signals = Signal::ALL.iter().filter_map(|s| Some((s.name().to_owned(), signals?.get(*s)?)));
    let signals = signals.collect();
    let host = HostSummary { state: reported.label().to_owned(), weight, signals };
    let seen_seconds_ago = monotonic_ns().saturating_sub(usage.taken_ns) as f64 / 1e9;
    let stall_clock_seconds = sample.snapshot.stall_clock_ns.map(|ns| ns as f64 / 1e9);
    Ok(Response::Top(Box::new(Top { host, seen_seconds_ago, stall_clock_seconds, usage })))
}

fn add_stalls(cgroups: &mut [CgroupUsage], snapshot: &Snapshot) {
    let clock = &snapshot.stall_clock;
    for cgroup in cgroups {
        if let Ok(at) = clock.binary_search_by_key(&cgroup.cgroup, |(id, _)| *id) {
            let ns = clock[at].1.into_iter().fold(0, u64::saturating_add);
            cgroup.stall_seconds = ns as f64 / 1e9;
        }
    }
}

async fn drain(
    reason: &str,
    seconds: Option<f64>,
    peer: Peer,
    state: &AppState,
) -> Result<Response> {
    let lasts = seconds.map(Duration::try_from_secs_f64).transpose();
    state.drain.begin(reason, lasts.context("duration of the drain")?);
    let detail = state.drain.reason().unwrap_or_default();
    peer.record(OperatorCommand::Drain, &detail, state).await;
    state.drain.save().await?;
    Ok(Response::Done { done: "drained".to_owned() })
}

async fn undrain(peer: Peer, state: &AppState) -> Result<Response> {
    let was_drained = state.drain.end();
    let done = if was_drained { "no longer drained" } else { "it was not drained" };
    peer.record(OperatorCommand::Undrain, done, state).await;
    state.drain.save().await?;
    Ok(Response::Done { done: done.to_owned() })
}

async fn reload(peer: Peer, state: &AppState) -> Result<Response> {
    let reload = state.reload.clone().context("this daemon cannot reload")?;
    let reloaded = state.background.run(move || reload.reload()).await?;
    let detail = match &reloaded {
        Ok(done) => done.clone(),
        Err(e) => format!("failed, nothing is changed: {e:#}"),
    };
    peer.record(OperatorCommand::Reload, &detail, state).await;
    Ok(Response::Done { done: reloaded.context("nothing is changed")? })
}

type Writer = tokio::net::unix::OwnedWriteHalf;

async fn send(write: &mut Writer, response: &Response) -> Result<()> {
    let mut line = serde_json::to_string(response)?;
    line.push('\n');
    Ok(tokio::time::timeout(WRITE_TIMEOUT, write.write_all(line.as_bytes())).await??)
}

async fn send_events(
    write: &mut Writer,
    state: &AppState,
    follow: bool,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let (kept, mut feed) = state.published.events.follow();
    for event in kept.iter() {
        send(write, &Response::Event(Arc::clone(event))).await?;
    }
    drop(kept);
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_socket_is_private_before_it_listens() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let socket = private_socket(&path).expect("a socket");
        let mode = std::fs::metadata(&path).expect("it exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(StdUnixStream::connect(&path).is_err(), "it does not listen");
        drop(socket);
    }
}
