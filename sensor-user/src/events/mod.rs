//! Rare events: decoded from the ring buffer, kept in a bounded log, shown to people and programs.
//!
//! Names in events come from processes, which choose them freely: in JSON they are escaped by
//! serde, for a terminal by [`show::Printable`].

mod decode;
pub mod log;
pub mod show;

use std::sync::Arc;

pub use decode::{decode, id, record};
pub use log::EventLog;
use sensor_ebpf::event;
use serde::{Deserialize, Serialize};

use crate::{circumstances::OomReport, identity::WorkloadId};

/// A process that takes part in an event.
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
    /// That cgroup's path, if it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cgroup: Option<Arc<str>>,
    /// What people call that cgroup.
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

/// What the allocation that could not be served asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AllocContext {
    /// It wanted 2^order pages; -1 if it was no allocation but sysrq-f.
    pub order: i32,
    /// GFP flags in hexadecimal; what they mean differs between kernels.
    pub gfp_flags: String,
    /// The kernel's name for what it may use of the machine, hence what ran out: `none` (all of it),
    /// `cpuset`, `memory_policy`, `memcg`; a number where the name is not known.
    pub constraint: String,
    /// Whether this is from the kernel's log; else it was measured.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_log: bool,
}

/// What ran out.
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
    /// As in the label `scope`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Memcg => "memcg",
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// The kernel killed a process.
    OomKill {
        /// What ran out.
        #[serde(rename = "type")]
        oom_type: OomType,
        /// Who was killed.
        victim: TaskInfo,
        /// Whose allocation set it off.
        trigger: TaskInfo,
        /// What the victim had.
        memory: VictimMemory,
        /// What was asked for, where that could be measured.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        context: Option<AllocContext>,
        /// Seconds until the victim had given its memory back; absent until then.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        memory_back_seconds: Option<f64>,
    },
    /// A victim's memory was given back.
    VictimExit {
        /// Its process id.
        pid: u32,
        /// Seconds since it was killed.
        seconds: f64,
        /// The id of the event that says so.
        kill: String,
    },
    /// A user-space OOM killer sent SIGKILL.
    KillSignal {
        /// Who sent it.
        sender: TaskInfo,
        /// Who got it.
        target: TaskInfo,
    },
}

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// Names it on this host, also after a restart of the daemon: of which boot it is, and when.
    pub id: String,
    /// Counts up from 1 while the daemon runs. What was lost before is in
    /// `memsensor_events_lost_total`.
    pub seq: u64,
    /// RFC 3339, UTC.
    pub time: String,
    /// What happened.
    #[serde(flatten)]
    pub what: EventKind,
    /// What else was known at that moment: of a kill, and of the latest [`log::WHOLE`] only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub report: Option<Arc<OomReport>>,
}

/// The kernel's name of a task, [`tame`].
pub fn name(comm: &[u8; event::COMM]) -> String {
    let end = comm.iter().position(|b| *b == 0).unwrap_or(comm.len());
    tame(&String::from_utf8_lossy(&comm[..end]))
}

/// A name without the control characters that JSON does not escape (DEL and C1), and without what
/// [`ends_a_line`].
pub fn tame(name: &str) -> String {
    let wild = |c: char| (c.is_control() && c > '\x1f') || ends_a_line(c);
    name.chars().map(|c| if wild(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Unicode's own ends of lines and paragraphs: no control characters, and yet Python's `splitlines` ends a
/// line there. So the Datadog Agent would not read any metric, for the name of one process.
pub(crate) const fn ends_a_line(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}')
}

impl EventKind {
    /// The processes in it, to be completed with what user space knows.
    pub fn processes_mut(&mut self) -> Vec<&mut TaskInfo> {
        match self {
            Self::OomKill { victim, trigger, .. } => vec![victim, trigger],
            Self::KillSignal { sender, target } => vec![sender, target],
            Self::VictimExit { .. } => Vec::new(),
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
