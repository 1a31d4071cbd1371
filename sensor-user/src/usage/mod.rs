//! Processes and cgroups by size and growth.
//!
//! * [`scanner`]: when processes are read, and how.
//! * [`tracker`] follows them from scan to scan; [`growth`] keeps the sizes of one process or
//!   cgroup.

mod growth;
pub mod scanner;
pub mod tracker;
