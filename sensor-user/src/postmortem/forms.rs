//! Tests: incidents of several forms, as records, and what the postmortem says of them. The truth of
//! each is in its story.

use sensor_core::{
    record::content::{CgroupSize, Content, Look, ProcessSize, Schema, ScopeLook, Usage},
    verdict::{policy::Policy, policy::rule_bit, scope::HOST, state::VerdictState},
};

use super::{
    causes::{Confidence, Kind},
    document,
    incident::{
        SECOND, Wanted,
        tests::{BASE, entry, kill},
    },
    report::{Report, report},
};
use crate::{history::timeline::Timeline, recorder::archive::Entry};

const MIB: u64 = 1 << 20;
/// The story turns at this second; before, everything is calm.
const TURN: i64 = 600;
/// The scope loses its weight, and gets it back.
const LOST: i64 = 640;
const BACK: i64 = 700;
const END: i64 = 800;

/// Name, start, and MiB at a second.
type Process = (&'static str, i64, fn(i64) -> u64);

/// A host with a service of 500 MiB. Sizes are MiB, times are seconds.
struct Story {
    /// Path, MiB and processes of a cgroup at a second; `None` if it is not seen.
    cgroup: fn(i64) -> Option<(&'static str, u64, u32)>,
    /// The process in it: name, start, MiB at a second.
    process: Option<Process>,
    /// Kind of memory and MiB at a second.
    memory: fn(i64) -> (&'static str, u64),
    /// Available MiB at a second.
    available: fn(i64) -> u64,
    /// A rule that fires while weight is lost.
    rule: &'static str,
}

const CALM: Story = Story {
    cgroup: |_| None,
    process: None,
    memory: |_| ("shmem", 10),
    available: |_| 4000,
    rule: "stalled",
};

fn is_lost(second: i64) -> bool {
    (LOST..BACK).contains(&second)
}

fn ramp(second: i64, from: i64, rate: u64) -> u64 {
    u64::try_from(second - from).unwrap_or(0) * rate
}

fn look(story: &Story, second: i64) -> Entry {
    let lost = is_lost(second);
    let stalls = (LOST - 2..BACK).contains(&second);
    let scope = ScopeLook {
        scope: HOST.into(),
        state: Some(if lost { VerdictState::Overloaded } else { VerdictState::Ready }),
        weight: if lost { 0.0 } else { 1.0 },
        fires: if lost { rule_bit(story.rule) } else { 0 },
        signals: vec![Some(if stalls { 0.4 } else { 0.0 })],
        total_bytes: Some(8000 * MIB),
        available_bytes: Some((story.available)(second) * MIB),
        ..ScopeLook::default()
    };
    entry(second, Content::Look(Look { scopes: vec![scope], ..Look::default() }))
}

fn scan(story: &Story, second: i64) -> Entry {
    let web = |path: &str, mib: u64, processes| CgroupSize {
        path: path.into(),
        processes,
        own_bytes: mib * MIB,
        ..CgroupSize::default()
    };
    let mut usage = Usage {
        memory: vec![Some((story.memory)(second).1 * MIB)],
        cgroups: vec![web("/system.slice/web.service", 500, 4)],
        ..Usage::default()
    };
    if let Some((path, mib, processes)) = (story.cgroup)(second) {
        usage.cgroups.push(web(path, mib, processes));
        if let Some((comm, start, size)) = story.process.filter(|(_, start, _)| second >= *start) {
            usage.processes.push(ProcessSize {
                pid: 77,
                comm: comm.into(),
                cgroup: path.into(),
                age_seconds: u32::try_from(second - start).expect("in order"),
                own_bytes: size(second) * MIB,
                ..ProcessSize::default()
            });
        }
    }
    entry(second, Content::Usage(usage))
}

fn timeline_of(story: &Story) -> Timeline {
    let mut entries = Vec::new();
    for second in 0..END {
        let pressed = (LOST - 5..BACK + 5).contains(&second);
        if pressed || second % 10 == 0 {
            entries.push(look(story, second));
            entries.push(scan(story, second));
        }
    }
    let rules = Policy::default().rules().map(|(rule, _)| rule.name.to_owned()).collect();
    let schema = Schema {
        host: "web-01".into(),
        kernel: "6.12.48".into(),
        signals: vec!["some_share_1s".into()],
        rules,
        memory: vec![(story.memory)(0).0.into()],
        ..Schema::default()
    };
    Timeline { entries, schema, losses: Vec::new() }
}

fn report_of(story: &Story) -> Report {
    report(&timeline_of(story), Wanted::Last, &Policy::default()).expect("an incident")
}

/// Seconds of the story at which the first cause began.
fn since(report: &Report) -> i64 {
    report.causes[0].since.expect("known") / SECOND - BASE
}

fn agent(second: i64) -> Option<(&'static str, u64, u32)> {
    let is_there = (TURN..BACK - 5).contains(&second);
    is_there.then(|| ("/system.slice/agent.service", ramp(second, TURN, 50).min(3900), 1))
}

const LEAK: Story = Story {
    cgroup: agent,
    process: Some(("agent", TURN, |second| ramp(second, TURN, 50).min(3900))),
    available: |second| {
        if second < BACK - 5 { 4000 - ramp(second, TURN, 50).min(3900) } else { 4000 }
    },
    ..CALM
};

const TMPFS: Story = Story {
    memory: |second| ("shmem", 10 + ramp(second, TURN, 40)),
    available: |second| 4000 - ramp(second, TURN, 40).min(3900),
    ..CALM
};

/// With `UPDATE_README=1` the files are written.
#[test]
fn documents_are_those_that_were_reviewed() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let files =
        [(LEAK, "../docs/postmortem-example.md"), (TMPFS, "src/postmortem/golden-tmpfs.md")];
    for (story, file) in files {
        let (path, text) = (root.join(file), document::markdown(&report_of(&story)));
        if std::env::var_os("UPDATE_README").is_some() {
            std::fs::write(&path, &text).expect("written");
        }
        assert_eq!(std::fs::read_to_string(&path).expect(file), text, "{file}");
    }
}

#[test]
fn a_new_agent_that_leaks_is_the_cause_with_its_start() {
    let report = report_of(&LEAK);
    let cause = &report.causes[0];
    assert_eq!((cause.kind, cause.confidence), (Kind::Growth, Confidence::High), "{cause:?}");
    assert_eq!(
        (cause.name.as_str(), cause.process.as_str()),
        ("/system.slice/agent.service", "agent")
    );
    assert!(cause.is_new && (since(&report) - TURN).abs() <= 2, "{cause:?}");
    assert!((report.seconds_without_weight - 60.0).abs() < 2.0, "{report:?}");
    let limit = report.limit.expect("a limit");
    assert!(limit.reached_ahead > 0.0 && limit.bytes.is_multiple_of(64 * MIB), "{limit:?}");
    let command = &report.actions[0].command;
    assert!(command.starts_with("systemctl set-property agent.service MemoryMax="), "{command}");
    let text: Vec<_> = report.moments.iter().map(|m| m.what.plain()).collect();
    assert_eq!(text[0], "agent was started in /system.slice/agent.service");
    assert_eq!(text.last().map(String::as_str), Some("host has all of its weight again"));
}

#[test]
fn an_old_service_that_grows_is_the_cause_since_it_grew() {
    fn size(second: i64) -> u64 {
        300 + ramp(second, TURN, 40)
    }
    let story = Story {
        cgroup: |second| Some(("/system.slice/db.service", size(second), 8)),
        process: Some(("db", -9000, size)),
        available: |second| 4000 - ramp(second, TURN, 40).min(3900),
        ..CALM
    };
    let report = report_of(&story);
    let cause = &report.causes[0];
    assert_eq!((cause.process.as_str(), cause.is_new), ("db", false));
    // A calm host is scanned every ten seconds.
    assert!((since(&report) - TURN).abs() <= 10, "{cause:?}");
    assert_eq!(report.limit.expect("a limit").bytes, 640 * MIB, "twice 300 MiB, rounded up");
}

#[test]
fn many_small_processes_are_named_as_such() {
    let story = Story {
        cgroup: |second| {
            let count = 3 + ramp(second, TURN, 10).min(900);
            Some(("/user.slice/build.scope", 5 * count, u32::try_from(count).expect("few")))
        },
        available: |second| 4000 - 50 * ramp(second, TURN, 1).min(78),
        ..CALM
    };
    let cause = &report_of(&story).causes[0];
    assert_eq!((cause.kind, cause.name.as_str()), (Kind::ManyProcesses, "/user.slice/build.scope"));
}

#[test]
fn memory_of_no_process_is_named_by_its_kind() {
    for kind in ["shmem", "slab_unreclaimable", "page_tables", "hugetlb"] {
        let of: fn(i64) -> (&'static str, u64) = match kind {
            "shmem" => |second| ("shmem", 10 + ramp(second, TURN, 40)),
            "slab_unreclaimable" => |second| ("slab_unreclaimable", 10 + ramp(second, TURN, 40)),
            "page_tables" => |second| ("page_tables", 10 + ramp(second, TURN, 40)),
            _ => |second| ("hugetlb", 10 + ramp(second, TURN, 40)),
        };
        let available = |second| 4000 - ramp(second, TURN, 40).min(3900);
        let report = report_of(&Story { memory: of, available, ..CALM });
        let cause = &report.causes[0];
        assert_eq!((cause.kind, cause.name.as_str()), (Kind::KernelMemory, kind));
        assert_eq!(cause.confidence, Confidence::High, "{cause:?}");
    }
}

#[test]
fn without_growth_nobody_is_blamed() {
    let small = report_of(&Story { available: |_| 200, ..CALM });
    assert_eq!((small.causes[0].kind, small.causes.len()), (Kind::TooSmall, 1));
    let reads = report_of(&Story { rule: "rereading", ..CALM });
    assert_eq!((reads.causes[0].kind, reads.causes.len()), (Kind::PageCache, 1));
    let unknown = report_of(&CALM);
    assert!(unknown.causes.is_empty() && unknown.confidence.is_none());
    assert!(unknown.summary.plain().contains("not known"), "{:?}", unknown.summary);
}

#[test]
fn what_grew_after_the_stalls_is_a_consequence() {
    let story = Story {
        cgroup: |second| {
            (second >= LOST + 20).then(|| ("/late.service", ramp(second, LOST + 20, 100), 1))
        },
        process: Some(("late", LOST + 20, |second| ramp(second, LOST + 20, 100))),
        available: |second| if second < LOST { 400 } else { 100 },
        ..CALM
    };
    let cause = &report_of(&story).causes[0];
    assert_eq!(cause.confidence, Confidence::Medium, "{cause:?}");
    assert!(!cause.contradicts.is_empty(), "{cause:?}");
}

#[test]
fn names_cannot_break_a_document() {
    let story = Story {
        cgroup: |second| {
            agent(second).map(|(_, mib, n)| ("/a;`reboot`|<script>x</script>", mib, n))
        },
        process: Some(("``|</code>\n# x", TURN, |second| ramp(second, TURN, 50))),
        available: |second| 4000 - ramp(second, TURN, 50).min(3900),
        ..CALM
    };
    let report = report_of(&story);
    assert!(report.actions.iter().all(|action| !action.command.contains("reboot")), "{report:?}");
    let html = document::page(&report);
    assert!(!html.contains("<script>") && !html.contains("src=") && !html.contains("href="));
    assert_eq!(html.matches("</code>").count(), html.matches("<code>").count());
    let markdown = document::markdown(&report);
    assert!(markdown.lines().filter(|line| line.starts_with("# ")).count() == 1, "{markdown}");
    let rows = markdown.lines().filter(|line| line.starts_with("| 2") || line.starts_with("| 1"));
    let columns = |row: &str| row.replace("\\|", "").matches('|').count();
    assert!(rows.clone().count() >= 3 && rows.clone().all(|row| columns(row) == 3), "{markdown}");
    serde_json::to_string(&report).expect("JSON");
}

#[test]
fn a_scope_with_another_name_is_in_no_command() {
    let mut small = timeline_of(&Story { available: |_| 200, ..CALM });
    for entry in &mut small.entries {
        if let Content::Look(look) = &mut entry.content {
            look.scopes[0].scope = "web; reboot\u{7f}".into();
        }
    }
    let report = report(&small, Wanted::Last, &Policy::default()).expect("an incident");
    assert_eq!(report.scope, "web; reboot\u{7f}");
    assert!(!report.actions.is_empty());
    assert!(report.actions.iter().all(|action| !action.command.contains("reboot")), "{report:?}");
}

/// A story about the scope `web`, whose cgroup is that of the web service.
fn in_scope(story: &Story) -> Report {
    let mut timeline = timeline_of(story);
    timeline.schema.scopes = vec![("web".into(), "/system.slice/web.service".into())];
    for entry in &mut timeline.entries {
        if let Content::Look(look) = &mut entry.content {
            look.scopes[0].scope = "web".into();
        }
    }
    report(&timeline, Wanted::Last, &Policy::default()).expect("an incident")
}

#[test]
fn a_neighbour_is_named_as_one_and_never_for_sure() {
    let report = in_scope(&LEAK);
    let cause = &report.causes[0];
    assert_eq!((cause.process.as_str(), cause.confidence), ("agent", Confidence::Medium));
    assert!(cause.contradicts.iter().any(|text| text.plain().contains("neighbour")), "{cause:?}");
    assert!(report.limit.is_some(), "a limit on the neighbour would have helped");
}

#[test]
fn no_limit_on_the_scope_itself_is_proposed() {
    let story = Story {
        cgroup: |second| Some(("/system.slice/web.service", 300 + ramp(second, TURN, 40), 4)),
        process: Some(("web", -9000, |second| 300 + ramp(second, TURN, 40))),
        available: |second| 4000 - ramp(second, TURN, 40).min(3900),
        ..CALM
    };
    let mut timeline = timeline_of(&story);
    for entry in &mut timeline.entries {
        if let Content::Usage(usage) = &mut entry.content {
            usage.cgroups.remove(0);
        }
    }
    timeline.schema.scopes = vec![(HOST.into(), "/system.slice/web.service".into())];
    let report = report(&timeline, Wanted::Last, &Policy::default()).expect("an incident");
    assert_eq!((report.causes[0].process.as_str(), report.limit), ("web", None));
    assert!(report.actions.iter().all(|action| !action.command.contains("set-property")));
}

#[test]
fn a_kill_without_a_loss_of_weight_has_no_recovery() {
    let mut timeline = timeline_of(&CALM);
    timeline.entries.retain(|entry| entry.time.wall_ns < (BASE + TURN) * SECOND);
    timeline.entries.push(kill(TURN, "b-1"));
    timeline.entries.push(look(&CALM, TURN + 10));
    let report = report(&timeline, Wanted::Last, &Policy::default()).expect("the kill");
    assert_eq!((report.kills, report.is_over), (1, true));
    let moments: Vec<_> = report.moments.iter().map(|m| m.what.plain()).collect();
    assert!(!moments.iter().any(|text| text.contains("all of its weight")), "{moments:?}");
}
