//! In place of all of it where memsensor is built without the feature `tls`: a listener that needs it
//! is an error. Nothing else is ever called, because there is no [`listener::Security`].

/// See the module of this name.
pub mod listener {
    use std::{net::IpAddr, path::PathBuf};

    use anyhow::{Result, bail};
    use axum::http::HeaderMap;

    use crate::serve::secure::{passwords::Passwords, refusal::Refusal};

    /// The files that a listener was configured with.
    #[derive(Debug, Clone, Default)]
    pub struct Files {
        /// TLS and users.
        pub web_config: Option<PathBuf>,
        /// A token.
        pub bearer_token: Option<PathBuf>,
    }

    /// There is none.
    #[derive(Debug)]
    pub enum Security {}

    #[allow(clippy::unused_async, reason = "the functions with TLS are async")]
    impl Security {
        /// Always an error.
        pub fn load(_: &Files) -> Result<Self> {
            bail!(
                "this memsensor was built without the feature `tls`, which web_config and \
                 bearer_token_file need"
            );
        }

        /// Never called.
        pub fn paths(&self) -> &[PathBuf] {
            match *self {}
        }

        /// Never called.
        pub async fn accept<S>(&self, _: S) -> std::io::Result<S> {
            match *self {}
        }

        /// Never called.
        pub async fn refusal(&self, _: &Passwords, _: IpAddr, _: &HeaderMap) -> Option<Refusal> {
            match *self {}
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_error_names_the_feature() {
            let error = Security::load(&Files::default()).expect_err("no TLS").to_string();
            assert!(error.contains("without the feature `tls`"), "{error}");
        }
    }
}

/// See the module of this name.
pub mod passwords {
    use std::sync::Arc;

    use anyhow::Result;

    /// Always empty.
    #[derive(Debug)]
    pub struct Queue;

    impl Queue {
        /// Empty.
        pub fn new() -> Result<Arc<Self>> {
            Ok(Arc::new(Self))
        }
    }

    /// Checks nothing.
    #[derive(Debug)]
    pub struct Passwords;

    impl Passwords {
        /// Nothing to check.
        pub fn new(_: Arc<Queue>) -> Arc<Self> {
            Arc::new(Self)
        }
    }
}

/// See the module of this name.
pub mod keeper {
    use std::sync::Arc;

    use super::{listener::Security, passwords::Queue};
    use crate::publish::control::Shutdown;

    /// There is no work.
    #[derive(Debug)]
    pub struct Keeper {
        /// None.
        pub listeners: Vec<Arc<Security>>,
        /// Always empty.
        pub queue: Arc<Queue>,
        /// Ends the thread.
        pub shutdown: Arc<Shutdown>,
    }

    impl Keeper {
        /// Never called.
        pub fn run(self) {}
    }
}
