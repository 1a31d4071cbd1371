//! The subcommands of `cargo xtask`, one file each. [`measurement`] is not a subcommand: it holds
//! the steps that measuring subcommands share. The methods are in `tests/src/lab`. Nor is
//! [`planted`], which checks that fuzzing finds bugs.

pub(crate) mod bench;
pub(crate) mod build;
pub(crate) mod ci;
pub(crate) mod dashboards;
pub(crate) mod dist;
pub(crate) mod faults;
pub(crate) mod fleet;
pub(crate) mod fuzz;
mod measurement;
mod planted;
pub(crate) mod replay;
pub(crate) mod rivals;
pub(crate) mod run;
pub(crate) mod scenarios;
pub(crate) mod setup;
pub(crate) mod soak;
pub(crate) mod systemd;
pub(crate) mod test;
pub(crate) mod thrash;
pub(crate) mod vm;
