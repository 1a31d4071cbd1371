//! Which probes and programs are attached on this host, and why the others are not.

use std::collections::BTreeMap;

use sensor_ebpf::{
    probes,
    spec::{Metric, Need, Program},
};

/// One program on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramState {
    /// Name in the object.
    pub name: &'static str,
    /// Where it attaches; see [`Program::event`].
    pub event: &'static str,
    /// Why it is not attached; `None` if it is.
    pub missing: Option<String>,
    /// Instructions that the verifier processed, where the kernel reports it (5.16).
    pub verified_instructions: Option<u32>,
}

impl ProgramState {
    /// A program that is not attached, with the reason.
    pub fn missing(program: &Program, reason: String) -> Self {
        Self {
            name: program.name,
            event: program.event,
            missing: Some(reason),
            verified_instructions: None,
        }
    }
}

/// How much of a probe is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachState {
    /// All programs.
    Attached,
    /// All required programs.
    Partial,
    /// None.
    Missing,
    /// None: the configuration disables it.
    Disabled,
}

impl AttachState {
    /// The `state` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::Partial => "partial",
            Self::Missing => "missing",
            Self::Disabled => "disabled",
        }
    }
}

/// One probe on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeState {
    /// Its name.
    pub name: &'static str,
    /// How much of it is attached.
    pub state: AttachState,
    /// Why it is not wholly attached; empty if it is.
    pub reason: String,
    /// Its programs, in the order of its spec.
    pub programs: Vec<ProgramState>,
}

impl ProbeState {
    /// Whether it is attached at least in part, so that its metrics have values.
    pub fn measures(&self) -> bool {
        matches!(self.state, AttachState::Attached | AttachState::Partial)
    }

    /// Whether it measures this metric: no program that the metric depends on is missing.
    /// `programs` are those of the probe's spec.
    pub fn measures_metric(&self, programs: &[Program], metric: &Metric) -> bool {
        let depends = |program: &Program| match program.need {
            Need::Optional { metrics, .. } => metrics.contains(&metric.name),
            Need::Required => false,
        };
        let mut states = self.programs.iter().zip(programs);
        self.measures() && !states.any(|(state, p)| state.missing.is_some() && depends(p))
    }
}

/// All probes, in the order of [`probes::ALL`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    /// Every probe.
    pub probes: Vec<ProbeState>,
    /// Label values of kernel enums, by enum type.
    pub enums: BTreeMap<&'static str, Vec<Option<String>>>,
    /// Label values of senders of SIGKILL, `other` first.
    pub senders: Vec<String>,
    /// Kernel memory of each map in bytes, as the kernel charged it.
    pub map_bytes: BTreeMap<String, u64>,
}

impl Coverage {
    /// The coverage of a host where nothing could be loaded.
    pub fn none(reason: &str) -> Self {
        let probe = |probe: &&'static sensor_ebpf::spec::Probe| ProbeState {
            name: probe.name,
            state: AttachState::Missing,
            reason: reason.to_owned(),
            programs: (probe.programs.iter())
                .map(|program| ProgramState::missing(program, reason.to_owned()))
                .collect(),
        };
        Self {
            probes: probes::ALL.iter().map(probe).collect(),
            enums: BTreeMap::new(),
            senders: Vec::new(),
            map_bytes: BTreeMap::new(),
        }
    }

    /// A probe's state.
    pub fn probe(&self, id: probes::Id) -> Option<&ProbeState> {
        self.probes.get(id as usize)
    }

    /// Whether a probe is attached at least in part.
    pub fn measures(&self, id: probes::Id) -> bool {
        self.probe(id).is_some_and(ProbeState::measures)
    }

    /// Required probes that are not attached.
    pub fn missing_required<'a>(
        &'a self,
        required: &'a [String],
    ) -> impl Iterator<Item = &'a ProbeState> {
        self.probes.iter().filter(|p| !p.measures() && required.iter().any(|r| r == p.name))
    }
}
