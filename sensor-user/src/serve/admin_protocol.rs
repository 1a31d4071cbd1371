//! Messages on the root-only socket: a request is one JSON line, an answer one or more. The daemon
//! (`admin`) and the commands (`cli/admin_client`) share them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sensor_core::{
    model::{event::Event, memory_usage::MemoryUsage},
    verdict::explain::Explanation,
};
use serde::{Deserialize, Serialize};

use super::state::{clients::DrainAcks, protection::Protection};

/// A request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// The kept events, and new ones if `follow`.
    Events {
        /// Stay, and send new events as they happen.
        follow: bool,
    },
    /// One kill, with its report.
    Event {
        /// Its id; empty for the last kill.
        id: String,
    },
    /// An explanation of the verdict on a scope.
    Explain {
        /// Name of the scope; empty for the host.
        scope: String,
    },
    /// Drains the host, until `Undrain` or until the time is over.
    Drain {
        /// Shown with the state.
        reason: String,
        /// How long, in seconds; without it until `Undrain`.
        seconds: Option<f64>,
    },
    /// Ends the drain.
    Undrain,
    /// Reads the configuration again.
    Reload,
    /// Which clients have received the drain.
    DrainAcks,
    /// What protects the host from the daemon.
    Protection,
    /// Processes and cgroups by size and growth.
    Top,
}

impl Request {
    /// How long a client waits for each line of the answer; `None` is no limit.
    pub fn timeout(&self) -> Option<Duration> {
        match self {
            Self::Events { follow: true } => None,
            // The daemon writes the drain to the disk before it answers.
            Self::Drain { .. } | Self::Undrain => Some(Duration::from_mins(1)),
            _ => Some(Duration::from_secs(10)),
        }
    }
}

/// One line of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Response {
    /// An event.
    Event(Arc<Event>),
    /// The client was too slow.
    Missed {
        /// Events that it missed.
        missed: u64,
    },
    /// An explanation of the verdict.
    Explanation(Box<Explanation>),
    /// Which clients have received the drain.
    DrainAcks(DrainAcks),
    /// What protects the host from the daemon.
    Protection(ProtectedProcess),
    /// Processes and cgroups by size and growth.
    Top(Box<Top>),
    /// The request was carried out.
    Done {
        /// The result in words.
        done: String,
    },
    /// The request was not valid, or could not be carried out.
    Error {
        /// The reason.
        error: String,
    },
}

/// The daemon's process, and what protects the host from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectedProcess {
    /// Process id of the daemon, in its own pid namespace.
    pub pid: u32,
    /// What only the daemon knows.
    pub protection: Protection,
}

/// State, weight and signals of the host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HostSummary {
    /// State, as load balancers get it.
    pub state: String,
    /// Share of its usual traffic: 0 to 1.
    pub weight: f64,
    /// The numbers that the rules compare, by name.
    pub signals: BTreeMap<String, f64>,
}

/// The answer to `Top`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Top {
    /// The host.
    pub host: HostSummary,
    /// Age of the scan.
    pub seen_seconds_ago: f64,
    /// Time at which the cgroups' `stall_seconds` were read, which may be the same in several
    /// answers: seconds of CLOCK_MONOTONIC. Absent before the first reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_clock_seconds: Option<f64>,
    /// The scan.
    #[serde(flatten)]
    pub usage: MemoryUsage,
}
