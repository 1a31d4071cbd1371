//! Used by every layer: [`bytes`] of records, [`clock`]s, [`text`] from untrusted sources,
//! [`counter`]s that reset, [`recent_labels`], [`state_file`]s.
//!
//! Not here: anything about memory.

pub mod bytes;
pub mod clock;
pub mod counter;
pub mod recent_labels;
pub mod state_file;
pub mod text;
