//! TLS of `memsensor check`, as the client of a listener with TLS.
//!
//! Not here: the request (`readyz_client`).

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use rustls::{
    ClientConfig,
    crypto::ring::default_provider,
    pki_types::ServerName,
    version::{TLS12, TLS13},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::serve::secure::pem::{authorities, certificates, private_key};

/// Opens TLS connections to servers that it trusts.
pub(super) struct Tls(TlsConnector);

impl Tls {
    /// Trusts servers with a certificate of these authorities, and shows them a certificate of its
    /// own if it has one.
    pub(super) fn new(cacert: &Path, identity: Option<(&Path, &Path)>) -> Result<Self> {
        let roots = authorities(cacert).context("--cacert")?;
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let certificates = certificates(cert).context("--cert")?;
                let private_key = private_key(key).context("--key")?;
                builder.with_client_auth_cert(certificates, private_key).with_context(|| {
                    format!("use the key {} for {}", key.display(), cert.display())
                })?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// The handshake with a server of this name or address.
    pub(super) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned())
            .with_context(|| format!("{host:?} is neither a name nor an address"))?;
        self.0.connect(name, stream).await.context("TLS")
    }
}
