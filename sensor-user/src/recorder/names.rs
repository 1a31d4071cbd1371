//! The names in records of this daemon: what signals, rules and causes are called, and where it runs.

use sensor_core::{
    record::content::Schema,
    verdict::{policy::RULES, signals::Signal},
};
use sensor_ebpf::stall_kind::Cause;

use super::usage::{MEMORY, SCOPE_MEMORY};

/// The schema of the records of this version on this host, with the names and cgroups of its scopes.
pub fn schema(scopes: Vec<(String, String)>) -> Schema {
    let system = rustix::system::uname();
    let owned = |name: &str| name.to_owned();
    Schema {
        version: owned(env!("CARGO_PKG_VERSION")),
        host: system.nodename().to_string_lossy().into_owned(),
        kernel: system.release().to_string_lossy().into_owned(),
        scopes,
        signals: Signal::ALL.iter().map(|signal| owned(signal.name())).collect(),
        rules: RULES.iter().map(|rule| owned(rule.name)).collect(),
        causes: Cause::ALL.iter().map(|cause| owned(cause.label())).collect(),
        memory: MEMORY.iter().map(|(name, _)| owned(name)).collect(),
        scope_memory: SCOPE_MEMORY.iter().map(|(name, _)| owned(name)).collect(),
    }
}
