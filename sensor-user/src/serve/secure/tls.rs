//! TLS of a listener, from certificate and key. Not here: when the files are read (`keeper`).
//!
//! Sessions are never resumed, and there are no tickets: nothing is kept per client.

use std::{os::unix::fs::MetadataExt as _, path::Path, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};
use tracing::warn;

use super::{
    files::read,
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

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| anyhow::anyhow!("{}: not a certificate in PEM: {e}", path.display()))?;
    ensure!(!certificates.is_empty(), "{}: no certificate in PEM", path.display());
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|e| anyhow::anyhow!("{}: no private key in PEM: {e}", path.display()))
}

fn verifier(ca: &Path, is_required: bool) -> Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).with_context(|| format!("use {}", ca.display()))?;
    }
    let provider = Arc::new(default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if is_required { builder } else { builder.allow_unauthenticated() };
    builder.build().with_context(|| format!("verify clients by {}", ca.display()))
}
