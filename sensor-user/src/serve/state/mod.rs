//! What all servers share. Cheap to clone.
//!
//! * [`app`]: handles to what is published, and to everything below.
//! * [`readiness`]: state and weight of a scope, and why.
//! * [`drain`]: the operator's drain; [`clients`]: which clients know of it.
//! * [`settings`]: what the configuration may change.

pub mod app;
pub mod clients;
pub mod drain;
pub mod readiness;
pub mod settings;
