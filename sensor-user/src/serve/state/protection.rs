//! What protects the host from the daemon, as far as only the daemon knows it. The kernel reports
//! the rest in /proc/PID/status (`host/process_rights`).

use serde::{Deserialize, Serialize};

/// Set once, before the daemon serves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// Version of Landlock that restricts files; `None` without Landlock.
    pub landlock: Option<String>,
    /// What could not be set up, with the reason or a remedy.
    pub missing: Vec<String>,
}
