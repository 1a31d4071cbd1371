//! Figures of the record on disk. Not here: writing it (`recorder`).

use std::sync::Arc;

use arc_swap::ArcSwapOption;

/// Handle to the last figures; empty until the first, and where nothing is recorded.
pub type PublishedRecord = Arc<ArcSwapOption<RecordFigures>>;

/// What was written since the start, and what was not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordFigures {
    /// Bytes written.
    pub written_bytes: u64,
    /// Looks that were dropped because the disk was too slow.
    pub lost_looks: u64,
    /// Records that could not be written.
    pub lost_records: u64,
    /// Errors of files.
    pub errors: u64,
    /// Whether the last attempt to write succeeded.
    pub is_writable: bool,
}
