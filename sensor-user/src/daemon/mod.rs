//! `memsensor run`: starts everything in the right order, and stops it again.
//!
//! Load and attach as root; bind everything; drop privileges; only then start threads, because
//! capabilities belong to threads. The sensing thread and the event thread are plain threads; all
//! serving happens on one tokio runtime, on the main thread.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use arc_swap::ArcSwapOption;
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, watch},
};
use tracing::{info, warn};

use crate::{
    config::Config,
    deadlines::{LoopLags, TICK},
    events::EventLog,
    host::{
        clock::{boot_id, monotonic_ns},
        kernel_log::KernelLog,
        survive::{Hardening, STACK_BYTES},
    },
    kernel::{
        load::{self, Coverage, Loaded},
        privilege,
    },
    resume,
    scopes::{HOST, Kills, Scopes},
    serve::{
        admin, agent_check, askers::ClientTracker, http, limits::accept_loop,
        maintenance::OperatorDrain, state::AppState,
    },
    threads::Threads,
    verdict::policy::Policy,
};

/// An agent-check client holds its connection for at most two seconds; this many at a time.
const MAX_AGENT_CLIENTS: usize = 64;

/// Threads that wait for the disk while a drain is kept: an operator has two hands.
const MAX_BLOCKING_THREADS: usize = 2;

/// Why `run` ended with an error, for the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The kernel or our privileges do not allow what is needed.
    Unsupported,
    /// An address or the socket is in use.
    InUse,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unsupported => "cannot sense on this host",
            Self::InUse => "cannot serve",
        })
    }
}

impl std::error::Error for Failure {}

