//! Makes the plan for a kernel from its BTF: which programs can be attached, the values of their
//! globals, and the reason for each program that cannot be attached. Pure.
//!
//! Argument indices and member offsets come from BTF only, after name and type were checked. A
//! program whose arguments or members are not found is not attached; no offset is ever guessed.
//!
//! Not here: loading and attaching (the daemon's `kernel`).

use std::collections::BTreeMap;

use sensor_ebpf::{
    probes,
    spec::{Arg, ArgType, Hook, Label, Need, Probe, Program},
};

use super::reader::{Btf, Param, Type};

/// Members that are read only if the memory controller is on cgroup v1.
const ONLY_V1: [&str; 2] = ["css_set.subsys[memory_cgrp_id]", "cgroup_subsys_state.cgroup"];

/// If BTF has it, programs can get the current task as a typed pointer (5.11).
pub const TASK_BTF_HELPER: &str = "BPF_FUNC_get_current_task_btf";

/// The counters of resident sizes before 6.2. They are an array of a typedef, which the verifier of
/// these kernels does not resolve (kernel/bpf/btf.c, btf_struct_walk: "is not a struct").
const UNTYPED_RSS: &str = "mm_rss_stat.count";

/// If BTF has it, an fexit program can be detached while a task sleeps in its function (5.12, and
/// 5.10 since 5.10.27). Earlier kernels free the code that the task will return to.
pub const SAFE_FEXIT: &str = "bpf_tramp_image.pcref";

/// Facts about a host that the plan depends on, other than its BTF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Whether the memory controller is on a cgroup v1 hierarchy.
    pub memory_on_v1: bool,
}

/// The programs to attach, and the values of their globals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Values of the object's globals.
    pub globals: BTreeMap<&'static str, u32>,
    /// For each probe of [`probes::ALL`], each of its programs: `Ok` to attach it, or the reason
    /// against it.
    pub programs: Vec<Vec<Result<(), String>>>,
    /// Label values of kernel enums, by enum type.
    pub enums: BTreeMap<&'static str, Vec<Option<String>>>,
}

/// Makes the plan for a kernel.
pub fn plan(btf: Result<&Btf, &str>, host: Host) -> Plan {
    let mut globals = BTreeMap::from([("MEMORY_ON_V1", u32::from(host.memory_on_v1))]);
    let task_btf = btf.is_ok_and(|btf| btf.enumerator(TASK_BTF_HELPER).is_some());
    globals.insert("HAVE_TASK_BTF", u32::from(task_btf));
    let typed_rss = btf.is_ok_and(|btf| btf.offset(UNTYPED_RSS).is_none());
    globals.insert("TYPED_RSS", u32::from(typed_rss));
    let mut programs = Vec::new();
    for probe in probes::ALL {
        let mut states = Vec::new();
        for program in probe.programs {
            let state = btf
                .map_err(|reason| format!("no BTF: {reason}"))
                .and_then(|btf| resolve(btf, host, program))
                .map(|values| globals.extend(values));
            states.push(state);
        }
        exclude_incomplete(probe, &mut states);
        // After the exclusions: a program that is excluded is not present for the others.
        for (program, state) in probe.programs.iter().zip(&states) {
            if let Need::Optional { present: Some(global), .. } = program.need {
                globals.insert(global, u32::from(state.is_ok()));
            }
        }
        programs.push(states);
    }
    let has_victim_exit = programs[probes::Id::victim_exit as usize].iter().any(Result::is_ok);
    globals.insert("AWAIT_EXITS", u32::from(has_victim_exit));
    let enums = btf.map(enum_labels).unwrap_or_default();
    Plan { globals, programs, enums }
}

/// Excludes programs that would count only half of the events: all of a probe without one of its
/// required programs, and optional ones without their partner.
fn exclude_incomplete(probe: &Probe, states: &mut [Result<(), String>]) {
    let missing = probe
        .programs
        .iter()
        .zip(&*states)
        .find(|(program, state)| program.need == Need::Required && state.is_err())
        .map(|(program, _)| program.name);
    if let Some(missing) = missing {
        for state in states.iter_mut().filter(|s| s.is_ok()) {
            *state = Err(format!("the probe needs {missing} too"));
        }
    }
    for i in 0..states.len() {
        if let Some(other) = half_of(probe, i, |j| states[j].is_err()) {
            states[i] = Err(format!("it needs {other} too"));
        }
    }
}

