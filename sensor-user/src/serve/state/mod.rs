//! State that all servers share.
//!
//! * [`app`]: handles to published data, and to all of the following.
//! * [`readiness`]: state and weight of a scope, and why.
//! * [`drain`]: the operator's drain; [`clients`]: which clients have received it.
//! * [`connections`]: counts of connections.
//! * [`prefix`]: what counts as one client.
//! * [`settings`]: settings of serving.

pub mod app;
pub mod clients;
pub mod connections;
pub mod drain;
pub mod prefix;
pub mod readiness;
pub mod settings;
