//! State that all servers share.
//!
//! * [`app`]: handles to published data, and to all of the following.
//! * [`background`]: work for commands that the serving thread does not do itself.
//! * [`readiness`]: state and weight of a scope, and why.
//! * [`drain`]: the operator's drain; [`clients`]: which clients have received it.
//! * [`connections`]: counts of connections.
//! * [`prefix`]: what counts as one client.
//! * [`protection`]: what protects the host from the daemon.
//! * [`settings`]: settings of serving; [`reload`]: a request to read them again.

pub mod app;
pub mod background;
pub mod clients;
pub mod connections;
pub mod drain;
pub mod prefix;
pub mod protection;
pub mod readiness;
pub mod reload;
pub mod settings;
