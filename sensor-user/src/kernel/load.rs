//! Loads the BPF object, attaches the programs that the plan allows, and keeps them attached.
//!
//! One program's failure never stops the others: [`Coverage`] records it with its reason. Dropping
//! [`Programs`] detaches everything; nothing is pinned.

use std::{
    cell::LazyCell,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData},
    programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _},
    sys::{Stats, enable_stats},
};
use sensor_core::{
    btf::{
        reader::{Btf, VMLINUX},
        resolve::{self, Host, Plan},
    },
    model::coverage::Coverage,
};
use sensor_ebpf::{
    event::COMM,
    probes,
    spec::{MAX_SENDERS, SENDER_WITH_EVENT},
};
use tracing::warn;

use super::{
    attach,
    debug_log::DebugLog,
    probe,
    programs::{self, Programs},
    read::Reader,
    settings::{BpfLog, KillSenders, Settings},
};
use crate::host::cgroup::mounts::memory_on_v1;

/// The BPF object, built by build.rs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("MEMSENSOR_BPF_OBJECT_PATH"));

/// The loaded object.
#[allow(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Loaded {
    /// Which probes are attached.
    pub coverage: Coverage,
    /// Reads the maps.
    pub reader: Reader,
    /// The programs, which stay attached until this is dropped.
    pub programs: Programs,
    /// Messages of the kernel half, if they are on.
    pub debug_log: Option<DebugLog>,
}

/// Loads and attaches all probes that this kernel allows.
///
/// Fails only if nothing at all can be loaded.
pub fn load(settings: &Settings) -> Result<Loaded> {
    let plan = plan(settings)?;
    let mut ebpf = open(settings, &plan)?;
    let senders = write_senders(&mut ebpf, &settings.kill_senders)?;
    let stats = settings.bpf_stats.then(|| enable_stats(Stats::RunTime)).transpose();
    let stats = stats.unwrap_or_else(|e| {
        warn!("memsensor_bpf_run_seconds_total is not available: enable BPF statistics: {e}");
        None
    });
    let debug_log = DebugLog::open(&mut ebpf, settings.bpf_log)?;
    let types = LazyCell::new(aya::Btf::from_sys_fs as fn() -> _);
    let mut probes: Vec<_> = probes::in_attach_order()
        .map(|id| {
            let (probe, plan) = (probes::ALL[id as usize], &plan.programs[id as usize]);
            if settings.probes.is_disabled(probe.name) {
                return (id as u32, probe::disabled(probe));
            }
            (id as u32, probe::attach(&mut ebpf, &types, probe, plan))
        })
        .collect();
    probes.sort_by_key(|(id, _)| *id);
    let probes = probes.into_iter().map(|(_, state)| state).collect();
    drop(types);
    let map_bytes = ebpf.maps().map(|(name, map)| (name.to_owned(), map_bytes(map))).collect();
    let coverage = Coverage { probes, enums: plan.enums, senders, map_bytes };
    let same_pids = plan.globals.get("SELF_TGID") == Some(&std::process::id());
    let sees_all_tasks = same_pids && programs::has_iterator(&ebpf);
    let reader = Reader::new(&mut ebpf, stats, sees_all_tasks)?;
    Ok(Loaded { coverage, reader, programs: Programs::new(ebpf)?, debug_log })
}

/// The programs that this kernel allows, and the values of the object's globals.
fn plan(settings: &Settings) -> Result<Plan> {
    let vmlinux = std::fs::read(VMLINUX)
        .map_err(|e| format!("{VMLINUX}: {e} (a kernel with CONFIG_DEBUG_INFO_BTF has it)"))
        .and_then(|data| Btf::parse(data).map_err(|e| format!("{VMLINUX}: {e}")));
    let host = Host { memory_on_v1: memory_on_v1() };
    let mut plan = resolve::plan(vmlinux.as_ref().map_err(String::as_str), host);
    drop(vmlinux);
    if settings.probes.is_disabled(probes::victim_exit::PROBE.name) {
        plan.globals.insert("AWAIT_EXITS", 0);
    }
    let tgid = whoami(settings, &plan).context("read this process's id in the kernel")?;
    plan.globals.insert("SELF_TGID", tgid);
    Ok(plan)
}

/// Parses the object, sets its globals and creates its maps.
pub fn open(settings: &Settings, plan: &Plan) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    let log_level = settings.bpf_log as u8;
    loader.override_global(aya_log::LEVEL, &log_level, false);
    if settings.bpf_log == BpfLog::Off {
        loader.map_max_entries("AYA_LOGS", page_bytes());
    }
    for (name, value) in &plan.globals {
        loader.override_global(name, value, true);
    }
    let histograms = u32::from(settings.cgroup_histograms);
    loader.override_global("CGROUP_HISTOGRAMS", &histograms, true);
    if !settings.cgroup_histograms {
        loader.map_max_entries("RECLAIM", 1);
    }
    loader.load(OBJECT).context("create the BPF maps")
}

fn page_bytes() -> u32 {
    u32::try_from(rustix::param::page_size()).unwrap_or(4096)
}

/// This process's id as BPF programs see it: inside a pid namespace, getpid() returns another.
///
/// Runs in an object of its own, because the id becomes a global of the object that stays.
fn whoami(settings: &Settings, plan: &Plan) -> Result<u32> {
    let mut ebpf = open(settings, plan)?;
    let whoami: &mut RawTracePoint =
        ebpf.program_mut("whoami").context("the object has no program whoami")?.try_into()?;
    whoami.load().map_err(|e| attach::load_error("whoami", &e))?;
    let tgid = whoami.test_run(RawTracePointRunOptions::new())?.return_value;
    anyhow::ensure!(tgid != 0, "the kernel reports process id 0");
    Ok(tgid)
}

fn write_senders(ebpf: &mut Ebpf, senders: &KillSenders) -> Result<Vec<String>> {
    let mut map: HashMap<&mut MapData, [u8; COMM], u32> =
        ebpf.map_mut("SENDERS").context("the object has no map SENDERS")?.try_into()?;
    let daemons = senders.oom_daemons.iter().map(|name| (name, SENDER_WITH_EVENT));
    let others = senders.others.iter().map(|name| (name, 0));
    let mut labels = vec!["other".to_owned()];
    for (name, flag) in daemons.chain(others).take(MAX_SENDERS - 1) {
        let mut comm = [0; COMM];
        for (to, from) in comm[..COMM - 1].iter_mut().zip(name.bytes()) {
            *to = from;
        }
        let index = u32::try_from(labels.len())?;
        map.insert(comm, index | flag, 0).with_context(|| format!("add the sender {name}"))?;
        labels.push(name.clone());
    }
    Ok(labels)
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

/// An error that lists all required probes that are missing; only a warning with `allow_degraded`.
pub fn check_required(
    coverage: &Coverage,
    required: &[String],
    allow_degraded: bool,
) -> Result<()> {
    let missing: Vec<_> =
        coverage.missing_required(required).map(|p| format!("{} ({})", p.name, p.reason)).collect();
    let missing = missing.join("; ");
    if missing.is_empty() {
        return Ok(());
    }
    if !allow_degraded {
        bail!("required probes are not attached: {missing}; --allow-degraded starts without them");
    }
    warn!("required probes are not attached (allow_degraded): {missing}");
    Ok(())
}
