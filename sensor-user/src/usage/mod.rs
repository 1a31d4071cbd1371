//! Which processes and cgroups have the memory, and which have grown.
//!
//! * [`scanner`]: when processes are read, and how.
//! * [`tracker`] follows them from scan to scan; [`growth`] keeps the sizes of one of them.

mod growth;
pub mod scanner;
pub mod tracker;
