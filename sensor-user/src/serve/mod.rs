//! What the outside reads. Nothing here asks the kernel or holds up the sensing loop: everything
//! is answered from what was published.
//!
//! * [`metrics`] renders a snapshot, generic over the probes' specs, and what `scope_metrics` adds of
//!   each scope; [`classic`] is the older text.
//! * [`http`] serves it, with limits; [`agent_check`] answers HAProxy.
//! * [`askers`] are those who ask.
//! * [`state`] is the answer to "fit for traffic?"; [`maintenance`] is an operator's word on it.
//! * [`admin`] is the root-only socket behind `memsensor events`, `explain`, `drain`.
//! * [`client`] asks a running daemon over HTTP, for `memsensor check`.

pub mod admin;
pub mod agent_check;
pub mod askers;
mod cgroup_metrics;
pub mod classic;
pub mod client;
pub mod histogram;
pub mod http;
pub mod limits;
pub mod maintenance;
pub mod metrics;
mod scope_metrics;
mod self_metrics;
pub mod state;
