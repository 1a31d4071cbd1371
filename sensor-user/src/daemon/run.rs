//! `memsensor run`: starts all parts in a fixed order, and stops them.
//!
//! Bind all addresses, so that an address in use costs no load, and clients wait in the backlog
//! meanwhile; load and attach as root; change the user and drop privileges; only then start
//! threads, because users and capabilities belong to threads. One tokio runtime on the main thread serves all connections.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, bail};
use sensor_core::{
    common::{clock::monotonic_ns, counter::nanos},
    model::coverage::Coverage,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tracing::{info, warn};

use super::{
    compose::{self, KernelHalf, Privileged},
    config::Config,
    failure::Failure,
    hardening::Hardening,
    listeners::Listeners,
    own_user::OwnUser,
    reload::Reread,
    rights::Rights,
    threads::{self, Bodies, Threads},
};
use crate::{
    kernel::{
        load::{self, Loaded},
        privilege,
    },
    publish::{control::Shutdown, loop_lag::TICK},
    serve::{
        http::SHUTDOWN_TIMEOUT,
        state::{app::AppState, background::Background},
    },
};

/// What the command line adds to the configuration.
#[allow(missing_debug_implementations, reason = "a closure has none")]
pub struct Start {
    /// The user that the daemon becomes.
    pub user: Result<Option<OwnUser>>,
    /// The file of the configuration.
    pub file: Option<PathBuf>,
    /// Reads the configuration again.
    pub reread: Reread,
}

/// Runs until SIGINT or SIGTERM.
pub fn run(config: &Config, start: Start) -> Result<()> {
    check_privileges(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(serve(config, start))
}

/// An error if capabilities for loading are missing, unless `allow_degraded`.
fn check_privileges(config: &Config) -> Result<()> {
    match privilege::missing() {
        Some(missing) if !config.allow_degraded => {
            Err(anyhow::anyhow!(missing).context(Failure::Unsupported))
        }
        _ => Ok(()),
    }
}

/// Loads the probes. With `allow_degraded`, a host where nothing can be loaded is served without
/// them.
fn load_or_degrade(config: &Config) -> Result<(Coverage, KernelHalf)> {
    let loaded = match privilege::missing() {
        Some(missing) => Err(anyhow::anyhow!(missing)),
        None => load::load(&config.kernel()),
    };
    match loaded {
        Ok(Loaded { coverage, reader, programs, debug_log }) => {
            load::check_required(&coverage, &config.probes.required, config.allow_degraded)
                .context(Failure::Unsupported)?;
            let (reader, programs) = (Some(reader), Some(programs));
            Ok((coverage, KernelHalf { reader, programs, debug_log }))
        }
        Err(e) if config.allow_degraded => {
            warn!("no probe is attached (allow_degraded): {e:#}");
            Ok((Coverage::none(&format!("{e:#}")), KernelHalf::default()))
        }
        Err(e) => Err(e.context(Failure::Unsupported)),
    }
}

async fn serve(config: &Config, start: Start) -> Result<()> {
    let Start { user, file, reread } = start;
    let mut rights = Rights::new(user);
    rights.take_directories(config);
    let listeners = Listeners::bind(config)?;
    let signals = Signals::new()?;
    let (coverage, kernel) = load_or_degrade(config)?;
    let mut privileged = Privileged::open(config, kernel.reader.is_some())?;
    let mut hardening = Hardening::prepare();
    rights.drop(config, &hardening, &kernel)?;
    privileged.resume(config);
    log_coverage(&coverage);
    let replaced = Arc::default();
    let (background, jobs) = Background::new();
    let mut state = compose::app_state(config, coverage, reread, &replaced, background)?;
    hardening.lock();
    log_hardening(&hardening);
    let shutdown = Arc::new(Shutdown::new()?);
    let bodies = compose::thread_bodies(config, &state, kernel, privileged, replaced, &shutdown)?;
    let bodies = Bodies { secure: listeners.keeper(&shutdown), ..bodies };
    let files = listeners.files().cloned().chain(file).collect::<Vec<_>>();
    state.protection = Arc::new(rights.restrict(config, &files));
    let threads = Threads::start(bodies, shutdown)?;
    threads::start_commands(jobs)?;
    let (stopping, stop) = watch::channel(false);
    let connections = listeners.serve(config.http.max_connections, &state, &stop);
    let result = signals.wait(&threads, &state).await;
    warn_of_weights(&state);
    stopping.send_replace(true);
    // Wait for answers in progress.
    connections.closed(2 * SHUTDOWN_TIMEOUT).await;
    threads.join();
    info!("stopped");
    result
}

fn log_coverage(coverage: &Coverage) {
    for probe in &coverage.probes {
        match probe.reason.as_str() {
            "" => info!(probe = probe.name, state = probe.state.label()),
            reason => warn!(probe = probe.name, state = probe.state.label(), "{reason}"),
        }
    }
}

fn log_hardening(hardening: &Hardening) {
    info!("in effect against memory pressure: {hardening}");
    for reason in hardening.unavailable() {
        warn!("responses may be slow under memory pressure; could not set up {reason}");
    }
}

/// Warns if HAProxy still has less than full weight for a scope when the daemon stops.
fn warn_of_weights(state: &AppState) {
    for (index, scope) in state.scopes.iter().enumerate() {
        let percent = state.health(index).weight * 100.0;
        if percent < 100.0 {
            warn!(
                scope,
                "stopped at weight {percent:.0}%: HAProxy keeps it until an agent answers again"
            );
        }
    }
}

/// Reads the configuration again, on a thread that may open files, and logs the result.
async fn reload(state: AppState) {
    let AppState { reload: Some(reload), background, .. } = state else { return };
    match background.run(move || reload.reload()).await {
        Ok(Ok(done)) => info!("SIGHUP: {done}"),
        Ok(Err(e)) => warn!("SIGHUP: nothing is changed: {e:#}"),
        Err(e) => warn!("SIGHUP: {e:#}"),
    }
}

/// The signals that end the daemon, and SIGHUP, which makes it read its configuration again.
#[derive(Debug)]
struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup()).context("handle SIGHUP")?,
            interrupt: signal(SignalKind::interrupt()).context("handle SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("handle SIGTERM")?,
        })
    }

    /// Waits for a signal, and measures the lag of this loop. A thread that ends is an error, so
    /// that the supervisor restarts the daemon.
    async fn wait(mut self, threads: &Threads, state: &AppState) -> Result<()> {
        loop {
            let due = tokio::time::Instant::now() + TICK;
            let name = tokio::select! {
                _ = self.interrupt.recv() => "SIGINT",
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.hangup.recv() => {
                    tokio::spawn(reload(state.clone()));
                    continue;
                }
                () = tokio::time::sleep_until(due) => {
                    let now = monotonic_ns();
                    state.published.lags.serve.tick(now, now.saturating_sub(nanos(due.elapsed())));
                    match threads.ended() {
                        Some(name) => bail!("the thread {name} has ended: see the log"),
                        None => continue,
                    }
                }
            };
            info!("stopping on {name}");
            return Ok(());
        }
    }
}
