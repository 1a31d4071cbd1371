//! From what was measured to what a load balancer should do. Pure: no I/O, and time is a parameter.
//!
//! ```text
//! Reading (one look) ─▶ Past ─▶ Signals (shares and rates) ─▶ policy ─▶ Evidence ─▶ Pace ─▶ Verdict
//!                        └────▶ forecast ──────┘
//! ```
//!
//! * [`reading`]: what one look found in one scope: counters and sizes, each of which may be missing.
//! * [`signals`]: what changed over one, ten and sixty seconds.
//! * [`forecast`]: when memory will be gone, or nothing if there is no trend.
//! * [`policy`]: the rules, their thresholds and why; which of them hold.
//! * [`pace`]: hysteresis: how fast the answer may follow the evidence.
//! * [`judge`]: the above in one, for one scope; [`explain`] tells why.
//!
//! A scope is the host or a named cgroup; what follows is the same for both.

pub mod explain;
pub mod forecast;
pub mod judge;
pub mod pace;
pub mod policy;
pub mod reading;
pub mod signals;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

/// How bad it is, in order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing speaks against full traffic.
    #[default]
    Calm,
    /// Less traffic would help.
    Degraded,
    /// Users suffer, or are about to.
    Overloaded,
}

/// What a load balancer should do with a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerdictState {
    /// Full weight.
    Ready,
    /// Less weight.
    Degraded,
    /// No new traffic.
    Overloaded,
}

impl VerdictState {
    /// All, in order.
    pub const ALL: [Self; 3] = [Self::Ready, Self::Degraded, Self::Overloaded];

    /// Its label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Overloaded => "overloaded",
        }
    }
}
