//! HTTP: `/metrics`, `/readyz`, `/livez`, events and an index, with limits on every connection.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, Query, State as Shared},
    http::{
        HeaderMap, HeaderName, HeaderValue, Request, StatusCode,
        header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
    routing::{MethodRouter, any, get},
};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::Instant,
};
use tracing::debug;

use super::{
    limits::Ticket,
    listen::Route,
    metrics::render::{Format, Renderer},
    secure::{listener::Security, passwords::Passwords, refusal::Refusal},
    state::{
        app::AppState,
        clients::{Protocol, ReadinessQuery},
        settings::Http,
    },
};
use sensor_core::{
    common::clock::monotonic_ns,
    model::{
        event::Event,
        readiness::{FailOn, ReadinessState},
    },
};

/// Time for answers in progress after shutdown begins.
pub(crate) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for requests on connections that were accepted before.
const STOP_GRACE: Duration = Duration::from_millis(100);
/// Longest head of a request in bytes; a scraper's has a few hundred.
const MAX_HEAD: usize = 16 * 1024;

/// What all listeners share: the state, and the rendered page of metrics.
#[derive(Debug, Clone)]
pub struct Handlers {
    state: AppState,
    renderer: Arc<Renderer>,
}

impl Handlers {
    /// Answers from this state.
    pub fn new(state: AppState) -> Self {
        Self { state, renderer: Arc::default() }
    }
}

/// All paths of HTTP. Those of health checks have every form that checkers use: HAProxy's `option
/// httpchk` asks with OPTIONS, and some people end a path with a slash.
fn paths() -> [(Route, &'static str, MethodRouter<Handlers>); 8] {
    let (livez, host) = (get(livez).options(livez), get(readyz).options(readyz));
    let scope = get(readyz_of).options(readyz_of);
    [
        (Route::Metrics, "/metrics", get(metrics)),
        (Route::Readiness, "/livez", livez.clone()),
        (Route::Readiness, "/livez/", livez),
        (Route::Readiness, "/readyz", host.clone()),
        (Route::Readiness, "/readyz/", host),
        (Route::Readiness, "/readyz/{scope}", scope.clone()),
        (Route::Readiness, "/readyz/{scope}/", scope),
        (Route::Events, "/api/v1/events", get(events)),
    ]
}

/// The routes of one listener.
pub fn router(handlers: Handlers, routes: &[Route]) -> Router {
    let index: Arc<str> = index(routes).into();
    let index = move || async move { text(StatusCode::OK, index.to_string()) };
    let mut served = Router::new()
        .route("/", get(index))
        .fallback(|| async { text(StatusCode::NOT_FOUND, "not found; see /\n") });
    for (route, path, method) in paths() {
        let method = if routes.contains(&route) { method } else { any(not_served) };
        served = served.route(path, method);
    }
    served.with_state(handlers)
}

async fn not_served() -> Response {
    text(
        StatusCode::NOT_FOUND,
        "not served at this address; see / and `routes` of [[listen]] in the configuration\n",
    )
}

/// What the listener serves.
fn index(routes: &[Route]) -> String {
    let mut text = "memsensor: memory pressure and OOM kills of this host\n\n".to_owned();
    for route in routes {
        text.push_str(match route {
            Route::Metrics => {
                "/metrics            Prometheus metrics, classic or OpenMetrics by Accept\n"
            }
            Route::Readiness => {
                "/readyz             200 if the host should get traffic, else 503; the body has reasons\n\
                 /readyz/NAME        the same for a scope\n\
                 ?fail_on=degraded   503 also for a degraded scope\n\
                 ?fail_on=drained    503 only while an operator has drained the host\n\
                 /livez              200 while the loops of memsensor run, else 503\n"
            }
            Route::Events => {
                "/api/v1/events      the latest OOM kills and kills by OOM daemons, oldest first, as JSON\n\
                 ?id=ID              one event, with its report\n\
                 ?after=ID           the first hundred events after that one\n"
            }
            Route::Agent => "",
        });
    }
    text
}

/// What connections of one listener share; cheap to clone.
#[derive(Debug, Clone)]
pub struct Site {
    /// The routes.
    pub router: Router,
    /// TLS and credentials, if it has them.
    pub security: Option<Arc<Security>>,
    /// Checks of passwords.
    pub passwords: Arc<Passwords>,
}

impl Site {
    /// The answer that refuses a request; `None` if it may be answered.
    async fn refusal(&self, peer: IpAddr, headers: &HeaderMap) -> Option<Response> {
        let refusal = self.security.as_ref()?.refusal(&self.passwords, peer, headers).await?;
        Some(match refusal {
            Refusal::Credentials(challenge) => {
                let mut response = text(StatusCode::UNAUTHORIZED, "credentials are needed\n");
                let challenge = HeaderValue::from_static(challenge);
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
                response
            }
            Refusal::Busy => {
                let body = "too many passwords are being checked; try again\n";
                text(StatusCode::SERVICE_UNAVAILABLE, body)
            }
        })
    }
}

/// Serves one request on a connection, within the deadline, or until `stop`. With TLS, the handshake
/// is part of the time for the head.
pub async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ticket: Arc<Ticket>,
    site: Site,
    limits: Http,
    stop: watch::Receiver<bool>,
) {
    let Some(security) = site.security.clone() else {
        return serve_request(stream, ticket, site, limits, stop).await;
    };
    let began = Instant::now();
    let handshake = security.accept(stream);
    match tokio::time::timeout(limits.head_timeout.min(limits.deadline), handshake).await {
        Ok(Ok(stream)) => {
            let limits = limits.after(began.elapsed());
            serve_request(stream, ticket, site, limits, stop).await;
        }
        Ok(Err(e)) => debug!("TLS handshake: {e}"),
        Err(_) => ticket.set_timed_out(),
    }
}

