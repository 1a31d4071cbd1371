//! Binds addresses and the socket, and serves on them.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::{
    io::Errno,
    net::{self, AddressFamily, SocketFlags, SocketType, sockopt},
};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{Semaphore, watch},
};
use tracing::{info, warn};

use super::{config::Config, failure::Failure, inherited::Inherited};
use crate::{
    publish::control::Shutdown,
    serve::{
        admin::{self, Admin},
        agent_check::Agent,
        http::{self, Handlers, Site},
        limits::{Gate, accept_tcp, accept_unix},
        listen::Listener,
        secure::{
            keeper::Keeper,
            listener::{Files, Security},
            passwords::{Passwords, Queue},
        },
        state::app::AppState,
    },
};

/// Agent-check clients at a time; each holds its connection for at most two seconds. An address has
/// an eighth: more than are served at once in a period.
const MAX_AGENT_CLIENTS: usize = 256;
/// Connections that may wait to be accepted. A client waits behind all of them, so that more would
/// not help.
const BACKLOG: i32 = 1024;
/// Time for answers to the agent-check in progress: they come at once, or after 100 ms where scopes
/// are configured.
const AGENT_GRACE: Duration = Duration::from_millis(200);
/// How often [`Connections::closed`] looks.
const CLOSED_POLL: Duration = Duration::from_millis(5);

/// Bound addresses, and the socket.
#[derive(Debug)]
pub struct Listeners {
    tcp: Vec<Bound>,
    passwords: Arc<Queue>,
    admin: Option<UnixListener>,
    socket: Option<RemoveOnDrop>,
}

/// A bound address with its settings.
#[derive(Debug)]
struct Bound {
    tcp: TcpListener,
    settings: Listener,
    security: Option<Arc<Security>>,
}

/// Served connections. The socket is removed when this is dropped.
#[derive(Debug)]
pub struct Connections {
    http: Arc<Gate>,
    agent: Arc<Gate>,
    _socket: Option<RemoveOnDrop>,
}

impl Listeners {
    /// Binds all addresses and the socket. With `allow_degraded`, a socket that cannot be created
    /// is not an error.
    pub fn bind(config: &Config) -> Result<Self> {
        let listeners = config.listeners();
        let all: Vec<_> = listeners.iter().map(|listener| listener.address).collect();
        let mut inherited = Inherited::from_supervisor()?;
        let bind = |settings: Listener| {
            let security = security(&settings)?;
            Ok(Bound { tcp: bind(&settings, &all, &mut inherited)?, settings, security })
        };
        let tcp = listeners.into_iter().map(bind).collect::<Result<_>>()?;
        inherited.finish(&all)?;
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
        Ok(Self { tcp, passwords: Queue::new()?, admin, socket })
    }

    /// The work of the thread `secure`; `None` if no listener needs it.
    pub fn keeper(&self, shutdown: &Arc<Shutdown>) -> Option<Keeper> {
        let listeners: Vec<_> = self.tcp.iter().filter_map(|of| of.security.clone()).collect();
        let (queue, shutdown) = (Arc::clone(&self.passwords), Arc::clone(shutdown));
        (!listeners.is_empty()).then(|| Keeper { listeners, queue, shutdown })
    }

    /// Files that are read again while it serves.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.tcp.iter().filter_map(|of| of.security.as_deref()).flat_map(Security::paths)
    }

    /// Serves until `stop`.
    pub fn serve(
        self,
        max_connections: usize,
        state: &AppState,
        stop: &watch::Receiver<bool>,
    ) -> Connections {
        let http_gate = Gate::new(max_connections, Arc::clone(&state.connections.http));
        let agent_gate = Gate::new(MAX_AGENT_CLIENTS, Arc::clone(&state.connections.agent));
        let handlers = Handlers::new(state.clone());
        let agent = Arc::new(Agent::new(state.clone()));
        let passwords = Passwords::new(self.passwords);
        for Bound { tcp, settings: listener, security } in self.tcp {
            let stop = stop.clone();
            if listener.is_agent() {
                let (gate, agent) = (Arc::clone(&agent_gate), Arc::clone(&agent));
                let serve = move |stream, ticket| Arc::clone(&agent).answer(stream, ticket);
                tokio::spawn(accept_tcp(tcp, listener.allow, gate, stop, serve));
            } else {
                let (gate, limits, stopped) =
                    (Arc::clone(&http_gate), Arc::clone(&state.settings), stop.clone());
                let router = http::router(handlers.clone(), &listener.routes);
                let site = Site { router, security, passwords: Arc::clone(&passwords) };
                let serve = move |stream, ticket| {
                    let limits = limits.load().http.clone();
                    http::serve(stream, ticket, site.clone(), limits, stopped.clone())
                };
                tokio::spawn(accept_tcp(tcp, listener.allow, gate, stop, serve));
            }
        }
        if let Some(listener) = self.admin {
            let permits = Arc::new(Semaphore::new(admin::MAX_CLIENTS));
            let admin = Arc::new(Admin::new(state.clone(), stop.clone()));
            let serve = move |stream| Arc::clone(&admin).answer(stream);
            tokio::spawn(accept_unix(listener, permits, stop.clone(), serve));
        }
        Connections { http: http_gate, agent: agent_gate, _socket: self.socket }
    }
}

