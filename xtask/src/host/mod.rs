//! The developer's machine: which programs, packages and toolchains it has, installing the missing
//! ones, and starting programs. Knows nothing of memsensor's tests, guests or documents.
//!
//! Lowest first: [`toolchain`] finds what builds the BPF object (`sensor-user/build.rs` includes
//! that file too), [`exec`] starts programs, [`apt`] installs Debian packages, [`cross`] builds for
//! another processor, [`inventory`] lists the developer tools, [`install`] installs the missing
//! ones.

pub(crate) mod apt;
pub(crate) mod cross;
pub(crate) mod exec;
pub(crate) mod install;
pub(crate) mod inventory;
#[allow(dead_code, reason = "only sensor-user/build.rs builds the BPF object")]
pub(crate) mod toolchain;
