//! The operator's drain: no scope gets traffic until `undrain`, or until its time is over.
//!
//! It outlives the daemon, but not a reboot: see [`sensor_core::common::state_file`].

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwapOption;
use serde::{Deserialize, Serialize};
use tracing::info;

use sensor_core::common::{
    clock::{boot_id, since_boot_ns},
    counter::nanos,
    state_file::StateFile,
};

/// Longer reasons are cut: a reason is shown in one line.
const MAX_REASON: usize = 200;

/// A drain: why, and until when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drain {
    /// The operator's reason.
    pub reason: String,
    /// The boot in which it was ordered.
    boot: String,
    /// When it ends by itself: CLOCK_BOOTTIME nanoseconds, a clock that cannot be set and that goes
    /// on during suspend.
    #[serde(skip_serializing_if = "Option::is_none")]
    until_ns: Option<u64>,
}

impl Drain {
    fn is_active(&self, now_ns: u64) -> bool {
        self.until_ns.is_none_or(|until| now_ns < until)
    }
}

/// The drain of this host, if there is one.
#[derive(Debug)]
pub struct OperatorDrain {
    drain: ArcSwapOption<Drain>,
    boot: String,
    /// Locked for each write. A write reads the drain after it has the lock, so the last write is
    /// up to date.
    file: Mutex<StateFile>,
}

impl OperatorDrain {
    /// Starts with the drain that the file holds.
    pub fn load(file: StateFile) -> Self {
        let boot = boot_id();
        let saved = file.read().filter(|drain: &Drain| drain.boot == boot);
        let drain = ArcSwapOption::new(saved.map(Arc::new));
        let this = Self { drain, boot, file: Mutex::new(file) };
        if let Some(drain) = this.drain().as_deref().and_then(Option::as_ref) {
            info!("still drained by an operator: {}", drain.reason);
        }
        this
    }

    /// The drain in effect. Does not allocate.
    pub fn drain(&self) -> Option<arc_swap::Guard<Option<Arc<Drain>>>> {
        self.drain_at(since_boot_ns())
    }

    fn drain_at(&self, now_ns: u64) -> Option<arc_swap::Guard<Option<Arc<Drain>>>> {
        let drain = self.drain.load();
        drain.as_ref()?.is_active(now_ns).then_some(drain)
    }

    /// Whether a drain is in effect. Does not allocate.
    pub fn is_drained(&self) -> bool {
        self.drain().is_some()
    }

    /// The reason of the drain in effect.
    pub fn reason(&self) -> Option<String> {
        self.drain().and_then(|drain| Some(drain.as_ref()?.reason.clone()))
    }

    /// Begins a drain, or replaces the one in effect. It takes effect at once, even if it cannot be
    /// saved.
    pub fn begin(&self, reason: &str, lasts: Option<Duration>) {
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let reason = reason.chars().map(plain).take(MAX_REASON).collect();
        let until = |lasts: Duration| since_boot_ns().saturating_add(nanos(lasts));
        let drain = Drain { reason, boot: self.boot.clone(), until_ns: lasts.map(until) };
        info!("drained by an operator: {}", drain.reason);
        self.drain.store(Some(Arc::new(drain)));
    }

    /// Ends the drain; returns whether one was in effect.
    pub fn end(&self) -> bool {
        let was_drained = self.is_drained();
        self.drain.store(None);
        if was_drained {
            info!("no longer drained by an operator");
        }
        was_drained
    }

    /// Saves the drain for a restart of the daemon. Runs on a thread of its own: the disk of a
    /// thrashing host may be slow, and the serving thread must not wait for it.
    pub async fn save(self: Arc<Self>) -> Result<()> {
        let write = move || {
            let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            match self.drain.load().as_deref() {
                Some(drain) => file.write(drain).context(
                    "the drain is in effect, but will not survive a restart of the daemon",
                ),
                None => file
                    .remove()
                    .context("the drain is ended, but a restart of the daemon would restore it"),
            }
        };
        tokio::task::spawn_blocking(write).await.context("write the drain")?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &tempfile::TempDir) -> StateFile {
        StateFile::beside(&dir.path().join("socket"), "drain.json")
    }

    #[tokio::test]
    async fn it_outlives_the_daemon() {
        let dir = tempfile::tempdir().expect("a directory");
        let daemon = || Arc::new(OperatorDrain::load(file(&dir)));
        let first = daemon();
        assert_eq!(first.reason(), None);
        first.begin("kernel update\n", None);
        assert_eq!(first.reason().as_deref(), Some("kernel update "));
        first.save().await.expect("saved");
        let second = daemon();
        assert_eq!(second.reason().as_deref(), Some("kernel update "));
        assert!(second.end());
        Arc::clone(&second).save().await.expect("removed");
        assert!(!second.end());
        Arc::clone(&second).save().await.expect("nothing to remove");
        assert_eq!(daemon().reason(), None);
    }

    #[test]
    fn a_disk_that_hangs_does_not_delay_serving() {
        let dir = tempfile::tempdir().expect("a directory");
        let drain = Arc::new(OperatorDrain::load(file(&dir)));
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let slow_write = drain.file.lock().expect("not locked yet");
        let (one, two) = runtime.block_on(async {
            drain.begin("one", None);
            let one = tokio::spawn(Arc::clone(&drain).save());
            // The only serving thread is not blocked.
            tokio::task::yield_now().await;
            assert!(drain.is_drained() && !one.is_finished());
            drain.begin("two", None);
            (one, tokio::spawn(Arc::clone(&drain).save()))
        });
        drop(slow_write);
        for write in [one, two] {
            runtime.block_on(write).expect("no panic").expect("saved");
        }
        let after = OperatorDrain::load(file(&dir));
        assert_eq!(after.reason().as_deref(), Some("two"), "in any order of the writes");
    }

    #[test]
    fn it_ends_by_a_monotonic_clock_and_with_its_boot() {
        let second = 1_000_000_000;
        let dir = tempfile::tempdir().expect("a directory");
        let drain = OperatorDrain::load(file(&dir));
        let before_ns = since_boot_ns();
        drain.begin("r", Some(Duration::from_mins(30)));
        let is_drained_at = |seconds: u64| drain.drain_at(before_ns + seconds * second).is_some();
        assert!(is_drained_at(0) && is_drained_at(1799) && !is_drained_at(1801));
        drain.begin("r", None);
        assert!(drain.drain_at(u64::MAX).is_some(), "without a time until undrain");
        for (boot, is_drained) in [(boot_id(), true), ("another".into(), false)] {
            let saved = Drain { reason: "r".into(), boot, until_ns: None };
            file(&dir).write(&saved).expect("written");
            assert_eq!(OperatorDrain::load(file(&dir)).is_drained(), is_drained);
        }
    }
}
