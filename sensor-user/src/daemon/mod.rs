//! The daemon: composition of all parts, and life cycle.
//!
//! * [`run`]: start and stop in the right order; [`compose`] builds the parts.
//! * [`config`]: all settings; [`config_escapes`]: an escape that it refuses.
//! * [`failure`]: reasons for a failed start.
//! * [`reload`]: settings that are replaced while it runs.
//! * [`listeners`]: addresses and the socket; `inherited`: sockets of the supervisor.
//! * [`threads`]: the threads beside the one that serves.
//! * [`rights`]: gives up rights after the start: [`own_user`] is the user that it becomes,
//!   [`sandbox`] and [`syscalls`] are what it may do then.
//! * [`hardening`]: locked memory and priority, for short response times while the host thrashes.
//! * [`systemd`]: notifications to the supervisor.
//! * [`store`]: the verdict and the drain, saved over a restart.

pub mod compose;
pub mod config;
mod config_escapes;
pub mod failure;
pub mod hardening;
mod inherited;
pub mod listeners;
pub mod own_user;
pub mod reload;
mod rights;
pub mod run;
pub mod sandbox;
pub mod store;
pub mod syscalls;
pub mod systemd;
pub mod threads;
