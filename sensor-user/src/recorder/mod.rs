//! The record on disk: written by a thread of normal priority over bounded queues, and read by
//! commands, also from a copy of the directory.
//!
//! * [`thread`]: takes what others have published. [`usage`]: what is recorded of a scan;
//!   [`changes`]: changes of state, also for the log, of which [`line_limit`] limits the lines.
//! * [`writer`]: writes records, and goes on after errors; [`clock`]: their times; [`names`]: what
//!   their numbers mean.
//! * [`archive`]: reads them; [`earlier`]: the events of before a restart. [`segments`]: the files. [`settings`]: where, and how much.
//!
//! Not here: the format, and which looks are recorded (`sensor_core::record`).

pub mod archive;
pub mod changes;
pub mod clock;
pub mod earlier;
pub mod line_limit;
pub mod names;
pub mod segments;
pub mod settings;
pub mod thread;
pub mod usage;
pub mod writer;
