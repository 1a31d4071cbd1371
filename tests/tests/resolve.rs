//! The resolver against recorded BTF of real kernels: which programs it attaches, which arguments
//! and offsets it passes to them, and its reasons for refusing the others. Needs no root; see
//! `fixtures/README.md`.
//!
//! The expected values come from independent readers: argument positions from `bpftool btf dump`
//! (`format raw`) of the full BTF, offsets from gcc's `offsetof` over its `format c`. A number that
//! changes here without a change of the fixtures is a bug.

#![allow(clippy::panic, reason = "the helpers of a test fail it")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use sensor_core::btf::{
    reader::{Btf, Type},
    resolve::{Host, Plan, plan},
};
use sensor_ebpf::{
    probes,
    spec::{Field, Hook, NO_ARG},
};

/// The columns of every table below.
const KERNELS: [&str; 8] = [
    "5.10.0-30-cloud-amd64",
    "5.10.0-46-cloud-amd64",
    "6.1.0-56-cloud-amd64",
    "6.12.117+deb13-cloud-amd64",
    "6.16.12+deb13-cloud-amd64",
    "6.18.15+deb13-cloud-amd64",
    "7.2.13+deb14-cloud-amd64",
    "7.3.4+deb13-cloud-amd64",
];

type Table<const ROWS: usize> = [(&'static str, [u32; KERNELS.len()]); ROWS];

/// All programs; they are attached on every kernel except those in [`REFUSED`].
const PROGRAMS: [(&str, &[&str]); 14] = [
    ("oom_kill", &["oom_sigkill", "mark_victim", "oom_context"]),
    ("victim_exit", &["exit_mmap", "process_exit"]),
    ("direct_reclaim", &["direct_end", "direct_begin"]),
    ("memcg_reclaim", &["memcg_end", "memcg_begin", "softlimit_end", "softlimit_begin"]),
    ("kswapd", &["kswapd_sleep", "kswapd_wake"]),
    ("reclaim_scan", &["shrink_inactive"]),
    ("throttle", &["throttled"]),
    ("pfmemalloc_throttle", &["pfmem_end", "pfmem_begin"]),
    ("compaction", &["compact_end", "compact_begin"]),
    ("alloc_retry", &["reclaim_retry", "compact_retry"]),
    ("alloc_failure", &["alloc_failed"]),
    ("kill_signal", &["kill_signal"]),
    ("processes", &["process_table"]),
    ("cgroups", &["cgroup_gone", "cgroup_made"]),
];

/// Kernels (as a range of columns), the program, why.
const REFUSED: [(std::ops::Range<usize>, &str, &str); 2] = [
    (0..2, "exit_mmap", "this kernel has no tracepoint mmap:exit_mmap"),
    (0..2, "throttled", "this kernel has no tracepoint vmscan:mm_vmscan_throttled"),
];

const NO: u32 = NO_ARG;

/// Positions of arguments, without `void *__data`.
const ARGS: Table<27> = [
    ("ARG_OOM_SIG", [0; 8]),
    ("ARG_OOM_INFO", [1; 8]),
    ("ARG_OOM_TARGET", [2; 8]),
    ("ARG_VICTIM_TASK", [NO, 0, 0, 0, 0, 0, 0, 0]),
    ("ARG_VICTIM_PID", [0, NO, NO, NO, NO, NO, NO, NO]),
    ("ARG_OOM_CONTROL", [0; 8]),
    ("ARG_EXIT_MM", [NO, NO, 0, 0, 0, 0, 0, 0]),
    ("ARG_DIRECT_FREED", [0; 8]),
    ("ARG_MEMCG_FREED", [0; 8]),
    ("ARG_SOFT_FREED", [0; 8]),
    ("ARG_WAKE_NID", [0; 8]),
    ("ARG_SLEEP_NID", [0; 8]),
    ("ARG_SCAN_SCANNED", [1; 8]),
    ("ARG_SCAN_STOLEN", [2; 8]),
    ("ARG_SCAN_PRIORITY", [4; 8]),
    ("ARG_SCAN_FILE", [5; 8]),
    ("ARG_THROTTLE_USEC", [NO, NO, 2, 2, 2, 2, 2, 2]),
    ("ARG_THROTTLE_WHY", [NO, NO, 3, 3, 3, 3, 3, 3]),
    ("ARG_COMPACT_STATUS", [5, 5, 4, 4, 4, 4, 4, 4]),
    ("ARG_RETRY_LOOPS", [5; 8]),
    ("ARG_KILL_SIG", [0; 8]),
    ("ARG_KILL_INFO", [1; 8]),
    ("ARG_KILL_TASK", [2; 8]),
    ("ARG_KILL_RESULT", [4; 8]),
    ("ARG_MADE_CGROUP", [0; 8]),
    ("ARG_MADE_PATH", [1; 8]),
    ("ARG_GONE_CGROUP", [0; 8]),
];

/// Offsets of members that are read on every kernel.
const OFFSETS: Table<30> = [
    ("OFF_TASK_PID", [2232, 2232, 2416, 2432, 2704, 2704, 2808, 2872]),
    ("OFF_TASK_TGID", [2236, 2236, 2420, 2436, 2708, 2708, 2812, 2876]),
    ("OFF_TASK_COMM", [2736, 2736, 2976, 2976, 3248, 3248, 3344, 3408]),
    ("OFF_TASK_FLAGS", [36, 36, 44, 44, 44, 44, 44, 44]),
    ("OFF_TASK_MM", [2056, 2056, 2272, 2304, 2576, 2576, 2680, 2744]),
    ("OFF_TASK_SIGNAL", [2832, 2832, 3072, 3072, 3344, 3344, 3448, 3520]),
    ("OFF_TASK_CRED", [2720, 2720, 2960, 2960, 3232, 3232, 3328, 3392]),
    ("OFF_TASK_LEADER", [2296, 2296, 2480, 2496, 2768, 2768, 2872, 2936]),
    ("OFF_TASK_VFORK_DONE", [2440, 2440, 2624, 2624, 2896, 2896, 3000, 3064]),
    ("OFF_TASK_START", [2544, 2544, 2784, 2784, 3056, 3056, 3160, 3224]),
    ("OFF_TASK_NVCSW", [2520, 2520, 2760, 2760, 3032, 3032, 3136, 3200]),
    ("OFF_TASK_CGROUPS", [3328, 3328, 3600, 3584, 3872, 3880, 4000, 4072]),
    ("OFF_SIGNAL_LIVE", [4; 8]),
    ("OFF_SIGNAL_ADJ", [1010, 1010, 1026, 1018, 1026, 1066, 1074, 1074]),
    ("OFF_CRED_UID", [8; 8]),
    ("OFF_MM_TOTAL_VM", [192, 192, 192, 256, 272, 360, 608, 608]),
    ("OFF_MM_PGTABLES", [104, 104, 96, 152, 168, 168, 392, 392]),
    // Eight bytes apart as atomic_long_t, forty as percpu_counter, and then `count` is inside.
    ("OFF_MM_FILE_PAGES", [712, 712, 728, 832, 848, 936, 1216, 1216]),
    ("OFF_MM_ANON_PAGES", [720, 720, 736, 872, 888, 976, 1256, 1256]),
    ("OFF_MM_SWAP_PAGES", [728, 728, 744, 912, 928, 1016, 1296, 1296]),
    ("OFF_MM_SHMEM_PAGES", [736, 736, 752, 952, 968, 1056, 1336, 1336]),
    ("OFF_CSET_DFL_CGRP", [120, 120, 128, 128, 128, 128, 128, 128]),
    ("OFF_CGROUP_ROOT", [480, 480, 656, 720, 720, 720, 808, 808]),
    ("OFF_CGROUP_KN", [248, 248, 248, 256, 256, 256, 296, 296]),
    ("OFF_KERNFS_ID", [104, 104, 104, 96, 96, 96, 96, 96]),
    ("OFF_SIGINFO_CODE", [8; 8]),
    ("OFF_OOM_ORDER", [28; 8]),
    ("OFF_OOM_GFP_MASK", [24; 8]),
    ("OFF_OOM_MEMCG", [16; 8]),
    ("OFF_OOM_CONSTRAINT", [56; 8]),
];

/// Offsets of members that are read only where the memory controller is on cgroup v1.
const OFFSETS_V1: Table<2> = [("OFF_CSET_MEMORY", [32; 8]), ("OFF_CSS_CGROUP", [0; 8])];

/// Whether the kernel reports when an address space has been torn down.
const HAVE_EXIT_MMAP: [u32; 8] = [0, 0, 1, 1, 1, 1, 1, 1];

/// Whether the kernel has the helper bpf_get_current_task_btf (5.11).
const HAVE_TASK_BTF: [u32; 8] = [0, 0, 1, 1, 1, 1, 1, 1];

/// Whether resident sizes are counted in structures of their own (6.2).
const TYPED_RSS: [u32; 8] = [0, 0, 0, 1, 1, 1, 1, 1];

/// Values 0 to 3 of `vmscan_throttle_state`, since 6.1. Then comes NR_VMSCAN_THROTTLE, no reason.
const THROTTLE_REASONS: [&str; 4] = ["writeback", "isolated", "noprogress", "congested"];

/// Values 0 to 3 of `oom_constraint`, on all kernels.
const OOM_CONSTRAINTS: [&str; 4] = ["none", "cpuset", "memory_policy", "memcg"];

/// Values 0 to 8 of `compact_result`, on all kernels.
const COMPACT_RESULTS: [&str; 9] = [
    "not_suitable_zone",
    "skipped",
    "deferred",
    "no_suitable_page",
    "continue",
    "complete",
    "partial_skipped",
    "contended",
    "success",
];

fn fixtures() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures"))
}

fn read(kernel: &str, file: &str) -> Vec<u8> {
    let path = fixtures().join(kernel).join(file);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn text(kernel: &str, file: &str) -> String {
    String::from_utf8(read(kernel, file)).expect("UTF-8")
}

fn btf(kernel: &str) -> Btf {
    Btf::parse(read(kernel, "btf")).unwrap_or_else(|e| panic!("{kernel}: {e}"))
}

fn planned(btf: &Btf, memory_on_v1: bool) -> Plan {
    plan(Ok(btf), Host { memory_on_v1 })
}

/// The program's state in the plan.
fn state<'a>(plan: &'a Plan, program: &str) -> &'a Result<(), String> {
    let names = probes::ALL.iter().flat_map(|p| p.programs).map(|p| p.name);
    let mut states = names.zip(plan.programs.iter().flatten());
    states.find(|(name, _)| *name == program).map(|(_, state)| state).expect("a known program")
}

