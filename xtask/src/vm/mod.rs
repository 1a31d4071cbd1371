//! Debian's kernels as guests in QEMU, all with the same static test binaries.
//!
//! Lowest first: [`machine`] describes the architectures, [`debian`] and [`kernel`] fetch kernels,
//! [`guest`] describes a guest, [`suite`] lists the guests of `cargo xtask vm`, [`host_packages`]
//! and [`guest_files`] collect what they need, [`image`] and [`qemu`] boot one guest, [`runner`]
//! boots the suite, [`report`] prints the results. [`thrash_guest`] is the one guest of `cargo
//! xtask thrash`. [`root_image`] builds root file systems of Debian releases; [`systemd_guests`] are
//! the guests of `cargo xtask systemd`, which boot them, and [`scenario_guests`] those of `cargo xtask
//! scenarios --guest`, which run services from them.

mod debian;
mod guest;
mod guest_files;
mod host_packages;
mod image;
pub(crate) mod kernel;
pub(crate) mod machine;
mod qemu;
pub(crate) mod report;
mod root_image;
pub(crate) mod runner;
pub(crate) mod scenario_guests;
pub(crate) mod suite;
pub(crate) mod systemd_guests;
pub(crate) mod thrash_guest;
