//! Requests readiness from a daemon over HTTP, as a load balancer does: for `memsensor check`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use axum::{
    body::Body,
    http::{Request, StatusCode, Uri, header::HOST},
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
    ensure!(
        uri.scheme_str().is_none_or(|s| s == "http"),
        "{base}: only http:// is supported; for a listener with TLS or passwords use curl, or add a \
         [[listen]] of 127.0.0.1 without them"
    );
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
    // Not the body: any program can answer on the port.
    serde_json::from_slice(&body).with_context(|| match status {
        StatusCode::NOT_FOUND => format!("{status}: no such scope, or not memsensor"),
        _ => format!("{status}: not memsensor"),
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
    };

    use super::*;

    /// The outcome of a request to a server that sends these bytes.
    fn answer(bytes: &'static [u8]) -> Result<Value> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let addr = listener.local_addr().expect("address");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(bytes);
        });
        let answer = readiness(&format!("http://{addr}"), "", Duration::from_secs(10));
        server.join().expect("the server ends");
        answer
    }

    #[test]
    fn an_error_does_not_repeat_the_answer() {
        for bytes in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\nweight=EVIL%"[..],
            b"HTTP/1.1 404 EVIL\r\ncontent-length: 5\r\n\r\nEVIL\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{\"EVIL\":",
            b"HTTP/1.1 200 OK\r\ncontent-length: EVIL\r\n\r\n{}",
            b"EVIL\r\n\r\n",
        ] {
            let error = answer(bytes).expect_err("no JSON");
            assert!(!format!("{error:#}").contains("EVIL"), "{error:#}");
        }
    }
}
