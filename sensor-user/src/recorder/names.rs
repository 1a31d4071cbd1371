//! The names in records of this daemon: what signals, rules and causes are called, and where it runs.

use sensor_core::{
    record::content::Schema,
    verdict::{policy::RULES, signals::Signal},
};
use sensor_ebpf::stall_kind::Cause;

/// The schema of the records of this version on this host.
pub fn schema() -> Schema {
    let system = rustix::system::uname();
    let owned = |name: &str| name.to_owned();
    Schema {
        version: owned(env!("CARGO_PKG_VERSION")),
        host: system.nodename().to_string_lossy().into_owned(),
        kernel: system.release().to_string_lossy().into_owned(),
        signals: Signal::ALL.iter().map(|signal| owned(signal.name())).collect(),
        rules: RULES.iter().map(|rule| owned(rule.name)).collect(),
        causes: Cause::ALL.iter().map(|cause| owned(cause.label())).collect(),
    }
}
