//! Events for a terminal: one line each, or one event with its report. Names are escaped.
//!
//! Not here: JSON, which is printed as the daemon sends it (`dispatch`).

use std::{collections::HashMap, fmt::Write as _};

use comfy_table::presets::NOTHING;
use sensor_core::{
    common::text::{Printable, Sentence},
    model::{
        event::{AllocContext, Event, EventKind, OomGroup, OomType, TaskInfo, VictimMemory},
        memory_usage::{CgroupUsage, Growth, ProcessUsage},
        oom_report::{CgroupLimits, HostMemoryUsage, OomReport, StallWindow},
        workload::WorkloadId,
    },
};

use super::{self as format, mib};

/// Pod, container and unit; empty if none is known.
fn workload(id: &WorkloadId) -> String {
    let WorkloadId { unit, container, runtime, pod, pod_name } = id;
    let mut parts = Vec::new();
    if let Some(pod) = pod_name.as_ref().or(pod.as_ref()) {
        parts.push(format!("pod {}", pod.escape_debug()));
    }
    if let Some(container) = container {
        let runtime = Sentence(runtime.as_deref().unwrap_or("container"));
        let short: String = container.chars().take(12).collect();
        parts.push(format!("{runtime} {}", short.escape_debug()));
    }
    if let Some(unit) = unit {
        parts.push(format!("unit {}", unit.escape_debug()));
    }
    parts.join(", ")
}

fn task(task: &TaskInfo) -> String {
    let workload = workload(&task.workload);
    let workload = if workload.is_empty() { workload } else { format!("{workload}, ") };
    let cgroup = match &task.cgroup {
        Some(path) => format!("cgroup {}", Printable(path)),
        None => format!("cgroup id {}", task.cgroup_id),
    };
    format!("{} {} (uid {}, {workload}{cgroup})", task.pid, Printable(&task.comm), task.uid)
}

fn memory_text(memory: &VictimMemory) -> String {
    let VictimMemory { anon_bytes, file_bytes, shmem_bytes, swap_bytes, .. } = *memory;
    let [anon, file, shmem, swap] = [anon_bytes, file_bytes, shmem_bytes, swap_bytes].map(mib);
    format!("anon {anon} MiB, file {file} MiB, shmem {shmem} MiB, swap {swap} MiB")
}

fn allocation(context: &AllocContext) -> String {
    let AllocContext { order, gfp_flags, gfp_names, constraint, nodes, from_log } = context;
    let pages = match *order {
        SYSRQ => " (none: sysrq-f)".to_owned(),
        1..=20 => format!(" ({} contiguous pages)", 1 << order),
        _ => String::new(),
    };
    let zone = zone(gfp_flags).map_or_else(String::new, |zone| format!(" (zone {zone})"));
    let source = if *from_log { " (from the kernel's log)" } else { "" };
    let names = gfp_names.as_ref().map_or_else(String::new, |names| format!(" = {names}"));
    let nodes = nodes.as_ref().map_or_else(String::new, |nodes| format!(" to nodes {nodes}"));
    let text = format!(
        "order {order}{pages}, gfp {gfp_flags}{names}{zone}, constraint {constraint}{nodes}{source}"
    );
    Sentence(&text).to_string()
}

/// Order of a kill that sysrq-f asked for.
const SYSRQ: i32 = -1;

/// The zone that the pages had to be in, if it is a small one. These two bits are the same on all
/// kernels (include/linux/gfp_types.h).
fn zone(gfp_flags: &str) -> Option<&'static str> {
    let flags = u32::from_str_radix(gfp_flags.strip_prefix("0x")?, 16).ok()?;
    match flags & 0b101 {
        0b001 => Some("DMA"),
        0b100 => Some("DMA32"),
        _ => None,
    }
}

