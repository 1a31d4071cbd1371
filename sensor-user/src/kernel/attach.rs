//! Loads one program, attaches it, and says in one line why not.
//!
//! Not for: deciding what to attach (`resolve`), or what a failure means for the rest (`load`).

use std::{cell::LazyCell, io::ErrorKind, path::Path};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::{
    Btf, BtfError, Ebpf,
    programs::{FEntry, FExit, Iter, KProbe, Program as Loaded, ProgramError, RawTracePoint},
};
use sensor_ebpf::spec::{Hook, Program};
use tracing::{debug, warn};

/// The kernel's types as aya reads them. Only programs at functions need them: read when the first
/// of these asks, and once. (aya's loader reads them as well, and keeps them to itself.)
pub(super) type Types = LazyCell<Result<Btf, BtfError>>;

/// There on kernels that can make events of kprobes.
const KPROBES: &str = "/sys/bus/event_source/devices/kprobe";

/// Loads and attaches a program: how many instructions the verifier walked, where the kernel says.
pub(super) fn attach(ebpf: &mut Ebpf, types: &Types, program: &Program) -> Result<Option<u32>> {
    let name = program.name;
    let types = || types.as_ref().map_err(|e| anyhow!("read the kernel's BTF: {e}"));
    let load_error = |e| load_error(name, &e);
    let loaded =
        ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    match program.hook() {
        Hook::Tracepoint(event) => {
            let loaded: &mut RawTracePoint = loaded.try_into()?;
            loaded.load().map_err(load_error)?;
            loaded.attach(event).map(drop)
        }
        Hook::Fentry(function) => {
            let loaded: &mut FEntry = loaded.try_into()?;
            loaded.load(function, types()?).map_err(load_error)?;
            loaded.attach().map(drop)
        }
        Hook::Fexit(function) => {
            let loaded: &mut FExit = loaded.try_into()?;
            loaded.load(function, types()?).map_err(load_error)?;
            loaded.attach().map(drop)
        }
        Hook::Kprobe(function) => {
            ensure!(
                Path::new(KPROBES).exists(),
                "this kernel has no kprobes (CONFIG_KPROBE_EVENTS)"
            );
            let loaded: &mut KProbe = loaded.try_into()?;
            loaded.load().map_err(load_error)?;
            loaded.attach(function, 0).map(drop)
        }
        Hook::Iterator(kind) => {
            let loaded: &mut Iter = loaded.try_into()?;
            // Attached anew for each pass, see `read`.
            loaded.load(kind, types()?).map_err(load_error)?;
            Ok(())
        }
    }
    .map_err(|e| attach_error(program, e))?;
    debug!(program = name, event = program.event, "attached");
    Ok(loaded.info().ok().and_then(|info| info.verified_instruction_count()))
}

/// What follows the verifier's verdict in its log.
const STATISTICS: [&str; 3] = ["processed ", "stack depth ", "verification time "];

/// The verifier's log is long; its last line but the statistics says what it did not like.
pub(super) fn load_error(name: &str, error: &ProgramError) -> anyhow::Error {
    if let ProgramError::LoadError { io_error, verifier_log } = error {
        debug!(program = name, "verifier: {verifier_log}");
        let log = verifier_log.to_string();
        let tells = |l: &&str| !l.trim().is_empty() && !STATISTICS.iter().any(|s| l.starts_with(s));
        let last = log.lines().rfind(tells);
        let said = last.map(|l| format!(": {}", l.trim())).unwrap_or_default();
        return anyhow!("load {name}: {io_error}{said}{}", super::privilege::hint(io_error));
    }
    anyhow!("load {name}: {error}")
}

fn attach_error(program: &Program, error: ProgramError) -> anyhow::Error {
    /// ENOTSUPP, which has no name outside of the kernel.
    const UNSUPPORTED: i32 = 524;
    let hint = match &error {
        ProgramError::SyscallError(e) if e.io_error.raw_os_error() == Some(UNSUPPORTED) => {
            " (not supported by this kernel on this architecture)"
        }
        ProgramError::SyscallError(e)
            if e.call == "perf_event_open" && e.io_error.kind() == ErrorKind::PermissionDenied =>
        {
            " (where kernel.perf_event_paranoid is above 2, kprobes want CAP_SYS_ADMIN)"
        }
        _ => "",
    };
    let Program { name, event, .. } = program;
    anyhow!("attach {name} to {event}: {:#}{hint}", anyhow::Error::from(error))
}

/// Detaches a program and unloads it.
pub(super) fn detach(ebpf: &mut Ebpf, name: &str) {
    let unloaded = match ebpf.program_mut(name) {
        Some(Loaded::RawTracePoint(program)) => program.unload(),
        Some(Loaded::FEntry(program)) => program.unload(),
        Some(Loaded::FExit(program)) => program.unload(),
        Some(Loaded::KProbe(program)) => program.unload(),
        Some(Loaded::Iter(program)) => program.unload(),
        _ => return,
    };
    if let Err(e) = unloaded {
        warn!(program = name, "could not be detached: {e}");
    }
}
