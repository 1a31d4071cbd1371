//! Builds the report on a kill, and lists contradictions between its sources, without resolving
//! them. Pure.
//!
//! Not here: reading the sources (`event_reader`).

use std::sync::Arc;

use sensor_core::{
    common::text::{is_at_or_below, sanitize},
    model::{
        event::{AllocContext, EventKind, OomType},
        memory_usage::{CgroupUsage, MemoryUsage, ProcessUsage},
        oom_report::{CgroupLimits, HostMemoryUsage, OomReport, StallWindow},
    },
};

use crate::host::kmsg::{KmsgKill, LoggedAllocation};

/// Processes that are listed as the largest.
const LARGEST: usize = 10;

/// Processes, and cgroups, that are listed as growing most.
const GROWERS: usize = 5;

/// An OOM daemon that marks the cgroup before it kills.
const OOMD: &str = "systemd-oomd";

/// Data about an event, by source.
#[derive(Debug, Default)]
pub struct Sources<'a> {
    /// When it happened: CLOCK_MONOTONIC nanoseconds.
    pub time_ns: u64,
    /// Limits of the victim's cgroup and of those above it.
    pub cgroups: Vec<CgroupLimits>,
    /// The kill in the kernel's log.
    pub logged: Option<&'a KmsgKill>,
    /// The last scan of processes.
    pub usage: Option<&'a MemoryUsage>,
    /// Stalls of the minute before.
    pub stalled: Option<StallWindow>,
    /// What the host's memory is used for.
    pub host_memory: Option<HostMemoryUsage>,
}

/// Builds the report on an event.
pub fn build(kind: &EventKind, sources: Sources<'_>) -> OomReport {
    let Sources { time_ns, cgroups, logged, usage, stalled, host_memory } = sources;
    // In a scan after the kill the victim's id may already be reused.
    let before = usage.filter(|usage| usage.taken_ns <= time_ns);
    let mut contradictions = contradictions(kind, &cgroups, before);
    contradictions.extend(logged.and_then(|logged| against_log(kind, logged)));
    let memcg = matches!(kind, EventKind::OomKill { oom_type: OomType::Memcg, .. });
    let in_log = logged.and_then(|logged| Some(sanitize(logged.memcg.as_ref()?)));
    let oom_cgroup = in_log.or_else(|| memcg.then(|| nearest_limit(&cgroups)).flatten());
    let report = OomReport {
        cgroups,
        oom_cgroup,
        stalled,
        host_memory,
        contradictions,
        ..OomReport::default()
    };
    match usage {
        Some(usage) => with_usage(report, usage, time_ns),
        None => report,
    }
}

/// Adds the processes and cgroups in the cgroup that was out of memory, or those of the host.
fn with_usage(report: OomReport, usage: &MemoryUsage, time_ns: u64) -> OomReport {
    let inside = |path: &Option<Arc<str>>| {
        let Some(oom_cgroup) = &report.oom_cgroup else { return true };
        path.as_deref().is_some_and(|path| is_at_or_below(path, oom_cgroup))
    };
    let processes: Vec<_> = usage.processes.iter().filter(|p| inside(&p.cgroup_path)).collect();
    let cgroups: Vec<_> = usage.cgroups.iter().filter(|c| inside(&c.cgroup_path)).collect();
    let seconds = |ns: u64| ns as f64 / 1e9;
    let mut largest: Vec<_> = processes.iter().take(LARGEST).copied().cloned().collect();
    let mut top_growers = most_grown(processes, |p| p.growth.ten_minutes_bytes);
    let mut growing_cgroups = most_grown(cgroups, |c| c.growth.ten_minutes_bytes);
    largest.iter_mut().chain(&mut top_growers).for_each(ProcessUsage::fill_workload);
    growing_cgroups.iter_mut().for_each(CgroupUsage::fill_workload);
    OomReport {
        usage_age_seconds: Some(seconds(time_ns) - seconds(usage.taken_ns)),
        largest,
        top_growers,
        growing_cgroups,
        ..report
    }
}

