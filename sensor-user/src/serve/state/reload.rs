//! A request to read the configuration again; the daemon carries it out (`daemon/reload`).

use std::fmt::Debug;

use anyhow::Result;

/// Reads the configuration again.
pub trait Reload: Debug + Send + Sync {
    /// Reads it and replaces settings; returns what was changed. An error changes nothing. Opens
    /// files.
    fn reload(&self) -> Result<String>;
}
