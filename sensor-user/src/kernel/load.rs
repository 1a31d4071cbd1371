//! Loads the BPF object, attaches what the plan says, and keeps it attached.
//!
//! One program's failure never stops the others: it is written down in [`Coverage`] with its
//! reason. Dropping [`Loaded`] detaches everything; nothing is pinned, so nothing stays behind.

use std::{
    cell::LazyCell,
    collections::BTreeMap,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData},
    programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _},
    sys::{Stats, enable_stats},
};
use sensor_ebpf::{
    event::COMM,
    probes,
    spec::{MAX_SENDERS, Need, Probe, Program, SENDER_WITH_EVENT},
};
use tracing::warn;

use super::{
    attach,
    btf::{self, Btf},
    read::Reader,
    resolve::{self, Host, Plan},
};
use crate::config::{BpfLog, Config};

/// The BPF object, built by build.rs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("MEMSENSOR_BPF_OBJECT_PATH"));

/// One program, as it is on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramState {
    /// Name in the object.
    pub name: &'static str,
    /// Where it attaches; see [`Program::event`].
    pub event: &'static str,
    /// Why it is not attached; `None` if it is.
    pub missing: Option<String>,
    /// Instructions that the verifier walked, where the kernel says (5.16).
    pub verified_instructions: Option<u32>,
}

/// How far a probe got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachState {
    /// All programs are attached.
    Attached,
    /// All that it cannot do without are.
    Partial,
    /// None is.
    Missing,
    /// Switched off in the configuration.
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

/// One probe, as it is on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeState {
    /// Its name.
    pub name: &'static str,
    /// How far it got.
    pub state: AttachState,
    /// Why it is not wholly attached; empty if it is.
    pub reason: String,
    /// Its programs, in the order of its spec.
    pub programs: Vec<ProgramState>,
}

impl ProbeState {
    /// Whether its metrics mean anything.
    pub fn measures(&self) -> bool {
        matches!(self.state, AttachState::Attached | AttachState::Partial)
    }
}

/// What is attached and what is not, in the order of [`probes::ALL`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    /// Every probe.
    pub probes: Vec<ProbeState>,
    /// Label values of kernel enums, by enum type.
    pub enums: BTreeMap<&'static str, Vec<Option<String>>>,
    /// Label values of senders of SIGKILL, `other` first.
    pub senders: Vec<String>,
    /// Kernel memory of all maps, in bytes, by map; what the kernel says it charged.
    pub map_bytes: BTreeMap<String, u64>,
}

impl Coverage {
    /// The coverage of a host where nothing could be loaded.
    pub fn blind(reason: &str) -> Self {
        let probes = probes::ALL
            .iter()
            .map(|probe| ProbeState {
                name: probe.name,
                state: AttachState::Missing,
                reason: reason.to_owned(),
                programs: probe
                    .programs
                    .iter()
                    .map(|program| missing(program, reason.to_owned()))
                    .collect(),
            })
            .collect();
        Self { probes, enums: BTreeMap::new(), senders: Vec::new(), map_bytes: BTreeMap::new() }
    }

    /// Required probes that are not attached, with their reasons.
    pub fn missing_required<'a>(
        &'a self,
        required: &'a [String],
    ) -> impl Iterator<Item = &'a ProbeState> {
        self.probes.iter().filter(|p| !p.measures() && required.iter().any(|r| r == p.name))
    }
}

/// What is loaded; attached for as long as it lives.
#[allow(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Loaded {
    /// What is attached and what is not.
    pub coverage: Coverage,
    /// Reads the maps.
    pub reader: Reader,
    /// Debug messages of the kernel half, if they were asked for.
    pub log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
}

