//! A scope (the host, or a named cgroup) with its verdict.

use std::{collections::BTreeMap, sync::Arc};

use super::{evaluator::Verdict, reading::Reading, weight::ScopeState};

/// The name of the scope that is the whole machine.
pub const HOST: &str = "host";

/// Longest name of a scope: it must fit in an agent-check's line and in a label.
pub const MAX_SCOPE_NAME: usize = 64;

/// State and weight of each scope, by name; saved over a restart of the daemon.
pub type ScopeStates = BTreeMap<String, ScopeState>;

/// One scope as measured and judged.
#[derive(Debug, Clone, PartialEq)]
pub struct ScopeVerdict {
    /// Name of the scope.
    pub scope: Arc<str>,
    /// Id of its cgroup; `None` for the host, and if the cgroup does not exist.
    pub cgroup_id: Option<u64>,
    /// What was measured.
    pub reading: Reading,
    /// What follows from it.
    pub verdict: Verdict,
    /// Why stalls could not be measured, if so: the cgroup does not exist, or there is neither PSI nor
    /// a probe.
    pub unknown_reason: Option<Arc<str>>,
}
