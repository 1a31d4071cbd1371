//! Requests readiness from a daemon over HTTP, as a load balancer does: for `memsensor check`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use axum::{
    body::Body,
    http::{Request, Uri, header::HOST},
};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// Longest body; those of memsensor are far shorter.
const MAX_BODY: usize = 64 * 1024;

/// The body of `/readyz` for a scope, with any status.
pub fn readiness(base: &str, scope: &str, timeout: Duration) -> Result<Value> {
    let uri: Uri = base.parse().with_context(|| format!("{base:?} is not a URL"))?;
    ensure!(uri.scheme_str().is_none_or(|s| s == "http"), "{base}: only http:// is supported");
    let host = uri.host().with_context(|| format!("{base:?} names no host"))?;
    // Only a URL has brackets around an IPv6 address.
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(9817);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async {
        tokio::time::timeout(timeout, request(&host, port, scope))
            .await
            .with_context(|| format!("no answer from {host}:{port} within {timeout:?}"))?
            .with_context(|| format!("request readiness from {host}:{port}"))
    });
    // A DNS lookup runs on a thread of its own, which may outlive the timeout.
    runtime.shutdown_background();
    answer
}

async fn request(host: &str, port: u16, scope: &str) -> Result<Value> {
    let stream = TcpStream::connect((host, port)).await?;
    let (mut sender, connection) = http1::handshake::<_, Body>(TokioIo::new(stream)).await?;
    let serving = tokio::spawn(connection);
    let path = if scope.is_empty() { "/readyz".to_owned() } else { format!("/readyz/{scope}") };
    let request = Request::get(path).header(HOST, "memsensor").body(Body::empty())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = axum::body::to_bytes(Body::new(response.into_body()), MAX_BODY).await?;
    serving.abort();
    serde_json::from_slice(&body).with_context(|| {
        format!("{status}: {}", String::from_utf8_lossy(&body).trim().escape_debug())
    })
}