/// The same BTF with every `from` replaced: a kernel with other names.
fn renamed(kernel: &str, from: &str, to: &str) -> Btf {
    assert_eq!(from.len(), to.len(), "offsets must stay");
    let mut data = read(kernel, "btf");
    let places: Vec<_> =
        (0..data.len()).filter(|at| data[*at..].starts_with(from.as_bytes())).collect();
    assert!(!places.is_empty(), "{kernel} has no {from}");
    for at in places {
        data[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    Btf::parse(data).expect("still BTF")
}

#[test]
fn every_fixture_has_a_column_in_the_tables() {
    let entries = fs::read_dir(fixtures()).expect("list fixtures").map(|e| e.expect("entry"));
    let found: BTreeSet<_> = entries
        .filter(|e| e.path().is_dir())
        .map(|e| e.file_name().into_string().expect("UTF-8"))
        .collect();
    assert_eq!(found, KERNELS.map(String::from).into());
}

#[test]
fn programs_attach_or_have_the_exact_reason() {
    let names: Vec<_> = probes::ALL
        .iter()
        .map(|p| (p.name, p.programs.iter().map(|p| p.name).collect::<Vec<_>>()))
        .collect();
    assert_eq!(names, PROGRAMS.map(|(probe, programs)| (probe, programs.to_vec())));
    for (column, kernel) in KERNELS.iter().enumerate() {
        let btf = btf(kernel);
        for memory_on_v1 in [false, true] {
            let expected = PROGRAMS.map(|(_, programs)| {
                let why = |program: &&str| {
                    REFUSED.iter().find(|(on, name, _)| on.contains(&column) && name == program)
                };
                let state = |p| why(p).map_or(Ok(()), |(_, _, why)| Err((*why).to_owned()));
                programs.iter().map(state).collect::<Vec<_>>()
            });
            let plan = planned(&btf, memory_on_v1);
            assert_eq!(plan.programs, expected, "{kernel}, v1: {memory_on_v1}");
        }
    }
}

#[test]
fn programs_get_exactly_these_positions_and_offsets() {
    for (column, kernel) in KERNELS.iter().enumerate() {
        let btf = btf(kernel);
        for memory_on_v1 in [false, true] {
            let v1 = OFFSETS_V1.iter().filter(|_| memory_on_v1);
            let numbers = ARGS.iter().chain(&OFFSETS).chain(v1);
            let mut expected: BTreeMap<_, _> = numbers
                .map(|(global, values)| (*global, values[column]))
                .filter(|(_, value)| *value != NO)
                .collect();
            expected.insert("MEMORY_ON_V1", u32::from(memory_on_v1));
            expected.insert("HAVE_EXIT_MMAP", HAVE_EXIT_MMAP[column]);
            expected.insert("HAVE_TASK_BTF", HAVE_TASK_BTF[column]);
            expected.insert("TYPED_RSS", TYPED_RSS[column]);
            expected.insert("AWAIT_EXITS", 1);
            let plan = planned(&btf, memory_on_v1);
            assert_eq!(plan.globals, expected, "{kernel}, v1: {memory_on_v1}");
        }
    }
}

#[test]
fn the_tables_have_every_argument_and_field() {
    let programs = || probes::ALL.iter().flat_map(|p| p.programs);
    let args = programs().flat_map(|p| p.args.iter().chain(p.one_of)).map(|a| a.global);
    let listed: BTreeSet<_> = ARGS.iter().map(|(global, _)| *global).collect();
    assert_eq!(args.collect::<BTreeSet<_>>(), listed);
    let fields = programs().flat_map(|p| p.fields).map(|f: &Field| f.global);
    let listed: BTreeSet<_> =
        OFFSETS.iter().chain(&OFFSETS_V1).map(|(global, _)| *global).collect();
    assert_eq!(fields.collect::<BTreeSet<_>>(), listed);
}

#[test]
fn labels_are_the_names_of_the_kernel_enums() {
    for (column, kernel) in KERNELS.iter().enumerate() {
        let enums = planned(&btf(kernel), false).enums;
        let values = |ty: &str| {
            let named = enums[ty].iter().enumerate().filter_map(|(i, n)| Some((i, n.as_deref()?)));
            named.collect::<Vec<_>>()
        };
        let reasons: &[_] = if column < 2 { &[] } else { &THROTTLE_REASONS };
        let reasons: Vec<_> = reasons.iter().copied().enumerate().collect();
        assert_eq!(values("vmscan_throttle_state"), reasons, "{kernel}");
        let results: Vec<_> = COMPACT_RESULTS.into_iter().enumerate().collect();
        assert_eq!(values("compact_result"), results, "{kernel}");
        let constraints: Vec<_> = OOM_CONSTRAINTS.into_iter().enumerate().collect();
        assert_eq!(values("oom_constraint"), constraints, "{kernel}");
        assert_eq!(enums.len(), 3, "an enum that is not tested: {:?}", enums.keys());
    }
}

/// `events` and `formats` were recorded from tracefs: an independent source on the same kernel.
#[test]
fn btf_and_tracefs_have_the_same_events() {
    for kernel in KERNELS {
        let btf = btf(kernel);
        let events = text(kernel, "events");
        let events: BTreeSet<_> = events.lines().collect();
        let systems: BTreeSet<_> = events.iter().filter_map(|e| e.split(':').next()).collect();
        assert!(systems.contains("vmscan") && systems.contains("oom"), "{kernel}: {systems:?}");
        for event in &events {
            let name = event.split_once(':').expect("system:event").1;
            assert!(btf.tracepoint(name).is_some(), "{kernel}: BTF lacks {event}");
        }
        for program in probes::ALL.iter().flat_map(|p| p.programs) {
            let Hook::Tracepoint(name) = program.hook() else { continue };
            let (system, _) = program.event.split_once(':').expect("system:event");
            let has = btf.tracepoint(name).is_some();
            if systems.contains(system) {
                assert_eq!(has, events.contains(program.event), "{kernel}: {}", program.event);
            }
            let format = fixtures().join(kernel).join("formats").join(format!("{system}.{name}"));
            assert!(has || !format.exists(), "{kernel}: recorded, but not in BTF: {name}");
        }
    }
}

/// Names of an event's own fields, as recorded.
fn fields(kernel: &str, event: &str) -> Vec<String> {
    let format = text(kernel, &format!("formats/{event}"));
    let declarations =
        format.lines().filter_map(|l| l.trim().strip_prefix("field:")?.split(';').next());
    let names = declarations.filter_map(|d| d.rsplit(' ').next()).map(str::to_owned);
    names.filter(|n| !n.starts_with("common_")).collect()
}

/// The old form passes a pid, the new one a task; the kernel's version does not decide which.
#[test]
fn mark_victim_passes_a_task_if_its_record_has_nine_fields() {
    for kernel in KERNELS {
        let task = Type::PtrTo("task_struct".into());
        let args = btf(kernel).tracepoint("mark_victim").expect("on all kernels");
        let record = fields(kernel, "oom.mark_victim");
        assert_eq!(record[0], "pid", "{kernel}");
        if args[0].ty == task {
            assert_eq!(record.len(), 9, "{kernel}: {record:?}");
        } else {
            assert_eq!((record.len(), &args[0].ty), (1, &Type::Int), "{kernel}: {record:?}");
        }
    }
}

/// If a record is filled from arguments of the same names, both must have them.
#[test]
fn records_have_the_arguments_that_programs_read() {
    let same: [(&str, &[&str]); 7] = [
        ("vmscan.mm_vmscan_lru_shrink_inactive", &["nr_scanned", "nr_reclaimed", "priority"]),
        ("vmscan.mm_vmscan_direct_reclaim_end", &["nr_reclaimed"]),
        ("vmscan.mm_vmscan_memcg_reclaim_end", &["nr_reclaimed"]),
        ("vmscan.mm_vmscan_kswapd_wake", &["nid"]),
        ("vmscan.mm_vmscan_kswapd_sleep", &["nid"]),
        ("vmscan.mm_vmscan_throttled", &["usec_delayed", "reason"]),
        ("signal.signal_generate", &["sig", "result"]),
    ];
    for (column, kernel) in KERNELS.iter().enumerate() {
        let btf = btf(kernel);
        for (event, names) in same {
            if event == "vmscan.mm_vmscan_throttled" && column < 2 {
                continue;
            }
            let record = fields(kernel, event);
            let args = btf.tracepoint(event.split_once('.').expect("a dot").1).expect(event);
            for name in names {
                assert!(record.iter().any(|f| f == name), "{kernel}: {event} records {record:?}");
                assert!(args.iter().any(|a| a.name == *name), "{kernel}: {event} has {args:?}");
            }
        }
    }
}

#[test]
fn a_probe_without_a_required_event_is_not_attached() {
    for kernel in KERNELS {
        let plan = planned(&renamed(kernel, "_signal_generate", "_signal_somehow_"), true);
        let gone = Err("this kernel has no tracepoint signal:signal_generate".to_owned());
        assert_eq!(*state(&plan, "oom_sigkill"), gone, "{kernel}");
        assert_eq!(*state(&plan, "kill_signal"), gone, "{kernel}");
        let given_up = Err("the probe needs oom_sigkill too".to_owned());
        assert_eq!(*state(&plan, "mark_victim"), given_up, "{kernel}");
        assert_eq!(*state(&plan, "direct_begin"), Ok(()), "{kernel}");
    }
}

/// Programs assume that an optional program is present only if it will be attached.
#[test]
fn a_program_that_is_not_attached_is_not_assumed() {
    for kernel in KERNELS {
        let plan = planned(&renamed(kernel, "_sched_process_exit", "_sched_process_xxxx"), true);
        assert!(state(&plan, "process_exit").is_err(), "{kernel}");
        assert!(state(&plan, "exit_mmap").is_err(), "{kernel}");
        assert_eq!(plan.globals["HAVE_EXIT_MMAP"], 0, "{kernel}");
    }
}

#[test]
fn an_argument_of_another_name_or_type_is_refused() {
    let plan = planned(&renamed("6.18.15+deb13-cloud-amd64", "usec_delayed", "time_delayed"), true);
    let why = "vmscan:mm_vmscan_throttled has no usec_delayed \
               (it has: nid, usec_timeout, time_delayed, reason)";
    assert_eq!(*state(&plan, "throttled"), Err(why.to_owned()));
    let plan = planned(&renamed("6.18.15+deb13-cloud-amd64", "task_struct", "task_strict"), true);
    let why = "signal:signal_generate has no task (it has: sig, info, task, group, result)";
    assert_eq!(*state(&plan, "oom_sigkill"), Err(why.to_owned()));
    let why = "oom:mark_victim has no task or pid (it has: task, uid)";
    assert_eq!(*state(&plan, "mark_victim"), Err(why.to_owned()));
    let plan = planned(&renamed("6.18.15+deb13-cloud-amd64", "oom_control", "oom_contrat"), true);
    let why = "fentry:oom_kill_process has no oc (it has: oc, message)";
    assert_eq!(*state(&plan, "oom_context"), Err(why.to_owned()));
}

#[test]
fn a_missing_function_is_refused_by_name() {
    for kernel in KERNELS {
        let plan = planned(&renamed(kernel, "\0oom_kill_process", "\0oom_kill_inlined"), true);
        let gone = Err("this kernel has no function oom_kill_process".to_owned());
        assert_eq!(*state(&plan, "oom_context"), gone, "{kernel}");
        assert_eq!(*state(&plan, "mark_victim"), Ok(()), "{kernel}: it does without");

        let gone = "throttle_direct_reclaim";
        let plan = planned(&renamed(kernel, gone, "throttle_somehow_else__"), true);
        let gone = Err(format!("this kernel has no function {gone}"));
        assert_eq!(*state(&plan, "pfmem_begin"), gone, "{kernel}");
        assert_eq!(*state(&plan, "pfmem_end"), gone, "{kernel}");
        assert_eq!(*state(&plan, "throttled"), *state(&planned(&btf(kernel), true), "throttled"));

        let plan = planned(&renamed(kernel, "warn_alloc", "warn_block"), true);
        let gone = Err("this kernel has no function warn_alloc".to_owned());
        assert_eq!(*state(&plan, "alloc_failed"), gone, "{kernel}");
    }
}

/// The last parameter of `warn_alloc` is `...`, which is not counted.
#[test]
fn functions_have_the_parameters_that_bpftool_shows() {
    for kernel in KERNELS {
        let btf = btf(kernel);
        let params = |function: &str| {
            let params = btf.function(function).unwrap_or_else(|| panic!("{kernel}: {function}"));
            params.into_iter().map(|p| (p.name, p.ty)).collect::<Vec<_>>()
        };
        let to = |name: &str| Type::PtrTo(name.to_owned());
        let named = |list: &[(&str, Type)]| {
            list.iter().map(|(name, ty)| ((*name).to_owned(), ty.clone())).collect::<Vec<_>>()
        };
        let expected = [("oc", to("oom_control")), ("message", Type::PtrTo("char".to_owned()))];
        assert_eq!(params("oom_kill_process"), named(&expected), "{kernel}");
        let expected =
            [("gfp_mask", Type::Int), ("zonelist", to("zonelist")), ("nodemask", Type::Other)];
        assert_eq!(params("throttle_direct_reclaim"), named(&expected), "{kernel}");
        let expected = [
            ("gfp_mask", Type::Int),
            ("nodemask", Type::Other),
            ("fmt", Type::PtrTo("char".to_owned())),
            ("", Type::Other),
        ];
        assert_eq!(params("warn_alloc"), named(&expected), "{kernel}");
        assert_eq!(btf.function("warn_alloc_"), None);
    }
}

/// Before 5.12 (and 5.10.27) a task that sleeps in the function returns to freed memory.
#[test]
fn fexit_is_refused_where_detaching_may_crash() {
    for kernel in KERNELS {
        let plan = planned(&renamed(kernel, "bpf_tramp_image", "bpf_tramp_imago"), true);
        let why = "this kernel may crash when an fexit program is detached";
        assert_eq!(*state(&plan, "pfmem_end"), Err(why.to_owned()), "{kernel}");
        let half = Err("the probe needs pfmem_end too".to_owned());
        assert_eq!(*state(&plan, "pfmem_begin"), half, "{kernel}");
        assert_eq!(*state(&plan, "oom_context"), Ok(()), "{kernel}: that is an entry only");
    }
}

#[test]
fn a_missing_member_is_refused_only_if_it_is_read() {
    let kernel = "7.3.4+deb13-cloud-amd64";
    let btf = renamed(kernel, "oom_score_adj\0", "oom_score_bad\0");
    let why = "this kernel's BTF has no signal_struct.oom_score_adj";
    assert_eq!(*state(&planned(&btf, false), "mark_victim"), Err(why.to_owned()));
    let btf = renamed(kernel, "memory_cgrp_id", "memory_grp_idx");
    let why = "this kernel's BTF has no css_set.subsys[memory_cgrp_id]";
    assert_eq!(*state(&planned(&btf, true), "direct_begin"), Err(why.to_owned()));
    assert_eq!(*state(&planned(&btf, false), "direct_begin"), Ok(()));
}

#[test]
fn an_array_of_unknown_structs_is_refused() {
    for (kernel, value) in [("6.1.0-56-cloud-amd64", "counter"), (KERNELS[7], "count")] {
        let other = format!("\0{}\0", "x".repeat(value.len()));
        let btf = renamed(kernel, &format!("\0{value}\0"), &other);
        let why = "this kernel's BTF has no mm_struct.rss_stat[MM_FILEPAGES]";
        assert_eq!(*state(&planned(&btf, true), "mark_victim"), Err(why.to_owned()), "{kernel}");
    }
}

#[test]
fn without_btf_every_program_has_that_reason() {
    let plan = plan(Err("not there"), Host { memory_on_v1: false });
    let why = Err("no BTF: not there".to_owned());
    assert!(plan.programs.iter().flatten().all(|state| *state == why), "{:?}", plan.programs);
    assert_eq!(plan.globals["HAVE_EXIT_MMAP"], 0);
}

#[test]
fn truncated_btf_is_an_error() {
    for kernel in KERNELS {
        let data = read(kernel, "btf");
        for len in (0..64).chain((64..data.len()).step_by(61)).chain([data.len() - 1]) {
            assert!(Btf::parse(data[..len].to_vec()).is_err(), "{kernel} cut at {len}");
        }
    }
}

/// The result must be an error or a plan of the same shape; an overflow panics in a debug build.
#[test]
fn damaged_btf_never_panics() {
    for (column, kernel) in KERNELS.iter().enumerate() {
        let data = read(kernel, "btf");
        // Other words on each kernel, so that the stride does not always miss the same members.
        for word in (column..data.len() / 4).step_by(307) {
            let at = word * 4;
            let now = u32::from_ne_bytes(data[at..at + 4].try_into().expect("a word"));
            for other in [0, u32::MAX, now ^ 1 << (word % 32), now ^ 1 << (word % 7)] {
                let mut damaged = data.clone();
                damaged[at..at + 4].copy_from_slice(&other.to_ne_bytes());
                let Ok(btf) = Btf::parse(damaged) else { continue };
                let plan = planned(&btf, true);
                let shape: Vec<_> = plan.programs.iter().map(Vec::len).collect();
                let expected: Vec<_> = probes::ALL.iter().map(|p| p.programs.len()).collect();
                assert_eq!(shape, expected, "{kernel}, word {word}");
            }
        }
    }
}
