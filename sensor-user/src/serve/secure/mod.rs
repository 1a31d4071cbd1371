//! TLS and authentication of HTTP listeners, by the files of Prometheus's exporter-toolkit.
//!
//! * [`web_config`] reads the file; [`tls`] the certificates; [`credentials`] has users and token.
//! * [`files`] reads files of limited length.
//! * [`listener`]: all of these for one listener, and their replacement while it runs.
//! * [`passwords`]: checks that take long; [`keeper`] is the thread that makes them, and that looks
//!   for changed files.

pub mod credentials;
mod files;
pub mod keeper;
pub mod listener;
pub mod passwords;
pub mod tls;
pub mod web_config;
