//! An operator's drain: all scopes get no traffic until it is taken back or its time is over.
//!
//! It outlives the daemon, but not a reboot: see [`crate::host::state_file`].

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwapOption;
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::host::{
    clock::{boot_id, since_boot_ns},
    state_file::StateFile,
};

/// Longer reasons are cut: they are shown in one line.
const MAX_REASON: usize = 200;

/// Why and until when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drain {
    /// What the operator said.
    pub reason: String,
    /// Of which boot it is.
    boot: String,
    /// When it ends by itself: CLOCK_BOOTTIME, which nobody can set and which does not stop when the
    /// host sleeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    until_ns: Option<u64>,
}

impl Drain {
    fn holds(&self, now_ns: u64) -> bool {
        self.until_ns.is_none_or(|until| now_ns < until)
    }
}

/// Whether an operator has drained this host.
#[derive(Debug)]
pub struct OperatorDrain {
    drain: ArcSwapOption<Drain>,
    boot: String,
    /// One writes at a time, and writes what holds by then: the file is never behind for good.
    file: Mutex<StateFile>,
}

impl OperatorDrain {
    /// As it was left, by the file beside the socket.
    pub fn beside(socket: &Path) -> Self {
        let file = StateFile::beside(socket, "drain.json");
        let boot = boot_id();
        let left = file.read().filter(|drain: &Drain| drain.boot == boot);
        let drain = ArcSwapOption::new(left.map(Arc::new));
        let maintenance = Self { drain, boot, file: Mutex::new(file) };
        if let Some(drain) = maintenance.drain().as_deref().and_then(Option::as_ref) {
            info!("still drained by an operator: {}", drain.reason);
        }
        maintenance
    }

    /// The drain that holds now. Does not allocate.
    pub fn drain(&self) -> Option<arc_swap::Guard<Option<Arc<Drain>>>> {
        let drain = self.drain.load();
        drain.as_ref()?.holds(since_boot_ns()).then_some(drain)
    }

    /// Begins one, or replaces the one that holds. What is asked for holds at once, even if it cannot
    /// be kept.
    pub fn begin(&self, reason: &str, lasts: Option<Duration>) {
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let reason = reason.chars().map(plain).take(MAX_REASON).collect();
        let until = |lasts: Duration| {
            let ns = u64::try_from(lasts.as_nanos()).unwrap_or(u64::MAX);
            since_boot_ns().saturating_add(ns)
        };
        let drain = Drain { reason, boot: self.boot.clone(), until_ns: lasts.map(until) };
        info!("drained by an operator: {}", drain.reason);
        self.drain.store(Some(Arc::new(drain)));
    }

    /// Ends it; returns whether one held.
    pub fn end(&self) -> bool {
        let held = self.drain().is_some();
        self.drain.store(None);
        if held {
            info!("no longer drained by an operator");
        }
        held
    }

    /// Keeps what holds now over a restart. On a thread of its own: the disk of a host that thrashes
    /// may take its time, and whoever serves must not wait for it.
    pub async fn keep(self: Arc<Self>) -> Result<()> {
        let write = move || {
            let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            match self.drain.load().as_deref() {
                Some(drain) => file.write(drain).context("it holds, but not beyond a restart"),
                None => file.remove().context("it is ended, but would be back after a restart"),
            }
        };
        tokio::task::spawn_blocking(write).await.context("write what is to be kept")?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_outlives_the_daemon_and_ends_by_itself() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("socket");
        let reason =
            |m: &OperatorDrain| m.drain().and_then(|d| d.as_ref().map(|d| d.reason.clone()));
        let daemon = || Arc::new(OperatorDrain::beside(&socket));
        let first = daemon();
        assert_eq!(reason(&first), None);
        first.begin("kernel update\n", None);
        assert_eq!(reason(&first).as_deref(), Some("kernel update "));
        first.keep().await.expect("kept");
        let second = daemon();
        assert_eq!(reason(&second).as_deref(), Some("kernel update "));
        assert!(second.end());
        Arc::clone(&second).keep().await.expect("removed");
        assert!(!second.end());
        Arc::clone(&second).keep().await.expect("nothing to remove");
        assert_eq!(reason(&daemon()), None);
        second.begin("short", Some(Duration::from_secs(1)));
        assert_eq!(reason(&second).as_deref(), Some("short"));
        Arc::clone(&second).keep().await.expect("kept");
        std::thread::sleep(Duration::from_millis(1010));
        assert_eq!((reason(&second), reason(&daemon())), (None, None));
    }

    #[test]
    fn a_disk_that_hangs_holds_up_nobody() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("socket");
        let maintenance = Arc::new(OperatorDrain::beside(&socket));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("a runtime");
        let hangs = maintenance.file.lock().expect("nobody else");
        let (one, two) = runtime.block_on(async {
            maintenance.begin("one", None);
            let one = tokio::spawn(Arc::clone(&maintenance).keep());
            // The only thread that serves goes on.
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(maintenance.drain().is_some() && !one.is_finished());
            maintenance.begin("two", None);
            (one, tokio::spawn(Arc::clone(&maintenance).keep()))
        });
        drop(hangs);
        for write in [one, two] {
            runtime.block_on(write).expect("no panic").expect("kept");
        }
        let after = OperatorDrain::beside(&socket);
        let reason = after.drain().and_then(|d| d.as_ref().map(|d| d.reason.clone()));
        assert_eq!(reason.as_deref(), Some("two"), "in whatever order they were written");
    }

    #[test]
    fn it_ends_by_a_clock_that_nobody_sets_and_with_its_boot() {
        let second = 1_000_000_000;
        let drain = |until_ns| Drain { reason: "r".into(), boot: boot_id(), until_ns };
        for (until_ns, now_ns, holds) in [
            (None, u64::MAX, true),
            (Some(30 * second), 29 * second, true),
            (Some(30 * second), 30 * second, false),
        ] {
            assert_eq!(drain(until_ns).holds(now_ns), holds, "{until_ns:?} {now_ns}");
        }
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("socket");
        let maintenance = OperatorDrain::beside(&socket);
        maintenance.begin("r", Some(Duration::from_mins(30)));
        let until_ns = maintenance.drain().and_then(|d| d.as_ref().and_then(|d| d.until_ns));
        let left = until_ns.expect("it ends").saturating_sub(since_boot_ns());
        assert!((1790 * second..=1800 * second).contains(&left), "{left}");
        for (boot, holds) in [(boot_id(), true), ("another".into(), false)] {
            let file = StateFile::beside(&socket, "drain.json");
            file.write(&Drain { boot, ..drain(None) }).expect("written");
            assert_eq!(OperatorDrain::beside(&socket).drain().is_some(), holds);
        }
    }
}