async fn serve_request(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ticket: Arc<Ticket>,
    site: Site,
    limits: Http,
    mut stop: watch::Receiver<bool>,
) {
    let app = TowerToHyperService::new(site.router.clone());
    let served = Arc::clone(&ticket);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (site, served, app) = (site.clone(), Arc::clone(&served), app.clone());
        async move {
            let peer = served.peer();
            let refusal = site.refusal(peer, request.headers()).await;
            served.set_active();
            if let Some(refusal) = refusal {
                return Ok(refusal);
            }
            request.extensions_mut().insert(Peer(peer));
            app.call(request).await
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        // One answer per connection: otherwise a client that never reads could keep sending
        // requests.
        .keep_alive(false)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let deadline = tokio::time::sleep(limits.deadline);
    tokio::select! {
        done = connection.as_mut() => {
            if let Err(e) = done {
                debug!("connection: {e}");
                if e.is_timeout() {
                    ticket.set_timed_out();
                }
            }
            return;
        }
        () = deadline => {
            ticket.set_timed_out();
            return;
        }
        _ = stop.wait_for(|stop| *stop) => {}
    }
    // A request that has come is answered; a client without one is closed after a moment.
    if tokio::time::timeout(STOP_GRACE, connection.as_mut()).await.is_ok() {
        return;
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, connection).await;
}

fn text(status: StatusCode, body: impl Into<Body>) -> Response {
    (status, [(CONTENT_TYPE, "text/plain; charset=utf-8")], body.into()).into_response()
}

/// A value as a line of JSON that must not be cached.
fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let mut body = serde_json::to_string(value).unwrap_or_default();
    body.push('\n');
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    (status, headers, body).into_response()
}

/// Fails if a loop is stuck: then only a restart helps.
async fn livez(Shared(handlers): Shared<Handlers>) -> Response {
    match handlers.state.published.lags.stuck(monotonic_ns()) {
        None => text(StatusCode::OK, "alive\n"),
        Some("sense") => text(StatusCode::SERVICE_UNAVAILABLE, "the sensing loop is stuck\n"),
        Some(_) => text(StatusCode::SERVICE_UNAVAILABLE, "the serving loop is stuck\n"),
    }
}

async fn metrics(Shared(handlers): Shared<Handlers>, headers: HeaderMap) -> Response {
    let format = if wants_open_metrics(&headers) { Format::OpenMetrics } else { Format::Classic };
    let body = handlers.renderer.page(&handlers.state, format);
    ([(CONTENT_TYPE, format.content_type())], body).into_response()
}