/// What ran out of memory.
fn cause(oom_type: OomType, context: Option<&AllocContext>) -> String {
    if oom_type == OomType::Memcg {
        return "a cgroup reached its limit".to_owned();
    }
    let Some(context) = context else { return "the host ran out of memory".to_owned() };
    let what = match (context.order, context.constraint.as_str()) {
        (SYSRQ, _) => return "an operator asked for a kill (sysrq-f)".to_owned(),
        (_, "cpuset") => "the NUMA nodes of a cpuset",
        (_, "memory_policy") => "the NUMA nodes of a memory policy",
        _ => "the host",
    };
    let zone = zone(&context.gfp_flags).map_or_else(String::new, |zone| format!(" in zone {zone}"));
    match context.order {
        order @ 1..=20 => format!("{what} had no {} contiguous pages free{zone}", 1 << order),
        _ => format!("{what} ran out of memory{zone}"),
    }
}

/// An event in one line.
pub fn line(event: &Event) -> String {
    let text = match &event.kind {
        EventKind::OomKill { oom_type, victim, trigger, memory, context, .. } => {
            let context = context.as_ref().map(|context| format!(", {}", allocation(context)));
            let follows =
                event.follows_in().map(|group| format!(" in the group of {}", group.first));
            format!(
                "OOM kill ({}){}: {}, {}, oom_score_adj {}; triggered by {}{}",
                oom_type.label(),
                follows.unwrap_or_default(),
                task(victim),
                memory_text(memory),
                victim.oom_score_adj,
                task(trigger),
                context.unwrap_or_default(),
            )
        }
        EventKind::VictimExit { pid, seconds, .. } => {
            format!("memory of OOM victim {pid} was free after {seconds:.3} s")
        }
        EventKind::KillSignal { signal, sender, target } => {
            format!("{} by {} to {}", signal.label(), task(sender), task(target))
        }
        EventKind::Operator { .. } => operator(&event.kind),
    };
    format!("{}  {}  {text}", Sentence(&event.time), Sentence(&event.id))
}

/// Events in one line each, oldest first. The kills of a group, and the exits of its victims, are one
/// line.
pub fn lines(events: &[Event]) -> String {
    let groups = Groups::of(events);
    let mut text = String::new();
    for event in events.iter().filter(|event| !groups.is_part_of_line(event)) {
        text.push_str(&line(event));
        if let Some(more) = groups.others.get(event.id.as_str()) {
            // Writing to a String does not fail.
            let _ = write!(text, "; and {more} more of the group");
        }
        text.push('\n');
    }
    text
}

/// Which kills are shown in the line of another one.
struct Groups<'a> {
    /// For each kill that is shown in the line of another one, the id of that one.
    shown_in: HashMap<&'a str, &'a str>,
    /// For each kill in whose line others are shown, their number.
    others: HashMap<&'a str, usize>,
}

impl<'a> Groups<'a> {
    fn of(events: &'a [Event]) -> Self {
        let (mut shown_in, mut others) = (HashMap::new(), HashMap::new());
        // The first kill of a group may no longer be kept: the first one that is stands for it.
        let mut shown = HashMap::<&str, &str>::new();
        for event in events {
            let EventKind::OomKill { oom_group: Some(group), .. } = &event.kind else { continue };
            let by = *shown.entry(&group.first).or_insert(&event.id);
            if by != event.id {
                shown_in.insert(event.id.as_str(), by);
                *others.entry(by).or_default() += 1;
            }
        }
        Self { shown_in, others }
    }

    fn is_part_of_line(&self, event: &Event) -> bool {
        match &event.kind {
            EventKind::OomKill { .. } => self.shown_in.contains_key(event.id.as_str()),
            EventKind::VictimExit { kill, .. } => self.shown_in.contains_key(kill.as_str()),
            EventKind::KillSignal { .. } | EventKind::Operator { .. } => false,
        }
    }
}

/// An event with its report.
pub fn report(event: &Event) -> String {
    let (id, time) = (Sentence(&event.id), Sentence(&event.time));
    let mut text = format!("{id}  {time}\n{}", details(&event.kind));
    if let Some(report) = &event.report {
        add_report(&mut text, report);
    }
    text
}