fn most_grown<T: Clone>(mut grew: Vec<&T>, grown: impl Fn(&T) -> i64) -> Vec<T> {
    grew.retain(|item| grown(item) > 0);
    grew.sort_by_key(|item| std::cmp::Reverse(grown(item)));
    grew.into_iter().take(GROWERS).cloned().collect()
}

/// A contradiction between the event and the kernel's log.
fn against_log(kind: &EventKind, logged: &KmsgKill) -> Option<String> {
    let EventKind::OomKill { oom_type, context, .. } = kind else { return None };
    let memcg = *oom_type == OomType::Memcg;
    // The path may be ambiguous, and then missing.
    let in_log = logged.memcg.is_some() || logged.constraint == "memcg";
    if in_log != memcg {
        return Some(format!(
            "the kernel log has constraint {:?} and cgroup {:?}, but the probes recorded a kill of \
             type {}",
            logged.constraint,
            logged.memcg,
            oom_type.label(),
        ));
    }
    let AllocContext { order, gfp_flags, constraint, .. } = context.as_ref()?;
    let LoggedAllocation { order: logged_order, gfp_flags: logged_flags, .. } =
        logged.allocation.as_ref()?;
    let same =
        order == logged_order && gfp_flags == logged_flags && *constraint == logged.constraint;
    (!same).then(|| {
        format!(
            "the probes measured order {order}, gfp {gfp_flags}, constraint {constraint}; the \
             kernel log has {logged_order}, {logged_flags}, {}",
            logged.constraint,
        )
    })
}

/// The cgroup with the largest share of its limit in use.
fn nearest_limit(cgroups: &[CgroupLimits]) -> Option<String> {
    let share = |used: Option<u64>, limit: Option<u64>| Some(used? as f64 / limit?.max(1) as f64);
    let fullness = |limits: &CgroupLimits| {
        let memory = share(limits.current_bytes, limits.max_bytes);
        let swap = share(limits.swap_bytes, limits.swap_max_bytes);
        memory.into_iter().chain(swap).reduce(f64::max)
    };
    let limited = cgroups.iter().filter_map(|limits| Some((limits, fullness(limits)?)));
    let fullest = limited.reduce(|a, b| if b.1 > a.1 { b } else { a });
    fullest.map(|(limits, _)| limits.path.clone())
}

fn contradictions(
    kind: &EventKind,
    cgroups: &[CgroupLimits],
    usage: Option<&MemoryUsage>,
) -> Vec<String> {
    let mut list = Vec::new();
    let victim = match kind {
        EventKind::OomKill { oom_type, victim, context, .. } => {
            let memcg = *oom_type == OomType::Memcg;
            list.extend(against_constraint(memcg, context.as_ref()));
            list.extend(memcg.then(|| without_limit(cgroups)).flatten());
            victim
        }
        EventKind::KillSignal { sender, target, .. } => {
            let marked = cgroups.iter().any(|cgroup| cgroup.oomd_ooms.is_some());
            if sender.comm == OOMD && !cgroups.is_empty() && !marked {
                list.push(format!(
                    "the sender is named {OOMD}, but the victim's cgroups do not have its mark"
                ));
            }
            target
        }
        EventKind::VictimExit { .. } | EventKind::Operator { .. } => return list,
    };
    let scanned = usage.and_then(|usage| usage.processes.iter().find(|p| p.pid == victim.pid));
    if let Some(scanned) = scanned.filter(|scanned| scanned.comm != victim.comm) {
        list.push(format!(
            "process {} was {:?} at the scan, and {:?} when it was killed: it executed another \
             program, or its id was reused",
            victim.pid, scanned.comm, victim.comm,
        ));
    }
    list
}

fn against_constraint(memcg: bool, context: Option<&AllocContext>) -> Option<String> {
    let constraint = &context?.constraint;
    let article = if memcg { "a" } else { "no" };
    ((constraint == "memcg") != memcg).then(|| {
        format!(
            "the kernel reports constraint {constraint:?}, and {article} cgroup as out of memory"
        )
    })
}

