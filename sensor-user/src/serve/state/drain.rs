//! The operator's drain: no scope gets traffic until `undrain`, or until its time is over.
//!
//! It outlives the daemon, but not a reboot: see [`sensor_core::common::state_file`].

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use arc_swap::ArcSwapOption;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::info;

use sensor_core::common::{
    clock::{boot_id, since_boot_ns},
    counter::nanos,
    state_file::StateFile,
    text::is_line_end,
};

use crate::publish::control::EventFd;

/// Time that a client waits until its drain is saved.
const SAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longer reasons are cut.
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

/// A reason that is shown in one line.
fn plain(reason: &str) -> String {
    let plain = |c: char| if c.is_control() || is_line_end(c) { ' ' } else { c };
    reason.chars().map(plain).take(MAX_REASON).collect()
}

/// The drain of this host, if there is one.
#[derive(Debug)]
pub struct OperatorDrain {
    drain: ArcSwapOption<Drain>,
    boot: String,
    file: StateFile,
    /// Number of the last request to save it.
    requested: AtomicU64,
    wake: EventFd,
    saved: watch::Sender<Saved>,
}

/// The last write of the file.
#[derive(Debug, Clone, Default)]
struct Saved {
    /// All requests up to this number are served.
    number: u64,
    failure: Option<String>,
}

impl OperatorDrain {
    /// Starts with the drain that the file holds.
    pub fn load(file: StateFile) -> Result<Self> {
        let boot = boot_id();
        let saved = file.read().filter(|drain: &Drain| drain.boot == boot);
        let saved = saved.map(|drain| Drain { reason: plain(&drain.reason), ..drain });
        let this = Self {
            drain: ArcSwapOption::new(saved.map(Arc::new)),
            boot,
            file,
            requested: AtomicU64::new(0),
            wake: EventFd::new()?,
            saved: watch::Sender::default(),
        };
        if let Some(drain) = this.drain().as_deref().and_then(Option::as_ref) {
            info!("still drained by an operator: {}", drain.reason);
        }
        Ok(this)
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
        let until = |lasts: Duration| since_boot_ns().saturating_add(nanos(lasts));
        let drain =
            Drain { reason: plain(reason), boot: self.boot.clone(), until_ns: lasts.map(until) };
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

    /// Saves the drain for a restart of the daemon: waits for the thread that writes it. The disk
    /// of a thrashing host may be slow, and the serving thread must not wait for it.
    pub async fn save(&self) -> Result<()> {
        let mut saved = self.saved.subscribe();
        let number = self.requested.fetch_add(1, Ordering::AcqRel) + 1;
        self.wake.signal();
        let served = saved.wait_for(|saved| saved.number >= number);
        match tokio::time::timeout(SAVE_TIMEOUT, served).await {
            Ok(Ok(saved)) => match &saved.failure {
                Some(failure) => bail!("{failure}"),
                None => Ok(()),
            },
            _ => bail!(
                "it is in effect, but not saved after {} s: a restart of the daemon may undo it",
                SAVE_TIMEOUT.as_secs()
            ),
        }
    }

    /// Writes the file if that was requested. Only one thread calls this; it may wait for the disk.
    pub fn write_if_requested(&self) {
        self.wake.take();
        // Before the drain is read: a later request is for another write.
        let number = self.requested.load(Ordering::Acquire);
        if number == self.saved.borrow().number {
            return;
        }
        let failure = self.write().err().map(|e| format!("{e:#}"));
        self.saved.send_replace(Saved { number, failure });
    }

    fn write(&self) -> Result<()> {
        match self.drain.load().as_deref() {
            Some(drain) => self
                .file
                .write(drain)
                .context("the drain is in effect, but will not survive a restart of the daemon"),
            None => self
                .file
                .remove()
                .context("the drain is ended, but a restart of the daemon would restore it"),
        }
    }
}

impl AsFd for OperatorDrain {
    /// Readable while a write is requested.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &tempfile::TempDir) -> StateFile {
        StateFile::beside(&dir.path().join("socket"), "drain.json")
    }

