//! `memsensor run`: starts everything in the right order, and stops it again.
//!
//! Load and attach as root; bind everything; drop privileges; only then start threads, because
//! capabilities belong to threads. The sensing thread and the event thread are plain threads; all
//! serving happens on one tokio runtime, on the main thread.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use arc_swap::ArcSwapOption;
use aya::maps::{MapData, RingBuf};
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, watch},
};
use tracing::{info, warn};

use crate::{
    config::Config,
    events::{self, Log, What},
    host::{cgroup, clock::monotonic_ns},
    kernel::{
        load::{self, Coverage, Loaded},
        privilege,
        read::Reader,
    },
    resume,
    scopes::{HOST, Kills, Scopes},
    sense::{Sampler, Wake},
    serve::{
        admin, agent_check, http, limits::accept_loop, maintenance::Maintenance, state::State,
    },
    verdict::policy::Policy,
};

/// An agent-check client holds its connection for at most two seconds; this many at a time.
const MAX_AGENT_CLIENTS: usize = 64;

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
        Some(addr) => Some(bind(addr).await?),
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

    let (coverage, mut reader, log) = match loaded {
        Ok(Loaded { coverage, reader, log, .. }) => (coverage, Some(reader), log),
        Err(blind) => (blind, None, None),
    };
    // Triggers with short windows need CAP_SYS_RESOURCE.
    let kills = Arc::new(Kills::new(config));
    let mut scopes = Scopes::open(config, Path::new("/"), Arc::clone(&kills))?;
    scopes.resume(&resume::read(Path::new(&config.socket), config.verdict.relapse_within));
    let kept = privilege::drop_all(|| reader.as_ref().is_none_or(|r| r.rows().is_ok()))?;
    info!("capabilities kept: {kept}");
    for probe in &coverage.probes {
        match probe.reason.as_str() {
            "" => info!(probe = probe.name, state = probe.state.label()),
            why => warn!(probe = probe.name, state = probe.state.label(), "{why}"),
        }
    }

    let names = config.scope.iter().map(|s| s.name.clone());
    let state = State {
        published: Arc::new(ArcSwapOption::empty()),
        coverage: Arc::new(coverage),
        events: Arc::new(Log::default()),
        maintenance: Arc::new(Maintenance::beside(Path::new(&config.socket))),
        policy: Arc::new(Policy::new(&config.rules).map_err(anyhow::Error::msg)?),
        scopes: std::iter::once(HOST.to_owned()).chain(names).collect(),
        stale_after: config.stale_after,
        on_blind: config.on_blind,
        askers: Arc::default(),
        unknown_scopes: Arc::default(),
    };
    let wake = Arc::new(Wake::new()?);
    let ring = reader.as_mut().and_then(Reader::take_events);
    let (coverage, published) = (Arc::clone(&state.coverage), Arc::clone(&state.published));
    let sampler = Sampler::new(config, reader, coverage, scopes, published, Arc::clone(&wake));
    let threads = Threads {
        sense: spawn("sense", move || sampler.run())?,
        events: ring
            .map(|ring| {
                let (wake, events) = (Arc::clone(&wake), Arc::clone(&state.events));
                let coverage = Arc::clone(&state.coverage);
                spawn("events", move || follow_events(ring, log, &coverage, &events, &kills, &wake))
            })
            .transpose()?,
        keep: {
            let (socket, published) = (config.socket.clone(), Arc::clone(&state.published));
            let wake = Arc::clone(&wake);
            spawn("keep", move || resume::keep(Path::new(&socket), &published, &wake))?
        },
        wake,
    };
    let (stopping, stopped) = watch::channel(false);
    let told = state.clone();
    let connections = start_servers(config, state, http, agent, admin, &stopped);
    let ended = wait_for_end(stops, &threads).await;
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
    state: State,
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
/// than one that its supervisor starts anew.
async fn wait_for_end(
    (mut interrupt, mut terminate): (tokio::signal::unix::Signal, tokio::signal::unix::Signal),
    threads: &Threads,
) -> Result<()> {
    let mut look = tokio::time::interval(Duration::from_secs(1));
    loop {
        let which = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
            _ = look.tick() => match threads.ended() {
                Some(name) => bail!("the thread {name} has ended: see the log"),
                None => continue,
            },
        };
        info!("stopping on {which}");
        return Ok(());
    }
}

async fn bind_all(addrs: &[SocketAddr]) -> Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for addr in addrs {
        listeners.push(bind(*addr).await?);
    }
    Ok(listeners)
}

async fn bind(addr: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(addr)
        .await
        .with_context(|| format!("listen on {addr} (choose another address with --listen)"))
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

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .with_context(|| format!("start the thread {name}"))
}

struct Threads {
    sense: JoinHandle<()>,
    /// None on a host where nothing could be attached.
    events: Option<JoinHandle<()>>,
    keep: JoinHandle<()>,
    wake: Arc<Wake>,
}

impl Threads {
    /// A thread that has ended.
    fn ended(&self) -> Option<String> {
        let all = [Some(&self.sense), self.events.as_ref(), Some(&self.keep)];
        let ended = all.into_iter().flatten().find(|t| t.is_finished())?;
        Some(ended.thread().name().unwrap_or_default().to_owned())
    }

    fn join(self) {
        self.wake.stop();
        for thread in [Some(self.sense), self.events, Some(self.keep)].into_iter().flatten() {
            if thread.join().is_err() {
                warn!("a thread had panicked");
            }
        }
    }
}

struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// How long the event thread sleeps between looks at the stop flag and the debug log.
const EVENT_POLL: Duration = Duration::from_millis(200);

/// Moves events from the ring buffer to the log until stopped.
fn follow_events(
    mut ring: RingBuf<MapData>,
    mut log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
    coverage: &Coverage,
    events: &Log,
    kills: &Kills,
    wake: &Wake,
) {
    let root = cgroup::memory_root();
    let page_bytes = rustix::param::page_size() as u64;
    let constraints = coverage.enums.get("oom_constraint").map_or(&[][..], Vec::as_slice);
    while !wake.is_stopped() {
        wait_readable(&ring);
        // Victim and trigger, and the kills of a storm, mostly share their cgroup; and finding its
        // path means a walk.
        let mut last: Option<(u64, Option<String>)> = None;
        while let Some(record) = ring.next() {
            let Some((time_ns, mut what)) = events::decode(&record, page_bytes) else {
                warn!("an event of unknown kind or size: {} bytes", record.len());
                continue;
            };
            what.name_constraint(constraints);
            for process in what.processes_mut() {
                if let Some((_, path)) = last.as_ref().filter(|(id, _)| *id == process.cgroup_id) {
                    process.cgroup.clone_from(path);
                    continue;
                }
                let path = root.as_ref().and_then(|r| cgroup::path_of(r, process.cgroup_id));
                process.cgroup = path.map(|p| events::tame(&p));
                last = Some((process.cgroup_id, process.cgroup.clone()));
            }
            if let What::OomKill { victim, .. } = &what {
                kills.note(victim);
            }
            events.push(time_ns, monotonic_ns(), what);
        }
        if let Some(log) = &mut log {
            log.flush();
        }
    }
}

fn wait_readable(ring: &RingBuf<MapData>) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(EVENT_POLL.subsec_nanos()) };
    // Interrupted or timed out: the loop looks anyway.
    let _ = poll(&mut [PollFd::new(ring, PollFlags::IN)], Some(&timeout));
}