/// The missing partner of program `i`, if there is one: optional programs that feed the same
/// metrics (one for the begin, one for the end) are useful only together.
pub fn half_of(
    probe: &Probe,
    i: usize,
    is_missing: impl Fn(usize) -> bool,
) -> Option<&'static str> {
    let metrics = |j: usize| match probe.programs[j].need {
        Need::Optional { metrics, .. } => metrics,
        Need::Required => &[],
    };
    if metrics(i).is_empty() || is_missing(i) {
        return None;
    }
    let partner = |j: &usize| *j != i && metrics(*j) == metrics(i) && is_missing(*j);
    (0..probe.programs.len()).find(partner).map(|j| probe.programs[j].name)
}

fn resolve(btf: &Btf, host: Host, program: &Program) -> Result<Vec<(&'static str, u32)>, String> {
    let params = params(btf, program)?;
    let find = |arg: &Arg| {
        let i = params.iter().position(|p| p.name == arg.param && matches(&p.ty, arg.ty))?;
        Some((arg.global, u32::try_from(i).ok()?))
    };
    let missing = |args: &[Arg]| {
        let names: Vec<_> = args.iter().map(|arg| arg.param).collect();
        let params: Vec<_> = params.iter().map(|param| param.name.as_str()).collect();
        let (names, params) = (names.join(" or "), params.join(", "));
        format!("{} has no {names} (it has: {params})", program.event)
    };
    let mut values = Vec::new();
    for arg in program.args {
        values.push(find(arg).ok_or_else(|| missing(&[*arg]))?);
    }
    let alternatives: Vec<_> = program.one_of.iter().filter_map(find).collect();
    if alternatives.is_empty() && !program.one_of.is_empty() {
        return Err(missing(program.one_of));
    }
    values.extend(alternatives);
    for field in program.fields {
        if !host.memory_on_v1 && ONLY_V1.contains(&field.path) {
            continue;
        }
        let offset = btf
            .offset(field.path)
            .ok_or_else(|| format!("this kernel's BTF has no {}", field.path))?;
        values.push((field.global, offset));
    }
    Ok(values)
}

/// Parameters of the tracepoint or function of a program, or why it cannot be attached.
fn params(btf: &Btf, program: &Program) -> Result<Vec<Param>, String> {
    let params = match program.hook() {
        Hook::Tracepoint(event) => btf
            .tracepoint(event)
            .ok_or_else(|| format!("this kernel has no tracepoint {}", program.event))?,
        Hook::Fentry(name) | Hook::Fexit(name) | Hook::Kprobe(name) => {
            btf.function(name).ok_or_else(|| format!("this kernel has no function {name}"))?
        }
        // An iterator has one argument with one layout. Loading fails if the kernel lacks it.
        Hook::Iterator(_) => Vec::new(),
    };
    if matches!(program.hook(), Hook::Fexit(_)) && btf.offset(SAFE_FEXIT).is_none() {
        return Err("this kernel may crash when an fexit program is detached".to_owned());
    }
    Ok(params)
}

fn matches(ty: &Type, expected: ArgType) -> bool {
    match expected {
        ArgType::Int => *ty == Type::Int,
        ArgType::Ptr(name) => matches!(ty, Type::PtrTo(n) if n == name),
    }
}

fn enum_labels(btf: &Btf) -> BTreeMap<&'static str, Vec<Option<String>>> {
    probes::kernel_enums()
        .filter_map(|label| match label {
            Label::KernelEnum { ty, prefix, len, .. } => {
                let names = btf.enum_names(ty);
                let name = |i: usize| {
                    let name = names.get(&i64::try_from(i).ok()?)?;
                    Some(name.strip_prefix(prefix)?.to_lowercase())
                };
                Some((ty, (0..len).map(name).collect()))
            }
            _ => None,
        })
        .collect()
}