/// Whether the client accepts OpenMetrics: clients that do prefer it (Prometheus, the Datadog
/// Agent).
fn wants_open_metrics(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|v| v.trim().starts_with("application/openmetrics-text"))
}

/// `?fail_on=degraded`.
#[derive(Debug, Default, Deserialize)]
struct ReadyzParams {
    #[serde(default)]
    fail_on: FailOn,
}

/// `?id=` and `?after=`, each with the id of an event.
#[derive(Debug, Default, Deserialize)]
struct EventParams {
    id: Option<String>,
    after: Option<String>,
}

/// Most events in one answer.
const MAX_EVENTS: usize = 100;

async fn events(Shared(handlers): Shared<Handlers>, Query(params): Query<EventParams>) -> Response {
    let kept = handlers.state.published.events.events();
    if let Some(id) = params.id {
        return match kept.iter().find(|event| event.id == id) {
            Some(event) => json(StatusCode::OK, &Events { events: std::slice::from_ref(event) }),
            None => text(StatusCode::NOT_FOUND, "no such event is kept; see /api/v1/events\n"),
        };
    }
    let mut events = page(&kept, params.after.as_deref()).to_vec();
    // With reports the answer could have half a megabyte.
    for event in &mut events {
        Arc::make_mut(event).report = None;
    }
    json(StatusCode::OK, &Events { events: &events })
}

/// The first events after the one with that id, for a client that requests page after page; or the
/// latest events, if that event is no longer kept or is of another boot.
fn page<'a>(kept: &'a [Arc<Event>], after: Option<&str>) -> &'a [Arc<Event>] {
    match after.and_then(|id| kept.iter().position(|event| event.id == id)) {
        Some(at) => {
            let later = &kept[at + 1..];
            &later[..later.len().min(MAX_EVENTS)]
        }
        None => &kept[kept.len().saturating_sub(MAX_EVENTS)..],
    }
}

/// The answer of `/api/v1/events`.
#[derive(Debug, Serialize)]
struct Events<'a> {
    events: &'a [Arc<Event>],
}

/// Envoy sends less traffic to a host that responds with this header.
const ENVOY_DEGRADED: HeaderName = HeaderName::from_static("x-envoy-degraded");

/// The client's address.
#[derive(Debug, Clone, Copy)]
struct Peer(IpAddr);

type Client = Option<Extension<Peer>>;

async fn readyz(
    Shared(handlers): Shared<Handlers>,
    client: Client,
    Query(params): Query<ReadyzParams>,
) -> Response {
    ready(&handlers.state, "", &params, client)
}

async fn readyz_of(
    Shared(handlers): Shared<Handlers>,
    client: Client,
    Path(scope): Path<String>,
    Query(params): Query<ReadyzParams>,
) -> Response {
    ready(&handlers.state, &scope, &params, client)
}

fn ready(state: &AppState, scope: &str, params: &ReadyzParams, client: Client) -> Response {
    let Some(scope) = state.scope_index(scope) else {
        state.count_unknown_scope();
        return text(StatusCode::NOT_FOUND, "no such scope; see the configuration's [[scope]]\n");
    };
    let report = state.readiness_report(scope);
    let degraded = report.state == ReadinessState::Degraded;
    let health = report.health().with_fail_on(params.fail_on);
    if let Some(Extension(Peer(addr))) = client {
        let fail_on = params.fail_on;
        let query = ReadinessQuery { addr, scope, fail_on, protocol: Protocol::Http };
        state.record_client(query, health);
    }
    let takes_traffic = health.takes_traffic();
    let status = if takes_traffic { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = json(status, &report);
    if degraded {
        response.headers_mut().insert(ENVOY_DEGRADED, HeaderValue::from_static("true"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_follows_the_accept_header() {
        let wants = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().expect("a header"));
            wants_open_metrics(&headers)
        };
        assert!(wants("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1"));
        assert!(wants("text/plain, application/openmetrics-text; version=1.0.0"));
        assert!(!wants("text/plain;version=0.0.4"));
        assert!(!wants("*/*"));
        assert!(!wants_open_metrics(&HeaderMap::new()));
    }
}
