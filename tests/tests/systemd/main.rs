//! The shipped units under a real systemd. `cargo xtask systemd` boots Debian releases with
//! memsensor's files in `/root/memsensor`, as an operator copies them, and runs this in each. The
//! first test installs them with the README's own commands; anywhere else every test fails at once.
//!
//! * [`install`]: the user, what systemd thinks of the units.
//! * [`rights`]: user, capabilities, restrictions, directories, protected memory.
//! * [`notify`]: start, status, watchdog, and restarts after a death.
//! * [`commands`]: what the service serves, and the commands that an operator runs.
//! * [`reload`], [`state`]: a changed configuration; what a stop and a start keep.
//! * [`socket`]: restarts with the ports held by systemd.
//! * [`oom`]: a kill in another unit.
//! * [`journal`]: what all of them left in the journal; runs last.
#![allow(clippy::panic, reason = "tests fail by panicking")]

mod commands;
mod install;
mod journal;
mod notify;
mod oom;
mod reload;
mod rights;
mod service;
mod socket;
mod state;
