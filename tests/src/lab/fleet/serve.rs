//! An HTTP server with an address for each host of a fleet: 127.1.x.y, all on one port. It renders
//! each response on request and stores nothing, so its memory does not grow.

use std::{
    convert::Infallible,
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    header,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::sync::{Semaphore, oneshot};

use super::{
    cgroups,
    format::Format,
    template::Template,
    timeline::{self, Kind, Moment},
};
use crate::support::daemon::Daemon;

/// The last address is 127.1.255.255.
const MOST_HOSTS: u32 = 65_000;
/// Open connections of one host; more wait to be accepted.
const CONNECTIONS: usize = 16;
/// How long a silent host keeps a connection open, longer than any scrape timeout.
const SILENCE: Duration = Duration::from_secs(30);
/// File descriptors beside four for each host: its listener and its clients.
const DESCRIPTORS: u64 = 64;

/// The fleet, until it is dropped.
#[derive(Debug)]
pub struct Fleet {
    shared: Arc<Shared>,
    port: u16,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    hosts: u32,
    start: Instant,
    /// Seconds of the timeline per second.
    pace: f64,
    open_metrics: Template,
    classic: Template,
    responses: AtomicU64,
    bytes: AtomicU64,
}

impl Shared {
    fn moment(&self, host: u32) -> Moment {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        timeline::moment(host, self.start.elapsed().as_secs_f64() * self.pace, unix.as_secs_f64())
    }

    fn render(&self, format: Format, moment: &Moment) -> String {
        let template = match format {
            Format::OpenMetrics => &self.open_metrics,
            Format::Classic => &self.classic,
        };
        template.render(moment, cgroups::usual(moment.host))
    }
}

impl Fleet {
    /// A fleet with the series of this daemon; its timeline runs at `pace` times real time.
    pub fn like(daemon: &Daemon, hosts: u32, pace: f64) -> Result<Self> {
        ensure!((1..=MOST_HOSTS).contains(&hosts), "a fleet has 1 to {MOST_HOSTS} hosts");
        let read = |format: Format| {
            let response = daemon.get("/metrics", format.accept())?;
            ensure!(response.status == 200, "the daemon returned {}", response.head);
            Template::parse(format, &response.body)
        };
        let shared = Arc::new(Shared {
            hosts,
            start: Instant::now(),
            pace,
            open_metrics: read(Format::OpenMetrics)?,
            classic: read(Format::Classic)?,
            responses: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
        allow_descriptors(u64::from(hosts) * 4 + DESCRIPTORS)?;
        let (port, listeners) = listen(hosts)?;
        let (stop, stopped) = oneshot::channel();
        let state = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("fleet".into())
            .spawn(move || {
                if let Err(error) = serve(listeners, &state, stopped) {
                    eprintln!("the fleet does not respond: {error:#}");
                }
            })
            .context("start the fleet's thread")?;
        Ok(Self { shared, port, stop: Some(stop), thread: Some(thread) })
    }

    /// Targets for file-based service discovery (YAML), with instance names as of real hosts.
    pub fn targets(&self) -> String {
        let mut text = String::new();
        for n in 0..self.shared.hosts {
            let addr = SocketAddr::from((address(n), self.port));
            let _ = writeln!(text, "- targets: [\"{addr}\"]");
            let _ = writeln!(text, "  labels: {{instance: \"{}\"}}", instance(n));
        }
        text
    }

    /// Instances that do not respond at some time of their timeline.
    pub fn silent(&self) -> Vec<String> {
        let hosts = 0..self.shared.hosts;
        hosts.filter(|n| timeline::kind(*n) == Kind::GoesSilent).map(instance).collect()
    }

    /// Number of responses so far, and their bytes.
    pub fn responses(&self) -> (u64, u64) {
        (self.shared.responses.load(Relaxed), self.shared.bytes.load(Relaxed))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The instance label of a host.
pub fn instance(host: u32) -> String {
    format!("web-{host:05}:9817")
}

fn address(host: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + host)
}

/// Listens on the addresses of all hosts, on a port that is free on all of them.
fn listen(hosts: u32) -> Result<(u16, Vec<std::net::TcpListener>)> {
    let bind = |host, port| {
        let addr = SocketAddr::from((address(host), port));
        std::net::TcpListener::bind(addr).with_context(|| format!("listen at {addr}"))
    };
    let mut tries = 0;
    loop {
        tries += 1;
        let first = bind(0, 0)?;
        let port = first.local_addr()?.port();
        let rest = (1..hosts).map(|host| bind(host, port)).collect::<Result<Vec<_>>>();
        match rest {
            Ok(rest) => return Ok((port, std::iter::once(first).chain(rest).collect())),
            Err(error) if tries == 10 => return Err(error),
            Err(_) => {}
        }
    }
}

fn allow_descriptors(needed: u64) -> Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|n| n < needed) {
        limit.current = limit.maximum.map(|most| most.min(needed)).or(Some(needed));
        setrlimit(Resource::Nofile, limit).context("raise the limit of open files")?;
        let most = limit.current.unwrap_or(u64::MAX);
        ensure!(most >= needed, "open files: {most} are allowed, {needed} are needed (ulimit -n)");
    }
    Ok(())
}

fn serve(
    listeners: Vec<std::net::TcpListener>,
    shared: &Arc<Shared>,
    stopped: oneshot::Receiver<()>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        for (host, listener) in (0..).zip(listeners) {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::spawn(serve_host(host, listener, Arc::clone(shared)));
        }
        let _ = stopped.await;
        Ok(())
    })
}

async fn serve_host(host: u32, listener: tokio::net::TcpListener, shared: Arc<Shared>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors: retry.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(|request| respond(host, request, &shared));
            // Like memsensor: a connection per scrape.
            let mut http = hyper::server::conn::http1::Builder::new();
            let _ = http.keep_alive(false).serve_connection(TokioIo::new(stream), service).await;
            drop(permit);
        });
    }
}

async fn respond(
    host: u32,
    request: Request<Incoming>,
    shared: &Shared,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let moment = shared.moment(host);
    if moment.silent {
        tokio::time::sleep(SILENCE).await;
    }
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let format = match accept {
        Some(accept) if accept.contains("openmetrics") => Format::OpenMetrics,
        _ => Format::Classic,
    };
    let text = shared.render(format, &moment);
    shared.responses.fetch_add(1, Relaxed);
    shared.bytes.fetch_add(text.len() as u64, Relaxed);
    let mut response = Response::new(Full::new(Bytes::from(text)));
    let kind = match format {
        Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        Format::Classic => "text/plain; version=0.0.4; charset=utf-8",
    };
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    Ok(response)
}
