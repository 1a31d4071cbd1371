//! Rare events: OOM kills, the exits of their victims, kills by user-space OOM killers, and
//! commands of operators.
//!
//! Names in events come from processes, which choose them freely. They are free of control
//! characters that serde does not escape (see [`crate::common::text`]).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{oom_report::OomReport, workload::WorkloadId};

/// A task that takes part in an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TaskInfo {
    /// Process id, in the host's pid namespace.
    pub pid: u32,
    /// Thread id, in the host's pid namespace.
    pub tid: u32,
    /// Thread name; bytes that are not UTF-8 are replaced.
    pub comm: String,
    /// User id, in the host's user namespace.
    pub uid: u32,
    /// -1000 to 1000.
    pub oom_score_adj: i32,
    /// Id of the cgroup that its memory is charged to.
    pub cgroup_id: u64,
    /// Path of that cgroup, if it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cgroup: Option<Arc<str>>,
    /// Unit, container and pod of that cgroup.
    #[serde(flatten)]
    pub workload: WorkloadId,
}

/// Memory of a victim when it was killed, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[allow(missing_docs, reason = "the names say it")]
pub struct VictimMemory {
    pub anon_bytes: u64,
    pub file_bytes: u64,
    pub shmem_bytes: u64,
    pub swap_bytes: u64,
    pub page_tables_bytes: u64,
    pub virtual_bytes: u64,
}

/// The allocation that failed and led to the kill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AllocContext {
    /// It asked for 2^order pages; -1 if there was no allocation but sysrq-f.
    pub order: i32,
    /// GFP flags in hexadecimal; their meaning differs between kernels.
    pub gfp_flags: String,
    /// The kernel's names for these flags, from its log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gfp_names: Option<String>,
    /// The kernel's name for the part of the machine that the allocation could use, hence for what
    /// ran out: `none` (all of it), `cpuset`, `memory_policy`, `memcg`; a number where the name is
    /// not known.
    pub constraint: String,
    /// Numbers of the NUMA nodes that the allocation could use, such as `0-1,3`, from the kernel's
    /// log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<String>,
    /// True if this is from the kernel's log; otherwise a probe measured it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_log: bool,
}

/// Processes that the kernel killed for one OOM: `memory.oom.group` of their cgroup was 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OomGroup {
    /// Id of the event of the first kill. Its process is the one that the OOM killer selected.
    pub first: String,
    /// Path of the cgroup whose processes were killed.
    pub cgroup: String,
}

/// What ran out of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum OomType {
    /// The machine.
    Global,
    /// A memory cgroup.
    Memcg,
}

impl OomType {
    /// Both, in the order of the kernel half's counters.
    pub const ALL: [Self; 2] = [Self::Global, Self::Memcg];

    /// As in JSON and in the label `type`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Memcg => "memcg",
        }
    }
}

/// The signal by which a process kills another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum SentSignal {
    /// The receiver ends.
    #[default]
    Sigkill,
    /// The receiver is asked to end; it may clean up first, or ignore it.
    Sigterm,
}

impl SentSignal {
    /// As in JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Sigkill => "SIGKILL",
            Self::Sigterm => "SIGTERM",
        }
    }
}

/// A command that changes the daemon's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OperatorCommand {
    /// Traffic is to go elsewhere.
    Drain,
    /// The drain ends.
    Undrain,
    /// The configuration is read again.
    Reload,
}

impl OperatorCommand {
    /// As in JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Undrain => "undrain",
            Self::Reload => "reload",
        }
    }
}

/// The kind of an event, with its data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// The kernel's OOM killer killed a process.
    OomKill {
        /// What ran out of memory.
        #[serde(rename = "type")]
        oom_type: OomType,
        /// The process that was killed.
        victim: TaskInfo,
        /// The task whose allocation failed.
        trigger: TaskInfo,
        /// Memory of the victim.
        memory: VictimMemory,
        /// The allocation that failed, where it could be measured.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        context: Option<AllocContext>,
        /// The group that was killed; absent if the kernel was to kill one process only, or if the
        /// cgroup's files could not be read.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        oom_group: Option<Arc<OomGroup>>,
        /// Seconds until the victim's memory was free; absent until then.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        memory_back_seconds: Option<f64>,
    },
    /// The memory of a victim was freed.
    VictimExit {
        /// Process id of the victim.
        pid: u32,
        /// Seconds since it was killed.
        seconds: f64,
        /// Id of the event of the kill.
        kill: String,
    },
    /// A user-space OOM killer sent SIGKILL or SIGTERM.
    KillSignal {
        /// The signal.
        #[serde(default)]
        signal: SentSignal,
        /// The sender.
        sender: TaskInfo,
        /// The receiver.
        target: TaskInfo,
    },
    /// An operator gave a command.
    Operator {
        /// The command.
        command: OperatorCommand,
        /// User id of the process that sent it.
        uid: u32,
        /// Its process id, in the daemon's pid namespace; 0 if it has none there.
        pid: u32,
        /// Its name, if it could be read.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        comm: Option<String>,
        /// The reason of a drain; otherwise the result.
        detail: String,
    },
}

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// Unique on this host, also over restarts of the daemon: made of the boot and the time.
    pub id: String,
    /// Counts up from 1 while the daemon runs. `memsensor_events_lost_total` counts events that
    /// were lost before they had a number.
    pub seq: u64,
    /// RFC 3339, UTC.
    pub time: String,
    /// Its kind.
    #[serde(flatten)]
    pub kind: EventKind,
    /// What else was known at that moment. Only kills have one, and only the latest keep it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub report: Option<Arc<OomReport>>,
}

impl Event {
    /// When it happened: CLOCK_MONOTONIC nanoseconds, from the id. `None` if the id is not one.
    pub fn monotonic_ns(&self) -> Option<u64> {
        let (_, time) = self.id.split_once('-')?;
        u64::from_str_radix(time, 16).ok()
    }

    /// The group that it was killed with, if it is not the first kill of it.
    pub fn follows_in(&self) -> Option<&OomGroup> {
        let EventKind::OomKill { oom_group, .. } = &self.kind else { return None };
        oom_group.as_deref().filter(|group| group.first != self.id)
    }
}

impl EventKind {
    /// The tasks in it, so that the daemon can add paths and workloads.
    pub fn tasks_mut(&mut self) -> Vec<&mut TaskInfo> {
        match self {
            Self::OomKill { victim, trigger, .. } => vec![victim, trigger],
            Self::KillSignal { sender, target, .. } => vec![sender, target],
            Self::VictimExit { .. } | Self::Operator { .. } => Vec::new(),
        }
    }

    /// Replaces the number of a constraint by the kernel's name for it.
    pub fn name_constraint(&mut self, names: &[Option<String>]) {
        if let Self::OomKill { context: Some(context), .. } = self
            && let Ok(i) = context.constraint.parse::<usize>()
            && let Some(Some(name)) = names.get(i)
        {
            context.constraint.clone_from(name);
        }
    }
}

/// The id of an event: a prefix of the kernel's boot id, and CLOCK_MONOTONIC nanoseconds.
pub fn event_id(boot: &str, time_ns: u64) -> String {
    format!("{boot}-{time_ns:x}")
}
