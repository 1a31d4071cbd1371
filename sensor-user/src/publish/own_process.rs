//! Figures of the daemon's own process. Not here: reading them (`host/own_process`).

use std::sync::Arc;

use arc_swap::ArcSwapOption;

/// Handle to the last figures; empty until the first.
pub type PublishedProcess = Arc<ArcSwapOption<ProcessFigures>>;

/// Figures of a process. A figure that could not be read is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ProcessFigures {
    /// Seconds on a CPU, in user and kernel mode.
    pub cpu_seconds: Option<f64>,
    /// Resident memory in bytes.
    pub resident_bytes: Option<f64>,
    /// Memory that cannot be reclaimed, in bytes.
    pub locked_bytes: Option<f64>,
    /// Address space in bytes.
    pub virtual_bytes: Option<f64>,
    /// Number of threads.
    pub threads: Option<f64>,
    /// Start, in seconds since 1970.
    pub start_seconds: Option<f64>,
    /// Open file descriptors.
    pub open_fds: Option<f64>,
    /// Most file descriptors that may be open.
    pub max_fds: Option<f64>,
}