impl Connections {
    /// Waits until all HTTP connections are closed, up to `timeout`. A client of the agent-check
    /// has its answer sooner, but may keep its connection.
    pub async fn closed(&self, timeout: Duration) {
        let closed = async |gate: &Gate| {
            while !gate.is_empty() {
                tokio::time::sleep(CLOSED_POLL).await;
            }
        };
        let agent = tokio::time::timeout(AGENT_GRACE, closed(&self.agent));
        let _ = tokio::join!(tokio::time::timeout(timeout, closed(&self.http)), agent);
    }
}

/// Reads the files of all secured listeners, as the start does.
pub fn check_files(config: &Config) -> Result<()> {
    config.listeners().iter().try_for_each(|listener| security(listener).map(drop))
}

/// Reads the files of a secured listener.
fn security(listener: &Listener) -> Result<Option<Arc<Security>>> {
    if !listener.is_secured() {
        return Ok(None);
    }
    let Listener { web_config, bearer_token_file, .. } = listener.clone();
    let files = Files { web_config, bearer_token: bearer_token_file };
    let security = Security::load(&files).with_context(|| format!("listen: {}", listener.address));
    Ok(Some(Arc::new(security?)))
}

/// Takes the supervisor's socket for a listener, or binds it; `all` are the addresses of all
/// listeners.
fn bind(listener: &Listener, all: &[SocketAddr], inherited: &mut Inherited) -> Result<TcpListener> {
    let mut addr = listener.address;
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, addr.port()));
    // The supervisor falls back too.
    let acceptable = if listener.may_fall_back { vec![addr, v4] } else { vec![addr] };
    let mut bound =
        inherited.take(&acceptable).unwrap_or_else(|| socket(addr, is_only_v6(addr, all)));
    if let Err(e) = &bound
        && listener.may_fall_back
        && is_without_v6(e)
    {
        let v6 = addr;
        addr = v4;
        info!("no IPv6 ({e}): {addr} instead of {v6}");
        bound = socket(addr, false);
    }
    let option = if listener.is_agent() { "--agent-listen" } else { "--listen" };
    let tcp = bound
        .with_context(|| {
            format!("listen on {addr} (choose another address with [[listen]] or {option})")
        })
        .map_err(with_failure)?;
    let local = tcp.local_addr().unwrap_or(addr);
    let routes: Vec<_> = listener.routes.iter().map(|route| route.label()).collect();
    info!("listening on {local} for {}", routes.join(", "));
    Ok(tcp)
}

/// Whether the kernel has no IPv6, or no address of it. A socket for `[::]` can also be made where
/// IPv6 is switched off by `disable_ipv6`, and then has IPv4.
fn is_without_v6(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

/// Whether a socket for `addr` must leave IPv4 to another of `all` addresses: by default `[::]` has
/// both, and `0.0.0.0` would then be in use.
fn is_only_v6(addr: SocketAddr, all: &[SocketAddr]) -> bool {
    let has_v4 = |other: &SocketAddr| other.is_ipv4() && other.port() == addr.port();
    addr.is_ipv6() && addr.port() != 0 && all.iter().any(has_v4)
}

fn socket(addr: SocketAddr, only_v6: bool) -> io::Result<TcpListener> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
    // Connections of an earlier daemon may be in TIME_WAIT.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if addr.is_ipv6() {
        // Also where `net.ipv6.bindv6only` is set.
        sockopt::set_ipv6_v6only(&socket, only_v6)?;
    }
    net::bind(&socket, &addr)?;
    net::listen(&socket, BACKLOG)?;
    TcpListener::from_std(socket.into())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::listen::Route;

    fn addresses(all: &[&str]) -> Vec<SocketAddr> {
        all.iter().map(|addr| addr.parse().expect("an address")).collect()
    }

    #[test]
    fn ipv6_leaves_ipv4_to_another_listener_of_its_port() {
        for (all, expected) in [
            (&["[::]:9817"][..], false),
            (&["[::]:9817", "0.0.0.0:9817"], true),
            (&["[::]:9817", "127.0.0.1:9817"], true),
            (&["[::]:9817", "0.0.0.0:9818"], false),
            (&["[::]:0", "0.0.0.0:0"], false),
            (&["[::]:9817", "[::1]:9817"], false),
            (&["0.0.0.0:9817", "[::]:9817"], false),
        ] {
            let all = addresses(all);
            assert_eq!(is_only_v6(all[0], &all), expected, "{all:?}");
        }
    }

    #[tokio::test]
    async fn both_families_can_have_the_same_port() {
        for order in [["0.0.0.0", "[::]"], ["[::]", "0.0.0.0"], ["127.0.0.1", "[::]"]] {
            let free = std::net::TcpListener::bind("0.0.0.0:0").expect("a port");
            let port = free.local_addr().expect("an address").port();
            drop(free);
            let all = addresses(&order.map(|ip| format!("{ip}:{port}")).each_ref().map(|s| &**s));
            let bind = |addr: &SocketAddr| {
                bind(&Listener::new(*addr, &[Route::Metrics]), &all, &mut Inherited::default())
            };
            let bound: Vec<_> = all.iter().map(bind).collect();
            assert!(bound.iter().all(Result::is_ok), "{order:?}: {bound:?}");
            for ip in ["127.0.0.1", "[::1]"] {
                let to: SocketAddr = format!("{ip}:{port}").parse().expect("an address");
                assert!(tokio::net::TcpStream::connect(to).await.is_ok(), "{order:?}: {to}");
            }
        }
    }
}
