//! HTTP: `/metrics`, `/readyz`, `/livez` and a plain index, with limits on every connection.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, Query, State as Shared},
    http::{
        HeaderMap, HeaderName, HeaderValue, Request, StatusCode,
        header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::get,
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
use tokio::{net::TcpStream, sync::watch};
use tracing::debug;

use super::{
    askers::{Protocol, ReadinessQuery},
    classic,
    metrics::Renderer,
    state::{AppState, FailOn, ReadinessState},
};
use crate::{config::Http, events::Event};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
/// How long an answer under way may take once everything stops.
pub(crate) const GOODBYE: Duration = Duration::from_secs(1);
/// Bytes of a request's head; a scraper's is a few hundred.
const MAX_HEAD: usize = 16 * 1024;

#[derive(Debug, Clone)]
struct Site {
    state: AppState,
    renderer: Arc<Renderer>,
}

/// All routes.
pub fn router(state: AppState) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { text(StatusCode::OK, "alive\n") }))
        .route("/readyz", get(readyz))
        .route("/readyz/{scope}", get(readyz_of))
        .route("/api/v1/events", get(events))
        .fallback(|| async { text(StatusCode::NOT_FOUND, "not found; see /\n") })
        .with_state(Site { state, renderer: Arc::default() })
}

/// Serves one connection: one request, within the deadline, or until everything stops.
pub async fn serve(
    stream: TcpStream,
    router: Router,
    limits: Http,
    mut stop: watch::Receiver<bool>,
) {
    let peer = stream.peer_addr().ok().map(|addr| Peer(addr.ip()));
    let site = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        site.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        // One answer per connection: a client that asks without reading could fill it for ever.
        .keep_alive(false)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let deadline = tokio::time::sleep(limits.deadline);
    tokio::select! {
        done = connection.as_mut() => {
            if let Err(e) = done {
                debug!("connection: {e}");
            }
            return;
        }
        () = deadline => return,
        _ = stop.wait_for(|stop| *stop) => {}
    }
    // Let an answer under way be finished, but not for long.
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(GOODBYE, connection).await;
}

fn text(status: StatusCode, body: &'static str) -> Response {
    (status, [(CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
}

async fn index() -> Response {
    text(
        StatusCode::OK,
        "memsensor: memory pressure and OOM kills of this host\n\n\
         /metrics  Prometheus, classic or OpenMetrics by Accept\n\
         /readyz   200 if the host is fit for traffic, 503 if not; the body says why\n\
         /readyz/NAME       the same of a scope\n\
         ?fail_on=degraded     503 also if it should get less traffic\n\
         ?fail_on=drained  503 only if an operator drained it\n\
         /livez    200 while this process answers\n\
         /api/v1/events     the latest OOM kills and kills by OOM daemons, oldest first, JSON\n\
         ?id=ID    one of them, with its report\n\
         ?after=ID the first hundred after that one; the latest if it is not kept any more\n",
    )
}

async fn metrics(Shared(site): Shared<Site>, headers: HeaderMap) -> Response {
    let body = site.renderer.render(&site.state);
    if wants_open_metrics(&headers) {
        return ([(CONTENT_TYPE, OPEN_METRICS)], body).into_response();
    }
    ([(CONTENT_TYPE, CLASSIC)], classic::from_open_metrics(&body)).into_response()
}

/// Whether the client names OpenMetrics at all: who does prefers it (Prometheus, the Datadog
/// Agent), and who does not would not understand it.
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
struct Ask {
    #[serde(default)]
    fail_on: FailOn,
}

/// `?id=` of one event, or of the one `?after=` which others are wanted.
#[derive(Debug, Default, Deserialize)]
struct Which {
    id: Option<String>,
    after: Option<String>,
}

/// Events in one answer.
const MOST_EVENTS: usize = 100;

async fn events(Shared(site): Shared<Site>, Query(which): Query<Which>) -> Response {
    let (mut kept, _) = site.state.events.follow();
    if let Some(id) = which.id {
        kept.retain(|event| event.id == id);
        if kept.is_empty() {
            return text(StatusCode::NOT_FOUND, "no such event is kept; see /api/v1/events\n");
        }
    } else {
        page(&mut kept, which.after.as_deref());
        // Each of them whole would be half a megabyte, for whoever asks.
        for event in &mut kept {
            Arc::make_mut(event).report = None;
        }
    }
    let latest = &kept;
    let mut body = serde_json::to_string(&Events { events: latest }).unwrap_or_default();
    body.push('\n');
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    (headers, body).into_response()
}

/// Leaves the first after an event, for who asks until there are none; the latest where that one is not
/// kept any more, or is of another boot.
fn page(kept: &mut Vec<Arc<Event>>, after: Option<&str>) {
    match after.and_then(|id| kept.iter().position(|event| event.id == id)) {
        Some(at) => {
            kept.drain(..=at);
            kept.truncate(MOST_EVENTS);
        }
        None => drop(kept.drain(..kept.len().saturating_sub(MOST_EVENTS))),
    }
}

/// The answer of `/api/v1/events`.
#[derive(Debug, Serialize)]
struct Events<'a> {
    events: &'a [Arc<Event>],
}

/// Envoy sends such a host less traffic, however the body reads.
const ENVOY_DEGRADED: HeaderName = HeaderName::from_static("x-envoy-degraded");

/// Who asks.
#[derive(Debug, Clone, Copy)]
struct Peer(IpAddr);

type From = Option<Extension<Peer>>;

async fn readyz(Shared(site): Shared<Site>, from: From, Query(ask): Query<Ask>) -> Response {
    ready(&site.state, "", &ask, from)
}

async fn readyz_of(
    Shared(site): Shared<Site>,
    from: From,
    Path(scope): Path<String>,
    Query(ask): Query<Ask>,
) -> Response {
    ready(&site.state, &scope, &ask, from)
}

fn ready(state: &AppState, scope: &str, ask: &Ask, from: From) -> Response {
    let Some(scope) = state.scope(scope) else {
        state.unknown_scopes.fetch_add(1, Ordering::Relaxed);
        return text(StatusCode::NOT_FOUND, "no such scope; see the configuration's [[scope]]\n");
    };
    let readiness = state.readiness(scope);
    let degraded = readiness.state == ReadinessState::Degraded;
    let fitness = readiness.fitness().on(ask.fail_on);
    if let Some(Extension(Peer(addr))) = from {
        state.told(
            ReadinessQuery { addr, scope, fail_on: ask.fail_on, by: Protocol::Http },
            fitness,
        );
    }
    let fit = fitness.takes_traffic();
    let status = if fit { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut body = serde_json::to_string(&readiness).unwrap_or_default();
    body.push('\n');
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    let mut response = (status, headers, Body::from(body)).into_response();
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