/// Lines about the kill itself.
fn details(kind: &EventKind) -> String {
    match kind {
        EventKind::OomKill {
            oom_type,
            victim,
            trigger,
            memory,
            context,
            oom_group,
            memory_back_seconds,
        } => {
            let cause = cause(*oom_type, context.as_ref());
            let allocation = context.as_ref().map_or("not measured".to_owned(), allocation);
            let freed = memory_back_seconds
                .map_or("not yet".to_owned(), |seconds| format!("after {seconds:.3} s"));
            format!(
                "killed by the kernel: {cause}\n\
                 victim       {}\n\
                 its memory   {}, oom_score_adj {}\n\
                 trigger      {}\n\
                 allocation   {allocation}\n\
                 memory free  {freed}\n{}",
                task(victim),
                memory_text(memory),
                victim.oom_score_adj,
                task(trigger),
                oom_group.as_deref().map(group).unwrap_or_default(),
            )
        }
        EventKind::VictimExit { pid, seconds, kill } => {
            let kill = Sentence(kill);
            format!("memory of victim {pid} of {kill} was free after {seconds:.3} s\n")
        }
        EventKind::KillSignal { signal, sender, target } => {
            let (signal, sender, target) = (signal.label(), task(sender), task(target));
            format!("{signal} by a process\nsender       {sender}\nvictim       {target}\n")
        }
        EventKind::Operator { .. } => operator(kind) + "\n",
    }
}

fn group(group: &OomGroup) -> String {
    let OomGroup { first, cgroup } = group;
    let cgroup = Printable(cgroup);
    format!(
        "group        all processes of {cgroup} (memory.oom.group), the first kill is {first}\n"
    )
}

fn operator(kind: &EventKind) -> String {
    let EventKind::Operator { command, uid, pid, comm, detail } = kind else {
        return String::new();
    };
    let comm = Printable(comm.as_deref().unwrap_or("(unknown)"));
    format!("{} by uid {uid}, {pid} {comm}: {}", command.label(), Printable(detail))
}

fn add_report(text: &mut String, report: &OomReport) {
    // Writing to a String does not fail.
    for contradiction in &report.contradictions {
        let _ = writeln!(text, "CONTRADICTION: {}", Sentence(contradiction));
    }
    if let Some(stalled) = &report.stalled {
        let _ = writeln!(text, "{}", stall_line(stalled));
    }
    if let (None, Some(memory)) = (&report.oom_cgroup, &report.host_memory) {
        let _ = writeln!(text, "{}", host_memory_line(memory));
    }
    if !report.cgroups.is_empty() {
        let _ = writeln!(text, "\n{}", limits(&report.cgroups));
    }
    for line in report.cgroups.iter().filter_map(shmem_line) {
        let _ = writeln!(text, "{line}");
    }
    let Some(seconds) = report.usage_age_seconds else { return };
    let when = if seconds < 0.0 { "after" } else { "before" };
    let inside = |path: &String| format!(" in {}", Printable(path));
    let inside = report.oom_cgroup.as_ref().map_or_else(String::new, inside);
    let largest = largest(&report.largest);
    let seconds = seconds.abs();
    let _ = writeln!(text, "\nlargest processes{inside}, {seconds:.1} s {when}:\n{largest}");
    if report.top_growers.is_empty() && report.growing_cgroups.is_empty() {
        let _ = writeln!(text, "\nnothing grew in the ten minutes before");
        return;
    }
    let growers = growers(&report.top_growers, &report.growing_cgroups);
    let _ = writeln!(text, "\ngrew most in the ten minutes before:\n{growers}");
}

fn stall_line(stalled: &StallWindow) -> String {
    let part = |name: &str, seconds: Option<f64>| seconds.map(|s| format!("{name} {s:.2} s"));
    let parts: Vec<_> = [
        part("some task waited", stalled.some_seconds),
        part("all waited", stalled.full_seconds),
        part("summed over tasks", stalled.stall_seconds),
    ]
    .into_iter()
    .flatten()
    .collect();
    format!("stalled      in the {:.0} s before: {}", stalled.within_seconds, parts.join(", "))
}

