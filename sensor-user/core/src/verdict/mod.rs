//! The verdict on a scope: from what was measured to the weight that load balancers get. Pure: no
//! I/O, and time is a parameter.
//!
//! ```text
//! Reading ─▶ ReadingHistory ─▶ Signals ─▶ Policy ─▶ RuleResults ─▶ WeightController ─▶ Verdict
//!                   └─▶ forecast ─┘
//! ```
//!
//! * [`reading`]: counters and sizes of one scope at one moment; each may be missing.
//! * [`attribution`]: which part of the host's stalls cgroups at their own limits caused.
//! * [`signals`]: changes over one, ten and sixty seconds.
//! * [`forecast`]: seconds until memory is exhausted; none without a trend.
//! * [`policy`]: the rules, their thresholds and reasons; which of them fire or hold.
//! * [`weight`]: hysteresis: how fast state and weight follow the rules.
//! * [`evaluator`]: all of the above for one scope; [`explain`] reports why.
//! * [`scope`]: a scope with its verdict; [`state`]: the states.
//! * [`served`]: the verdict of a host that serves from cgroups with limits.
//!
//! A scope is the host or a named cgroup; the rules are the same for both.

pub mod attribution;
pub mod evaluator;
pub mod explain;
pub mod forecast;
pub mod policy;
pub mod reading;
pub mod scope;
pub mod served;
pub mod signals;
pub mod state;
pub mod weight;

#[cfg(test)]
mod machines;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
