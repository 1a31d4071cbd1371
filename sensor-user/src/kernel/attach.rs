//! Loads one program, or attaches it. An error is one line with the reason.
//!
//! Not here: which programs to attach (`btf/resolve` of the core), and what a failure means for the
//! other programs (`probe`).

use std::{cell::LazyCell, io::ErrorKind, path::Path};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::{
    Btf, BtfError, Ebpf,
    programs::{FEntry, FExit, Iter, KProbe, Program as Loaded, ProgramError, RawTracePoint},
};
use sensor_ebpf::spec::{Hook, Program};
use tracing::{debug, warn};

/// The kernel's types, parsed by aya: once, when the first program at a function needs them. (aya's
/// loader parses them too, but does not expose them.)
pub(super) type Types = LazyCell<Result<Btf, BtfError>>;

/// Exists on kernels with CONFIG_KPROBE_EVENTS.
const KPROBE_PMU: &str = "/sys/bus/event_source/devices/kprobe";

/// Loads a program. Returns the number of instructions that the verifier processed, if the kernel
/// reports it.
pub(super) fn load(ebpf: &mut Ebpf, types: &Types, program: &Program) -> Result<Option<u32>> {
    let types = || types.as_ref().map_err(|e| anyhow!("read the kernel's BTF: {e}"));
    let loaded = program_mut(ebpf, program.name)?;
    match program.hook() {
        Hook::Tracepoint(_) => <&mut RawTracePoint>::try_from(&mut *loaded)?.load(),
        Hook::Fentry(function) => <&mut FEntry>::try_from(&mut *loaded)?.load(function, types()?),
        Hook::Fexit(function) => <&mut FExit>::try_from(&mut *loaded)?.load(function, types()?),
        Hook::Kprobe(_) => {
            ensure!(
                Path::new(KPROBE_PMU).exists(),
                "this kernel has no kprobes (CONFIG_KPROBE_EVENTS)"
            );
            <&mut KProbe>::try_from(&mut *loaded)?.load()
        }
        Hook::Iterator(kind) => <&mut Iter>::try_from(&mut *loaded)?.load(kind, types()?),
    }
    .map_err(|e| load_error(program.name, &e))?;
    Ok(loaded.info().ok().and_then(|info| info.verified_instruction_count()))
}

/// Attaches a loaded program.
pub(super) fn attach(ebpf: &mut Ebpf, program: &Program) -> Result<()> {
    let loaded = program_mut(ebpf, program.name)?;
    match program.hook() {
        Hook::Tracepoint(event) => <&mut RawTracePoint>::try_from(loaded)?.attach(event).map(drop),
        Hook::Fentry(_) => <&mut FEntry>::try_from(loaded)?.attach().map(drop),
        Hook::Fexit(_) => <&mut FExit>::try_from(loaded)?.attach().map(drop),
        Hook::Kprobe(function) => <&mut KProbe>::try_from(loaded)?.attach(function, 0).map(drop),
        // Attached for each pass, see `read`.
        Hook::Iterator(_) => Ok(()),
    }
    .map_err(|e| attach_error(program, e))?;
    debug!(program = program.name, event = program.event, "attached");
    Ok(())
}

fn program_mut<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Loaded> {
    ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))
}

/// Beginnings of lines that follow the verifier's reason in its log.
const STATISTICS: [&str; 3] = ["processed ", "stack depth ", "verification time "];

/// An error with the verifier's reason: the last line of its log before the statistics.
pub(super) fn load_error(name: &str, error: &ProgramError) -> anyhow::Error {
    if let ProgramError::LoadError { io_error, verifier_log } = error {
        debug!(program = name, "verifier: {verifier_log}");
        let log = verifier_log.to_string();
        let is_statistics = |line: &str| STATISTICS.iter().any(|begin| line.starts_with(begin));
        let is_reason = |line: &&str| !line.trim().is_empty() && !is_statistics(line);
        let reason = log.lines().rfind(is_reason);
        let reason = reason.map(|line| format!(": {}", line.trim())).unwrap_or_default();
        return anyhow!("load {name}: {io_error}{reason}{}", super::privilege::hint(io_error));
    }
    anyhow!("load {name}: {error}")
}

fn attach_error(program: &Program, error: ProgramError) -> anyhow::Error {
    /// ENOTSUPP, which is not in the uapi headers.
    const UNSUPPORTED: i32 = 524;
    let hint = match &error {
        ProgramError::SyscallError(e) if e.io_error.raw_os_error() == Some(UNSUPPORTED) => {
            " (not supported by this kernel on this architecture)"
        }
        ProgramError::SyscallError(e)
            if e.call == "perf_event_open" && e.io_error.kind() == ErrorKind::PermissionDenied =>
        {
            " (with kernel.perf_event_paranoid above 2, kprobes need CAP_SYS_ADMIN)"
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
        warn!(program = name, "cannot detach: {e}");
    }
}
