//! Cgroups of this host, v1 and v2.
//!
//! * [`mounts`]: mount points of the hierarchies, and a list of all cgroups.
//! * [`path`]: the form of a path in the configuration.
//! * [`files`]: names and formats of the files that differ between v1 and v2.
//! * [`scope_files`]: open files of a scope, read at every sample; `limit_files`: those of its
//!   limits; [`scope_opener`] opens them.
//! * [`lxcfs`]: files of /proc that are not the kernel's own, in containers.
//! * [`stats`]: files that are opened for one reading.

pub mod files;
mod limit_files;
pub mod lxcfs;
pub mod mounts;
pub mod path;
pub mod scope_files;
pub mod scope_opener;
#[cfg(test)]
mod scope_tests;
pub mod stats;
