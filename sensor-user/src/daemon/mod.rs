//! The daemon: composition of all parts, and life cycle.
//!
//! * [`run`]: start and stop in the right order; [`compose`] builds the parts.
//! * [`config`]: all settings; [`config_escapes`]: an escape that it refuses.
//! * [`failure`]: reasons for a failed start.
//! * [`listeners`]: addresses and the socket.
//! * [`threads`]: the threads beside the one that serves.
//! * [`hardening`]: locked memory and priority, for short response times while the host thrashes.
//! * [`systemd`]: notifications to the supervisor.
//! * [`store`]: the verdict and the drain, saved over a restart.

pub mod compose;
pub mod config;
mod config_escapes;
pub mod failure;
pub mod hardening;
pub mod listeners;
pub mod run;
pub mod store;
pub mod systemd;
pub mod threads;
