//! Settings of the kernel half. Not here: how probes are loaded.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};
use sensor_ebpf::{event::COMM, probes, spec::MAX_SENDERS};
use serde::{Deserialize, Serialize};

/// All settings of the loader.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Which probes are required, and which are disabled.
    pub probes: Probes,
    /// Senders of SIGKILL with a label value of their own.
    pub kill_senders: KillSenders,
    /// Whether the kernel measures the run time of our programs.
    pub bpf_stats: bool,
    /// Level of the kernel half's debug log.
    pub bpf_log: BpfLog,
    /// Whether reclaim is measured per cgroup.
    pub cgroup_histograms: bool,
}

/// Level of the kernel half's debug log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum BpfLog {
    /// No messages, at no cost: the verifier removes the code from the programs.
    #[default]
    Off = 0,
    /// Only errors.
    Error = 1,
    /// Errors and warnings; all messages about losses are warnings.
    Warn = 2,
    /// Errors, warnings and information.
    Info = 3,
    /// All messages.
    Debug = 4,
}

/// Which probes are required, and which are disabled.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Probes {
    /// Probes that must be attached; otherwise memsensor does not start, unless `allow_degraded` is
    /// set. The default probes detect OOM kills and the stalls before them. Add the probes whose
    /// metrics your alerts use.
    pub required: Vec<String>,
    /// Probes that memsensor does not attach; none of them may be in `required`. Disable a probe
    /// whose cost on this host is too high; its metrics are then absent.
    pub disabled: Vec<String>,
}

impl Default for Probes {
    fn default() -> Self {
        let required = ["oom_kill", "direct_reclaim", "memcg_reclaim"];
        Self { required: required.map(str::to_owned).to_vec(), disabled: Vec::new() }
    }
}

impl Probes {
    /// An error if a probe does not exist, or is both required and disabled.
    pub fn check(&self) -> Result<()> {
        let known: BTreeSet<_> = probes::ALL.iter().map(|p| p.name).collect();
        for (key, list) in [("required", &self.required), ("disabled", &self.disabled)] {
            if let Some(unknown) = list.iter().find(|name| !known.contains(name.as_str())) {
                let known: Vec<_> = known.iter().copied().collect();
                bail!("probes.{key}: no probe {unknown:?}; there are: {}", known.join(", "));
            }
        }
        if let Some(both) = self.required.iter().find(|p| self.disabled.contains(p)) {
            bail!("probes: {both} is both required and disabled");
        }
        Ok(())
    }

    /// Whether a probe is disabled.
    pub fn is_disabled(&self, name: &str) -> bool {
        self.disabled.iter().any(|disabled| disabled == name)
    }
}

/// Senders of SIGKILL that have a label value of their own, by thread name (at most 15 bytes).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct KillSenders {
    /// Senders that are user-space OOM killers: memsensor also counts their SIGTERMs, and records
    /// each of their kills as an event. Add the OOM killer that your hosts use, by the name of its
    /// thread: Talos kills as `machined`, and nohang as `python3` where its first line is
    /// `#!/usr/bin/env python3`.
    pub oom_daemons: Vec<String>,
    /// Senders whose kills are only counted. Add a supervisor or container runtime of your own. A
    /// name in `oom_daemons` must not be here too.
    pub others: Vec<String>,
}

impl Default for KillSenders {
    fn default() -> Self {
        let oom_daemons = ["systemd-oomd", "oomd", "earlyoom", "nohang"];
        let others = ["kubelet", "systemd", "containerd-shim", "runc", "crun", "conmon"];
        Self {
            oom_daemons: oom_daemons.map(str::to_owned).to_vec(),
            others: others.map(str::to_owned).to_vec(),
        }
    }
}

impl KillSenders {
    /// An error if there are too many names, or a name is empty, too long, or listed twice.
    pub fn check(&self) -> Result<()> {
        let senders = || self.oom_daemons.iter().chain(&self.others);
        let (count, max) = (senders().count(), MAX_SENDERS - 1);
        ensure!(count <= max, "kill_senders: {count} names, at most {max} have room");
        let mut seen = BTreeSet::new();
        for name in senders() {
            ensure!(!name.is_empty(), "kill_senders: an empty name");
            ensure!(name != "other", "kill_senders: \"other\" is the label of all other senders");
            ensure!(
                name.len() < COMM,
                "kill_senders: {name:?} is longer than the {} bytes of a thread name",
                COMM - 1
            );
            ensure!(seen.insert(name), "kill_senders: {name:?} twice");
        }
        Ok(())
    }
}