/// The kinds of memory that belong to no process, and what is left.
fn host_memory_line(memory: &HostMemoryUsage) -> String {
    let parts = [
        ("total", memory.total_bytes),
        ("available", memory.available_bytes),
        ("anon", memory.anon_bytes),
        ("shmem", memory.shmem_bytes),
        ("slab", memory.slab_reclaimable_bytes),
        ("unreclaimable slab", memory.slab_unreclaimable_bytes),
        ("page tables", memory.page_tables_bytes),
        ("huge pages", memory.hugetlb_bytes),
        ("ZFS cache", memory.zfs_arc_bytes),
        ("free swap", memory.swap_free_bytes),
    ];
    let part = |(name, bytes): (&str, Option<u64>)| Some(format!("{name} {} MiB", mib(bytes?)));
    format!("host memory  {}", parts.into_iter().filter_map(part).collect::<Vec<_>>().join(", "))
}

/// A line if a quarter of a cgroup's memory or more is shared memory.
fn shmem_line(cgroup: &CgroupLimits) -> Option<String> {
    let (shmem, current) = (cgroup.shmem_bytes?, cgroup.current_bytes?);
    (shmem > 0 && shmem >= current / 4).then(|| {
        let (shmem, path) = (mib(shmem), Printable(&cgroup.path));
        format!("{shmem} MiB of {path} is tmpfs or shared memory, which belongs to no process")
    })
}

/// A table with two columns of text at the end.
fn table(header: &[&str]) -> comfy_table::Table {
    format::table(NOTHING, header, header.len().saturating_sub(2))
}

fn limits(cgroups: &[CgroupLimits]) -> comfy_table::Table {
    let mut table = table(&["MiB", "limit", "high", "swap", "kills", "cgroup"]);
    let mib = |bytes: Option<u64>| bytes.map_or_else(String::new, mib);
    for cgroup in cgroups {
        table.add_row([
            mib(cgroup.current_bytes),
            mib(cgroup.max_bytes),
            mib(cgroup.high_bytes),
            mib(cgroup.swap_bytes),
            cgroup.oom_kills.map_or_else(String::new, |n| n.to_string()),
            cgroup.path.escape_debug().to_string(),
        ]);
    }
    table
}

fn ten_minutes(growth: Growth) -> String {
    format!("{:+.1}", growth.ten_minutes_bytes as f64 / f64::from(1 << 20))
}

fn largest(processes: &[ProcessUsage]) -> comfy_table::Table {
    let mut table = table(&["own MiB", "10 min", "pid", "adj", "name", "cgroup"]);
    for process in processes {
        table.add_row([
            mib(process.own_bytes),
            ten_minutes(process.growth),
            process.pid.to_string(),
            process.oom_score_adj.to_string(),
            process.comm.escape_debug().to_string(),
            format::cgroup(process.cgroup, process.cgroup_path.as_deref()),
        ]);
    }
    table
}

