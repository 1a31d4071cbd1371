//! The types that a trimmed BTF must contain, and the comparison with the full BTF.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use sensor_core::btf::{reader::Btf, resolve};
use sensor_ebpf::{
    probes,
    spec::{Field, Hook, Label},
};

use crate::raw::{ENUM, ENUM64, FUNC, Full, STRUCT, Type};

/// Functions whose parameters are a tracepoint's arguments.
pub(crate) const PREFIXES: [&str; 3] = ["__traceiter_", "__probestub_", "__bpf_trace_"];

/// More events beside those of the probes, with [`MORE_PREFIXES`].
pub(crate) const MORE: [&str; 9] = [
    "compact_retry",
    "exit_mmap",
    "finish_task_reaping",
    "mark_victim",
    "oom_score_adj_update",
    "reclaim_retry_zone",
    "skip_task_reaping",
    "start_task_reaping",
    "wake_reaper",
];
/// The names of vmscan's and compaction's events (BTF does not know systems).
pub(crate) const MORE_PREFIXES: [&str; 3] = ["mm_vmscan_", "mm_shrink_slab_", "mm_compaction_"];

/// The required types, from the descriptions of the probes.
pub(crate) struct Wanted {
    pub(crate) events: BTreeSet<&'static str>,
    pub(crate) functions: BTreeSet<&'static str>,
    pub(crate) fields: Vec<&'static str>,
    pub(crate) structs: BTreeSet<&'static str>,
    /// Enums known by name.
    pub(crate) enums: BTreeSet<&'static str>,
    /// Enums known by one of their enumerators.
    pub(crate) enumerators: BTreeSet<&'static str>,
}

impl Wanted {
    pub(crate) fn of_probes() -> Self {
        let programs = || probes::ALL.iter().flat_map(|p| p.programs);
        let paths = programs().flat_map(|p| p.fields).map(|f: &Field| f.path);
        let fields: Vec<_> = paths.chain([resolve::SAFE_FEXIT]).collect();
        let index = |path: &&'static str| Some(path.split_once('[')?.1.trim_end_matches(']'));
        let event = |hook| if let Hook::Tracepoint(event) = hook { Some(event) } else { None };
        let function = |hook| match hook {
            Hook::Fentry(name) | Hook::Fexit(name) | Hook::Kprobe(name) => Some(name),
            Hook::Tracepoint(_) | Hook::Iterator(_) => None,
        };
        Self {
            events: programs().filter_map(|p| event(p.hook())).collect(),
            functions: programs().filter_map(|p| function(p.hook())).collect(),
            structs: fields.iter().filter_map(|path| Some(path.split_once('.')?.0)).collect(),
            enums: probes::kernel_enums()
                .filter_map(|l| match l {
                    Label::KernelEnum { ty, .. } => Some(ty),
                    _ => None,
                })
                .collect(),
            enumerators: fields
                .iter()
                .filter_map(index)
                .chain([resolve::TASK_BTF_HELPER])
                .collect(),
            fields,
        }
    }

    pub(crate) fn event(&self, name: &str) -> bool {
        self.events.contains(name)
            || MORE.contains(&name)
            || MORE_PREFIXES.iter().any(|p| name.starts_with(p))
    }

    /// Whether this type is required by itself.
    pub(crate) fn root(&self, full: &Full, ty: &Type) -> Result<bool> {
        let name = full.name(ty)?;
        Ok(match ty.kind() {
            FUNC => {
                self.functions.contains(name)
                    || PREFIXES.iter().any(|p| name.strip_prefix(p).is_some_and(|e| self.event(e)))
            }
            STRUCT => self.structs.contains(name),
            kind @ (ENUM | ENUM64) => {
                let mut found = self.enums.contains(name);
                for part in ty.body.chunks_exact(if kind == ENUM { 2 } else { 3 }) {
                    found |= self.enumerators.contains(full.string(part[0])?);
                }
                found
            }
            _ => false,
        })
    }
}

/// Compares the results of all lookups.
pub(crate) fn compare(wanted: &Wanted, full: &Btf, trimmed: &Btf) -> Result<()> {
    for path in &wanted.fields {
        ensure!(
            full.offset(path) == trimmed.offset(path),
            "{path} has another offset after trimming"
        );
    }
    for event in wanted.events.iter().chain(&MORE) {
        ensure!(full.tracepoint(event) == trimmed.tracepoint(event), "{event} was changed");
    }
    for name in &wanted.functions {
        ensure!(full.function(name) == trimmed.function(name), "{name} was changed");
    }
    for name in &wanted.enums {
        ensure!(full.enum_names(name) == trimmed.enum_names(name), "enum {name} was changed");
    }
    for name in &wanted.enumerators {
        ensure!(full.enumerator(name) == trimmed.enumerator(name), "{name} was changed");
    }
    Ok(())
}
