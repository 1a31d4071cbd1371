//! The states of a verdict, and the severity of a rule.
//!
//! Not here: what load balancers get, which also depends on an operator's drain and on the age of
//! the sample (`model/readiness`).

use serde::{Deserialize, Serialize};

/// How strong the evidence of memory pressure is, in order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// No evidence.
    #[default]
    Calm,
    /// Less traffic would help.
    Degraded,
    /// Requests are delayed, or soon will be.
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
    /// All states, in order.
    pub const ALL: [Self; 3] = [Self::Ready, Self::Degraded, Self::Overloaded];

    /// Label in JSON, metrics and output.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Overloaded => "overloaded",
        }
    }
}
