//! TLS and credentials of one listener, and the files that they come from.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use arc_swap::{ArcSwap, ArcSwapOption};
use axum::http::HeaderMap;
use ring::{
    hmac::{self, HMAC_SHA256, Key},
    rand::SystemRandom,
};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

use super::{
    credentials::{Credentials, Decision},
    files::{Version, read, version},
    passwords::{Outcome, Passwords},
    refusal::Refusal,
    tls,
    web_config::{ClientAuth, WebConfig},
};

/// A stream of bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// The files that a listener was configured with.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// TLS and users.
    pub web_config: Option<PathBuf>,
    /// A token.
    pub bearer_token: Option<PathBuf>,
}

/// TLS and credentials of one listener. The answering thread reads them; the thread `secure`
/// replaces them.
#[derive(Debug)]
pub struct Security {
    files: Files,
    paths: Vec<PathBuf>,
    key: Key,
    tls: ArcSwapOption<ServerConfig>,
    credentials: ArcSwap<Credentials>,
}

/// What the files were when they were read.
#[derive(Debug)]
pub struct State {
    /// `None` after a failure: they are read again.
    versions: Option<Vec<(PathBuf, Version)>>,
    error: String,
}

struct Loaded {
    tls: Option<Arc<ServerConfig>>,
    credentials: Credentials,
    versions: Vec<(PathBuf, Version)>,
}

impl State {
    /// The files are read once more: they may have changed, or cannot be read again with the rights
    /// that are left, which the log should say now.
    pub(super) fn new() -> Self {
        Self { versions: None, error: String::new() }
    }
}

impl Security {
    /// Reads the files of a listener.
    pub fn load(files: &Files) -> Result<Self> {
        let key = hmac::Key::generate(HMAC_SHA256, &SystemRandom::new());
        let key = key.map_err(|_| anyhow::anyhow!("the kernel gave no random numbers"))?;
        let Loaded { tls, credentials, versions } = load(files, &key)?;
        let paths = versions.into_iter().map(|(path, _)| path).collect();
        let (tls, credentials) = (ArcSwapOption::new(tls), ArcSwap::from_pointee(credentials));
        Ok(Self { files: files.clone(), paths, key, tls, credentials })
    }

    /// The files that were read at the start, those that others name included.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The TLS handshake, or the stream as it is without TLS.
    pub async fn accept<S: Duplex + 'static>(&self, stream: S) -> io::Result<Box<dyn Duplex>> {
        let Some(config) = self.tls.load_full() else { return Ok(Box::new(stream)) };
        Ok(Box::new(TlsAcceptor::from(config).accept(stream).await?))
    }

    /// `None` if a request with these headers may be answered.
    pub async fn refusal(
        &self,
        passwords: &Passwords,
        peer: IpAddr,
        headers: &HeaderMap,
    ) -> Option<Refusal> {
        let credentials = self.credentials.load_full();
        let outcome = match credentials.decide(headers) {
            Decision::Allowed => Outcome::Right,
            Decision::Refused => Outcome::Wrong,
            Decision::Check(claim) => passwords.check(peer, claim).await,
        };
        match outcome {
            Outcome::Right => None,
            Outcome::Wrong => Some(Refusal::Credentials(credentials.challenge())),
            Outcome::Busy => Some(Refusal::Busy),
        }
    }

    /// Reads the files again if one has changed. If they cannot be used, the old content stays.
    pub(super) fn reload(&self, state: &mut State) {
        let is_same = |(path, old): &(PathBuf, Version)| version(path) == *old;
        if state.versions.as_ref().is_some_and(|all| all.iter().all(is_same)) {
            return;
        }
        let is_first = state.versions.is_none() && state.error.is_empty();
        match load(&self.files, &self.key).and_then(|loaded| self.replace(loaded)) {
            Ok(versions) => {
                if !is_first {
                    info!("read again: {}", names(&versions));
                }
                *state = State { versions: Some(versions), error: String::new() };
            }
            Err(e) => {
                let error = format!("{e:#}");
                if error != state.error {
                    warn!("TLS and passwords stay as they were: {error}");
                }
                *state = State { versions: None, error };
            }
        }
    }

    fn replace(&self, loaded: Loaded) -> Result<Vec<(PathBuf, Version)>> {
        let Loaded { tls, credentials, versions } = loaded;
        let is_same = tls.is_some() == self.tls.load().is_some();
        ensure!(is_same, "tls_server_config was added or removed: restart memsensor");
        self.tls.store(tls);
        self.credentials.store(Arc::new(credentials));
        Ok(versions)
    }
}

fn names(versions: &[(PathBuf, Version)]) -> String {
    let names: Vec<_> = versions.iter().map(|(path, _)| path.display().to_string()).collect();
    names.join(", ")
}

fn load(files: &Files, key: &Key) -> Result<Loaded> {
    let Files { web_config, bearer_token } = files;
    // Before they are read: a change in between is noticed at the next look.
    let given = web_config.iter().chain(bearer_token);
    let mut versions: Vec<_> = given.map(|path| (path.clone(), version(path))).collect();
    let web = web_config.as_deref().map(read_web_config).transpose()?;
    let tls_files = web.as_ref().and_then(|web| web.tls.as_ref());
    if let Some(tls) = tls_files {
        let ca = match &tls.client_auth {
            ClientAuth::Anyone => None,
            ClientAuth::IfGiven(ca) | ClientAuth::Required(ca) => Some(ca),
        };
        let named = [&tls.cert, &tls.key].into_iter().chain(ca);
        versions.extend(named.map(|path| (path.clone(), version(path))));
    }
    let tls = tls_files.map(tls::server_config).transpose().context("tls_server_config")?;
    let token = bearer_token.as_deref().map(read).transpose().context("bearer_token_file")?;
    let users = web.map(|web| web.users).unwrap_or_default();
    let credentials = Credentials::new(users, token.as_deref(), key.clone())?;
    Ok(Loaded { tls, credentials, versions })
}

fn read_web_config(path: &Path) -> Result<WebConfig> {
    let text = String::from_utf8(read(path).context("web_config")?)
        .ok()
        .with_context(|| format!("web_config {}: not UTF-8", path.display()))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    WebConfig::parse(&text, dir).with_context(|| format!("web_config {}", path.display()))
}