fn without_limit(cgroups: &[CgroupLimits]) -> Option<String> {
    let limited =
        |cgroup: &CgroupLimits| cgroup.max_bytes.is_some() || cgroup.swap_max_bytes.is_some();
    let unlimited = !cgroups.is_empty() && !cgroups.iter().any(limited);
    unlimited.then(|| {
        "a cgroup was out of memory, but none of the victim's cgroups has a limit now".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use sensor_ebpf::event::{self, Tag};

    use super::*;
    use crate::oom::decode::decode;
    use sensor_core::model::memory_usage::Growth;

    fn kill(memcg: bool, constraint: Option<&str>) -> EventKind {
        let mut kill = event::OomKill { tag: Tag::OomKill as u32, ..event::OomKill::zeroed() };
        kill.memcg = u32::from(memcg);
        kill.has_context = u32::from(constraint.is_some());
        kill.victim.tgid = 7;
        kill.victim.comm[..3].copy_from_slice(b"php");
        let (_, mut event) = decode(bytemuck::bytes_of(&kill), 4096, "b").expect("decodes");
        if let Some(constraint) = constraint {
            event.name_constraint(&[Some(constraint.to_owned())]);
        }
        event
    }

    fn report(
        kind: &EventKind,
        time_ns: u64,
        cgroups: Vec<CgroupLimits>,
        logged: Option<&KmsgKill>,
        usage: Option<&MemoryUsage>,
    ) -> OomReport {
        build(kind, Sources { time_ns, cgroups, logged, usage, ..Sources::default() })
    }

    fn process(pid: u32, comm: &str, grown: i64) -> ProcessUsage {
        ProcessUsage {
            pid,
            comm: comm.to_owned(),
            growth: Growth { ten_minutes_bytes: grown, ..Growth::default() },
            ..ProcessUsage::default()
        }
    }

    fn usage(processes: Vec<ProcessUsage>) -> MemoryUsage {
        MemoryUsage { taken_ns: 3_000_000_000, processes, ..MemoryUsage::default() }
    }

    #[test]
    fn contradictions_are_listed() {
        let limited = CgroupLimits { max_bytes: Some(1), ..CgroupLimits::default() };
        let free = CgroupLimits::default();
        let as_known = usage(vec![process(7, "php", 0)]);
        let other = usage(vec![process(7, "init", 0)]);
        for (kind, cgroups, usage, expected) in [
            (kill(true, None), vec![free.clone(), limited.clone()], Some(&as_known), vec![]),
            (kill(false, Some("none")), vec![free.clone()], None, vec![]),
            (kill(true, Some("memcg")), vec![], None, vec![]),
            (
                kill(true, None),
                vec![free.clone()],
                None,
                vec!["none of the victim's cgroups has a limit"],
            ),
            (kill(true, Some("none")), vec![limited.clone()], None, vec!["\"none\""]),
            (kill(false, Some("memcg")), vec![], None, vec!["no cgroup as out of memory"]),
            (kill(false, Some("cpuset")), vec![], Some(&other), vec!["its id was reused"]),
        ] {
            let contradictions = report(&kind, 4_000_000_000, cgroups, None, usage).contradictions;
            assert_eq!(contradictions.len(), expected.len(), "{contradictions:?}");
            for (contradiction, part) in contradictions.iter().zip(expected) {
                assert!(contradiction.contains(part), "{contradiction}");
            }
        }
        // In a scan after the kill the id may be reused.
        let later = report(&kill(false, None), 0, vec![], None, Some(&other));
        assert_eq!(later.contradictions, [""; 0]);
    }

    #[test]
    fn a_sender_named_systemd_oomd_without_its_mark() {
        let signal = |comm: &[u8]| {
            let mut signal =
                event::KillSignal { tag: Tag::KillSignal as u32, ..event::KillSignal::zeroed() };
            signal.sender.comm[..comm.len()].copy_from_slice(comm);
            decode(bytemuck::bytes_of(&signal), 4096, "b").expect("decodes").1
        };
        let marked = CgroupLimits { oomd_ooms: Some(1), ..CgroupLimits::default() };
        for (comm, cgroups, contradictions) in [
            (&b"systemd-oomd"[..], vec![CgroupLimits::default()], 1),
            (b"systemd-oomd", vec![CgroupLimits::default(), marked.clone()], 0),
            (b"systemd-oomd", vec![], 0),
            (b"earlyoom", vec![CgroupLimits::default()], 0),
        ] {
            let found = report(&signal(comm), 0, cgroups, None, None).contradictions;
            assert_eq!(found.len(), contradictions, "{found:?}");
        }
    }

    #[test]
    fn the_kernel_log_is_compared() {
        let logged = |constraint: &str, memcg: Option<&str>, order| KmsgKill {
            constraint: constraint.to_owned(),
            memcg: memcg.map(str::to_owned),
            allocation: Some(LoggedAllocation {
                order,
                gfp_flags: "0x0".to_owned(),
                gfp_names: None,
            }),
            ..KmsgKill::default()
        };
        let against = |kind: &EventKind, logged: &KmsgKill| {
            let report = report(kind, 0, vec![], Some(logged), None);
            (report.contradictions.len(), report.oom_cgroup)
        };
        let memcg = logged("memcg", Some("/a"), 0);
        assert_eq!(against(&kill(true, Some("memcg")), &memcg), (0, Some("/a".to_owned())));
        assert_eq!(against(&kill(true, None), &memcg).0, 0);
        assert_eq!(against(&kill(false, None), &memcg).0, 1, "another type");
        assert_eq!(against(&kill(true, None), &logged("none", None, 0)).0, 1, "another type");
        assert_eq!(against(&kill(false, Some("none")), &logged("none", None, 0)), (0, None));
        assert_eq!(
            against(&kill(false, Some("none")), &logged("none", None, 3)).0,
            1,
            "another order"
        );
        assert_eq!(against(&kill(false, Some("none")), &logged("cpuset", None, 0)).0, 1);
        // An ambiguous path.
        assert_eq!(against(&kill(true, None), &logged("memcg", None, 0)).0, 0);
    }

    #[test]
    fn largest_and_growing_processes_are_separate_lists() {
        let all = (1..=20).map(|i| process(i, "x", i64::from(i) - 10)).collect();
        let full = report(&kill(true, None), 5_500_000_000, vec![], None, Some(&usage(all)));
        assert_eq!(full.usage_age_seconds, Some(2.5));
        let pids = |all: &[ProcessUsage]| all.iter().map(|p| p.pid).collect::<Vec<_>>();
        assert_eq!(pids(&full.largest), (1..=10).collect::<Vec<_>>(), "in the order of the scan");
        assert_eq!(pids(&full.top_growers), [20, 19, 18, 17, 16]);
        let none = usage(vec![process(1, "x", 0), process(2, "x", -5)]);
        let no_growth = report(&kill(true, None), 0, vec![], None, Some(&none));
        assert_eq!(no_growth.top_growers, []);
    }

    #[test]
    fn only_processes_in_the_oom_cgroup_are_listed() {
        let limits = |path: &str, current: u64, max: Option<u64>| CgroupLimits {
            path: path.into(),
            current_bytes: Some(current),
            max_bytes: max,
            ..CgroupLimits::default()
        };
        let cgroups = vec![
            limits("/a/b/c", 50, None),
            limits("/a/b", 60, Some(100)),
            limits("/a", 198, Some(200)),
        ];
        let placed = |pid, path: &str| ProcessUsage {
            cgroup_path: Some(path.into()),
            ..process(pid, "x", 1000)
        };
        let processes =
            vec![placed(1, "/a/b/c"), placed(2, "/a"), placed(3, "/ab"), process(4, "x", 9)];
        let usage = usage(processes);
        let listed = |memcg| {
            let report = report(&kill(memcg, None), 0, cgroups.clone(), None, Some(&usage));
            let pids: Vec<_> = report.largest.iter().map(|p| p.pid).collect();
            assert_eq!(report.top_growers.iter().map(|p| p.pid).collect::<Vec<_>>(), pids);
            (report.oom_cgroup, pids)
        };
        assert_eq!(listed(true), (Some("/a".to_owned()), vec![1, 2]));
        assert_eq!(listed(false), (None, vec![1, 2, 3, 4]));
    }
}
