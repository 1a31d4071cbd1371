//! Attaches the programs of one probe: all required programs, or none.
//!
//! Not here: attaching one program (`attach`), and which programs this kernel allows
//! (`btf/resolve`).

use aya::Ebpf;
use sensor_core::{
    btf::resolve,
    model::coverage::{AttachState, ProbeState, ProgramState},
};
use sensor_ebpf::spec::{Need, Probe, Program};

use super::attach::{self, Types};

/// The state of a probe that the configuration disables.
pub(super) fn disabled(probe: &Probe) -> ProbeState {
    let reason = "disabled in the configuration";
    let missing = |program| ProgramState::missing(program, reason.to_owned());
    ProbeState {
        name: probe.name,
        state: AttachState::Disabled,
        reason: reason.to_owned(),
        programs: probe.programs.iter().map(missing).collect(),
    }
}

/// Loads the programs that the plan allows, then attaches them. `plan` has an entry for each
/// program of the probe.
///
/// All are loaded before the first is attached, and ends stand before their begins in
/// [`Probe::programs`]: otherwise a task that begins while the verifier reads the end would have no
/// end, and would seem to stall until it exits.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    types: &Types,
    probe: &Probe,
    plan: &[Result<(), String>],
) -> ProbeState {
    let programs = probe.programs.iter().zip(plan);
    let mut states: Vec<_> =
        programs.map(|(program, plan)| load_program(ebpf, types, program, plan)).collect();
    if broken_dependency(probe, plan, &states).is_none() {
        attach_loaded(ebpf, probe, &mut states);
    }
    if let Some((name, reason)) = broken_dependency(probe, plan, &states) {
        for state in states.iter_mut().filter(|s| s.missing.is_none()) {
            attach::detach(ebpf, state.name);
            state.missing = Some(format!("the probe needs {name} too"));
        }
        let state = AttachState::Missing;
        return ProbeState { name: probe.name, state, reason, programs: states };
    }
    drop_halves(ebpf, probe, &mut states);
    let losses: Vec<_> = (probe.programs.iter().zip(&states))
        .filter_map(|(program, state)| match (program.need, &state.missing) {
            (Need::Optional { lost, .. }, Some(reason)) => Some(format!("{lost}: {reason}")),
            _ => None,
        })
        .collect();
    ProbeState {
        name: probe.name,
        state: if losses.is_empty() { AttachState::Attached } else { AttachState::Partial },
        reason: losses.join("; "),
        programs: states,
    }
}

fn load_program(
    ebpf: &mut Ebpf,
    types: &Types,
    program: &Program,
    plan: &Result<(), String>,
) -> ProgramState {
    if let Err(reason) = plan {
        return ProgramState::missing(program, reason.clone());
    }
    match attach::load(ebpf, types, program) {
        Ok(verified_instructions) => ProgramState {
            name: program.name,
            event: program.event,
            missing: None,
            verified_instructions,
        },
        Err(e) => ProgramState::missing(program, format!("{e:#}")),
    }
}

/// Attaches the programs that could be loaded, in the order of the probe.
fn attach_loaded(ebpf: &mut Ebpf, probe: &Probe, states: &mut [ProgramState]) {
    for (i, program) in probe.programs.iter().enumerate() {
        // An end that could not be attached: then not its begin either.
        drop_halves(ebpf, probe, states);
        if states[i].missing.is_none()
            && let Err(e) = attach::attach(ebpf, program)
        {
            attach::detach(ebpf, program.name);
            states[i] = ProgramState::missing(program, format!("{e:#}"));
        }
    }
}

/// Removes each program whose partner is missing.
fn drop_halves(ebpf: &mut Ebpf, probe: &Probe, states: &mut [ProgramState]) {
    for i in 0..states.len() {
        if let Some(other) = resolve::half_of(probe, i, |j| states[j].missing.is_some()) {
            attach::detach(ebpf, states[i].name);
            states[i].missing = Some(format!("it needs {other} too"));
        }
    }
}

/// A program that is missing and that the others depend on, with its reason. A begin without its
/// end counts half of something. Programs were also loaded with the assumption that a planned
/// optional program with `present` would be attached.
fn broken_dependency(
    probe: &Probe,
    plan: &[Result<(), String>],
    states: &[ProgramState],
) -> Option<(&'static str, String)> {
    let depended_on = |program: &Program, planned: bool| match program.need {
        Need::Required => true,
        Need::Optional { present, .. } => planned && present.is_some(),
    };
    let mut programs = probe.programs.iter().zip(plan).zip(states);
    let broken = programs.find(|((program, plan), state)| {
        state.missing.is_some() && depended_on(program, plan.is_ok())
    });
    broken.map(|(_, state)| (state.name, state.missing.clone().unwrap_or_default()))
}