/// Loads and attaches all probes that can be had.
///
/// Fails only if nothing at all can be loaded.
pub fn load(config: &Config) -> Result<Loaded> {
    let vmlinux = std::fs::read(btf::VMLINUX)
        .map_err(|e| format!("{}: {e} (a kernel with CONFIG_DEBUG_INFO_BTF has it)", btf::VMLINUX))
        .and_then(|data| Btf::parse(data).map_err(|e| format!("{}: {e}", btf::VMLINUX)));
    let host = Host { memory_on_v1: crate::host::cgroup::memory_on_v1() };
    let mut plan = resolve::plan(vmlinux.as_ref().map_err(String::as_str), host);
    if config.probes.disabled.iter().any(|d| d == probes::victim_exit::PROBE.name) {
        plan.globals.insert("AWAIT_EXITS", 0);
    }
    drop(vmlinux);

    let tgid = whoami(config, &plan).context("ask the kernel for our own process id")?;
    plan.globals.insert("SELF_TGID", tgid);
    let mut ebpf = open(config, &plan)?;
    let senders = tell_senders(&mut ebpf, config)?;
    let stats = config.bpf_stats.then(|| enable_stats(Stats::RunTime)).transpose();
    let stats = stats.unwrap_or_else(|e| {
        warn!("memsensor_bpf_run_seconds_total is not available: enable BPF statistics: {e}");
        None
    });
    let log = match config.bpf_log {
        BpfLog::Off => None,
        _ => Some(aya_log::EbpfLogger::init(&mut ebpf).context("read the kernel half's log")?),
    };
    let types = LazyCell::new(aya::Btf::from_sys_fs as fn() -> _);
    let probes = probes::ALL
        .iter()
        .zip(&plan.programs)
        .map(|(probe, plan)| attach_probe(&mut ebpf, &types, config, probe, plan))
        .collect();
    drop(types);
    let map_bytes = ebpf.maps().map(|(name, map)| (name.to_owned(), map_bytes(map))).collect();
    let coverage = Coverage { probes, enums: plan.enums, senders, map_bytes };
    Ok(Loaded { coverage, reader: Reader::new(ebpf, stats)?, log })
}

/// Parses the object, sets its globals and creates its maps.
pub fn open(config: &Config, plan: &Plan) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    let log_level = config.bpf_log as u8;
    loader.override_global(aya_log::LEVEL, &log_level, false);
    if config.bpf_log == BpfLog::Off {
        loader.map_max_entries("AYA_LOGS", page_bytes());
    }
    for (name, value) in &plan.globals {
        loader.override_global(name, value, true);
    }
    let histograms = u32::from(!config.cgroups.histograms.is_empty());
    loader.override_global("CGROUP_HISTOGRAMS", &histograms, true);
    if histograms == 0 {
        loader.map_max_entries("RECLAIM", 1);
    }
    loader.load(OBJECT).context("create the BPF maps")
}

fn page_bytes() -> u32 {
    u32::try_from(rustix::param::page_size()).unwrap_or(4096)
}

/// Asks the kernel who we are: inside a pid namespace, getpid() is not what programs see.
///
/// In an object of its own, for the answer becomes a global of the one that stays.
fn whoami(config: &Config, plan: &Plan) -> Result<u32> {
    let mut ebpf = open(config, plan)?;
    let whoami: &mut RawTracePoint =
        ebpf.program_mut("whoami").context("the object has no program whoami")?.try_into()?;
    whoami.load().map_err(|e| attach::load_error("whoami", &e))?;
    let tgid = whoami.test_run(RawTracePointRunOptions::new())?.return_value;
    anyhow::ensure!(tgid != 0, "the kernel says that we are process 0");
    Ok(tgid)
}

fn tell_senders(ebpf: &mut Ebpf, config: &Config) -> Result<Vec<String>> {
    let mut map: HashMap<&mut MapData, [u8; COMM], u32> =
        ebpf.map_mut("SENDERS").context("the object has no map SENDERS")?.try_into()?;
    let daemons = config.kill_senders.oom_daemons.iter().map(|name| (name, SENDER_WITH_EVENT));
    let others = config.kill_senders.others.iter().map(|name| (name, 0));
    let mut labels = vec!["other".to_owned()];
    for (name, flag) in daemons.chain(others).take(MAX_SENDERS - 1) {
        let mut comm = [0; COMM];
        for (to, from) in comm[..COMM - 1].iter_mut().zip(name.bytes()) {
            *to = from;
        }
        let index = u32::try_from(labels.len())?;
        map.insert(comm, index | flag, 0).with_context(|| format!("tell the sender {name}"))?;
        labels.push(name.clone());
    }
    Ok(labels)
}

