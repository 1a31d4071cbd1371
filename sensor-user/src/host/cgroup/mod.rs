//! Cgroups of this host, v1 and v2.
//!
//! * [`mounts`]: where the hierarchies are mounted, and which cgroups there are.
//! * [`files`]: names and formats of the files that differ between v1 and v2.
//! * [`scope_files`]: the open files of a scope, read at every sample.
//! * [`stats`]: files that are opened for one reading.

pub mod files;
pub mod mounts;
pub mod scope_files;
pub mod stats;