/// Runs until SIGINT or SIGTERM.
pub fn run(config: &Config) -> Result<()> {
    let loaded = sense_or_go_blind(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_stack_size(STACK_BYTES)
        .build()
        .context("start the runtime")?;
    let ended = runtime.block_on(serve(config, loaded));
    // A drain may still be waiting for the disk.
    runtime.shutdown_timeout(http::GOODBYE);
    ended
}

/// Loads the probes; with `allow_degraded`, a host where nothing loads is served blind.
fn sense_or_go_blind(config: &Config) -> Result<Result<Loaded, Coverage>> {
    let attempt = match privilege::missing() {
        Some(why) => Err(anyhow::anyhow!(why)),
        None => load::load(config),
    };
    match attempt {
        Ok(loaded) => {
            load::check_required(&loaded.coverage, config).context(Failure::Unsupported)?;
            Ok(Ok(loaded))
        }
        Err(e) if config.allow_degraded => {
            warn!("blind, as allowed: {e:#}");
            Ok(Err(Coverage::blind(&format!("{e:#}"))))
        }
        Err(e) => Err(e.context(Failure::Unsupported)),
    }
}

async fn serve(config: &Config, loaded: Result<Loaded, Coverage>) -> Result<()> {
    let http = bind_all(&config.listen).await?;
    let agent = match config.agent_listen {
        Some(addr) => Some(bind(addr, "--agent-listen").await?),
        None => None,
    };
    let socket = PathBuf::from(&config.socket);
    let admin = match admin::bind(&socket) {
        Ok(listener) => Some(listener),
        Err(e) if config.allow_degraded && !is_in_use(&e) => {
            warn!("`memsensor events` will not work: {e:#}");
            None
        }
        Err(e) => return Err(in_use(e)),
    };
    let _remove_socket = admin.is_some().then_some(RemoveOnDrop(socket));
    let stops = (
        signal(SignalKind::interrupt()).context("handle SIGINT")?,
        signal(SignalKind::terminate()).context("handle SIGTERM")?,
    );

    let (coverage, reader, log) = match loaded {
        Ok(Loaded { coverage, reader, log, .. }) => (coverage, Some(reader), log),
        Err(blind) => (blind, None, None),
    };
    // Triggers with short windows need CAP_SYS_RESOURCE.
    let kills = Arc::new(Kills::new(config));
    let mut scopes = Scopes::open(config, Path::new("/"), Arc::clone(&kills))?;
    scopes.resume(&resume::read(Path::new(&config.socket), config.verdict.relapse_within));
    // What it says of a kill is only asked for where a kill can be seen.
    let told = |e: &anyhow::Error| info!("the kernel's log tells nothing of OOM kills: {e:#}");
    let kernel_log = reader.as_ref().and_then(|_| KernelLog::open().inspect_err(told).ok());
    let mut survival = Hardening::prepare();
    let works = || reader.as_ref().is_none_or(|r| r.rows().is_ok());
    let kept = privilege::drop_all(survival.needs(), works)?;
    info!("capabilities kept: {kept}");
    for probe in &coverage.probes {
        match probe.reason.as_str() {
            "" => info!(probe = probe.name, state = probe.state.label()),
            why => warn!(probe = probe.name, state = probe.state.label(), "{why}"),
        }
    }

    let names = config.scope.iter().map(|s| s.name.clone());
    let state = AppState {
        published: Arc::new(ArcSwapOption::empty()),
        coverage: Arc::new(coverage),
        cgroups: Arc::default(),
        buckets: config.buckets,
        growing_processes: config.growing_processes,
        events: Arc::new(EventLog::new(&boot_id())),
        maintenance: Arc::new(OperatorDrain::beside(Path::new(&config.socket))),
        policy: Arc::new(Policy::new(&config.rules).map_err(anyhow::Error::msg)?),
        scopes: std::iter::once(HOST.to_owned()).chain(names).collect(),
        stale_after: config.stale_after,
        on_unknown: config.on_unknown,
        askers: Arc::new(ClientTracker::new(monotonic_ns())),
        unknown_scopes: Arc::default(),
        deadlines: Arc::new(LoopLags::new(config.interval)),
    };
    survival.lock();
    info!("to survive a host that thrashes: {survival}");
    for missed in survival.missed() {
        warn!("answers may be late on a host that thrashes, without {missed}");
    }
    let threads = Threads::start(config, &state, reader, (log, kernel_log), scopes, kills)?;
    let (stopping, stopped) = watch::channel(false);
    let told = state.clone();
    let connections = start_servers(config, state, http, agent, admin, &stopped);
    let ended = wait_for_end(stops, &threads, &told.deadlines).await;
    for (at, scope) in told.scopes.iter().enumerate() {
        let percent = told.fitness(at).weight * 100.0;
        if percent < 100.0 {
            warn!(
                scope,
                "stopped at weight {percent:.0}%: HAProxy keeps it until an agent answers again"
            );
        }
    }
    stopping.send_replace(true);
    // Answers under way are finished, but not waited for longer than they may take.
    let all = u32::try_from(config.http.max_connections)?;
    let _ = tokio::time::timeout(2 * http::GOODBYE, connections.acquire_many(all)).await;
    threads.join();
    info!("stopped");
    ended
}

fn start_servers(
    config: &Config,
    state: AppState,
    http: Vec<TcpListener>,
    agent: Option<TcpListener>,
    admin: Option<UnixListener>,
    stopped: &watch::Receiver<bool>,
) -> Arc<Semaphore> {
    let permits = Arc::new(Semaphore::new(config.http.max_connections));
    let router = http::router(state.clone());
    for listener in http {
        let (router, limits, stop) = (router.clone(), config.http.clone(), stopped.clone());
        tokio::spawn(accept_loop(listener, Arc::clone(&permits), stopped.clone(), move |stream| {
            http::serve(stream, router.clone(), limits.clone(), stop.clone())
        }));
    }
    if let Some(listener) = agent {
        let state = state.clone();
        let permits = Arc::new(Semaphore::new(MAX_AGENT_CLIENTS));
        tokio::spawn(accept_loop(listener, permits, stopped.clone(), move |stream| {
            agent_check::answer(stream, state.clone())
        }));
    }
    if let Some(listener) = admin {
        let stop = stopped.clone();
        let permits = Arc::new(Semaphore::new(admin::MAX_CLIENTS));
        tokio::spawn(accept_loop(listener, permits, stopped.clone(), move |stream| {
            admin::answer(stream, state.clone(), stop.clone())
        }));
    }
    permits
}

/// Waits for a signal, or for one of our threads to end, which none should: half a daemon is worse
/// than one that its supervisor starts anew. Meanwhile it notes when this loop is late.
async fn wait_for_end(
    (mut interrupt, mut terminate): (tokio::signal::unix::Signal, tokio::signal::unix::Signal),
    threads: &Threads,
    deadlines: &LoopLags,
) -> Result<()> {
    loop {
        let due = tokio::time::Instant::now() + TICK;
        let which = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
            () = tokio::time::sleep_until(due) => {
                let now = monotonic_ns();
                let late = u64::try_from(due.elapsed().as_nanos())?;
                deadlines.serve.turned(now, now.saturating_sub(late));
                match threads.ended() {
                    Some(name) => bail!("the thread {name} has ended: see the log"),
                    None => continue,
                }
            }
        };
        info!("stopping on {which}");
        return Ok(());
    }
}

async fn bind_all(addrs: &[SocketAddr]) -> Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for addr in addrs {
        listeners.push(bind(*addr, "--listen").await?);
    }
    Ok(listeners)
}

async fn bind(addr: SocketAddr, option: &str) -> Result<TcpListener> {
    let listener = TcpListener::bind(addr)
        .await
        .with_context(|| format!("listen on {addr} (choose another address with {option})"))
        .map_err(in_use)?;
    let local = listener.local_addr().unwrap_or(addr);
    info!("listening on {local}");
    Ok(listener)
}

fn is_in_use(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::AddrInUse)
}

/// Says so, for the exit code, if an address or the socket is taken.
fn in_use(error: anyhow::Error) -> anyhow::Error {
    if is_in_use(&error) { error.context(Failure::InUse) } else { error }
}

struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
