//! Checks the capabilities that loading needs, and drops them afterwards.
//!
//! Capabilities belong to threads, so they are dropped before any thread is started.

use anyhow::{Context as _, Result};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
    set_no_new_privs,
};

/// Capabilities for loading and attaching: CAP_BPF for maps and programs, CAP_PERFMON for tracing
/// programs and kernel reads (kernel/bpf/syscall.c). CAP_SYS_ADMIN includes both.
const NEEDED: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::PERFMON);

/// The missing capabilities, with a remedy; `None` if none is missing.
pub fn missing() -> Option<String> {
    let have = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    if have.contains(NEEDED) || have.contains(CapabilitySet::SYS_ADMIN) {
        return None;
    }
    let names: Vec<_> = [(CapabilitySet::BPF, "CAP_BPF"), (CapabilitySet::PERFMON, "CAP_PERFMON")]
        .iter()
        .filter(|(cap, _)| !have.contains(*cap))
        .map(|(_, name)| *name)
        .collect();
    Some(format!(
        "{} missing: start memsensor as root, or give its unit \
         AmbientCapabilities=CAP_BPF CAP_PERFMON",
        names.join(" and ")
    ))
}

/// A possible cause of an error of bpf(), as a clause for an error message.
pub(super) fn hint(error: &std::io::Error) -> String {
    let is = |errno: rustix::io::Errno| error.raw_os_error() == Some(errno.raw_os_error());
    // With lockdown the verifier does not know the forbidden helpers, and returns EINVAL.
    if !is(rustix::io::Errno::PERM) && !is(rustix::io::Errno::INVAL) {
        return String::new();
    }
    if let Some(missing) = missing() {
        return format!(" ({missing})");
    }
    let lockdown = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    if lockdown.contains("[confidentiality]") {
        return " (the kernel is locked down to confidentiality, which forbids BPF to read kernel \
                memory: boot with lockdown=integrity or without)"
            .to_owned();
    }
    if is(rustix::io::Errno::PERM) {
        return " (a security module may forbid bpf(): see the kernel log)".to_owned();
    }
    String::new()
}

/// Drops all capabilities that serving does not need; returns the names of those that were kept.
///
/// Keeps `needs`. `works` reads a map: since 5.19 a process that has the descriptor needs no
/// capability for that; before, with `kernel.unprivileged_bpf_disabled`, it needs CAP_BPF. Which
/// case applies is tested: CAP_BPF is kept only if reading fails without it.
pub fn drop_all(needs: CapabilitySet, works: impl Fn() -> bool) -> Result<String> {
    set_no_new_privs(true).context("set no_new_privs")?;
    clear_ambient_capability_set().context("clear the ambient capabilities")?;
    let permitted = capabilities(None).context("read the capabilities of this process")?.permitted;
    let set = |effective: CapabilitySet, permitted: CapabilitySet| {
        let inheritable = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective, permitted, inheritable })
            .context("drop capabilities")
    };
    let mut keep = permitted & needs;
    set(keep, permitted)?;
    let mut names = Vec::new();
    if keep.contains(CapabilitySet::IPC_LOCK) {
        names.push("CAP_IPC_LOCK (locked memory is limited: set LimitMEMLOCK=infinity)");
    }
    if !works() && permitted.contains(CapabilitySet::BPF) {
        keep |= CapabilitySet::BPF;
        names.push("CAP_BPF (this kernel requires it for reading maps)");
    }
    set(keep, keep)?;
    Ok(if names.is_empty() { "none".to_owned() } else { names.join(", ") })
}
