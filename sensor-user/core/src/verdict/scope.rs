//! A scope (the host, or a named cgroup) with its verdict.

use std::{collections::BTreeMap, sync::Arc};

use super::{evaluator::Verdict, reading::Reading, weight::ScopeState};

/// Name of the scope that is the whole host.
pub const HOST: &str = "host";

/// Longest name of a scope: it must fit in an agent-check's line and in a label.
pub const MAX_SCOPE_NAME: usize = 64;

/// Whether a scope can have this name: it appears in URLs, labels, agent-check lines and terminals.
pub fn is_scope_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=MAX_SCOPE_NAME).contains(&name.len()) && name.chars().all(plain)
}

/// State and weight of each scope, by name; saved over a restart of the daemon.
pub type ScopeStates = BTreeMap<String, ScopeState>;

/// One scope with its reading and its verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct ScopeVerdict {
    /// Name of the scope.
    pub scope: Arc<str>,
    /// Id of its cgroup; `None` for the host, and if the cgroup does not exist.
    pub cgroup_id: Option<u64>,
    /// The last reading.
    pub reading: Reading,
    /// The verdict on it.
    pub verdict: Verdict,
    /// Path of the cgroup whose verdict it is: one that the host serves from. `None` if the verdict
    /// is the scope's own.
    pub decided_by: Option<Arc<str>>,
    /// Why stalls could not be measured, if so: the cgroup does not exist, or there is neither PSI
    /// nor a probe.
    pub unknown_reason: Option<Arc<str>>,
}
