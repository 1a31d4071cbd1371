//! Every program as in service against the verifier of the running kernel, with the debug log on
//! and off.

use std::collections::{BTreeMap, BTreeSet};

use aya::{
    Ebpf,
    programs::{
        FEntry, FExit, Iter, KProbe, Program as Loaded, ProgramError, ProgramInfo, RawTracePoint,
    },
};
use sensor_ebpf::{
    probes,
    spec::{Hook, Program},
};
use sensor_user::kernel::{
    load,
    settings::{BpfLog, Settings},
};

use crate::bench;

/// Programs that belong to no probe.
const HARNESS: [&str; 2] = ["whoami", "empty"];

/// Every program, and why this kernel cannot have it.
type Planned = Vec<(&'static Program, Result<(), String>)>;

/// The object as in service on this kernel.
fn open(bpf_log: BpfLog) -> (Ebpf, Planned) {
    let (_, plan) = bench::plan();
    let config = Settings { bpf_log, ..Settings::default() };
    let ebpf = load::open(&config, &plan).expect("open");
    let programs = probes::ALL.iter().flat_map(|probe| probe.programs);
    (ebpf, programs.zip(plan.programs.into_iter().flatten()).collect())
}

fn load(ebpf: &mut Ebpf, types: &aya::Btf, program: &Program) -> Result<ProgramInfo, ProgramError> {
    let loaded = ebpf.program_mut(program.name).expect(program.name);
    match program.hook() {
        Hook::Tracepoint(_) => <&mut RawTracePoint>::try_from(&mut *loaded)?.load(),
        Hook::Fentry(function) => <&mut FEntry>::try_from(&mut *loaded)?.load(function, types),
        Hook::Fexit(function) => <&mut FExit>::try_from(&mut *loaded)?.load(function, types),
        Hook::Kprobe(_) => <&mut KProbe>::try_from(&mut *loaded)?.load(),
        Hook::Iterator(kind) => <&mut Iter>::try_from(&mut *loaded)?.load(kind, types),
    }?;
    loaded.info()
}

/// Whether the kernel refused the program before its verifier read it: some kernels allow no
/// programs at functions. A program that is wrong has a verifier log.
fn is_unsupported(program: &Program, error: &ProgramError) -> bool {
    let ProgramError::LoadError { verifier_log, .. } = error else { return false };
    let unread = verifier_log.to_string().trim().is_empty();
    unread && !matches!(program.hook(), Hook::Tracepoint(_))
}

/// Loads all programs, prints the verifier's result, and returns the translated size of each.
fn translated(bpf_log: BpfLog) -> BTreeMap<&'static str, u32> {
    let (mut ebpf, programs) = open(bpf_log);
    let types = aya::Btf::from_sys_fs().expect("BTF");
    let (mut sizes, mut accepted, mut refused) =
        (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    for (program, planned) in programs {
        let name = program.name;
        if let Err(why) = planned {
            println!("skipped: {name}: {why}");
            // Only what the kernel lacks may be refused.
            let lacks = ["this kernel has no ", "the probe needs "];
            assert!(lacks.iter().any(|start| why.starts_with(start)), "{name}: {why}");
            continue;
        }
        let (kind, _) = program.event.split_once(':').expect("kind:name");
        let info = match load(&mut ebpf, &types, program) {
            Ok(info) => info,
            Err(error) if is_unsupported(program, &error) => {
                println!("skipped: {name}: this kernel refuses {kind} programs: {error:?}");
                refused.insert(kind);
                continue;
            }
            Err(error) => panic!("{name}: {error:?}"),
        };
        accepted.insert(kind);
        let size = info.size_translated().unwrap_or_else(|| panic!("{name}: no size"));
        let walked = info.verified_instruction_count();
        let walked = walked.map_or("?".to_owned(), |n| n.to_string());
        println!("{bpf_log:?}: {name:16} {walked:>6} instructions walked, {size:5} bytes");
        sizes.insert(name, size);
    }
    let both: Vec<_> = accepted.intersection(&refused).collect();
    assert!(both.is_empty(), "this kernel accepts one program of a kind and refuses another");
    sizes
}

#[test]
fn the_verifier_accepts_each_program() {
    let (off, on) = (translated(BpfLog::Off), translated(BpfLog::Warn));
    assert!(!off.is_empty(), "this kernel has none of the events");
    assert_eq!(off.keys().collect::<Vec<_>>(), on.keys().collect::<Vec<_>>());
    // More than a thousand bytes: the function that composes a message, and its calls.
    let logs = |name: &str| on[name] > off[name] + 1000;
    for (name, size) in &off {
        assert!(logs(name) || on[name] == *size, "{name} has code of the log while it is off");
    }
    for probe in probes::ALL.iter().filter(|probe| !probe.losses.is_empty()) {
        let mut loaded = probe.programs.iter().filter(|p| off.contains_key(p.name)).peekable();
        let logged = loaded.peek().is_none() || loaded.any(|program| logs(program.name));
        assert!(logged, "{} declares losses that no program logs", probe.name);
    }
}

#[test]
fn each_program_of_the_object_belongs_to_a_probe() {
    let (ebpf, programs) = open(BpfLog::Off);
    let declared = programs.iter().map(|(program, _)| program.name).chain(HARNESS);
    let in_object: BTreeSet<_> = ebpf.programs().map(|(name, _)| name).collect();
    assert_eq!(in_object, declared.collect());
}

/// aya names the kinds of programs by macro and section; the declaration names them by event.
#[test]
fn each_program_is_of_the_kind_that_its_event_needs() {
    let (ebpf, programs) = open(BpfLog::Off);
    for (program, _) in programs {
        let loaded = ebpf.program(program.name).expect(program.name);
        let fits = matches!(
            (program.hook(), loaded),
            (Hook::Tracepoint(_), Loaded::RawTracePoint(_))
                | (Hook::Fentry(_), Loaded::FEntry(_))
                | (Hook::Fexit(_), Loaded::FExit(_))
                | (Hook::Kprobe(_), Loaded::KProbe(_))
                | (Hook::Iterator(_), Loaded::Iter(_))
        );
        assert!(fits, "{} cannot attach to {}", program.name, program.event);
    }
}
