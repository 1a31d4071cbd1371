//! One test per probe: causes its events, compares the counts with the kernel's trace, and writes
//! the cell of the table. A probe that this kernel does not support gets a cell with the reason;
//! [`super::host`] asserts that it is not supported.

mod allocation;
mod kills;
mod reclaim;
mod tables;

use sensor_tests::support::counts::Record;

use super::{cell, enter, host::why_missing};

/// Whether the probe is not attached here; then writes its cell.
fn is_missing(probe: &str) -> bool {
    enter();
    let reason = why_missing(probe);
    if let Some(reason) = &reason {
        cell(probe, "missing", reason);
    }
    reason.is_some()
}

fn once(_: &Record) -> f64 {
    1.0
}

fn field(name: &'static str) -> impl Fn(&Record) -> f64 {
    move |record| record.number(name).unwrap_or_else(|e| panic!("{e:#}")) as f64
}

fn tid(record: &Record) -> u64 {
    u64::from(record.tid)
}

fn is_kernel_thread(record: &Record) -> bool {
    let comm = record.comm.as_deref().unwrap_or_default();
    ["kswapd", "kcompactd", "khugepaged"].iter().any(|name| comm.starts_with(name))
}
