//! Certificates and keys in PEM, of listeners and of `memsensor check`.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::files::read;

/// The certificates of a file; at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| anyhow::anyhow!("{}: not a certificate in PEM: {e}", path.display()))?;
    ensure!(!certificates.is_empty(), "{}: no certificate in PEM", path.display());
    Ok(certificates)
}

/// The private key of a file.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|e| anyhow::anyhow!("{}: no private key in PEM: {e}", path.display()))
}

/// The certificates of a file as those that are trusted.
pub(crate) fn authorities(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).with_context(|| format!("use {}", path.display()))?;
    }
    Ok(roots)
}
