//! Servers for Prometheus, load balancers and the commands. All answers come from published data;
//! nothing here reads the kernel or delays the sensing loop.
//!
//! * [`state`]: shared by all servers: readiness, the operator's drain, the clients.
//! * [`metrics`] renders `/metrics`.
//! * [`listen`]: what an address serves, and to which [`networks`].
//! * [`http`] serves HTTP; [`agent_check`] answers HAProxy; [`limits`] bounds connections,
//!   fairly per address by [`places`].
//! * [`secure`]: TLS and credentials.
//! * [`admin`] is the root-only socket of `memsensor events`, `explain`, `drain`, `top`, with the
//!   messages of [`admin_protocol`].

pub mod admin;
pub mod admin_protocol;
pub mod agent_check;
mod audit;
pub mod http;
pub mod limits;
pub mod listen;
pub mod metrics;
pub mod networks;
pub mod places;
pub mod secure;
pub mod state;
