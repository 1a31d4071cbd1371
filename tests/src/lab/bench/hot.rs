//! Every program run by hand (BPF_PROG_TEST_RUN), loaded but not attached, in the order of the
//! kernel's events. Caches are warm: the lower bound of the cost of an event.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{Program, RawTracePoint, RawTracePointRunOptions, TestRun as _},
    sys::{Stats, enable_stats},
};

use super::{RunStats, medians::median, open, plan, program};

const ITERATIONS: u32 = 2000;

const EMPTY: &str = "empty";

/// A program, and its arguments by the names of their globals.
type Step = (&'static str, &'static [(&'static str, u64)]);

/// Sequences of events. Programs that write a ring-buffer record are left out: they only run at an
/// OOM kill.
const SEQUENCES: &[&[Step]] = &[
    &[
        ("memcg_begin", &[]),
        (
            "shrink_inactive",
            &[
                ("ARG_SCAN_SCANNED", 32),
                ("ARG_SCAN_STOLEN", 20),
                ("ARG_SCAN_PRIORITY", 12),
                ("ARG_SCAN_FILE", 1),
            ],
        ),
        ("memcg_end", &[("ARG_MEMCG_FREED", 32)]),
    ],
    &[
        ("direct_begin", &[]),
        ("throttled", &[("ARG_THROTTLE_USEC", 4000), ("ARG_THROTTLE_WHY", 2)]),
        ("direct_end", &[("ARG_DIRECT_FREED", 32)]),
    ],
    &[("compact_begin", &[]), ("compact_end", &[("ARG_COMPACT_STATUS", 4)])],
    &[("softlimit_begin", &[]), ("softlimit_end", &[("ARG_SOFT_FREED", 32)])],
    &[("kswapd_wake", &[("ARG_WAKE_NID", 0)]), ("kswapd_sleep", &[("ARG_SLEEP_NID", 0)])],
    &[("reclaim_retry", &[("ARG_RETRY_LOOPS", 1)]), ("compact_retry", &[])],
    // SIGTERM: ignored, like nearly every signal.
    &[("oom_sigkill", &[("ARG_OOM_SIG", 15)]), ("kill_signal", &[("ARG_KILL_SIG", 15)])],
    &[("exit_mmap", &[("ARG_EXIT_MM", 4096)]), ("process_exit", &[])],
];

/// Cost of an event.
#[derive(Debug, Clone, PartialEq)]
pub struct Cost {
    /// Name of the program.
    pub program: &'static str,
    /// Median over rounds of nanoseconds per event.
    pub ns: f64,
    /// Median over rounds of the difference to `empty` in the same round.
    pub over_empty: f64,
}

/// Runs all sequences in so many rounds.
pub fn run(rounds: u32) -> Result<Vec<Cost>> {
    let plan = plan()?;
    let mut ebpf = open(&plan)?;
    program(&mut ebpf, EMPTY)?.load().context("load the program empty")?;
    let mut steps = Vec::new();
    for sequence in SEQUENCES {
        // The cost of calling any program at that time: clock rates and neighbours change.
        let mut known = vec![(EMPTY, Vec::new())];
        for (name, args) in *sequence {
            // Without its event in this kernel, a program has no argument positions.
            let indices: Option<Vec<_>> =
                args.iter().map(|(g, v)| Some((*plan.globals.get(g)?, *v))).collect();
            if let Some(args) = indices {
                program(&mut ebpf, name)?.load().with_context(|| format!("load {name}"))?;
                known.push((*name, args));
            }
        }
        steps.push(known);
    }
    let _stats = enable_stats(Stats::RunTime).context("enable BPF statistics")?;
    let mut each: BTreeMap<&'static str, Vec<(f64, f64)>> = BTreeMap::new();
    // The first round is a warm-up.
    for round in 0..=rounds {
        for sequence in &steps {
            let before = run_stats(&ebpf, sequence)?;
            for _ in 0..ITERATIONS {
                for (name, args) in sequence {
                    once(loaded(&ebpf, name)?, args)?;
                }
            }
            let after = run_stats(&ebpf, sequence)?;
            let mut empty = None;
            for ((name, _), (after, before)) in sequence.iter().zip(after.iter().zip(before)) {
                let ns = after.since(before).each().with_context(|| format!("{name} never ran"))?;
                let over = ns - *empty.get_or_insert(ns);
                if round > 0 {
                    each.entry(name).or_default().push((ns, over));
                }
            }
        }
    }
    let programs = [EMPTY].into_iter().chain(SEQUENCES.iter().flat_map(|s| s.iter()).map(|s| s.0));
    Ok(programs
        .filter_map(|program| {
            let (ns, over): (Vec<_>, Vec<_>) = each.get(program)?.iter().copied().unzip();
            Some(Cost { program, ns: median(&ns), over_empty: median(&over) })
        })
        .collect())
}

type Known = (&'static str, Vec<(u32, u64)>);

fn run_stats(ebpf: &Ebpf, sequence: &[Known]) -> Result<Vec<RunStats>> {
    sequence.iter().map(|(name, _)| RunStats::of(loaded(ebpf, name)?)).collect()
}

fn loaded<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a RawTracePoint> {
    match ebpf.program(name) {
        Some(Program::RawTracePoint(program)) => Ok(program),
        _ => anyhow::bail!("the object has no raw tracepoint program {name}"),
    }
}

fn once(program: &RawTracePoint, args: &[(u32, u64)]) -> Result<()> {
    let mut options = RawTracePointRunOptions::new();
    for (index, value) in args {
        if let Some(arg) = options.args.get_mut(*index as usize) {
            *arg = *value;
        }
    }
    program.test_run(options).context("run it by BPF_PROG_TEST_RUN (Linux 5.10)")?;
    Ok(())
}
