//! The command line.
//!
//! * [`args`]: commands and options, with their help.
//! * [`dispatch`] runs a command; [`exit`]: errors as one line and an exit code.
//! * [`admin_client`], [`readyz_client`]: requests to the running daemon; `tls_client`: TLS of the latter.
//! * [`check`], [`drain_wait`], [`probes`], [`rules`], [`top`]: output of commands;
//!   `running_daemon`: rights of the daemon, for `probes`.
//! * [`past`]: commands on the record.
//! * [`format`]: sizes, ages and names for a terminal; [`output`]: writing to stdout.
//! * [`logging`]: the log, through `log_queue`.

pub mod admin_client;
pub mod args;
pub mod check;
pub mod dispatch;
pub mod drain_wait;
pub mod exit;
pub mod format;
mod log_queue;
pub mod logging;
mod output;
pub mod past;
pub mod probes;
pub mod readyz_client;
pub mod rules;
mod running_daemon;
#[cfg(feature = "tls")]
mod tls_client;
#[cfg(not(feature = "tls"))]
#[path = "tls_client_absent.rs"]
mod tls_client;
pub mod top;
