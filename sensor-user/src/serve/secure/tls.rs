//! TLS of a listener, from certificate and key. Not here: when the files are read (`keeper`).
//!
//! Sessions are never resumed, and there are no tickets: nothing is kept per client.

use std::{os::unix::fs::MetadataExt as _, path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    crypto::ring::default_provider,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};
use tracing::warn;

use super::{
    pem::{authorities, certificates, private_key},
    web_config::{ClientAuth, TlsFiles},
};

/// Permission of all users to read.
const READABLE_BY_ALL: u32 = 0o004;

/// Reads certificate, key and authorities.
pub fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions(files))?;
    let builder = match &files.client_auth {
        ClientAuth::Anyone => builder.with_no_client_auth(),
        ClientAuth::IfGiven(ca) => builder.with_client_cert_verifier(verifier(ca, false)?),
        ClientAuth::Required(ca) => builder.with_client_cert_verifier(verifier(ca, true)?),
    };
    let certificates = certificates(&files.cert)?;
    let mut config =
        builder.with_single_cert(certificates, private_key(&files.key)?).with_context(|| {
            format!("use the key {} for {}", files.key.display(), files.cert.display())
        })?;
    if std::fs::metadata(&files.key).is_ok_and(|file| file.mode() & READABLE_BY_ALL != 0) {
        warn!("every user can read the private key {}: chmod 600", files.key.display());
    }
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn versions(files: &TlsFiles) -> Vec<&'static SupportedProtocolVersion> {
    [(files.tls12, &TLS12), (files.tls13, &TLS13)]
        .into_iter()
        .filter_map(|(is_on, version)| is_on.then_some(version))
        .collect()
}

fn verifier(ca: &Path, is_required: bool) -> Result<Arc<dyn ClientCertVerifier>> {
    let (roots, provider) = (Arc::new(authorities(ca)?), Arc::new(default_provider()));
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider);
    let builder = if is_required { builder } else { builder.allow_unauthenticated() };
    builder.build().with_context(|| format!("verify clients by {}", ca.display()))
}
