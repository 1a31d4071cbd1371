//! Requests readiness from a daemon over HTTP or HTTPS, as a load balancer does: for `memsensor
//! check`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use axum::{
    body::Body,
    http::{
        HeaderValue, Request, StatusCode, Uri,
        header::{AUTHORIZATION, HOST},
    },
};
use clap::Args;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::tls_client::Tls;

/// Longest body; those of memsensor are far shorter.
const MAX_BODY: usize = 64 * 1024;

/// The server, and what a listener with TLS or credentials needs.
#[derive(Debug, Default, Args)]
pub struct Server {
    /// URL of the daemon's HTTP server; https:// for a listener with TLS
    #[arg(long, default_value = "http://127.0.0.1:9817")]
    url: String,
    /// With https://: the certificate authorities to trust, in PEM
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// With https://: the client's own certificate, in PEM
    #[arg(long, value_name = "FILE", requires_all = ["key", "cacert"])]
    cert: Option<PathBuf>,
    /// The private key of the client's certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// File with the token of a listener with `bearer_token_file`
    #[arg(long, value_name = "FILE")]
    bearer_token_file: Option<PathBuf>,
}

/// Where and how to connect.
struct Target {
    host: String,
    port: u16,
    tls: Option<Tls>,
    /// Value of the header.
    authorization: Option<HeaderValue>,
}

impl Server {
    fn target(&self) -> Result<Target> {
        let base = &self.url;
        let uri: Uri = base.parse().with_context(|| format!("{base:?} is not a URL"))?;
        let host = uri.host().with_context(|| format!("{base:?} names no host"))?;
        // Only a URL has brackets around an IPv6 address.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = match uri.scheme_str() {
            Some("https") => Some(self.tls()?),
            None | Some("http") => {
                // Otherwise a mistyped URL would send the token unencrypted.
                ensure!(self.cacert.is_none(), "--cacert is for https://, and the URL is {base}");
                None
            }
            Some(_) => bail!("{base}: only http:// and https:// are supported"),
        };
        let authorization = self.bearer_token_file.as_deref().map(bearer).transpose()?;
        Ok(Target { host, port: uri.port_u16().unwrap_or(9817), tls, authorization })
    }

    fn tls(&self) -> Result<Tls> {
        let cacert = self.cacert.as_deref();
        let cacert = cacert.context("https:// needs --cacert FILE: the authorities to trust")?;
        Tls::new(cacert, self.cert.as_deref().zip(self.key.as_deref()))
    }
}

/// The header with the token of a file.
fn bearer(path: &Path) -> Result<HeaderValue> {
    let read = || format!("--bearer-token-file: read {}", path.display());
    let token = std::fs::read_to_string(path).with_context(read)?;
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim_ascii()))
        .with_context(|| format!("--bearer-token-file {}: not a token", path.display()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The body of `/readyz` for a scope, with any status.
pub fn readiness(server: &Server, scope: &str, timeout: Duration) -> Result<Value> {
    let target = server.target()?;
    let (host, port) = (&target.host, target.port);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async {
        tokio::time::timeout(timeout, request(&target, scope))
            .await
            .with_context(|| format!("no answer from {host}:{port} within {timeout:?}"))?
            .with_context(|| format!("request readiness from {host}:{port}"))
    });
    // A DNS lookup runs on a thread of its own, which may outlive the timeout.
    runtime.shutdown_background();
    answer
}

async fn request(target: &Target, scope: &str) -> Result<Value> {
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await?;
    match &target.tls {
        None => exchange(stream, target, scope).await,
        Some(tls) => exchange(tls.connect(&target.host, stream).await?, target, scope).await,
    }
}

async fn exchange<S>(stream: S, target: &Target, scope: &str) -> Result<Value>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake::<_, Body>(TokioIo::new(stream)).await?;
    let serving = tokio::spawn(connection);
    let path = if scope.is_empty() { "/readyz".to_owned() } else { format!("/readyz/{scope}") };
    let mut request = Request::get(path).header(HOST, "memsensor").body(Body::empty())?;
    if let Some(value) = &target.authorization {
        request.headers_mut().insert(AUTHORIZATION, value.clone());
    }
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = axum::body::to_bytes(Body::new(response.into_body()), MAX_BODY).await?;
    serving.abort();
    // Not the body: any program can answer on the port.
    serde_json::from_slice(&body).with_context(|| match status {
        StatusCode::NOT_FOUND => format!("{status}: no such scope, or not memsensor"),
        StatusCode::UNAUTHORIZED => {
            format!("{status}: the listener needs a token (--bearer-token-file), or another one")
        }
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
        let server_at = Server { url: format!("http://{addr}"), ..Server::default() };
        let answer = readiness(&server_at, "", Duration::from_secs(10));
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

    #[test]
    fn mistakes_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("write");
            Some(path)
        };
        let missing = || Some(dir.path().join("missing"));
        let at = |url: &str| Server { url: url.into(), ..Server::default() };
        let https = || at("https://127.0.0.1:1");
        for (server, part) in [
            (at("ftp://127.0.0.1"), "only http:// and https://"),
            (at("http://"), "is not a URL"),
            (https(), if cfg!(feature = "tls") { "needs --cacert FILE" } else { "--cacert" }),
            (Server { cacert: missing(), ..at("http://127.0.0.1:1") }, "--cacert is for https://"),
            (Server { bearer_token_file: missing(), ..at("http://127.0.0.1:1") }, "missing"),
            (
                Server { bearer_token_file: file("token", "a\nb"), ..at("http://127.0.0.1:1") },
                "not a token",
            ),
            #[cfg(feature = "tls")]
            (Server { cacert: missing(), ..https() }, "--cacert: read "),
            #[cfg(feature = "tls")]
            (Server { cacert: file("ca", "no PEM"), ..https() }, "no certificate in PEM"),
            #[cfg(not(feature = "tls"))]
            (Server { cacert: missing(), ..https() }, "without the feature `tls`"),
        ] {
            let error = format!(
                "{:#}",
                readiness(&server, "", Duration::from_secs(1)).expect_err("a mistake")
            );
            assert!(error.contains(part), "{error}");
        }
    }
}
