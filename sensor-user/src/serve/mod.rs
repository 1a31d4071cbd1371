//! What the outside reads. Nothing here asks the kernel or holds up the sensing loop: everything
//! is answered from what was published.
//!
//! * [`metrics`] renders a snapshot, generic over the probes' specs; [`classic`] is the older text.
//! * [`http`] serves it, with limits; [`agent_check`] answers HAProxy.
//! * [`admin`] is the root-only socket behind `memsensor events`.

pub mod admin;
pub mod agent_check;
pub mod classic;
pub mod http;
pub mod limits;
pub mod metrics;
pub mod state;
