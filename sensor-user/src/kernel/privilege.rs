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

/// Whether the kernel restricts bpf(2) to processes with CAP_BPF: 0 (no), 1 (until reboot) or 2.
const BPF_DISABLED: &str = "/proc/sys/kernel/unprivileged_bpf_disabled";

/// Drops all capabilities that serving does not need; returns the names of those that were kept.
///
/// Keeps `needs`. `works` reads a map: see [`reason_for_bpf`].
pub fn drop_all(needs: CapabilitySet, works: impl Fn() -> bool) -> Result<String> {
    set_no_new_privs(true).context("set no_new_privs")?;
    clear_ambient_capability_set().context("clear the ambient capabilities")?;
    let permitted = capabilities(None).context("read the capabilities of this process")?.permitted;
    let mut keep = permitted & needs;
    set_all(keep, permitted)?;
    let mut names = Vec::new();
    if keep.contains(CapabilitySet::IPC_LOCK) {
        names.push("CAP_IPC_LOCK (locked memory is limited: set LimitMEMLOCK=infinity)".to_owned());
    }
    let disabled = std::fs::read_to_string(BPF_DISABLED).ok();
    if let Some(reason) = reason_for_bpf(works(), disabled.as_deref())
        && permitted.contains(CapabilitySet::BPF)
    {
        keep |= CapabilitySet::BPF;
        names.push(format!("CAP_BPF ({reason})"));
    }
    set_all(keep, keep)?;
    Ok(if names.is_empty() { "none".to_owned() } else { names.join(", ") })
}

/// Drops every capability of the calling thread.
pub fn drop_for_thread() -> Result<()> {
    set_no_new_privs(true).context("set no_new_privs")?;
    clear_ambient_capability_set().context("clear the ambient capabilities")?;
    set_all(CapabilitySet::empty(), CapabilitySet::empty())
}

fn set_all(effective: CapabilitySet, permitted: CapabilitySet) -> Result<()> {
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective, permitted, inheritable })
        .context("drop capabilities")
}

/// Why CAP_BPF must be kept, if it must. `works` is whether a map could be read without it;
/// `disabled` is the content of [`BPF_DISABLED`].
///
/// Before 5.19 a process without CAP_BPF may not call bpf(2) at all while the setting is not 0;
/// since then only the creation of maps and programs needs CAP_BPF (`__sys_bpf`,
/// kernel/bpf/syscall.c). A read that succeeds while the setting is not 0 proves the latter. While
/// it is 0 a read proves nothing: on an older kernel, every read fails once an operator sets it.
fn reason_for_bpf(works: bool, disabled: Option<&str>) -> Option<&'static str> {
    if !works {
        return Some("this kernel requires it for reading maps");
    }
    match disabled.map(str::trim) {
        Some("1" | "2") => None,
        _ => Some("this kernel may require it once kernel.unprivileged_bpf_disabled is set"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cap_bpf_is_dropped_only_where_no_setting_can_require_it() {
        for (works, disabled, keeps) in [
            (true, Some("2\n"), false),
            (true, Some("1\n"), false),
            (true, Some("0\n"), true),
            (true, None, true),
            (false, Some("0\n"), true),
            (false, Some("2\n"), true),
        ] {
            let reason = reason_for_bpf(works, disabled);
            assert_eq!(reason.is_some(), keeps, "{works} {disabled:?}");
        }
    }
}