    fn load(dir: &tempfile::TempDir) -> OperatorDrain {
        OperatorDrain::load(file(dir)).expect("an eventfd")
    }

    /// Saves it, with a thread that writes.
    async fn save(drain: &OperatorDrain) -> Result<()> {
        let write = async {
            tokio::task::yield_now().await;
            drain.write_if_requested();
        };
        tokio::join!(drain.save(), write).0
    }

    #[tokio::test]
    async fn it_outlives_the_daemon() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = load(&dir);
        assert_eq!(first.reason(), None);
        first.begin("kernel update\u{2028}", None);
        assert_eq!(first.reason().as_deref(), Some("kernel update "));
        save(&first).await.expect("saved");
        let second = load(&dir);
        assert_eq!(second.reason().as_deref(), Some("kernel update "));
        assert!(second.end());
        save(&second).await.expect("removed");
        assert!(!second.end());
        save(&second).await.expect("nothing to remove");
        assert_eq!(load(&dir).reason(), None);
    }

    #[test]
    fn a_reason_in_the_file_is_shown_in_one_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let reason = format!("a\u{1b}[2J\n\u{9b}\u{2028}{}", "b".repeat(MAX_REASON));
        let drain = Drain { reason, boot: boot_id(), until_ns: None };
        file(&dir).write(&drain).expect("written");
        let reason = load(&dir).reason().expect("drained");
        assert_eq!(reason, format!("a [2J   {}", "b".repeat(MAX_REASON - 8)));
    }

    #[tokio::test]
    async fn a_drain_that_cannot_be_saved_is_an_error_and_in_effect() {
        let dir = tempfile::tempdir().expect("a directory");
        let missing = StateFile::beside(&dir.path().join("no/socket"), "drain.json");
        let drain = OperatorDrain::load(missing).expect("an eventfd");
        drain.begin("r", None);
        let error = save(&drain).await.expect_err("no such directory");
        assert!(error.to_string().contains("will not survive a restart"), "{error}");
        assert!(drain.is_drained());
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_does_not_delay_serving() {
        let dir = tempfile::tempdir().expect("a directory");
        let drain = Arc::new(load(&dir));
        let save = |drain: &Arc<OperatorDrain>| {
            let drain = Arc::clone(drain);
            tokio::spawn(async move { drain.save().await })
        };
        // Nothing writes. The only serving thread is not blocked.
        drain.begin("one", None);
        let one = save(&drain);
        tokio::task::yield_now().await;
        assert!(drain.is_drained() && !one.is_finished());
        let error = one.await.expect("no panic").expect_err("not saved");
        assert!(error.to_string().contains("not saved after 5 s"), "{error}");
        drain.begin("two", None);
        let two = save(&drain);
        drain.begin("three", None);
        let three = save(&drain);
        tokio::task::yield_now().await;
        drain.write_if_requested();
        for saved in [two, three] {
            saved.await.expect("no panic").expect("saved");
        }
        assert_eq!(load(&dir).reason().as_deref(), Some("three"), "the last one");
        drain.end();
        drain.write_if_requested();
        assert_eq!(load(&dir).reason().as_deref(), Some("three"), "no request, no write");
    }

    #[test]
    fn it_ends_by_a_monotonic_clock_and_with_its_boot() {
        let second = 1_000_000_000;
        let dir = tempfile::tempdir().expect("a directory");
        let drain = load(&dir);
        let before_ns = since_boot_ns();
        drain.begin("r", Some(Duration::from_mins(30)));
        let is_drained_at = |seconds: u64| drain.drain_at(before_ns + seconds * second).is_some();
        assert!(is_drained_at(0) && is_drained_at(1799) && !is_drained_at(1801));
        drain.begin("r", None);
        assert!(drain.drain_at(u64::MAX).is_some(), "without a time until undrain");
        for (boot, is_drained) in [(boot_id(), true), ("another".into(), false)] {
            let saved = Drain { reason: "r".into(), boot, until_ns: None };
            file(&dir).write(&saved).expect("written");
            assert_eq!(load(&dir).is_drained(), is_drained);
        }
    }
}
