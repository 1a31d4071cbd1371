//! What every layer may use: [`bytes`] of records, [`clock`]s, [`text`] from untrusted sources, [`counter`]s that reset,
//! [`state_file`]s. Not for anything that knows what memory is.

pub mod bytes;
pub mod clock;
pub mod counter;
pub mod state_file;
pub mod text;