fn attach_probe(
    ebpf: &mut Ebpf,
    types: &attach::Types,
    config: &Config,
    probe: &Probe,
    plan: &[Result<(), String>],
) -> ProbeState {
    if config.probes.disabled.iter().any(|d| d == probe.name) {
        let reason = "switched off in the configuration";
        let programs = probe.programs.iter().map(|p| missing(p, reason.to_owned())).collect();
        return ProbeState {
            name: probe.name,
            state: AttachState::Disabled,
            reason: reason.to_owned(),
            programs,
        };
    }
    let mut states: Vec<ProgramState> = Vec::new();
    for (program, plan) in probe.programs.iter().zip(plan) {
        let state = match plan {
            Ok(()) => match attach::attach(ebpf, types, program) {
                Ok(verified_instructions) => ProgramState {
                    name: program.name,
                    event: program.event,
                    missing: None,
                    verified_instructions,
                },
                Err(e) => missing(program, format!("{e:#}")),
            },
            Err(why) => missing(program, why.clone()),
        };
        states.push(state);
    }
    // A begin without its end counts half of something: better nothing. Nor without a program of which
    // the others were told, when they were loaded, that it would be there.
    let relied_on = |program: &Program, planned: bool| match program.need {
        Need::Required => true,
        Need::Optional { present, .. } => planned && present.is_some(),
    };
    let broken = probe
        .programs
        .iter()
        .zip(plan)
        .zip(&states)
        .find(|((program, plan), state)| {
            state.missing.is_some() && relied_on(program, plan.is_ok())
        })
        .map(|(_, state)| (state.name, state.missing.clone().unwrap_or_default()));
    if let Some((name, reason)) = broken {
        for state in states.iter_mut().filter(|s| s.missing.is_none()) {
            attach::detach(ebpf, state.name);
            state.missing = Some(format!("the probe needs {name} too"));
        }
        return ProbeState {
            name: probe.name,
            state: AttachState::Missing,
            reason,
            programs: states,
        };
    }
    for i in 0..states.len() {
        if let Some(other) = resolve::half_of(probe, i, |j| states[j].missing.is_some()) {
            attach::detach(ebpf, states[i].name);
            states[i].missing = Some(format!("it needs {other} too"));
        }
    }
    let lost: Vec<_> = probe
        .programs
        .iter()
        .zip(&states)
        .filter_map(|(program, state)| match (program.need, &state.missing) {
            (Need::Optional { lost, .. }, Some(why)) => Some(format!("{lost}: {why}")),
            _ => None,
        })
        .collect();
    ProbeState {
        name: probe.name,
        state: if lost.is_empty() { AttachState::Attached } else { AttachState::Partial },
        reason: lost.join("; "),
        programs: states,
    }
}

fn missing(program: &Program, why: String) -> ProgramState {
    ProgramState {
        name: program.name,
        event: program.event,
        missing: Some(why),
        verified_instructions: None,
    }
}

fn map_bytes(map: &Map) -> u64 {
    let (Map::Array(data)
    | Map::PerCpuArray(data)
    | Map::HashMap(data)
    | Map::LruHashMap(data)
    | Map::RingBuf(data)) = map
    else {
        return 0;
    };
    let path = format!("/proc/self/fdinfo/{}", data.fd().as_fd().as_raw_fd());
    std::fs::read_to_string(path)
        .ok()
        .and_then(|info| info.lines().find_map(|l| l.strip_prefix("memlock:")?.trim().parse().ok()))
        .unwrap_or(0)
}

/// Fails with all required probes that are missing, unless the operator accepts that.
pub fn check_required(coverage: &Coverage, config: &Config) -> Result<()> {
    let missing: Vec<_> = coverage
        .missing_required(&config.probes.required)
        .map(|p| format!("{} ({})", p.name, p.reason))
        .collect();
    match (missing.is_empty(), config.allow_degraded) {
        (true, _) => Ok(()),
        (false, true) => {
            warn!("half blind, as allowed: {}", missing.join("; "));
            Ok(())
        }
        (false, false) => bail!(
            "required probes are not attached: {}; --allow-degraded serves what can be had",
            missing.join("; ")
        ),
    }
}
