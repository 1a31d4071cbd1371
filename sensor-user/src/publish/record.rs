//! Figures of the record on disk, for metrics. The recorder may wait for a disk for minutes, so each
//! figure is there without it. Not here: writing the record (`recorder`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What was written since the start, and what was not.
#[derive(Debug, Default)]
pub struct RecordFigures {
    is_on: AtomicBool,
    is_writable: AtomicBool,
    written_bytes: AtomicU64,
    lost_looks: AtomicU64,
    lost_entries: AtomicU64,
    synced_unix: AtomicU64,
}

/// The figures at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Whether the last attempt to write succeeded.
    pub is_writable: bool,
    /// Bytes written.
    pub written_bytes: u64,
    /// Looks that were dropped because the disk was too slow.
    pub lost_looks: u64,
    /// Other entries that could not be written.
    pub lost_entries: u64,
    /// When everything before was last on disk: seconds since 1970, 0 if never.
    pub synced_unix: u64,
}

impl RecordFigures {
    /// Something is recorded from now on.
    pub fn set_on(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// Replaces the figures, but for lost looks.
    pub fn set(&self, figures: Figures) {
        let Figures { is_writable, written_bytes, lost_entries, synced_unix, .. } = figures;
        self.is_writable.store(is_writable, Ordering::Relaxed);
        self.written_bytes.store(written_bytes, Ordering::Relaxed);
        self.lost_entries.store(lost_entries, Ordering::Relaxed);
        self.synced_unix.store(synced_unix, Ordering::Relaxed);
    }

    /// Counts a look that was dropped.
    pub fn lose_look(&self) {
        self.lost_looks.fetch_add(1, Ordering::Relaxed);
    }

    /// Looks that were dropped so far.
    pub fn lost_looks(&self) -> u64 {
        self.lost_looks.load(Ordering::Relaxed)
    }

    /// The figures; `None` if nothing is recorded.
    pub fn now(&self) -> Option<Figures> {
        self.is_on.load(Ordering::Relaxed).then(|| Figures {
            is_writable: self.is_writable.load(Ordering::Relaxed),
            written_bytes: self.written_bytes.load(Ordering::Relaxed),
            lost_looks: self.lost_looks(),
            lost_entries: self.lost_entries.load(Ordering::Relaxed),
            synced_unix: self.synced_unix.load(Ordering::Relaxed),
        })
    }
}
