//! TLS and authentication of HTTP listeners, by the files of Prometheus's exporter-toolkit.
//!
//! * `web_config` reads the file; `tls` the certificates, in `pem`; `credentials` has users and token.
//! * `files` reads files of limited length.
//! * `listener`: all of these for one listener, and their replacement while it runs.
//! * `passwords`: checks that take long; `keeper` is the thread that makes them, and that looks
//!   for changed files.
//! * [`refusal`]: why a request is not answered; `absent`: a build without the feature `tls`.

#[cfg(not(feature = "tls"))]
mod absent;
#[cfg(feature = "tls")]
pub mod credentials;
#[cfg(feature = "tls")]
mod files;
#[cfg(feature = "tls")]
pub mod keeper;
#[cfg(feature = "tls")]
pub mod listener;
#[cfg(feature = "tls")]
pub mod passwords;
#[cfg(feature = "tls")]
pub(crate) mod pem;
pub mod refusal;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(feature = "tls")]
pub mod web_config;

#[cfg(not(feature = "tls"))]
pub use absent::{keeper, listener, passwords};
