//! An operator's drain: all scopes get no traffic until it is taken back or its time is over.
//!
//! It outlives the daemon, but not a reboot: see [`crate::host::state_file`].

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwapOption;
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::host::state_file::StateFile;

/// Longer reasons are cut: they are shown in one line.
const MAX_REASON: usize = 200;

/// Why and until when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drain {
    /// What the operator said.
    pub reason: String,
    /// When it ends by itself: seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_unix: Option<f64>,
}

/// Whether an operator has drained this host.
#[derive(Debug)]
pub struct Maintenance {
    drain: ArcSwapOption<Drain>,
    file: StateFile,
}

impl Maintenance {
    /// As it was left, by the file beside the socket.
    pub fn beside(socket: &Path) -> Self {
        let file = StateFile::beside(socket, "drain.json");
        let drain = ArcSwapOption::new(file.read().map(Arc::new));
        let maintenance = Self { drain, file };
        if let Some(drain) = maintenance.drain().as_deref().and_then(Option::as_ref) {
            info!("still drained by an operator: {}", drain.reason);
        }
        maintenance
    }

    /// The drain that holds now. Does not allocate.
    pub fn drain(&self) -> Option<arc_swap::Guard<Option<Arc<Drain>>>> {
        let drain = self.drain.load();
        let holds = drain.as_ref()?.until_unix.is_none_or(|until| now_unix() < until);
        holds.then_some(drain)
    }

    /// Begins one, or replaces the one that holds.
    pub fn begin(&self, reason: &str, lasts: Option<Duration>) -> Result<()> {
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let reason = reason.chars().map(plain).take(MAX_REASON).collect();
        let until_unix = lasts.map(|lasts| now_unix() + lasts.as_secs_f64());
        let drain = Drain { reason, until_unix };
        info!("drained by an operator: {}", drain.reason);
        let drain = Arc::new(drain);
        // What is asked for holds, even if it cannot be kept.
        self.drain.store(Some(Arc::clone(&drain)));
        self.file.write(&*drain).context("it holds, but not beyond a restart")
    }

    /// Ends it; returns whether one held.
    pub fn end(&self) -> Result<bool> {
        let held = self.drain().is_some();
        self.drain.store(None);
        if held {
            info!("no longer drained by an operator");
        }
        self.file.remove().context("it is ended, but would be back after a restart")?;
        Ok(held)
    }
}

fn now_unix() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_outlives_the_daemon_and_ends_by_itself() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("socket");
        let reason = |m: &Maintenance| m.drain().and_then(|d| d.as_ref().map(|d| d.reason.clone()));
        let first = Maintenance::beside(&socket);
        assert_eq!(reason(&first), None);
        first.begin("kernel update\n", None).expect("kept");
        assert_eq!(reason(&first).as_deref(), Some("kernel update "));
        let second = Maintenance::beside(&socket);
        assert_eq!(reason(&second).as_deref(), Some("kernel update "));
        assert!(second.end().expect("removed"));
        assert!(!second.end().expect("nothing to remove"));
        assert_eq!(reason(&Maintenance::beside(&socket)), None);
        second.begin("short", Some(Duration::from_millis(50))).expect("kept");
        assert_eq!(reason(&second).as_deref(), Some("short"));
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!((reason(&second), reason(&Maintenance::beside(&socket))), (None, None));
    }
}