fn growers(processes: &[ProcessUsage], cgroups: &[CgroupUsage]) -> comfy_table::Table {
    let mut table = table(&["10 min", "own MiB", "pid", "", "name", "cgroup"]);
    for process in processes {
        table.add_row([
            ten_minutes(process.growth),
            mib(process.own_bytes),
            process.pid.to_string(),
            String::new(),
            process.comm.escape_debug().to_string(),
            format::cgroup(process.cgroup, process.cgroup_path.as_deref()),
        ]);
    }
    for cgroup in cgroups {
        table.add_row([
            ten_minutes(cgroup.growth),
            mib(cgroup.own_bytes),
            String::new(),
            String::new(),
            "(cgroup)".to_owned(),
            format::cgroup(cgroup.cgroup, cgroup.cgroup_path.as_deref()),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use sensor_core::common::text;

    use super::*;

    fn task_info(comm: &[u8]) -> TaskInfo {
        TaskInfo {
            pid: 7,
            tid: 7,
            comm: text::name(comm),
            uid: 0,
            oom_score_adj: 0,
            cgroup_id: 9,
            cgroup: Some("/\u{1b}[2J".into()),
            workload: WorkloadId { unit: Some("\u{1b}a".into()), ..WorkloadId::default() },
        }
    }

    fn kill(comm: &[u8], context: Option<AllocContext>) -> Event {
        let memory = VictimMemory {
            anon_bytes: 40_960,
            file_bytes: 0,
            shmem_bytes: 0,
            swap_bytes: 0,
            page_tables_bytes: 0,
            virtual_bytes: 0,
        };
        let kind = EventKind::OomKill {
            oom_type: OomType::Memcg,
            victim: task_info(comm),
            trigger: task_info(comm),
            memory,
            context,
            oom_group: None,
            memory_back_seconds: None,
        };
        Event { id: "b-1".into(), seq: 1, time: String::new(), kind, report: None }
    }

    #[test]
    fn a_group_is_one_line() {
        let member = |id: &str, group: Option<&str>| {
            let mut event = kill(b"x", None);
            event.id = id.into();
            let EventKind::OomKill { oom_group, .. } = &mut event.kind else { panic!() };
            *oom_group = group
                .map(|first| OomGroup { first: first.into(), cgroup: "/\u{1b}".into() }.into());
            event
        };
        let exit = |kill: &str| {
            let kind = EventKind::VictimExit { pid: 7, seconds: 0.5, kill: kill.into() };
            Event { id: "b-99".into(), seq: 9, time: String::new(), kind, report: None }
        };
        let events = [
            member("b-1", Some("b-1")),
            member("b-2", Some("b-1")),
            member("b-3", None),
            member("b-4", Some("b-1")),
            exit("b-1"),
            exit("b-2"),
            exit("b-3"),
            // Its first kill is no longer kept.
            member("b-6", Some("b-5")),
            member("b-7", Some("b-5")),
            member("b-8", Some("b-8")),
        ];
        let text = lines(&events);
        let ends = |line: &str, end: &str| assert!(line.ends_with(end), "{line}");
        let [first, single, exits @ .., rest, alone] = &text.lines().collect::<Vec<_>>()[..] else {
            panic!("{text}")
        };
        assert_eq!(exits.len(), 2, "{text}");
        ends(first, "; and 2 more of the group");
        assert!(!single.contains("the group") && !alone.contains("the group"), "{text}");
        ends(rest, "; and 1 more of the group");
        assert!(rest.contains("OOM kill (memcg) in the group of b-5: 7"), "{rest}");
        let shown = report(&events[1]);
        let expected = "group        all processes of \"/\\u{1b}\" (memory.oom.group), the first \
                        kill is b-1\n";
        assert!(shown.contains(expected), "{shown}");
        assert!(!report(&events[2]).contains("memory.oom.group"));
    }

    #[test]
    fn the_allocation_is_shown_only_if_it_was_measured() {
        let json = |event: &Event| serde_json::to_value(event).expect("serialises");
        let unknown = kill(b"x", None);
        assert_eq!(json(&unknown).get("context"), None);
        assert!(!line(&unknown).contains("order"));
        let context = AllocContext {
            order: -1,
            gfp_flags: "0x100cca".into(),
            gfp_names: Some("GFP_HIGHUSER_MOVABLE".into()),
            constraint: "3".into(),
            nodes: Some("0-1".into()),
            from_log: false,
        };
        let mut known = kill(b"x", Some(context));
        known.kind.name_constraint(&[Some("none".into()), None, None, Some("memcg".into())]);
        let expected = serde_json::json!({
            "order": -1,
            "gfp_flags": "0x100cca",
            "gfp_names": "GFP_HIGHUSER_MOVABLE",
            "constraint": "memcg",
            "nodes": "0-1",
        });
        assert_eq!(json(&known)["context"], expected);
        let text = line(&known);
        let allocation = "order -1 (none: sysrq-f), gfp 0x100cca = GFP_HIGHUSER_MOVABLE, \
                          constraint memcg to nodes 0-1";
        assert!(text.ends_with(allocation), "{text}");
        assert!(report(&known).contains(&format!("allocation   {allocation}")), "{text}");
    }

    #[test]
    fn the_report_names_what_ran_out() {
        let global = |order, gfp_flags: &str, constraint: &str| {
            let context = AllocContext {
                order,
                gfp_flags: gfp_flags.into(),
                gfp_names: None,
                constraint: constraint.into(),
                nodes: None,
                from_log: false,
            };
            cause(OomType::Global, Some(&context))
        };
        assert_eq!(cause(OomType::Global, None), "the host ran out of memory");
        assert_eq!(cause(OomType::Memcg, None), "a cgroup reached its limit");
        for (order, flags, constraint, expected) in [
            (0, "0x140cca", "none", "the host ran out of memory"),
            (0, "0x140cca", "cpuset", "the NUMA nodes of a cpuset ran out of memory"),
            (
                0,
                "0x1",
                "memory_policy",
                "the NUMA nodes of a memory policy ran out of memory in zone DMA",
            ),
            (-1, "0xcc0", "none", "an operator asked for a kill (sysrq-f)"),
            (3, "0xcc4", "none", "the host had no 8 contiguous pages free in zone DMA32"),
            (1, "not a number", "none", "the host had no 2 contiguous pages free"),
            (i32::MAX, "0xcc0", "none", "the host ran out of memory"),
        ] {
            assert_eq!(global(order, flags, constraint), expected);
        }
    }

    #[test]
    fn memory_without_a_process_is_shown() {
        let mib = |n: u64| Some(n << 20);
        let cgroup = |path: &str, shmem: u64| CgroupLimits {
            path: path.to_owned(),
            current_bytes: mib(64),
            shmem_bytes: mib(shmem),
            ..CgroupLimits::default()
        };
        let mut oom_report = OomReport {
            cgroups: vec![cgroup("/full", 50), cgroup("/little", 15)],
            host_memory: Some(HostMemoryUsage {
                total_bytes: mib(900),
                slab_unreclaimable_bytes: mib(700),
                ..HostMemoryUsage::default()
            }),
            ..OomReport::default()
        };
        let mut event = kill(b"x", None);
        event.report = Some(oom_report.clone().into());
        let shown = report(&event);
        assert!(shown.contains("50.0 MiB of \"/full\" is tmpfs or shared memory"), "{shown}");
        assert!(!shown.contains("of \"/little\""), "{shown}");
        let host = "host memory  total 900.0 MiB, unreclaimable slab 700.0 MiB\n";
        assert!(shown.contains(host), "{shown}");
        oom_report.oom_cgroup = Some("/full".to_owned());
        event.report = Some(oom_report.into());
        assert!(!report(&event).contains("host memory"), "the host was not out of memory");
    }

    #[test]
    fn no_escape_sequence_reaches_a_terminal() {
        let name = || "\u{1b}[2J\n\u{9b}".to_owned();
        let context = AllocContext {
            order: 0,
            gfp_flags: name(),
            gfp_names: Some(name()),
            constraint: name(),
            nodes: Some(name()),
            from_log: true,
        };
        let mut event = kill(b"\x1b[2J\"\n\\\xff\xc2\x9b31m", Some(context));
        (event.id, event.time) = (name(), name());
        event.kind.tasks_mut()[0].workload =
            WorkloadId { container: Some(name()), runtime: Some(name()), ..WorkloadId::default() };
        event.report = Some(
            OomReport {
                contradictions: vec!["was \"a\" \u{1b}[31m".into()],
                oom_cgroup: Some("/\u{1b}".into()),
                usage_age_seconds: Some(1.0),
                ..OomReport::default()
            }
            .into(),
        );
        let shown = line(&event);
        assert!(!shown.contains(|c: char| c.is_control()), "{shown:?}");
        let shown = report(&event);
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
        assert_eq!(shown.lines().count(), 13, "{shown}");
        assert!(shown.contains("CONTRADICTION: was \"a\" \\u{1b}[31m"), "{shown}");
        let json = serde_json::to_string(&event).expect("serialises");
        assert_eq!(serde_json::from_str::<Event>(&json).expect("parses"), event);
        let of_names = serde_json::to_string(&kill(b"\xc2\x9b31m", None)).expect("serialises");
        assert!(!of_names.contains(|c: char| c.is_control()), "{of_names:?}");
    }
}
