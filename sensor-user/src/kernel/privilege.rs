//! Capabilities: what loading needs, and getting rid of the rest afterwards.
//!
//! Capabilities belong to threads, so they are dropped before any thread is started.

use anyhow::{Context as _, Result};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
    set_no_new_privs,
};

/// What loading and attaching needs: maps and programs (CAP_BPF, kernel/bpf/syscall.c), tracing
/// programs and kernel reads (CAP_PERFMON, the same). CAP_SYS_ADMIN stands for both.
const NEEDED: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::PERFMON);

/// Why we may not load, and what to do; `None` if we may.
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
        "{} missing: start memsensor as root, or give its unit AmbientCapabilities=CAP_BPF CAP_PERFMON",
        names.join(" and ")
    ))
}

/// What may be behind a refusal by the kernel, as a clause for an error message.
pub(super) fn hint(error: &std::io::Error) -> String {
    let is = |errno: rustix::io::Errno| error.raw_os_error() == Some(errno.raw_os_error());
    // The verifier does not know the helpers that lockdown forbids, and calls that EINVAL.
    if !is(rustix::io::Errno::PERM) && !is(rustix::io::Errno::INVAL) {
        return String::new();
    }
    if let Some(why) = missing() {
        return format!(" ({why})");
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

/// Drops everything that serving does not need; returns what was kept.
///
/// `needs` is kept in any case. `works` reads a map. Since 5.19 that needs no capability for who holds the descriptor; before,
/// with `kernel.unprivileged_bpf_disabled`, it needs CAP_BPF. Which it is here is tried, not
/// guessed: first with nothing effective, and only if that fails with CAP_BPF.
pub fn drop_all(needs: CapabilitySet, works: impl Fn() -> bool) -> Result<String> {
    set_no_new_privs(true).context("set no_new_privs")?;
    clear_ambient_capability_set().context("clear the ambient capabilities")?;
    let permitted = capabilities(None).context("read our capabilities")?.permitted;
    let set = |effective: CapabilitySet, permitted: CapabilitySet| {
        let inheritable = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective, permitted, inheritable })
            .context("drop capabilities")
    };
    let mut keep = permitted & needs;
    set(keep, permitted)?;
    let mut names = Vec::new();
    if keep.contains(CapabilitySet::IPC_LOCK) {
        names.push("CAP_IPC_LOCK (there is a limit on locked memory: LimitMEMLOCK=infinity)");
    }
    if !works() && permitted.contains(CapabilitySet::BPF) {
        keep |= CapabilitySet::BPF;
        names.push("CAP_BPF (this kernel wants it for reading maps)");
    }
    set(keep, keep)?;
    Ok(if names.is_empty() { "none".to_owned() } else { names.join(", ") })
}
