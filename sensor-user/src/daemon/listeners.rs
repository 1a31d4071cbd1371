//! Binds addresses and the socket, and serves on them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{Semaphore, watch},
};
use tracing::{info, warn};

use super::{config::Config, failure::Failure};
use crate::serve::{
    admin::{self, Admin},
    agent_check, http,
    limits::accept_loop,
    state::app::AppState,
    state::settings::Http,
};

/// Agent-check clients at a time; each holds its connection for at most two seconds.
const MAX_AGENT_CLIENTS: usize = 64;

/// Bound addresses, and the socket.
#[derive(Debug)]
pub struct Listeners {
    http: Vec<TcpListener>,
    agent: Option<TcpListener>,
    admin: Option<UnixListener>,
    socket: Option<RemoveOnDrop>,
}

/// Served connections. The socket is removed when this is dropped.
#[derive(Debug)]
pub struct Connections {
    permits: Arc<Semaphore>,
    max: usize,
    _socket: Option<RemoveOnDrop>,
}

impl Listeners {
    /// Binds all addresses and the socket. With `allow_degraded`, a socket that cannot be created
    /// is not an error.
    pub async fn bind(config: &Config) -> Result<Self> {
        let mut http = Vec::new();
        for addr in &config.listen {
            http.push(bind(*addr, "--listen").await?);
        }
        let agent = match config.agent_listen {
            Some(addr) => Some(bind(addr, "--agent-listen").await?),
            None => None,
        };
        let path = Path::new(&config.socket);
        let admin = match admin::bind(path) {
            Ok(listener) => Some(listener),
            Err(e) if config.allow_degraded && !is_in_use(&e) => {
                warn!("`memsensor events`, `explain`, `top` and `drain` will not work: {e:#}");
                None
            }
            Err(e) => return Err(with_failure(e)),
        };
        let socket = admin.is_some().then(|| RemoveOnDrop(path.to_owned()));
        Ok(Self { http, agent, admin, socket })
    }

    /// Serves until `stop`.
    pub fn serve(
        self,
        limits: &Http,
        state: &AppState,
        stop: &watch::Receiver<bool>,
    ) -> Connections {
        let permits = Arc::new(Semaphore::new(limits.max_connections));
        let router = http::router(state.clone());
        for listener in self.http {
            let (router, limits, stopped) = (router.clone(), limits.clone(), stop.clone());
            let serve =
                move |stream| http::serve(stream, router.clone(), limits.clone(), stopped.clone());
            tokio::spawn(accept_loop(listener, Arc::clone(&permits), stop.clone(), serve));
        }
        if let Some(listener) = self.agent {
            let (state, permits) = (state.clone(), Arc::new(Semaphore::new(MAX_AGENT_CLIENTS)));
            let serve = move |stream| agent_check::answer(stream, state.clone());
            tokio::spawn(accept_loop(listener, permits, stop.clone(), serve));
        }
        if let Some(listener) = self.admin {
            let permits = Arc::new(Semaphore::new(admin::MAX_CLIENTS));
            let admin = Arc::new(Admin::new(state.clone(), stop.clone()));
            let serve = move |stream| Arc::clone(&admin).answer(stream);
            tokio::spawn(accept_loop(listener, permits, stop.clone(), serve));
        }
        let max = limits.max_connections;
        Connections { permits, max, _socket: self.socket }
    }
}

impl Connections {
    /// Waits until all HTTP connections are closed, up to `timeout`.
    pub async fn closed(&self, timeout: Duration) {
        let max = u32::try_from(self.max).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(timeout, self.permits.acquire_many(max)).await;
    }
}

async fn bind(addr: SocketAddr, option: &str) -> Result<TcpListener> {
    let listener = TcpListener::bind(addr)
        .await
        .with_context(|| format!("listen on {addr} (choose another address with {option})"))
        .map_err(with_failure)?;
    let local = listener.local_addr().unwrap_or(addr);
    info!("listening on {local}");
    Ok(listener)
}

fn is_in_use(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::AddrInUse)
}

/// Adds the exit code if an address or the socket is in use.
fn with_failure(error: anyhow::Error) -> anyhow::Error {
    if is_in_use(&error) { error.context(Failure::InUse) } else { error }
}

#[derive(Debug)]
struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
