//! What records say. Plain data; sizes are bytes, durations nanoseconds unless a name says otherwise.
//!
//! Not here: how they are encoded ([`super::codec`]).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{model::event::Event, verdict::state::VerdictState};

/// A record's content.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// The first record of a segment.
    Schema(Schema),
    /// What one look of the sensing loop found.
    Look(Look),
    /// Processes and cgroups, as one scan found them.
    Usage(Usage),
    /// A kill, a signal, or a command of an operator, with its report.
    Event(Arc<Event>),
    /// A change of a scope's state.
    Change(Change),
    /// The answer to a balancer, where it differs from the one before.
    Answer(Answer),
    /// The daemon started or ended.
    Life(Life),
    /// Records that are missing, and why.
    Missing(Missing),
}

/// The names of what the other records have by number. It makes a segment readable by another version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// Version of memsensor.
    pub version: String,
    /// The host's name.
    pub host: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Names of scopes with the paths of their cgroups, without the host.
    pub scopes: Vec<(String, String)>,
    /// Names of signals, in the order of [`ScopeLook::signals`].
    pub signals: Vec<String>,
    /// Names of rules, in the order of the bits of [`ScopeLook::fires`].
    pub rules: Vec<String>,
    /// Names of the causes of stalls, in the order of [`Look::stalls_ns`].
    pub causes: Vec<String>,
    /// Names of the kinds of memory, in the order of [`Usage::memory`].
    pub memory: Vec<String>,
    /// The same for a scope, in the order of [`Usage::scopes`].
    pub scope_memory: Vec<String>,
}

/// What one look of the sensing loop found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// The host, then the other scopes.
    pub scopes: Vec<ScopeLook>,
    /// The stall clock by cause, summed over tasks; empty without probes.
    pub stalls_ns: Vec<u64>,
}

/// One scope in a look.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ScopeLook {
    /// Its name.
    pub scope: String,
    /// Its state; `None` if it could not be measured.
    pub state: Option<VerdictState>,
    /// Share of the usual traffic that it should get: 0 to 1.
    pub weight: f32,
    /// The rules that fire, by bit.
    pub fires: u64,
    /// The rules that fire or hold, by bit.
    pub holds: u64,
    /// Signals; `None` if one was not measured.
    pub signals: Vec<Option<f32>>,
    /// Memory that it may use.
    pub total_bytes: Option<u64>,
    /// Memory that can be allocated without swapping.
    pub available_bytes: Option<u64>,
    /// Free swap.
    pub swap_free_bytes: Option<u64>,
}

/// Processes and cgroups, as one scan found them: the largest and the fastest growing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Seconds since the host was last calm; `None` if it is.
    pub calm_seconds_ago: Option<u32>,
    /// The host's memory by kind, in bytes: what processes do not show, such as tmpfs and slab.
    pub memory: Vec<Option<u64>>,
    /// The same for each scope, in the order of [`Schema::scopes`].
    pub scopes: Vec<Vec<Option<u64>>>,
    /// Processes.
    pub processes: Vec<ProcessSize>,
    /// Cgroups.
    pub cgroups: Vec<CgroupSize>,
}

/// A process in a scan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessSize {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Path of its cgroup; empty if it is not known.
    pub cgroup: String,
    /// Seconds since it was started.
    pub age_seconds: u32,
    /// Anonymous and shared memory, in memory or in swap.
    pub own_bytes: u64,
    /// The part of it in swap.
    pub swap_bytes: u64,
    /// Growth within the last minute.
    pub growth_bytes: i64,
    /// Seconds that the growth covers.
    pub growth_seconds: u32,
}

/// A cgroup in a scan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupSize {
    /// Its path; empty if it is not known.
    pub path: String,
    /// Processes in it.
    pub processes: u32,
    /// Their own memory.
    pub own_bytes: u64,
    /// The part of it in swap.
    pub swap_bytes: u64,
    /// Growth within the last minute.
    pub growth_bytes: i64,
    /// Its stall clock, if it was read.
    pub stall_ns: u64,
}

/// A change of a scope's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The scope.
    pub scope: String,
    /// The state before.
    pub from: VerdictState,
    /// The state after.
    pub to: VerdictState,
    /// The weight after: 0 to 1.
    pub weight: f32,
    /// The rules that decided, each with the numbers that it compared.
    pub rules: Vec<RuleNumbers>,
}

/// A rule with the numbers that it compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuleNumbers {
    /// Name of the rule.
    pub rule: String,
    /// Signal, its value, and the threshold.
    pub numbers: Vec<(String, f32, f32)>,
}

/// An answer to a balancer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Its address.
    pub client: String,
    /// The scope that it asked for.
    pub scope: String,
    /// `http` or `agent`.
    pub protocol: String,
    /// The state in the answer.
    pub state: String,
    /// The weight in the answer: 0 to 1.
    pub weight: f32,
}

/// The daemon started or ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Life {
    /// It started. The daemon before ended in order if the record before in this boot says so.
    Started {
        /// Its process id.
        pid: u32,
    },
    /// It ended in order.
    Ended,
}

/// Records that are missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// How many looks, scans and others, in this order.
    pub records: [u64; 3],
    /// Why, in words.
    pub because: String,
}
