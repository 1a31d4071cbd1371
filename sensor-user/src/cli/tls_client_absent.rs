//! In place of `tls_client` where memsensor is built without the feature `tls`.

use std::path::Path;

use anyhow::{Result, bail};
use tokio::net::TcpStream;

/// There is none.
pub(super) enum Tls {}

#[allow(clippy::unused_async, reason = "the function with TLS is async")]
impl Tls {
    /// Always an error.
    pub(super) fn new(_: &Path, _: Option<(&Path, &Path)>) -> Result<Self> {
        bail!("this memsensor was built without the feature `tls`, which https:// needs");
    }

    /// Never called.
    pub(super) async fn connect(&self, _: &str, _: TcpStream) -> Result<TcpStream> {
        match *self {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_the_feature() {
        let error = Tls::new(Path::new("ca.pem"), None).err().expect("no TLS").to_string();
        assert!(error.contains("without the feature `tls`"), "{error}");
    }
}
