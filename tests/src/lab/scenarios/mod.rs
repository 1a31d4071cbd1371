//! Does the verdict detect harm, and stay quiet without it? Runs services and loads in real cgroups.
//! Harm is defined by the latency of the service, against its own calm, not by what the scenario's
//! author expects.
//!
//! `scenarios` runs them. Nothing here is a test: on a shared machine it would pass and fail by
//! chance.
//!
//! * [`catalogue`]: the scenarios, as data.
//! * [`services`]: the real programs that judge, and [`users`], who ask them; [`probe`]: a service of
//!   this repository.
//! * [`load`]: the loads of this repository, a process each.
//! * [`testbed`]: cgroups, files and swap; [`sampler`]: what is measured; [`run`]: the sequence of a
//!   run.
//! * [`record`]: the measurements of a run, stored as text.
//! * [`harm`]: when the service was harmed.
//! * [`baselines`]: when common rules would have triggered; [`replay`]: when memsensor's rules
//!   would, from a record.
//! * [`scoring`]: what memsensor and each rule cost, from a record; [`outcome`]: what came of a run.
//! * [`truth`]: whether a postmortem names what was injected.
//! * [`table`]: all that as Markdown.

pub mod baselines;
pub mod catalogue;
pub mod harm;
pub mod load;
pub mod outcome;
pub mod probe;
pub mod record;
pub mod replay;
pub mod run;
mod sampler;
pub mod scoring;
pub mod services;
pub mod table;
mod testbed;
pub mod truth;
pub mod users;

/// A second, in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;
