//! The programs attached while a cgroup thrashes: the cost of an event after reclaim has evicted
//! the CPU caches. In alternate rounds the empty program is attached to the same events instead of
//! memsensor: the cost of any program there.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    sys::{Stats, enable_stats},
};
use sensor_core::btf::resolve::Plan;
use sensor_user::kernel::{load, settings::Settings};

use super::{RunStats, arena::Arena, medians::median, open, plan, program, work::Load};

/// The programs of the frequent events, with their events.
const PROGRAMS: [(&str, &str); 3] = [
    ("memcg_begin", "mm_vmscan_memcg_reclaim_begin"),
    ("shrink_inactive", "mm_vmscan_lru_shrink_inactive"),
    ("memcg_end", "mm_vmscan_memcg_reclaim_end"),
];

/// Cost of an event in a thrash.
#[derive(Debug, Clone, PartialEq)]
pub struct Cost {
    /// The workload.
    pub load: Load,
    /// Name of the program.
    pub program: &'static str,
    /// Number of events in all rounds.
    pub events: u64,
    /// Median over rounds of nanoseconds per event.
    pub ns: f64,
    /// The same for an empty program on that event.
    pub empty: f64,
}

/// Alternates rounds with memsensor and rounds with the empty program.
pub fn run(arena: &Arena, load: Load, rounds: u32, passes: u32) -> Result<Vec<Cost>> {
    let plan = plan()?;
    let mut ours: BTreeMap<&str, Vec<RunStats>> = BTreeMap::new();
    let mut empty: BTreeMap<&str, Vec<RunStats>> = BTreeMap::new();
    for _ in 0..rounds {
        for (name, run_stats) in with_memsensor(arena, load, passes)? {
            ours.entry(name).or_default().push(run_stats);
        }
        for (name, run_stats) in with_empty(&plan, arena, load, passes)? {
            empty.entry(name).or_default().push(run_stats);
        }
    }
    PROGRAMS
        .iter()
        .map(|(program, event)| {
            let middle = |of: &BTreeMap<&str, Vec<RunStats>>| {
                let each = of.get(program)?.iter().filter_map(|s| s.each());
                Some(median(&each.collect::<Vec<_>>())).filter(|ns| !ns.is_nan())
            };
            let none = || format!("{event} never fired: nothing was reclaimed");
            Ok(Cost {
                load,
                program,
                events: ours.get(program).map_or(0, |all| all.iter().map(|s| s.events).sum()),
                ns: middle(&ours).with_context(none)?,
                empty: middle(&empty).with_context(none)?,
            })
        })
        .collect()
}

type Round = Vec<(&'static str, RunStats)>;

fn with_memsensor(arena: &Arena, load: Load, passes: u32) -> Result<Round> {
    let settings = Settings { bpf_stats: true, ..Settings::default() };
    let loaded = load::load(&settings)?;
    let totals = || -> Result<Round> {
        let costs = loaded.reader.costs();
        let of = |(name, _)| {
            let cost = costs.iter().find(|cost| cost.program == name);
            let cost = cost.with_context(|| format!("no program {name}"))?;
            Ok((name, RunStats { ns: cost.run_ns, events: cost.runs }))
        };
        PROGRAMS.into_iter().map(of).collect()
    };
    let before = totals()?;
    arena.thrash(load, passes)?;
    Ok(difference(totals()?, &before))
}

fn with_empty(plan: &Plan, arena: &Arena, load: Load, passes: u32) -> Result<Round> {
    let _stats = enable_stats(Stats::RunTime).context("enable BPF statistics")?;
    let mut objects = Vec::new();
    for (name, event) in PROGRAMS {
        let mut ebpf = open(plan)?;
        let empty = program(&mut ebpf, "empty")?;
        empty.load().context("load the program empty")?;
        empty.attach(event).with_context(|| format!("attach empty to {event}"))?;
        objects.push((name, ebpf));
    }
    let totals = |objects: &mut Vec<(&'static str, Ebpf)>| -> Result<Round> {
        let of = |(name, ebpf): &mut (&'static str, Ebpf)| {
            Ok((*name, RunStats::of(program(ebpf, "empty")?)?))
        };
        objects.iter_mut().map(of).collect()
    };
    let before = totals(&mut objects)?;
    arena.thrash(load, passes)?;
    Ok(difference(totals(&mut objects)?, &before))
}

fn difference(after: Round, before: &Round) -> Round {
    after.into_iter().zip(before).map(|((name, a), (_, b))| (name, a.since(*b))).collect()
}
